"""The adapters against the real simulators: each method, twice under one key, and each refusal."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from activities.adapters.carrier import HttpCarrier
from activities.adapters.neighbours import Neighbours, open_neighbours
from activities.adapters.warehouse import HttpWarehouse
from activities.ports import Carrier, PickLine
from apps.simulators.serving import Settings
from models.effects import Audience, Captured, Label, Template
from models.errors import NeighbourRefused
from models.messages import CarrierEvent, CarrierEventKind, WmsEvent, WmsEventKind
from models.money import Money
from models.order import Address
from models.stock import LotUnits
from tests.apps.simulators.running import Simulator, ask, eventually, inside, running

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HELD = Money(minor=10_00, currency="GBP")
# Slow enough that nothing is collected by itself while a test looks.
BUSINESS_SPEED = 60.0


@dataclass(frozen=True)
class Town:
    """All four simulators and the adapters to them."""

    neighbours: Neighbours
    payment: Simulator
    warehouse: Simulator
    carrier: Simulator
    messages: Simulator


@pytest.fixture(scope="module")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Simulator]]:
    data_dir: Path = tmp_path_factory.mktemp("simulators")
    nodes = ("--node", "gb-midlands", "--node", "de-west")
    four = [
        Simulator("payment", data_dir, speed=BUSINESS_SPEED),
        Simulator("warehouse", data_dir, *nodes, speed=BUSINESS_SPEED),
        Simulator("carrier", data_dir, speed=BUSINESS_SPEED),
        Simulator("messages", data_dir, speed=BUSINESS_SPEED),
    ]
    with running(*four):
        yield four


@pytest.fixture(scope="module")
async def town(simulators: list[Simulator]) -> AsyncIterator[Town]:
    payment, warehouse, carrier, messages = simulators
    async with open_neighbours(payment.url, warehouse.url, carrier.url, messages.url) as neighbours:
        yield Town(neighbours, payment, warehouse, carrier, messages)


def totals(one: Simulator) -> dict[str, int]:
    return {name: total["count"] for name, total in ask(one, "GET", "/statement").body["totals"].items()}


async def a_label(carrier: Carrier, key: str, city: str = "Leeds") -> Label:
    return await carrier.buy_label(
        key=key,
        carrier="islandpost",
        service="tracked48",
        shipment_id="web:1:1",
        node="gb-midlands",
        ship_to=Address(lines=("1 High Street",), city=city, country="GB"),
        recipient="A. Customer",
        weight_g=1800,
        transit_days=2,
        price=Money(minor=395, currency="GBP"),
        business_now=NOON,
    )


# --- payment ----------------------------------------------------------------------------------------------------------
async def test_an_authorisation_is_held_once_per_key_and_found_by_it(town: Town) -> None:
    payments = town.neighbours.payments
    before = totals(town.payment)["authorisations_open"]

    first = await payments.authorise(key="a1", reference="web:1", token="tok_visa", amount=HELD)
    again = await payments.authorise(key="a1", reference="web:1", token="tok_visa", amount=HELD)

    assert first.approved
    assert first.amount == HELD
    assert first.expires_at is not None
    assert first.expires_at > datetime.now(UTC) + timedelta(days=6)
    assert first == again == await payments.find_authorisation(key="a1")
    assert totals(town.payment)["authorisations_open"] == before + 1


async def test_the_same_key_for_another_amount_is_refused(town: Town) -> None:
    payments = town.neighbours.payments
    await payments.authorise(key="a2", reference="web:2", token="tok_visa", amount=HELD)

    with pytest.raises(NeighbourRefused, match="key_reused"):
        await payments.authorise(key="a2", reference="web:2", token="tok_visa", amount=HELD + HELD)


@pytest.mark.parametrize(
    ("token", "code", "final"),
    [("tok_declined_1", "do_not_honour", True), ("tok_insufficient_1", "insufficient_funds", False)],
)
async def test_a_decline_is_an_answer_and_stays_one(town: Town, token: str, code: str, final: bool) -> None:
    payments = town.neighbours.payments

    answer = await payments.authorise(key=token, reference="web:3", token=token, amount=HELD)

    assert not answer.approved
    assert answer.authorisation_id is None
    assert (answer.decline_code, answer.decline_is_final) == (code, final)
    assert await payments.find_authorisation(key=token) == answer


async def test_captures_take_up_to_the_hold_and_a_void_gives_back_the_rest(town: Town) -> None:
    payments = town.neighbours.payments
    held = await payments.authorise(key="a4", reference="web:4", token="tok_visa", amount=HELD)
    assert held.authorisation_id is not None
    hold = held.authorisation_id
    four, seven = Money(minor=400, currency="GBP"), Money(minor=700, currency="GBP")

    taken = await payments.capture(key="c4.1", authorisation_id=hold, amount=four)
    assert taken == await payments.capture(key="c4.1", authorisation_id=hold, amount=four)
    assert taken == await payments.find_capture(key="c4.1")
    with pytest.raises(NeighbourRefused, match="above_hold"):
        await payments.capture(key="c4.2", authorisation_id=hold, amount=seven)
    with pytest.raises(NeighbourRefused, match="above_hold"):
        await payments.capture(key="c4.3", authorisation_id=hold, amount=Money(minor=1, currency="EUR"))

    assert (await payments.void_by_key(key="v4.1", authorisation_key="a4")).amount == HELD - four
    assert (await payments.void_by_key(key="v4.1", authorisation_key="a4")).amount == HELD - four
    assert (await payments.void_by_key(key="v4.2", authorisation_key="a4")).amount == Money.zero("GBP")
    with pytest.raises(NeighbourRefused, match="not_held"):
        await payments.capture(key="c4.4", authorisation_id=hold, amount=four)
    assert (await payments.find_authorisation(key="a4")) == held


async def test_a_capture_of_a_hold_that_expired_is_an_answer_and_takes_nothing(tmp_path: Path) -> None:
    short_lived = Simulator("payment", tmp_path, "--hold-days", "1e-9")
    with running(short_lived):
        async with open_neighbours(short_lived.url, "http://x", "http://x", "http://x") as near:
            held = await near.payments.authorise(key="a1", reference="web:1", token="tok_visa", amount=HELD)
            assert held.authorisation_id is not None
            taken = await near.payments.capture(key="c1", authorisation_id=held.authorisation_id, amount=HELD)
            assert taken == Captured(capture_id="", amount=Money.zero("GBP"), expired=True)
            assert await near.payments.find_capture(key="c1") is None


async def test_an_authorisation_voided_before_it_came_is_refused_when_it_comes(town: Town) -> None:
    payments = town.neighbours.payments

    assert (await payments.void_by_key(key="v7", authorisation_key="a7")).amount is None
    assert (await payments.void_by_key(key="v7", authorisation_key="a7")).amount is None
    with pytest.raises(NeighbourRefused, match="called_off"):
        await payments.authorise(key="a7", reference="web:7", token="tok_visa", amount=HELD)
    assert await payments.find_authorisation(key="a7") is None


async def test_refunds_never_exceed_their_capture(town: Town) -> None:
    payments = town.neighbours.payments
    held = await payments.authorise(key="a5", reference="web:5", token="tok_visa", amount=HELD)
    assert held.authorisation_id is not None
    taken = await payments.capture(key="c5", authorisation_id=held.authorisation_id, amount=HELD)
    six = Money(minor=600, currency="GBP")

    back = await payments.refund(key="r5.1", capture_id=taken.capture_id, amount=six, cause="lost")
    assert back.amount == six
    assert back == await payments.refund(key="r5.1", capture_id=taken.capture_id, amount=six, cause="lost")
    assert back == await payments.find_refund(key="r5.1")
    with pytest.raises(NeighbourRefused, match="above_capture"):
        await payments.refund(key="r5.2", capture_id=taken.capture_id, amount=six, cause="lost")


async def test_what_was_never_done_is_not_found_and_unknown_money_is_refused(town: Town) -> None:
    payments = town.neighbours.payments

    assert await payments.find_authorisation(key="never") is None
    assert await payments.find_capture(key="never") is None
    assert await payments.find_refund(key="never") is None
    with pytest.raises(NeighbourRefused, match="unknown_authorisation"):
        await payments.capture(key="c6", authorisation_id="nothing", amount=HELD)
    with pytest.raises(NeighbourRefused, match="unknown_capture"):
        await payments.refund(key="r6", capture_id="nothing", amount=HELD, cause="lost")


# --- warehouse --------------------------------------------------------------------------------------------------------
def line(sku: str, *lots: LotUnits) -> tuple[PickLine, ...]:
    return (PickLine(line_id="1", sku=sku, quantity=2, lots=lots),)


async def test_a_pick_is_requested_once_per_key_and_found_by_it(town: Town) -> None:
    warehouse = town.neighbours.warehouse
    before = totals(town.warehouse)["picks"]

    for _ in range(2):
        pick = await warehouse.request_pick(
            key="p1", node="gb-midlands", shipment_id="web:1:1", lines=line("22423"), business_now=NOON
        )

    assert pick.accepted
    assert pick == await warehouse.find_pick(key="p1")
    assert await warehouse.find_pick(key="never") is None
    assert totals(town.warehouse)["picks"] == before + 1


async def test_a_pick_names_the_lots_to_pick(town: Town) -> None:
    lots = (
        LotUnits(lot="L1", expires_on=date(2027, 1, 31), quantity=1),
        LotUnits(lot=None, expires_on=None, quantity=1),
    )
    await town.neighbours.warehouse.request_pick(
        key="p-lots",
        node="gb-midlands",
        shipment_id="web:1:1",
        lines=line("22423", *lots),
        business_now=NOON,
    )
    with sqlite3.connect(town.warehouse.data_dir / "warehouse.sqlite") as books:
        (details,) = books.execute("select details from effects where key = 'p-lots'").fetchone()
    assert json.loads(details)["lots"] == [lot.model_dump(mode="json") for lot in lots]


@pytest.mark.parametrize(
    ("key", "node", "sku", "reason"),
    [
        ("p2", "gb-midlands", "REFUSE-1", "not_stocked"),
        ("p3", "REFUSE-here", "22423", "unknown_node"),
        ("p4", "atlantis", "22423", "unknown_node"),
    ],
)
async def test_a_refused_pick_is_an_answer(town: Town, key: str, node: str, sku: str, reason: str) -> None:
    warehouse = town.neighbours.warehouse

    answer = await warehouse.request_pick(
        key=key, node=node, shipment_id="web:1:1", lines=line(sku), business_now=NOON
    )

    assert not answer.accepted
    assert answer.pick_id is None
    assert answer.reason.startswith(reason)
    assert await warehouse.find_pick(key=key) == answer


async def test_what_became_of_a_pick_can_be_asked_without_its_webhook(tmp_path: Path) -> None:
    # A day in a second: picked within the second, and nobody takes its webhooks.
    async with inside("warehouse", tmp_path) as client:
        asked = HttpWarehouse("http://simulator", client)
        assert await asked.progress_of_pick(key="never") == ()
        pick = await asked.request_pick(
            key="p9", node="gb-midlands", shipment_id="web:1:1", lines=line("22423"), business_now=NOON
        )
        events: tuple[WmsEvent, ...] = ()
        while not events:
            await asyncio.sleep(0.05)
            events = await asked.progress_of_pick(key="p9")
    assert [(event.kind, event.pick_id) for event in events] == [(WmsEventKind.PICKED, pick.pick_id)]
    assert NOON < events[0].occurred_at <= NOON + timedelta(hours=6)


async def test_a_pick_can_be_called_off_more_than_once(town: Town) -> None:
    warehouse = town.neighbours.warehouse
    await warehouse.request_pick(
        key="p5", node="gb-midlands", shipment_id="web:1:1", lines=line("22423"), business_now=NOON
    )
    before = totals(town.warehouse)["picks_cancelled"]

    assert (await warehouse.cancel_pick(key="x5", pick_key="p5")).undone
    assert (await warehouse.cancel_pick(key="x5", pick_key="p5")).undone
    assert (await warehouse.cancel_pick(key="x5.2", pick_key="p5")).undone
    assert totals(town.warehouse)["picks_cancelled"] == before + 1


async def test_a_pick_called_off_before_it_came_is_refused_when_it_comes(town: Town) -> None:
    warehouse = town.neighbours.warehouse

    assert (await warehouse.cancel_pick(key="x6", pick_key="p6")).undone
    late = await warehouse.request_pick(
        key="p6", node="gb-midlands", shipment_id="web:1:1", lines=line("22423"), business_now=NOON
    )

    assert not late.accepted
    assert late.reason.startswith("called_off")


# --- carrier ----------------------------------------------------------------------------------------------------------
async def test_a_label_is_bought_once_per_key_and_found_by_it(town: Town) -> None:
    before = totals(town.carrier)["labels"]

    label = await a_label(town.neighbours.carrier, "l1")

    assert label.accepted
    assert label.tracking is not None
    assert label.cost == Money(minor=395, currency="GBP")
    assert (
        label
        == await a_label(town.neighbours.carrier, "l1")
        == await town.neighbours.carrier.find_label(key="l1")
    )
    assert await town.neighbours.carrier.find_label(key="never") is None
    assert totals(town.carrier)["labels"] == before + 1


async def test_where_a_parcel_is_can_be_asked_without_its_webhooks(tmp_path: Path) -> None:
    async with inside("carrier", tmp_path) as client:
        asked = HttpCarrier("http://simulator", client)
        assert await asked.scans(key="never") == ()
        label = await a_label(asked, "l9")
        seen: tuple[CarrierEvent, ...] = ()
        while len(seen) < 4:
            await asyncio.sleep(0.05)
            seen = await asked.scans(key="l9")
    assert [event.kind for event in seen] == ["collected", "in_transit", "out_for_delivery", "delivered"]
    assert {event.tracking for event in seen} == {label.tracking}


async def test_a_refused_label_is_an_answer(town: Town) -> None:
    label = await a_label(town.neighbours.carrier, "l2", city="Refuseville")

    assert not label.accepted
    assert (label.label_id, label.tracking, label.cost) == (None, None, None)
    assert label.reason.startswith("no_service")
    assert await town.neighbours.carrier.find_label(key="l2") == label


async def test_a_label_is_given_back_before_collection(town: Town) -> None:
    await a_label(town.neighbours.carrier, "l3")
    before = totals(town.carrier)["labels_voided"]

    assert (await town.neighbours.carrier.void_label(key="x3", label_key="l3")).undone
    assert (await town.neighbours.carrier.void_label(key="x3.2", label_key="l3")).undone
    assert totals(town.carrier)["labels_voided"] == before + 1


async def test_a_label_given_back_before_it_was_bought_is_refused_when_it_is(town: Town) -> None:
    assert (await town.neighbours.carrier.void_label(key="x4", label_key="l4")).undone

    late = await a_label(town.neighbours.carrier, "l4")

    assert not late.accepted
    assert late.reason.startswith("called_off")


async def test_a_collected_parcel_cannot_be_called_back(tmp_path: Path) -> None:
    # An hour takes a third of a millisecond: the parcel is collected as soon as its label is bought.
    async with inside("carrier", tmp_path, Settings(seed=0, speed=1e7)) as client:
        carrier = HttpCarrier("http://simulator", client)
        await a_label(carrier, "l5")
        # Nobody takes its webhooks, so a vain attempt shows that the scan was due.
        await eventually(lambda: was_tried(tmp_path), "the parcel to be collected")
        answer = await carrier.void_label(key="x5", label_key="l5")

    assert not answer.undone
    assert answer.reason.startswith("handed_over")


async def scans_up_to(last: CarrierEventKind, carrier: Carrier, key: str) -> tuple[CarrierEvent, ...]:
    while True:
        scans = await carrier.scans(key=key)
        if scans and scans[-1].kind is last:
            return scans
        await asyncio.sleep(0.01)


async def test_a_parcel_is_turned_round_while_no_van_has_it(tmp_path: Path) -> None:
    async with inside("carrier", tmp_path, Settings(seed=0, speed=1e7)) as client:
        carrier = HttpCarrier("http://simulator", client)
        assert (await carrier.intercept(key="i0", label_key="l6", business_now=NOON)).reason.startswith(
            "unknown"
        )
        await a_label(carrier, "l6", "SILENTVILLE")
        await eventually(lambda: was_tried(tmp_path), "the parcel to be collected")
        asked = [await carrier.intercept(key="i1", label_key="l6", business_now=NOON) for _ in range(2)]
        scans = await scans_up_to(CarrierEventKind.RETURNED, carrier, "l6")
        gone = await carrier.void_label(key="x6", label_key="l6")

    assert asked[0] == asked[1] and asked[0].accepted
    kinds = [CarrierEventKind.COLLECTED, CarrierEventKind.RETURNING, CarrierEventKind.RETURNED]
    assert [scan.kind for scan in scans] == kinds
    assert not gone.undone, "it is brought back, its label stays bought"


async def test_a_parcel_that_is_out_for_delivery_is_not_turned_round(tmp_path: Path) -> None:
    async with inside("carrier", tmp_path, Settings(seed=0, speed=1e7)) as client:
        carrier = HttpCarrier("http://simulator", client)
        await a_label(carrier, "l7")
        await scans_up_to(CarrierEventKind.DELIVERED, carrier, "l7")
        answer = await carrier.intercept(key="i2", label_key="l7", business_now=NOON)

    assert not answer.accepted and answer.reason.startswith("too_late")


async def test_a_parcel_that_was_not_collected_is_not_turned_round(town: Town) -> None:
    await a_label(town.neighbours.carrier, "l8", "IDLEVILLE")
    answer = await town.neighbours.carrier.intercept(key="i3", label_key="l8", business_now=NOON)
    assert not answer.accepted and answer.reason.startswith("not_collected")


def was_tried(data_dir: Path) -> bool:
    with sqlite3.connect(data_dir / "carrier.sqlite") as db:
        return bool(db.execute("select sum(attempts) from webhooks").fetchone()[0])


# --- messages ---------------------------------------------------------------------------------------------------------
async def test_a_message_is_sent_once_per_key(town: Town) -> None:
    before = totals(town.messages)["messages"]

    sent = [
        await town.neighbours.messages.send(
            key="m1",
            audience=Audience.CUSTOMER,
            template=Template.SHIPPED,
            to="a@example.org",
            facts={"tracking": "ABC"},
        )
        for _ in range(2)
    ]

    assert sent[0] == sent[1]
    assert totals(town.messages)["messages"] == before + 1


async def test_a_message_to_nobody_is_refused(town: Town) -> None:
    with pytest.raises(NeighbourRefused, match="malformed"):
        await town.neighbours.messages.send(
            key="m2", audience=Audience.CUSTOMER, template=Template.LATE, to="", facts={}
        )
