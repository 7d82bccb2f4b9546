"""The simulators as processes: what they call back, what they keep over a kill, what their statement says."""

import json
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models.messages import CarrierEvent, CarrierEventKind, PaymentEvent, WmsEvent, WmsEventKind
from models.webhooks import WebhookKind
from tests.apps.simulators.running import (
    REPOSITORY,
    Answered,
    Simulator,
    answer,
    ask,
    eventually,
    free_port,
    listening,
    simulator,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def post_to(one: Simulator, path: str, key: str, body: dict[str, object]) -> Answered:
    return ask(one, "POST", path, key=key, body=body)


def a_label(city: str = "Leeds", transit_days: int = 2) -> dict[str, object]:
    return {
        "carrier": "islandpost",
        "service": "tracked48",
        "shipment_id": "web:1:1",
        "node": "gb-midlands",
        "ship_to": {"lines": ["1 High Street"], "city": city, "country": "GB"},
        "recipient": "A. Customer",
        "weight_g": 1800,
        "transit_days": transit_days,
        "price_minor": 395,
        "currency": "GBP",
        "business_now": NOON.isoformat(),
    }


def a_pick(sku: str = "22423") -> dict[str, object]:
    return {
        "node": "gb-midlands",
        "shipment_id": "web:1:1",
        "lines": [{"line_id": "1", "sku": sku, "quantity": 3}],
        "business_now": NOON.isoformat(),
    }


def an_authorisation(token: str = "tok_visa", amount_minor: int = 1000) -> dict[str, object]:
    return {"reference": "web:1", "token": token, "amount_minor": amount_minor, "currency": "GBP"}


def webhook_states(data_dir: Path, name: str) -> list[tuple[str, int]]:
    """State and attempts of each webhook, in order."""
    with sqlite3.connect(data_dir / f"{name}.sqlite") as db:
        return db.execute("select state, attempts from webhooks order by subject, number").fetchall()


def carrier_events(events: list[Any]) -> list[CarrierEvent]:
    assert all(isinstance(event, CarrierEvent) for event in events)
    return events


# --- what they call back ----------------------------------------------------------------------------------------------
async def test_a_parcel_is_scanned_from_collection_to_delivery_in_order_and_signed(tmp_path: Path) -> None:
    async with listening() as post:
        with simulator("carrier", tmp_path, webhook_url=f"{post.url}/v1/webhooks/carrier") as carrier:
            label = post_to(carrier, "/labels", "l1", a_label()).body
            await eventually(lambda: len(post.received) == 4, "four scans")

    envelopes = post.webhooks()
    scans = carrier_events([envelope.event for envelope in envelopes])
    assert {request.target for request in post.received} == {"/v1/webhooks/carrier"}
    assert [scan.kind for scan in scans] == ["collected", "in_transit", "out_for_delivery", "delivered"]
    assert {(e.kind, e.shipment_id, e.order_id) for e in envelopes} == {
        (WebhookKind.CARRIER_EVENT, "web:1:1", None)
    }
    assert {scan.tracking for scan in scans} == {label["tracking"]}
    times = [scan.occurred_at for scan in scans]
    assert times == sorted(times)
    assert NOON + timedelta(hours=2) <= times[0] <= NOON + timedelta(hours=8)


@pytest.mark.parametrize(
    ("city", "kinds", "last_after"),
    [
        ("LATEVILLE", "collected in_transit out_for_delivery delivered", timedelta(days=7)),
        ("Lostville", "collected in_transit lost", timedelta(days=7)),
    ],
)
async def test_some_towns_have_a_fate(tmp_path: Path, city: str, kinds: str, last_after: timedelta) -> None:
    async with listening() as post:
        with simulator("carrier", tmp_path, speed=1e6, webhook_url=post.url) as carrier:
            post_to(carrier, "/labels", "l1", a_label(city))
            await eventually(lambda: len(post.received) == len(kinds.split()), kinds)

    scans = carrier_events([envelope.event for envelope in post.webhooks()])
    assert [scan.kind for scan in scans] == kinds.split()
    assert scans[-1].occurred_at == NOON + last_after


async def test_the_warehouse_tells_that_goods_were_picked_or_were_short(tmp_path: Path) -> None:
    async with listening() as post:
        with simulator("warehouse", tmp_path, webhook_url=post.url) as warehouse:
            picked = post_to(warehouse, "/picks", "p1", a_pick()).body
            short = post_to(warehouse, "/picks", "p2", a_pick(sku="SHORT-1")).body
            await eventually(lambda: len(post.received) == 2, "two picks")

    told = {}
    for envelope in post.webhooks():
        assert envelope.kind is WebhookKind.WMS_EVENT
        assert isinstance(envelope.event, WmsEvent)
        told[envelope.event.pick_id] = envelope.event
    assert told[picked["pick_id"]].kind is WmsEventKind.PICKED
    assert told[short["pick_id"]].kind is WmsEventKind.SHORT
    assert "SHORT-1" in told[short["pick_id"]].detail
    assert all(
        timedelta(hours=1) <= event.occurred_at - NOON <= timedelta(hours=6) for event in told.values()
    )


async def test_a_pick_called_off_is_not_heard_of_again(tmp_path: Path) -> None:
    async with listening() as post:
        with simulator("warehouse", tmp_path, speed=3600.0, webhook_url=post.url) as warehouse:
            post_to(warehouse, "/picks", "p1", a_pick())
            post_to(warehouse, "/picks/cancel", "x1", {"pick_key": "p1"})
            post_to(warehouse, "/picks", "p2", a_pick())
            await eventually(lambda: len(post.received) == 1, "the second pick")
            assert webhook_states(tmp_path, "warehouse") == [("delivered", 1)]


async def test_the_payment_provider_tells_of_movements_only_when_asked_to(tmp_path: Path) -> None:
    async with listening() as post:
        with simulator("payment", tmp_path / "telling", "--notify", webhook_url=post.url) as payment:
            held = post_to(payment, "/authorisations", "a1", an_authorisation("tok_disputed_1")).body
            hold = f"/authorisations/{held['authorisation_id']}"
            taken = post_to(payment, f"{hold}/captures", "c1", {"amount_minor": 400, "currency": "GBP"}).body
            post_to(
                payment,
                f"/captures/{taken['capture_id']}/refunds",
                "r1",
                {"amount_minor": 100, "currency": "GBP", "cause": "lost"},
            )
            post_to(payment, f"{hold}/void", "v1", {})
            await eventually(lambda: len(post.received) == 5, "five movements")

    told = {}
    for envelope in post.webhooks():
        assert envelope.order_id == "web:1"
        assert isinstance(envelope.event, PaymentEvent)
        told[str(envelope.event.kind)] = envelope.event.amount.minor
    assert told == {"authorised": 1000, "captured": 400, "refunded": 100, "voided": 600, "disputed": 400}

    with simulator("payment", tmp_path / "silent") as payment:
        post_to(payment, "/authorisations", "a1", an_authorisation())
        assert webhook_states(tmp_path / "silent", "payment") == []


# --- delivering -------------------------------------------------------------------------------------------------------
async def test_webhooks_arrive_in_order_after_the_receiver_was_down(tmp_path: Path) -> None:
    port = free_port()
    with simulator("carrier", tmp_path, speed=1e7, webhook_url=f"http://127.0.0.1:{port}/") as carrier:
        post_to(carrier, "/labels", "l1", a_label())
        await eventually(lambda: webhook_states(tmp_path, "carrier")[0][1] >= 2, "two vain attempts")
        async with listening(port) as post:
            await eventually(lambda: len(post.received) == 4, "all scans")

    scans = carrier_events([envelope.event for envelope in post.webhooks()])
    assert [scan.kind for scan in scans] == ["collected", "in_transit", "out_for_delivery", "delivered"]


@pytest.mark.parametrize("status", [404, 408, 425, 429, 500, 503])
async def test_a_receiver_that_cannot_take_it_now_gets_it_again(tmp_path: Path, status: int) -> None:
    async with listening() as post:
        post.behaviour = answer(status)
        with simulator("warehouse", tmp_path, webhook_url=post.url) as warehouse:
            post_to(warehouse, "/picks", "p1", a_pick())
            await eventually(lambda: len(post.received) >= 2, "a second attempt")
            post.behaviour = answer(202)
            await eventually(lambda: webhook_states(tmp_path, "warehouse")[0][0] == "delivered", "delivery")

    assert len({envelope.event_id for envelope in post.webhooks()}) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 410, 422])
async def test_a_refused_webhook_is_recorded_and_holds_up_nothing(tmp_path: Path, status: int) -> None:
    async with listening() as post:
        post.behaviour = answer(status)
        with simulator("carrier", tmp_path, speed=1e7, webhook_url=post.url) as carrier:
            post_to(carrier, "/labels", "l1", a_label())
            await eventually(
                lambda: webhook_states(tmp_path, "carrier") == [("refused", 1)] * 4, "four refusals"
            )

    assert len(post.received) == 4


# --- surviving --------------------------------------------------------------------------------------------------------
async def test_a_killed_carrier_remembers_its_labels_and_goes_on_delivering(tmp_path: Path) -> None:
    async with listening() as post:
        # An hour takes two seconds: the kill comes well before the first scan.
        with simulator("carrier", tmp_path, speed=1800.0, webhook_url=post.url) as carrier:
            before = post_to(carrier, "/labels", "l1", a_label(transit_days=0))
            carrier.end(signal.SIGKILL)
            assert post.received == []
            carrier.start()
            after = post_to(carrier, "/labels", "l1", a_label(transit_days=0))
            await eventually(lambda: len(post.received) >= 1, "the collection")

    assert before.status == after.status == 201
    assert before.body == after.body
    event = post.webhooks()[0].event
    assert isinstance(event, CarrierEvent)
    assert event.kind is CarrierEventKind.COLLECTED


async def test_nothing_that_was_answered_is_lost_by_a_kill(tmp_path: Path) -> None:
    with simulator("payment", tmp_path) as payment:
        for n in range(20):
            assert post_to(payment, "/authorisations", f"a{n}", an_authorisation()).status == 201
        payment.end(signal.SIGKILL)

        [statement] = [s for s in statements(tmp_path) if s["simulator"] == "payment"]
        assert statement["totals"]["authorisations_open"] == {"count": 20, "amounts": {"GBP": 20_000}}

        payment.start()
        again = post_to(payment, "/authorisations", "a7", an_authorisation())
        found = ask(payment, "GET", "/authorisations?key=a7")
        assert again.body == found.body
        assert payment.end(signal.SIGTERM) in (0, -signal.SIGTERM)


def test_a_second_simulator_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with simulator("messages", tmp_path):
        second = run("messages", "--port", str(free_port()), "--data-dir", str(tmp_path))

    assert second.returncode == 3
    assert "another simulator is using" in second.stderr


# --- idempotency ------------------------------------------------------------------------------------------------------
def test_a_key_is_needed_and_belongs_to_one_request(tmp_path: Path) -> None:
    with simulator("payment", tmp_path) as payment:
        assert post_to(payment, "/authorisations", "", an_authorisation()).body["code"] == "key_missing"
        assert post_to(payment, "/authorisations", "a1", {"reference": "web:1"}).body["code"] == "malformed"
        # Nothing was decided under that key yet, so it is still free.
        first = post_to(payment, "/authorisations", "a1", an_authorisation())
        other_body = post_to(payment, "/authorisations", "a1", an_authorisation(amount_minor=1001))
        other_place = post_to(payment, f"/authorisations/{first.body['authorisation_id']}/void", "a1", {})
        again = post_to(payment, "/authorisations", "a1", an_authorisation())

    assert first.status == again.status == 201
    assert first.body == again.body
    for refused in (other_body, other_place):
        assert (refused.status, refused.body["code"]) == (422, "key_reused")


def test_a_refusal_is_kept_for_its_key_too(tmp_path: Path) -> None:
    with simulator("payment", tmp_path) as payment:
        held = post_to(payment, "/authorisations", "a1", an_authorisation()).body
        captures = f"/authorisations/{held['authorisation_id']}/captures"
        too_much = {"amount_minor": 1001, "currency": "GBP"}
        first = post_to(payment, captures, "c1", too_much)
        again = post_to(payment, captures, "c1", too_much)

    assert first.status == again.status == 422
    assert first.body == again.body


def test_an_authorisation_called_off_by_key_before_it_came_is_refused_when_it_comes(tmp_path: Path) -> None:
    with simulator("payment", tmp_path) as payment:
        off = post_to(payment, "/authorisations/void", "v1", {"authorisation_key": "a1"})
        late = post_to(payment, "/authorisations", "a1", an_authorisation())
        post_to(payment, "/authorisations", "a2", an_authorisation())
        voided = post_to(payment, "/authorisations/void", "v2", {"authorisation_key": "a2"})

    assert (off.status, off.body["amount_minor"]) == (200, 0)
    assert (late.status, late.body["code"]) == (409, "called_off")
    assert voided.body == {"amount_minor": 1000, "currency": "GBP"}


def test_a_hold_that_ended_cannot_be_captured(tmp_path: Path) -> None:
    with simulator("payment", tmp_path, "--hold-days", "1e-9") as payment:
        held = post_to(payment, "/authorisations", "a1", an_authorisation()).body
        refused = post_to(
            payment,
            f"/authorisations/{held['authorisation_id']}/captures",
            "c1",
            {"amount_minor": 1, "currency": "GBP"},
        )

    assert (refused.status, refused.body["code"]) == (409, "hold_expired")


# --- statement and command line ---------------------------------------------------------------------------------------
def test_the_statement_adds_up_what_was_charged_refunded_held_and_given_back(tmp_path: Path) -> None:
    with simulator("payment", tmp_path) as payment:
        holds = [
            post_to(payment, "/authorisations", f"a{n}", an_authorisation()).body["authorisation_id"]
            for n in range(3)
        ]
        post_to(payment, "/authorisations", "a9", an_authorisation("tok_declined_1"))
        captured = []
        for n, amount in enumerate((1000, 400, 300)):
            body: dict[str, object] = {"amount_minor": amount, "currency": "GBP"}
            captured.append(post_to(payment, f"/authorisations/{holds[n]}/captures", f"c{n}", body).body)
        refund: dict[str, object] = {"amount_minor": 150, "currency": "GBP", "cause": "goodwill"}
        post_to(payment, f"/captures/{captured[0]['capture_id']}/refunds", "r1", refund)
        post_to(payment, f"/authorisations/{holds[1]}/void", "v1", {})
        live = ask(payment, "GET", "/statement").body

    [at_rest] = [s for s in statements(tmp_path) if s["simulator"] == "payment"]
    assert live == at_rest
    assert live["totals"] == {
        "charges": {"count": 3, "amounts": {"GBP": 1700}},
        "refunds": {"count": 1, "amounts": {"GBP": 150}},
        "authorisations_open": {"count": 1, "amounts": {"GBP": 700}},
        "authorisations_used": {"count": 1, "amounts": {"GBP": 1000}},
        "authorisations_voided": {"count": 1, "amounts": {"GBP": 600}},
        "authorisations_declined": {"count": 1, "amounts": {"GBP": 1000}},
    }
    charge = next(line for line in live["effects"] if line["kind"] == "capture")
    assert (charge["key"], charge["reference"], charge["amount_minor"]) == ("c0", "web:1", 1000)


def test_the_statement_of_simulators_that_never_ran_is_empty_and_makes_no_files(tmp_path: Path) -> None:
    printed = run("statement", "--data-dir", str(tmp_path))

    assert printed.returncode == 0
    assert [s["effects"] for s in statements(tmp_path)] == [[], [], [], []]
    assert "charges" in printed.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["postman", "--port", "1"],
        ["payment"],
        ["payment", "--port", "1", "--data-dir", "x", "--speed", "0"],
        ["carrier", "--port", "1", "--data-dir", "x", "--webhook-url", "localhost:8080"],
        ["carrier", "--port", "1", "--data-dir", "x"],
    ],
)
def test_bad_arguments_are_told_and_answered_with_2(tmp_path: Path, arguments: list[str]) -> None:
    answered = run(*arguments, cwd=tmp_path)

    assert answered.returncode == 2
    assert answered.stderr
    assert "Traceback" not in answered.stderr
    assert list(tmp_path.iterdir()) == []


def run(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "apps.simulators", *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def statements(data_dir: Path) -> list[dict[str, Any]]:
    printed = run("statement", "--data-dir", str(data_dir), "--json")
    assert printed.returncode == 0, printed.stderr
    answered: list[dict[str, Any]] = json.loads(printed.stdout)
    return answered
