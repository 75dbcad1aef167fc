"""The console's pages of schedules: what they show, what they change, and what they leave alone."""

from __future__ import annotations

import html
import logging
import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from kumofire_core import Jobs
from kumofire_core.console.schedules import AT_ONCE, occurrences_shown
from kumofire_core.model.encrypted_text import PREFIX
from kumofire_core.text import iso
from tests.builders import NOW, Aws, Clock
from tests.console.person import Person, hidden, undo_of, words


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    return aws.jobs(clock=clock, allow_unknown_jobs=True)


@pytest.fixture
def person(jobs: Jobs, clock: Clock) -> Person:
    return Person(jobs, clock)


def a_schedule(jobs: Jobs, **settings: Any) -> str:
    given = {"schedule_type": "cron", "schedule_expr": "30 7 * * MON-FRI", "timezone": "Europe/Berlin"}
    return jobs.create_schedule("email", settings.pop("payload", {"to": "anna"}), **(given | settings))


# The list


def test_the_list_says_when_each_schedule_runs_next_and_in_its_zone(jobs: Jobs, person: Person):
    a_schedule(jobs, schedule_key="mails/morning")
    a_schedule(jobs, schedule_key="mails/off", enabled=False)

    text = person.text("/schedules")

    assert "At 07:30 on Monday through Friday, in Europe/Berlin." in text
    assert "Mon 2026-03-16 07:30:00 +01:00" in text
    assert text.index("mails/morning") < text.index("mails/off") < text.index("disabled")


def test_the_list_without_schedules_says_so(person: Person):
    assert "There are no schedules." in person.text("/schedules")


def test_the_list_goes_on_where_it_ended_and_reads_no_more_than_it_shows(aws: Aws, jobs: Jobs, person: Person):
    for number in range(AT_ONCE + 5):
        a_schedule(jobs, schedule_key=f"key-{number:03}")
    aws.dynamodb.requests.clear()

    first = person.get("/schedules").text

    assert sum(request["Limit"] for request in aws.dynamodb.parameters("query")) == AT_ONCE
    assert len(re.findall(r'<tr id="schedule-', first)) == AT_ONCE
    [more] = re.findall(r'<a href="([^"]*)"[^>]*>More</a>', first)
    both = person.get(html.unescape(more)).text
    assert len(re.findall(r'<tr id="schedule-', both)) == AT_ONCE + 5
    assert ">More</a>" not in both


@pytest.mark.parametrize("count", ["", "-1", "x", "٣", "99999999999", "0"])
def test_a_count_in_the_address_that_is_none_is_taken_for_the_least(jobs: Jobs, person: Person, count: str):
    a_schedule(jobs)

    assert person.get("/schedules", params={"count": count}).status_code == 200


def test_a_page_in_the_address_that_the_library_did_not_make_is_refused(person: Person):
    answer = person.get("/schedules", params={"page": "{}"})

    assert answer.status_code == 422
    assert "page must be the next_page of an earlier call" in words(answer.text)


# A schedule


def test_a_schedule_shows_its_next_occurrences_in_its_zone_and_where_the_clocks_change(jobs: Jobs, person: Person):
    schedule_id = a_schedule(jobs, schedule_expr="30 2 * * SUN")

    text = person.text(f"/schedules/{schedule_id}")

    assert "Sun 2026-03-22 02:30:00 +01:00 Sun 2026-03-22 01:30:00" in text
    assert "Sun 2026-03-29 03:00:00 +02:00 clocks change, +01:00 to +02:00 Sun 2026-03-29 01:00:00" in text
    assert text.count("clocks change") == 1


def test_occurrences_carry_their_instant_for_the_readers_own_zone():
    [shown] = occurrences_shown((NOW,), "Asia/Tokyo")

    assert (shown.at, shown.local, shown.utc) == (NOW, "Sat 2026-03-14 21:00:00 +09:00", "Sat 2026-03-14 12:00:00")


def test_a_schedule_that_is_disabled_or_at_its_end_shows_no_occurrences_and_says_why(
    jobs: Jobs, person: Person, clock: Clock
):
    off = a_schedule(jobs, enabled=False)
    over = a_schedule(jobs, schedule_type="once", schedule_expr=NOW + timedelta(minutes=1))
    clock.advance(minutes=5)
    jobs.dispatch()

    assert "There are none. The schedule is disabled." in person.text(f"/schedules/{off}")
    assert "There are none. No time is left in its window." in person.text(f"/schedules/{over}")


@pytest.mark.parametrize("what", ["", "/payload", "/edit"])
def test_a_schedule_that_does_not_exist_is_missing(person: Person, what: str):
    answer = person.get(f"/schedules/unknown{what}")

    assert answer.status_code == 404
    assert "There is no schedule with this id" in words(answer.text)


@pytest.mark.parametrize("what", ["enable", "disable", "trigger", "delete", "edit", "restore"])
def test_an_action_on_a_schedule_that_was_deleted_says_so_and_harms_nothing(aws: Aws, person: Person, what: str):
    answer = person.press(f"/schedules/unknown/{what}", seen=iso(NOW), type="cron", expr="* * * * *")

    assert answer.status_code == 409
    assert "There is no schedule with this id" in words(answer.text)
    assert aws.items() == []


# Its payload


def test_a_payload_is_shown_only_when_it_is_asked_for(jobs: Jobs, person: Person):
    schedule_id = a_schedule(jobs, payload={"to": "anna@example.com"})

    for address in ("/schedules", f"/schedules/{schedule_id}", f"/schedules/{schedule_id}/edit"):
        assert "anna@example.com" not in person.get(address).text
    assert '"to": "anna@example.com"' in person.text(f"/schedules/{schedule_id}/payload")


def test_each_look_at_a_payload_is_a_line_of_the_log(jobs: Jobs, person: Person, caplog: pytest.LogCaptureFixture):
    schedule_id = a_schedule(jobs)
    caplog.set_level(logging.INFO, "kumofire_core.console")

    for address in ("payload", "edit"):
        person.get(f"/schedules/{schedule_id}/{address}")
        person.get(f"/schedules/{schedule_id}/{address}", params={"payload": "show"})

    told = [record.getMessage() for record in caplog.records if record.name == "kumofire_core.console"]
    assert told == [f"a person looked at the payload of schedule {schedule_id}"] * 3


def test_a_person_without_the_right_gets_no_payload_by_any_address(jobs: Jobs, clock: Clock):
    schedule_id = a_schedule(jobs, payload={"to": "anna@example.com"})
    person = Person(jobs, clock, payloads=False)

    for headers in ({}, {"HX-Request": "true"}):
        for address in ("", "/payload", "/edit", "/edit?payload=show"):
            answer = person.get(f"/schedules/{schedule_id}{address}", headers=headers)
            assert "anna" not in answer.text
    form = hidden(person.get(f"/schedules/{schedule_id}/edit").text)
    refused = person.press(f"/schedules/{schedule_id}/edit", **form, payload='{"to": "me"}')
    assert (refused.status_code, words(refused.text).startswith("You may not change payloads.")) == (422, True)
    assert jobs.get_schedule(schedule_id).payload == {"to": "anna@example.com"}


def test_an_encrypted_payload_is_not_replaced_by_one_that_is_not(aws: Aws, jobs: Jobs, person: Person):
    schedule_id = a_schedule(jobs)
    form = hidden(person.get(f"/schedules/{schedule_id}/edit").text)
    aws.dynamodb.client.update_item(
        TableName=aws.table,
        Key={"pk": {"S": f"schedule#{schedule_id}"}, "sk": {"S": "schedule"}},
        UpdateExpression="SET payload = :encrypted",
        ExpressionAttributeValues={":encrypted": {"S": f"{PREFIX}abc"}},
    )

    refused = person.press(f"/schedules/{schedule_id}/edit", **form, payload='{"to": "me"}')

    assert (refused.status_code, "encrypted" in words(refused.text)) == (422, True)
    assert [item["payload"] for item in aws.items()] == [f"{PREFIX}abc"]


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\u202egnihtyna", "a\u0000\x1b[2Jb", "'\"><img src=x>"]
)
def test_names_of_others_are_shown_as_text(jobs: Jobs, person: Person, hostile: str):
    schedule_id = a_schedule(jobs, schedule_key=hostile, payload={hostile: "</pre>" + hostile})

    for address in (
        "/schedules",
        f"/schedules/{schedule_id}",
        f"/schedules/{schedule_id}/edit?payload=show",
        f"/schedules/{schedule_id}/payload",
    ):
        page = person.get(address).text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert not set("\u202e\u0000\x1b") & set(page)


# Actions


def test_disabling_can_be_undone(jobs: Jobs, person: Person, clock: Clock):
    schedule_id = a_schedule(jobs, schedule_key="k")
    clock.advance(minutes=1)

    answer = person.press(f"/schedules/{schedule_id}/disable")

    assert "k is disabled." in words(answer.text)
    assert jobs.get_schedule(schedule_id).enabled is False
    undone = person.press(undo_of(answer), **hidden(answer.text))
    assert "k has its former settings again." in words(undone.text)
    assert jobs.get_schedule(schedule_id).next_run_at == datetime.fromisoformat("2026-03-16T07:30+01:00")


def test_what_another_person_did_already_is_said_and_not_done_again(jobs: Jobs, person: Person, clock: Clock):
    schedule_id = a_schedule(jobs, schedule_key="k")
    clock.advance(minutes=1)
    before = jobs.disable_schedule(schedule_id)
    clock.advance(minutes=1)

    answer = person.press(f"/schedules/{schedule_id}/disable")

    assert answer.status_code == 409
    assert "k was disabled already; nothing was changed." in words(answer.text)
    assert jobs.get_schedule(schedule_id) == before


def test_an_undo_does_not_undo_what_another_person_did_since(jobs: Jobs, person: Person, clock: Clock):
    schedule_id = a_schedule(jobs, schedule_key="k")
    clock.advance(minutes=1)
    answer = person.press(f"/schedules/{schedule_id}/disable")
    clock.advance(minutes=1)
    theirs = jobs.update_schedule(schedule_id, missed="latest")

    undone = person.press(undo_of(answer), **hidden(answer.text))

    assert undone.status_code == 409
    assert "Somebody has changed k meanwhile; nothing was changed." in words(undone.text)
    assert jobs.get_schedule(schedule_id) == theirs


def test_a_triggered_schedule_leads_to_its_run(jobs: Jobs, person: Person):
    schedule_id = a_schedule(jobs, enabled=False)

    answer = person.press(f"/schedules/{schedule_id}/trigger")

    [run_id] = re.findall(r'<a href="/runs/([^"]*)">', answer.text)
    assert jobs.get_status(run_id).job_name == "email"
    assert run_id in words(answer.text)


def test_deleting_asks_first_and_leads_back_to_the_list(jobs: Jobs, person: Person):
    schedule_id = a_schedule(jobs)

    assert 'data-confirm="Delete this schedule?' in person.get(f"/schedules/{schedule_id}").text
    answer = person.press(f"/schedules/{schedule_id}/delete")

    assert answer.headers["HX-Location"] == "/schedules"
    assert jobs.get_schedule(schedule_id) is None


def test_a_person_who_may_only_look_sees_no_actions_and_can_do_none(jobs: Jobs, clock: Clock):
    schedule_id = a_schedule(jobs)
    before = jobs.get_schedule(schedule_id)
    person = Person(jobs, clock, act=False)

    assert "<form" not in person.get("/schedules").text.split("<main")[1].split("</main>")[0]
    assert "<form" not in person.get(f"/schedules/{schedule_id}").text.split("<main")[1].split("</main>")[0]
    for what in ("disable", "trigger", "delete", "restore", "edit"):
        assert person.press(f"/schedules/{schedule_id}/{what}", seen=iso(NOW)).status_code == 403
    assert jobs.get_schedule(schedule_id) == before


# The form


def changed(person: Person, schedule_id: str, **form: str) -> Any:
    """Load a schedule's form, write something else into it, and save it."""
    loaded = hidden(person.get(f"/schedules/{schedule_id}/edit").text)
    return person.press(f"/schedules/{schedule_id}/edit", **(loaded | form))


def test_a_form_changes_the_group_and_one_without_the_field_keeps_it(jobs: Jobs, person: Person):
    schedule_id = a_schedule(jobs, group="tenant-42")
    assert "Group tenant-42" in words(person.get(f"/schedules/{schedule_id}").text)

    of_an_earlier_release = hidden(person.get(f"/schedules/{schedule_id}/edit").text)
    assert of_an_earlier_release.pop("group") == "tenant-42"
    person.press(f"/schedules/{schedule_id}/edit", **(of_an_earlier_release | {"max_attempts": "2"}))
    assert jobs.get_schedule(schedule_id).group == "tenant-42"

    changed(person, schedule_id, group="tenant-7")
    assert jobs.get_schedule(schedule_id).group == "tenant-7"
    changed(person, schedule_id, group="")
    assert jobs.get_schedule(schedule_id).group is None


def test_a_form_that_nobody_touched_changes_nothing(jobs: Jobs, person: Person, clock: Clock):
    for settings in (
        {"start_at": NOW + timedelta(milliseconds=1234), "end_at": NOW + timedelta(days=9), "group": "g"},
        {"schedule_type": "interval", "schedule_expr": timedelta(minutes=25), "missed": "latest", "overlap": "skip"},
        {"schedule_type": "once", "schedule_expr": "at(2026-12-01T09:00:00)", "enabled": False},
        {"schedule_type": "once", "schedule_expr": "2026-12-01T09:00:00+01:00", "timezone": None},
    ):
        schedule_id = a_schedule(jobs, **settings)
        before = jobs.get_schedule(schedule_id)
        clock.advance(minutes=1)

        answer = changed(person, schedule_id)

        assert "has these settings already; nothing was changed." in words(answer.text)
        assert jobs.get_schedule(schedule_id) == before


def test_what_is_saved_is_what_was_written_and_undo_brings_the_former_settings(
    jobs: Jobs, person: Person, clock: Clock
):
    schedule_id = a_schedule(jobs, schedule_key="k", max_attempts=5, start_at=NOW)
    before = jobs.get_schedule(schedule_id)
    clock.advance(minutes=1)

    answer = changed(
        person,
        schedule_id,
        expr="0 9 * * *",
        timezone="Asia/Tokyo",
        start="",
        end="2026-12-01T00:00",
        missed="skip",
        overlap="skip",
        max_attempts="2",
    )

    after = jobs.get_schedule(schedule_id)
    assert answer.headers["HX-Location"] == f"/schedules/{schedule_id}"
    assert (after.schedule_expr, after.timezone, after.start_at) == ("0 9 * * *", "Asia/Tokyo", None)
    assert after.end_at == datetime.fromisoformat("2026-12-01T00:00+09:00")
    assert (after.missed, after.overlap, after.max_attempts, after.payload) == ("skip", "skip", 2, {"to": "anna"})
    clock.advance(minutes=1)
    person.press(undo_of(answer), **hidden(answer.text))
    restored = jobs.get_schedule(schedule_id)
    for name in ("schedule_expr", "timezone", "start_at", "end_at", "missed", "overlap", "max_attempts", "next_run_at"):
        assert getattr(restored, name) == getattr(before, name)


def test_a_payload_is_changed_only_where_the_form_had_it(jobs: Jobs, person: Person, clock: Clock):
    schedule_id = a_schedule(jobs, payload={"to": "雲", "n": 1})
    loaded = hidden(person.get(f"/schedules/{schedule_id}/edit?payload=show").text)
    clock.advance(minutes=1)

    answer = person.press(
        f"/schedules/{schedule_id}/edit", **(loaded | {"payload": loaded["payload"].replace("1", "2")})
    )

    assert jobs.get_schedule(schedule_id).payload == {"to": "雲", "n": 2}
    assert "Undo keeps the new payload." in words(answer.text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"expr": "0 25 * * *"}, "hour (field 2 of 5) has '25'"),
        ({"expr": "0 0 30 2 *"}, "can never fire"),
        ({"timezone": "europe/berlin"}, "did you mean 'Europe/Berlin'?"),
        ({"start": "soon"}, "the start is 'soon'"),
        ({"end": "2026-01-01T00:00"}, "has no occurrence after"),
        ({"max_attempts": "two"}, "the attempts are 'two'"),
        ({"missed": "never"}, "missed must be one of"),
        ({"type": "yearly"}, "unknown schedule_type 'yearly'"),
        ({"payload": "{"}, "the payload is not JSON"),
        ({"payload": "NaN"}, "the payload is not JSON"),
        ({"payload": "[" * 100_000}, "the payload is not JSON"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("partial", [True, False])
def test_what_cannot_be_saved_is_said_beside_the_form_which_keeps_what_was_typed(
    jobs: Jobs, person: Person, wrong: dict[str, str], said: str, partial: bool
):
    schedule_id = a_schedule(jobs)
    before = jobs.get_schedule(schedule_id)
    loaded = hidden(person.get(f"/schedules/{schedule_id}/edit").text)
    headers = {"HX-Request": "true"} if partial else {}

    answer = person.post(f"/schedules/{schedule_id}/edit", data=loaded | {"overlap": "skip"} | wrong, headers=headers)

    assert answer.status_code == 422
    assert said in words(answer.text)
    assert ("<html" in answer.text) is not partial
    if not set(wrong) & {"missed", "type"}:
        assert {**loaded, "overlap": "skip", **wrong}.items() <= hidden(answer.text).items()
    assert jobs.get_schedule(schedule_id) == before


def test_a_form_of_an_earlier_state_saves_nothing_and_shows_both(jobs: Jobs, person: Person, clock: Clock):
    schedule_id = a_schedule(jobs)
    loaded = hidden(person.get(f"/schedules/{schedule_id}/edit").text)
    clock.advance(minutes=1)
    theirs = jobs.update_schedule(schedule_id, schedule_expr="0 6 * * *", missed="latest")
    clock.advance(minutes=1)

    answer = person.press(f"/schedules/{schedule_id}/edit", **(loaded | {"expr": "0 9 * * *"}))

    assert answer.status_code == 409
    text = words(answer.text)
    assert "Somebody has changed this schedule meanwhile, 60s ago. Nothing was saved." in text
    assert "Expression 0 6 * * * 0 9 * * *" in text
    assert "Missed latest all" in text
    assert jobs.get_schedule(schedule_id) == theirs
    person.press(f"/schedules/{schedule_id}/edit", **hidden(answer.text))  # saved all the same, on purpose
    assert jobs.get_schedule(schedule_id).schedule_expr == "0 9 * * *"


def test_a_schedule_that_only_fired_meanwhile_can_be_saved(jobs: Jobs, person: Person, clock: Clock):
    schedule_id = a_schedule(jobs, schedule_expr="* * * * *")
    loaded = hidden(person.get(f"/schedules/{schedule_id}/edit").text)
    clock.advance(minutes=2)
    jobs.dispatch()

    person.press(f"/schedules/{schedule_id}/edit", **(loaded | {"expr": "0 9 * * *"}))

    assert jobs.get_schedule(schedule_id).schedule_expr == "0 9 * * *"


def test_an_expression_is_explained_while_it_is_written_without_asking_the_table(aws: Aws, jobs: Jobs, person: Person):
    aws.dynamodb.requests.clear()

    right = person.text("/schedules/explain?type=cron&expr=0+9+*+*+1&timezone=Asia/Tokyo&start=&end=")
    wrong = person.text("/schedules/explain?type=cron&expr=0+9+*+*+8&timezone=&start=&end=")

    assert "At 09:00 on Monday, in Asia/Tokyo." in right
    assert right.count("+09:00") == 5
    assert "8 is not within 0-7" in wrong
    assert aws.dynamodb.requests == []


def test_an_expression_that_has_no_occurrence_left_is_explained_and_says_so(person: Person):
    text = person.text("/schedules/explain?type=cron&expr=0+9+*+*+1&timezone=&start=&end=2026-03-15T00:00")

    assert "It has no occurrence left, so it makes no runs." in text


@pytest.mark.parametrize(
    "query", ["", "type=cron", "type=interval&expr=%00", "was_type=interval&was_next=x&type=once&expr=1"]
)
def test_an_address_of_an_explanation_that_lacks_something_is_answered(person: Person, query: str):
    assert person.get(f"/schedules/explain?{query}").status_code == 200


def test_an_expression_that_an_earlier_release_took_is_explained_as_its_schedule_keeps_it(person: Person):
    kept = "was_type=cron&was_expr=5-5+*+*+*+*&was_timezone=&was_start=&was_next="

    assert "a range of one value is written 5" in person.text("/schedules/explain?type=cron&expr=5-5+*+*+*+*")
    assert "5 of every hour" in person.text(f"/schedules/explain?type=cron&expr=5-5+*+*+*+*&{kept}")


def test_the_last_hours_that_python_can_write_break_no_page(jobs: Jobs, person: Person):
    last = {"timezone": "Pacific/Kiritimati", "start_at": datetime.fromisoformat("9999-12-31T09:30:00+00:00")}
    schedule_id = a_schedule(jobs, schedule_type="interval", schedule_expr="rate(15 minutes)", **last)

    assert person.get("/schedules").status_code == 200
    for address in (f"/schedules/{schedule_id}", f"/schedules/{schedule_id}/edit"):
        text = person.text(address)
        assert "9999-12-31 23:45:00 +14:00" in text, address
        assert "9999-12-31 10:15:00 +00:00" in text, "one that no zone's clock can show is shown in UTC"


@pytest.mark.parametrize("following", ["2026-03-14T12:00", "0001-01-01T00:00:00+14:00", "x"])
def test_a_next_occurrence_in_the_address_that_is_none_of_ours_is_an_answer(person: Person, following: str):
    asked = {"type": "interval", "expr": "rate(15 minutes)"}
    kept = {"was_type": "interval", "was_expr": "rate(15 minutes)", "was_next": following}

    answer = person.get("/schedules/explain", params=asked | kept)

    assert (answer.status_code, "Every 15 minutes" in words(answer.text)) == (200, True)


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("/schedules", "disable"),
        ("/schedules", "trigger"),
        ("/schedules/{}", "disable"),
        ("/schedules/{}", "trigger"),
        ("/schedules/{}", "delete"),
    ],
)
def test_a_button_of_an_old_page_does_nothing_to_a_schedule_that_another_person_changed(
    aws: Aws, jobs: Jobs, person: Person, clock: Clock, page: str, what: str
):
    schedule_id = a_schedule(jobs)
    forms = re.findall(r"<form.*?</form>", person.get(page.format(schedule_id)).text, re.DOTALL)
    [shown] = [hidden(each) for each in forms if f"/{what}" in each]
    clock.advance(seconds=1)
    jobs.update_schedule(schedule_id, schedule_expr="0 9 * * *")

    answer = person.press(f"/schedules/{schedule_id}/{what}", **shown)

    assert (answer.status_code, "Somebody has changed" in words(answer.text)) == (409, True)
    stored = jobs.get_schedule(schedule_id)
    assert stored is not None
    assert stored.enabled
    assert [item for item in aws.items() if item["pk"].startswith("run#")] == []
    again = re.findall(r"<form.*?</form>", person.get(page.format(schedule_id)).text, re.DOTALL)
    [fresh] = [hidden(each) for each in again if f"/{what}" in each]
    assert person.press(f"/schedules/{schedule_id}/{what}", **fresh).status_code == 200
