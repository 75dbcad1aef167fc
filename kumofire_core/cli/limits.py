"""``kumofire limits``: who has the slots of a job's limit, and who waits for one."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kumofire_core.cli.display import Column
from kumofire_core.cli.invocation import Here
from kumofire_core.text import both, iso

COLUMNS = (Column("RUN"), Column("STATE"))


def limits(
    job: Annotated[str, Parameter(help="The job's name.")],
    /,
    *,
    key: Annotated[str | None, Parameter(help="The key, where the limit has one.")] = None,
    name: Annotated[str | None, Parameter(help="The limit's name, where it has one.")] = None,
    here: Here,
) -> None:
    """Show who has the slots of a job's limit, who waits for one, and until when its rate is reserved."""
    found = here.jobs.get_limit(job, key=key, name=name)
    if here.as_json:
        here.emit(
            {
                "job_name": job,
                "key": key,
                "name": name,
                "slots": found.slots,
                "holders": list(found.holders),
                "waiting": list(found.waiting),
                "complete": found.complete,
                "next_start": iso(found.next_start),
            }
        )
        return
    if found.next_start is not None:
        here.say(f"the rate is reserved until {both(found.next_start, here.now())}")
    rows = [[run_id, "has a slot"] for run_id in found.holders] + [[run_id, "waits"] for run_id in found.waiting]
    if not rows:
        here.say("no run has a slot, and none waits")
        return
    here.show_table(COLUMNS, rows)
    more = "" if found.complete else " or more"
    here.say(f"{len(found.holders)} of {found.slots} slots are taken, and {len(found.waiting)}{more} runs wait")
