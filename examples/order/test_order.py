"""Each way that an order can go, and that whatever crashes, the card is charged once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.order import shop
from examples.order.jobs import Order, approve, jobs, order, place, refuse
from kumofire_core import Jobs
from kumofire_core.testing import InProcessAWS

CARD = "4242424242424242"
TWO_MUGS = Order("1001", "mug", 2, 3_000, CARD)


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return jobs


@pytest.fixture(autouse=True)
def three_mugs(kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop with three mugs, in the table of this test."""
    monkeypatch.setattr(shop, "dynamodb", lambda: kumofire.dynamodb)
    kumofire.create_table(shop.TABLE, key="id")
    stock(mugs=3)


def stock(*, mugs: int) -> None:
    shop.dynamodb().put_item(TableName=shop.TABLE, Item={"id": {"S": "stock/mug"}, "amount": {"N": str(mugs)}})


def steps(run_id: str) -> list[str]:
    return [step.name for step in jobs.steps(run_id)]


def amounts() -> dict[str, int]:
    return {counter: shop.amount(counter) for counter in ("stock/mug", "account", "parcels")}


def test_an_approved_order_is_charged_and_shipped(kumofire: InProcessAWS) -> None:
    place(TWO_MUGS)
    kumofire.drain()
    assert [run.waiting_for for run in kumofire.runs(order)] == ["approval"]

    assert approve("1001")
    kumofire.drain()

    [run] = kumofire.runs(order)
    assert (run.status, run.output) == ("succeeded", {"receipt": "charged/1001", "parcel": "parcel-1001"})
    assert amounts() == {"stock/mug": 1, "account": 3_000, "parcels": 1}


def test_a_refused_order_is_undone(kumofire: InProcessAWS) -> None:
    run_id = place(TWO_MUGS)
    kumofire.drain()

    assert refuse("1001", "the address does not exist")
    run = kumofire.drain_run(run_id)

    assert (run.status, run.cancel_reason) == ("canceled", "the address does not exist")
    assert steps(run_id) == ["reserve", "charge", "approval", "refund", "release"]
    assert amounts() == {"stock/mug": 3, "account": 0, "parcels": 0}


def test_an_order_that_nobody_answers_is_undone_after_two_days(kumofire: InProcessAWS) -> None:
    run_id = place(TWO_MUGS)
    kumofire.drain(until=timedelta(days=2) - timedelta(minutes=5))
    assert [run.waiting_for for run in kumofire.runs(order)] == ["approval"]

    run = kumofire.drain_run(run_id)

    assert run.cancel_reason == "nobody answered within two days"
    assert amounts() == {"stock/mug": 3, "account": 0, "parcels": 0}
    assert not approve("1001")


def test_a_declined_card_puts_the_goods_back(kumofire: InProcessAWS) -> None:
    run = kumofire.drain_run(place(Order("1001", "mug", 2, 3_000, shop.DECLINED_CARD)))

    assert run.cancel_reason == "the card was declined"
    assert amounts() == {"stock/mug": 3, "account": 0, "parcels": 0}


def test_an_order_of_more_than_there_is_charges_nothing(kumofire: InProcessAWS) -> None:
    run = kumofire.drain_run(place(Order("1001", "mug", 4, 6_000, CARD)))

    assert run.cancel_reason == "mug: sold out"
    assert steps(run.id) == ["reserve"]
    assert amounts() == {"stock/mug": 3, "account": 0, "parcels": 0}


def test_an_order_that_is_placed_twice_has_one_run_and_one_answer(kumofire: InProcessAWS) -> None:
    assert place(TWO_MUGS) == place(TWO_MUGS)
    kumofire.drain()

    assert approve("1001")
    assert not refuse("1001", "too late")
    assert not approve("unknown")
    kumofire.drain()

    assert amounts() == {"stock/mug": 1, "account": 3_000, "parcels": 1}


@pytest.mark.kumofire(chaos=True)
def test_whatever_crashes_each_order_is_charged_once_and_undone_once(
    kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged = []
    charge = shop.charge

    def counted(order_id: str, card: str, cents: int) -> dict[str, str]:
        charged.append(order_id)
        return charge(order_id, card, cents)

    monkeypatch.setattr(shop, "charge", counted)
    stock(mugs=10)
    for number in range(10):
        place(Order(str(number), "mug", 1, 1_500, CARD))
    kumofire.drain()
    for number in range(10):
        assert approve(str(number)) if number < 6 else refuse(str(number), "out of reach")
    kumofire.drain()

    assert len(charged) > 10  # some processes died after the charge, and before its result was stored
    assert [run.status for run in kumofire.runs(order)] == ["succeeded"] * 6 + ["canceled"] * 4
    assert amounts() == {"stock/mug": 4, "account": 6 * 1_500, "parcels": 6}
