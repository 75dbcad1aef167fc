"""What ``endpoint.c`` does, for machines without a C compiler. Correct, and several times slower."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from typing import Any

TOKEN = re.compile(r"""["']([0-9a-f]{32})["']""")
RUN_KEY = re.compile(r'"(run#[^"]*)"')
PAGE_START = re.compile(r"run#bench-\d+-(\d+)")

settings = {"latency_us": 0, "due": 0}
counts: dict[str, int] = {}


def claimed(body: str) -> dict[str, Any]:
    """Return the item of a run that was just claimed, as DynamoDB returns it."""
    now_ms = int(time.time() * 1000)
    key, token = RUN_KEY.search(body), TOKEN.search(body)
    texts = {
        "pk": key[1] if key else "",
        "sk": "run",
        "status": "running",
        "job_name": "email",
        "payload": '{"to":"user@example.com"}',
        "create_token": "ebcae197d3c54eb192a5053d5c6206b7",
        "lease_token": token[1] if token else "",
    }
    numbers = {
        "schema": 1,
        "attempt": 0,
        "claims": 1,
        "max_attempts": 3,
        "wake_shard": 3,
        "lease_until": now_ms + 60_000,
    }
    numbers |= dict.fromkeys(("scheduled_for", "created_at", "updated_at", "started_at", "wake_at"), now_ms)
    return {name: {"S": text} for name, text in texts.items()} | {
        name: {"N": str(number)} for name, number in numbers.items()
    }


def ended(body: str) -> dict[str, Any]:
    """Return what changed in the item of a run whose attempt was just ended."""
    token, now = TOKEN.search(body), {"N": str(int(time.time() * 1000))}
    texts = {"status": {"S": "succeeded"}, "settled_by": {"S": token[1] if token else ""}}
    return texts | dict.fromkeys(("updated_at", "finished_at", "expires_at"), now)


def page(body: str) -> dict[str, Any]:
    """Return a page of due runs; a page's start says where it goes on."""
    query = json.loads(body)
    shard = int(query["ExpressionAttributeValues"][":shard"]["N"])
    start = PAGE_START.search(json.dumps(query.get("ExclusiveStartKey", "")))
    first = int(start[1]) + 1 if start else 0
    last = min(settings["due"], first + query["Limit"]) if shard >= 0 else first
    wake_at = {"N": str(int(time.time() * 1000) - 60_000)}
    items = [
        {
            "pk": {"S": f"run#bench-{shard}-{i:06}"},
            "sk": {"S": "run"},
            "wake_shard": {"N": str(shard)},
            "wake_at": wake_at,
        }
        for i in range(first, last)
    ]
    more = {"LastEvaluatedKey": items[-1]} if items and last < settings["due"] else {}
    return {"Items": items, "Count": len(items), **more}


def answer(operation: str, body: str) -> dict[str, Any]:
    """Return the answer to an AWS request."""
    if operation == "UpdateItem" and '"ALL_NEW"' in body:
        return {"Attributes": claimed(body)}
    if operation == "BatchExecuteStatement":
        statements = body.split('"Statement"')[1:]
        items = (ended(each) if "RETURNING MODIFIED NEW" in each else claimed(each) for each in statements)
        return {"Responses": [{"TableName": "t", "Item": item} for item in items]}
    if operation == "Query":
        return page(body)
    if operation == "SendMessageBatch":
        sent = {
            "MessageId": "5fea7756-0ea4-451a-a703-a558b933e274",
            "MD5OfMessageBody": "fafb00f5732ab283681e124bf8747ed1",
        }
        return {"Successful": [sent | {"Id": entry["Id"]} for entry in json.loads(body)["Entries"]]}
    return {}


def control(line: str) -> dict[str, int]:
    """Change the settings, or return the counts since the last look."""
    for name, value in re.findall(r"(\w+)=(\d+)", line):
        settings[name] = int(value)
    if "/-/counts" not in line:
        return {}
    found = dict(counts)
    counts.clear()
    return found


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection, one after the other."""
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
            }
            body = (await reader.readexactly(int(headers.get("content-length") or 0))).decode()
            target = headers.get("x-amz-target")
            if target is None:
                reply = control(head.split("\r\n")[0])
            else:
                operation = target.rpartition(".")[2]
                counts[operation] = counts.get(operation, 0) + 1
                reply = answer(operation, body)
                if settings["latency_us"]:
                    await asyncio.sleep(settings["latency_us"] / 1e6)
            text = json.dumps(reply).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Print the port, and serve until the standard input ends."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
