/* A DynamoDB and SQS endpoint that answers from a can: one thread, keep-alive, no storage, nothing checked.
 *
 * It reads of a request what an answer must echo, and nothing else: the operation, a run's key, the 32 hex digits of a
 * token, the entries of a batch, and where a page of the index begins. Latency is added by a timer, so requests wait at
 * the same time. It ends when its standard input does.
 *
 *   POST /                          an AWS request; the operation is in X-Amz-Target
 *   GET /-/set?latency_us=0&due=0   from now on: microseconds before an answer; due runs in each partition of the index
 *   GET /-/counts                   requests by operation since the last look, as JSON
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 4096, MAX_OPERATIONS = 32, OPERATION_LENGTH = 48, DATE_MS = 60000 };

typedef struct {
    char *data;
    size_t length, room;
} Text;

typedef struct {
    Text in, out;
    size_t sent;
    int64_t due_ns; /* when the answer in `out` may be sent */
    unsigned generation;
    int waiting;
} Connection;

typedef struct {
    int fd;
    unsigned generation;
    int64_t due_ns;
} Waiter;

static Connection connections[MAX_CONNECTIONS];
/* Every answer waits equally long, so the queue is in the order of its times. A change of latency happens at rest. */
static Waiter waiters[MAX_CONNECTIONS];
static unsigned first_waiter, waiter_count;
static struct {
    char name[OPERATION_LENGTH];
    long count;
} operations[MAX_OPERATIONS];
static int64_t latency_ns;
static long due_runs;
static int poller, timer;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void reserve(Text *text, size_t more) {
    if (text->length + more + 1 <= text->room) return;
    text->room = (text->length + more + 1) * 2;
    text->data = realloc(text->data, text->room);
    if (!text->data) die("realloc");
}

static void add(Text *text, const char *piece, size_t length) {
    reserve(text, length);
    memcpy(text->data + text->length, piece, length);
    text->length += length;
    text->data[text->length] = 0;
}

static void add_text(Text *text, const char *piece) { add(text, piece, strlen(piece)); }

static void add_number(Text *text, long long number) {
    char digits[24];
    add(text, digits, (size_t)snprintf(digits, sizeof digits, "%lld", number));
}

static void add_count(const char *operation, size_t length) {
    if (length >= OPERATION_LENGTH) length = OPERATION_LENGTH - 1;
    for (int i = 0; i < MAX_OPERATIONS; i++) {
        if (!operations[i].name[0]) memcpy(operations[i].name, operation, length);
        if (strlen(operations[i].name) == length && !memcmp(operations[i].name, operation, length)) {
            operations[i].count++;
            return;
        }
    }
}

/* Return the next JSON string from `from` that has this prefix and, unless it is 0, this length. */
static const char *find_string(const char *from, const char *end, const char *prefix, size_t length, size_t *found) {
    size_t prefix_length = strlen(prefix);
    while (from < end) {
        const char *open = memchr(from, '"', (size_t)(end - from));
        if (!open) return NULL;
        const char *close = memchr(open + 1, '"', (size_t)(end - open - 1));
        if (!close) return NULL;
        size_t size = (size_t)(close - open - 1);
        /* An escaped quote splits a string in two here. Keys and tokens have none. */
        if ((!length || size == length) && size >= prefix_length && !memcmp(open + 1, prefix, prefix_length)) {
            *found = size;
            return open + 1;
        }
        from = close + 1;
    }
    return NULL;
}

/* Return the next token: 32 hexadecimal digits in quotes, double ones of JSON or single ones of a statement. */
static const char *find_token(const char *from, const char *end) {
    for (; from + 34 <= end; from++) {
        if ((*from == '"' || *from == '\'') && strspn(from + 1, "0123456789abcdef") == 32 && from[33] == *from) {
            return from + 1;
        }
    }
    return NULL;
}

/* Add attributes that say when, all with this time, to an item whose last attribute's value is still open. */
static void add_dates(Text *out, const char *const *names, size_t count, long long now_ms) {
    for (size_t i = 0; i < count; i++) {
        add_text(out, "\"},\"");
        add_text(out, names[i]);
        add_text(out, "\":{\"N\":\"");
        add_number(out, now_ms);
    }
    add_text(out, "\"}}");
}

/* Add the item of a run that was just claimed, as DynamoDB returns it. */
static void add_claimed(Text *out, const char *body, const char *end) {
    long long now_ms = now_ns(CLOCK_REALTIME) / 1000000;
    size_t size = 0;
    const char *key = find_string(body, end, "run#", 0, &size), *token = find_token(body, end);
    add_text(out, "{\"pk\":{\"S\":\"");
    if (key) add(out, key, size);
    add_text(out, "\"},\"sk\":{\"S\":\"run\"},\"schema\":{\"N\":\"1\"},\"status\":{\"S\":\"running\"},\"job_name\":{\"S\":"
                  "\"email\"},\"payload\":{\"S\":\"{\\\"to\\\":\\\"user@example.com\\\"}\"},\"attempt\":{\"N\":\"0\"},"
                  "\"claims\":{\"N\":\"1\"},\"max_attempts\":{\"N\":\"3\"},\"create_token\":{\"S\":"
                  "\"ebcae197d3c54eb192a5053d5c6206b7\"},\"wake_shard\":{\"N\":\"3\"},\"lease_token\":{\"S\":\"");
    if (token) add(out, token, 32);
    add_text(out, "\"},\"lease_until\":{\"N\":\"");
    add_number(out, now_ms + DATE_MS);
    static const char *const dates[] = {"scheduled_for", "created_at", "updated_at", "started_at", "wake_at"};
    add_dates(out, dates, sizeof dates / sizeof *dates, now_ms);
}

static void answer_update(Text *out, const char *body, const char *end) {
    if (!memmem(body, (size_t)(end - body), "\"ALL_NEW\"", 9)) {
        add_text(out, "{}");
        return;
    }
    add_text(out, "{\"Attributes\":");
    add_claimed(out, body, end);
    add_text(out, "}");
}

/* Add what changed in the item of a run whose attempt was just ended. */
static void add_ended(Text *out, const char *body, const char *end) {
    long long now_ms = now_ns(CLOCK_REALTIME) / 1000000;
    const char *token = find_token(body, end);
    add_text(out, "{\"status\":{\"S\":\"succeeded\"},\"settled_by\":{\"S\":\"");
    if (token) add(out, token, 32);
    static const char *const dates[] = {"updated_at", "finished_at", "expires_at"};
    add_dates(out, dates, sizeof dates / sizeof *dates, now_ms);
}

/* One item for each statement: a whole one, or what changed in it. */
static void answer_statements(Text *out, const char *body, const char *end) {
    const char *mark = "\"Statement\"", *comma = "", *changed = "RETURNING MODIFIED NEW";
    const char *here = memmem(body, (size_t)(end - body), mark, strlen(mark));
    add_text(out, "{\"Responses\":[");
    while (here) {
        const char *next = memmem(here + 1, (size_t)(end - here - 1), mark, strlen(mark));
        const char *stop = next ? next : end;
        add_text(out, comma);
        add_text(out, "{\"TableName\":\"t\",\"Item\":");
        if (memmem(here, (size_t)(stop - here), changed, strlen(changed))) add_ended(out, here, stop);
        else add_claimed(out, here, stop);
        add_text(out, "}");
        comma = ",";
        here = next;
    }
    add_text(out, "]}");
}

/* Return the number in the string value that follows `mark`, or -1. */
static long number_after(const char *body, const char *end, const char *mark) {
    const char *at = memmem(body, (size_t)(end - body), mark, strlen(mark));
    while (at && at < end && (*at < '0' || *at > '9') && *at != '-') at++;
    return at && at < end ? strtol(at, NULL, 10) : -1;
}

/* A page of due runs: the i-th of partition s is run#bench-<s>-<i>, so a page's start says where it goes on. */
static void answer_query(Text *out, const char *body, const char *end) {
    long long wake_at = now_ns(CLOCK_REALTIME) / 1000000 - DATE_MS;
    const char *comma = "";
    char item[256];
    long shard = number_after(body, end, "\":shard\""), limit = number_after(body, end, "\"Limit\""), from = 0;
    const char *start = memmem(body, (size_t)(end - body), "run#bench-", 10);
    if (start && (start = memchr(start + 10, '-', (size_t)(end - start - 10)))) from = strtol(start + 1, NULL, 10) + 1;
    long to = limit > 0 && from + limit < due_runs ? from + limit : due_runs;
    if (shard < 0 || to < from) to = from;
    add_text(out, "{\"Items\":[");
    for (long i = from; i < to; i++) {
        add_text(out, comma);
        add(out, item, (size_t)snprintf(item, sizeof item,
            "{\"pk\":{\"S\":\"run#bench-%ld-%06ld\"},\"sk\":{\"S\":\"run\"},"
            "\"wake_shard\":{\"N\":\"%ld\"},\"wake_at\":{\"N\":\"%lld\"}}", shard, i, shard, wake_at));
        comma = ",";
    }
    add_text(out, "],\"Count\":");
    add_number(out, to - from);
    if (shard >= 0 && to < due_runs)
        add(out, item, (size_t)snprintf(item, sizeof item,
            ",\"LastEvaluatedKey\":{\"pk\":{\"S\":\"run#bench-%ld-%06ld\"},\"sk\":{\"S\":\"run\"},"
            "\"wake_shard\":{\"N\":\"%ld\"},\"wake_at\":{\"N\":\"%lld\"}}", shard, to - 1, shard, wake_at));
    add_text(out, "}");
}

static void answer_sends(Text *out, const char *body, const char *end) {
    const char *mark = "\"Id\"", *comma = "";
    size_t size;
    add_text(out, "{\"Successful\":[");
    while ((body = memmem(body, (size_t)(end - body), mark, strlen(mark)))) {
        const char *id = find_string(body + strlen(mark), end, "", 0, &size);
        if (!id) break;
        add_text(out, comma);
        add_text(out, "{\"MessageId\":\"5fea7756-0ea4-451a-a703-a558b933e274\",\"MD5OfMessageBody\":"
                      "\"fafb00f5732ab283681e124bf8747ed1\",\"Id\":\"");
        add(out, id, size);
        add_text(out, "\"}");
        comma = ",";
        body = id + size;
    }
    add_text(out, "]}");
}

static void answer_counts(Text *out) {
    const char *comma = "";
    add_text(out, "{");
    for (int i = 0; i < MAX_OPERATIONS && operations[i].name[0]; i++) {
        add_text(out, comma);
        add_text(out, "\"");
        add_text(out, operations[i].name);
        add_text(out, "\":");
        add_number(out, operations[i].count);
        comma = ",";
    }
    add_text(out, "}");
    memset(operations, 0, sizeof operations);
}

static int is(const char *operation, size_t length, const char *name) {
    return strlen(name) == length && !memcmp(operation, name, length);
}

static const char *header(const char *from, const char *end, const char *name, size_t *length) {
    size_t name_length = strlen(name);
    while ((from = memmem(from, (size_t)(end - from), "\r\n", 2))) {
        from += 2;
        if ((size_t)(end - from) <= name_length) return NULL;
        if (strncasecmp(from, name, name_length) || from[name_length] != ':') continue;
        for (from += name_length + 1; *from == ' '; from++) {}
        *length = (size_t)((const char *)memmem(from, (size_t)(end - from), "\r\n", 2) - from);
        return from;
    }
    return NULL;
}

/* Answer the request at the beginning of `in` and take it off; 0 where it is not complete yet. */
static int answer(Connection *connection) {
    Text *in = &connection->in;
    static Text body_out;
    size_t length = 0, size = 0;
    char *head_end = in->length ? memmem(in->data, in->length, "\r\n\r\n", 4) : NULL;
    if (!head_end) return 0;
    const char *body = head_end + 4;
    const char *given = header(in->data, body, "content-length", &length);
    if (given) size = strtoul(given, NULL, 10);
    if (in->length < (size_t)(body - in->data) + size) return 0;
    const char *end = body + size;
    const char *target = header(in->data, body, "x-amz-target", &length);
    int instant = !target;
    body_out.length = 0;
    if (!target) {
        *head_end = 0;
        if (!strncmp(in->data, "GET /-/set?", 11)) {
            const char *latency = strstr(in->data, "latency_us="), *due = strstr(in->data, "due=");
            if (latency) latency_ns = strtoll(latency + 11, NULL, 10) * 1000;
            if (due) due_runs = strtol(due + 4, NULL, 10);
            add_text(&body_out, "{}");
        } else {
            answer_counts(&body_out);
        }
    } else {
        const char *dot = memchr(target, '.', length);
        const char *operation = dot ? dot + 1 : target;
        length -= (size_t)(operation - target);
        add_count(operation, length);
        if (is(operation, length, "UpdateItem")) answer_update(&body_out, body, end);
        else if (is(operation, length, "BatchExecuteStatement")) answer_statements(&body_out, body, end);
        else if (is(operation, length, "Query")) answer_query(&body_out, body, end);
        else if (is(operation, length, "SendMessageBatch")) answer_sends(&body_out, body, end);
        else if (is(operation, length, "SendMessage"))
            add_text(&body_out, "{\"MessageId\":\"5fea7756-0ea4-451a-a703-a558b933e274\",\"MD5OfMessageBody\":"
                                "\"fafb00f5732ab283681e124bf8747ed1\"}");
        else add_text(&body_out, "{}");
    }
    Text *out = &connection->out;
    add_text(out, "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nx-amzn-RequestId: "
                  "b25f48e8-84fd-11e6-80d9-574e0c4664cb\r\nContent-Length: ");
    add_number(out, (long long)body_out.length);
    add_text(out, "\r\n\r\n");
    add(out, body_out.data, body_out.length);
    size_t taken = (size_t)(end - in->data);
    memmove(in->data, in->data + taken, in->length - taken);
    in->length -= taken;
    connection->due_ns = instant || !latency_ns ? 0 : now_ns(CLOCK_MONOTONIC) + latency_ns;
    return 1;
}

static void set_timer(void) {
    struct itimerspec when = {0};
    if (waiter_count) {
        int64_t due = waiters[first_waiter].due_ns;
        when.it_value.tv_sec = due / 1000000000LL;
        when.it_value.tv_nsec = due % 1000000000LL;
    }
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL)) die("timerfd_settime");
}

static void close_connection(int fd) {
    Connection *connection = &connections[fd];
    connection->in.length = connection->out.length = connection->sent = 0;
    connection->waiting = 0;
    connection->generation++;
    close(fd);
}

/* Send what may be sent; a client that reads slowly is waited for with EPOLLOUT. */
static void flush(int fd) {
    Connection *connection = &connections[fd];
    while (connection->sent < connection->out.length) {
        ssize_t n = send(fd, connection->out.data + connection->sent, connection->out.length - connection->sent,
                         MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
            epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
            return;
        }
        if (n < 0) {
            close_connection(fd);
            return;
        }
        connection->sent += (size_t)n;
    }
    connection->out.length = connection->sent = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

static void receive(int fd) {
    Connection *connection = &connections[fd];
    for (;;) {
        reserve(&connection->in, 65536);
        ssize_t n = recv(fd, connection->in.data + connection->in.length, 65536, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) {
            close_connection(fd);
            return;
        }
        if (n < 0) break;
        connection->in.length += (size_t)n;
        connection->in.data[connection->in.length] = 0;
        if (n < 65536) break;
    }
    if (connection->waiting || !answer(connection)) return;
    if (!connection->due_ns) {
        flush(fd);
        return;
    }
    connection->waiting = 1;
    unsigned at = (first_waiter + waiter_count++) % MAX_CONNECTIONS;
    waiters[at] = (Waiter){fd, connection->generation, connection->due_ns};
    if (waiter_count == 1) set_timer();
}

static void wake(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0) return;
    int64_t now = now_ns(CLOCK_MONOTONIC);
    while (waiter_count && waiters[first_waiter].due_ns <= now) {
        Waiter waiter = waiters[first_waiter];
        first_waiter = (first_waiter + 1) % MAX_CONNECTIONS;
        waiter_count--;
        if (connections[waiter.fd].generation != waiter.generation) continue; /* it hung up */
        connections[waiter.fd].waiting = 0;
        flush(waiter.fd);
    }
    set_timer();
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 512) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        die("listen");
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (poller < 0 || timer < 0) die("epoll");
    int watched[] = {listener, timer, STDIN_FILENO};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = watched[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, watched[i], &event)) die("epoll_ctl");
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == STDIN_FILENO) return 0;
            if (fd == timer) {
                wake();
            } else if (fd == listener) {
                int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (client < 0) continue;
                if (client >= MAX_CONNECTIONS) {
                    close(client);
                    continue;
                }
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                struct epoll_event event = {.events = EPOLLIN, .data.fd = client};
                if (epoll_ctl(poller, EPOLL_CTL_ADD, client, &event)) die("epoll_ctl");
            } else {
                if (events[i].events & EPOLLOUT) flush(fd);
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(fd);
            }
        }
    }
}
