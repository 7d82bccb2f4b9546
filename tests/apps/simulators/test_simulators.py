"""What the simulators decide, what they call back, and that a key has one effect and one answer."""

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.simulators.serving import Settings
from models.messages import CarrierEvent, PaymentEvent, WmsEvent, WmsEventKind
from models.webhooks import WebhookKind
from tests.apps.simulators.requests import (
    NOON,
    Body,
    a_label,
    a_pick,
    an_amount,
    an_authorisation,
)
from tests.apps.simulators.running import answer, eventually, free_port, inside, listening

AT_ONCE = Settings(seed=0, speed=1e7)


async def post_to(client: httpx.AsyncClient, path: str, key: str, body: Body) -> httpx.Response:
    return await client.post(path, json=body, headers={"Idempotency-Key": key})


def webhook_states(data_dir: Path, name: str) -> list[tuple[str, int]]:
    """State and attempts of each webhook, in order."""
    with sqlite3.connect(data_dir / f"{name}.sqlite") as db:
        return db.execute("select state, attempts from webhooks order by subject, number").fetchall()


def carrier_events(events: list[Any]) -> list[CarrierEvent]:
    assert all(isinstance(event, CarrierEvent) for event in events)
    return events


# --- what they call back ----------------------------------------------------------------------------------------------
async def test_a_parcel_is_scanned_from_collection_to_delivery_in_order_and_signed(tmp_path: Path) -> None:
    async with (
        listening() as post,
        inside("carrier", tmp_path, webhook_url=f"{post.url}/v1/webhooks/carrier") as carrier,
    ):
        label = (await post_to(carrier, "/labels", "l1", a_label())).json()
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


async def test_a_lost_parcel_is_told_to_be_lost(tmp_path: Path) -> None:
    async with listening() as post, inside("carrier", tmp_path, AT_ONCE, webhook_url=post.url) as carrier:
        await post_to(carrier, "/labels", "l1", a_label("Lostville"))
        await eventually(lambda: len(post.received) == 3, "three scans")

    scans = carrier_events([envelope.event for envelope in post.webhooks()])
    assert [scan.kind for scan in scans] == ["collected", "in_transit", "lost"]
    assert scans[-1].occurred_at == NOON + timedelta(days=7)


async def test_the_warehouse_tells_that_goods_were_picked_or_were_short(tmp_path: Path) -> None:
    async with listening() as post, inside("warehouse", tmp_path, webhook_url=post.url) as warehouse:
        picked = (await post_to(warehouse, "/picks", "p1", a_pick())).json()
        short = (await post_to(warehouse, "/picks", "p2", a_pick(sku="SHORT-1"))).json()
        await eventually(lambda: len(post.received) == 2, "two picks")

    told = {}
    for envelope in post.webhooks():
        assert envelope.kind is WebhookKind.WMS_EVENT
        assert isinstance(envelope.event, WmsEvent)
        told[envelope.event.pick_id] = envelope.event
    assert told[picked["pick_id"]].kind is WmsEventKind.PICKED
    assert told[short["pick_id"]].kind is WmsEventKind.SHORT
    assert "SHORT-1" in told[short["pick_id"]].detail
    assert [line.sku for line in told[short["pick_id"]].missing] == ["SHORT-1"]
    assert told[picked["pick_id"]].missing == ()
    waits = [event.occurred_at - NOON for event in told.values()]
    assert all(timedelta(hours=1) <= wait <= timedelta(hours=6) for wait in waits)


async def test_a_pick_called_off_is_not_heard_of_again(tmp_path: Path) -> None:
    slowly = Settings(seed=0, speed=60.0)
    async with inside("warehouse", tmp_path, slowly) as warehouse:
        await post_to(warehouse, "/picks", "p1", a_pick())
        assert webhook_states(tmp_path, "warehouse") == [("waiting", 0)]
        await post_to(warehouse, "/picks/cancel", "x1", {"pick_key": "p1"})
        assert webhook_states(tmp_path, "warehouse") == []


async def test_a_label_given_back_is_not_heard_of_again(tmp_path: Path) -> None:
    slowly = Settings(seed=0, speed=60.0)
    async with inside("carrier", tmp_path, slowly) as carrier:
        await post_to(carrier, "/labels", "l1", a_label())
        assert webhook_states(tmp_path, "carrier") == [("waiting", 0)] * 4
        await post_to(carrier, "/labels/void", "x1", {"label_key": "l1"})
        assert webhook_states(tmp_path, "carrier") == []


async def test_the_payment_provider_tells_of_movements_when_asked_to(tmp_path: Path) -> None:
    telling = Settings(seed=0, speed=1e7, notify=True)
    async with listening() as post, inside("payment", tmp_path, telling, webhook_url=post.url) as payment:
        held = (await post_to(payment, "/authorisations", "a1", an_authorisation("tok_disputed_1"))).json()
        hold = f"/authorisations/{held['authorisation_id']}"
        taken = (await post_to(payment, f"{hold}/captures", "c1", an_amount(400))).json()
        await post_to(payment, f"/captures/{taken['capture_id']}/refunds", "r1", an_amount(100, cause="lost"))
        await post_to(payment, f"{hold}/void", "v1", {})
        await eventually(lambda: len(post.received) == 5, "five movements")

    told = {}
    for envelope in post.webhooks():
        assert envelope.order_id == "web:1"
        assert isinstance(envelope.event, PaymentEvent)
        told[str(envelope.event.kind)] = envelope.event.amount.minor
    assert told == {"authorised": 1000, "captured": 400, "refunded": 100, "voided": 600, "disputed": 400}


async def test_the_payment_provider_is_silent_by_default(tmp_path: Path) -> None:
    async with inside("payment", tmp_path) as payment:
        await post_to(payment, "/authorisations", "a1", an_authorisation())

    assert webhook_states(tmp_path, "payment") == []


# --- delivering -------------------------------------------------------------------------------------------------------
async def test_webhooks_arrive_in_order_after_the_receiver_was_down(tmp_path: Path) -> None:
    port = free_port()
    async with inside("carrier", tmp_path, AT_ONCE, webhook_url=f"http://127.0.0.1:{port}/") as carrier:
        await post_to(carrier, "/labels", "l1", a_label())
        await eventually(lambda: webhook_states(tmp_path, "carrier")[0][1] >= 2, "two vain attempts")
        async with listening(port) as post:
            await eventually(lambda: len(post.received) == 4, "all scans")

    scans = carrier_events([envelope.event for envelope in post.webhooks()])
    assert [scan.kind for scan in scans] == ["collected", "in_transit", "out_for_delivery", "delivered"]


@pytest.mark.parametrize("status", [404, 408, 425, 429, 500, 503])
async def test_a_receiver_that_cannot_take_it_now_gets_it_again(tmp_path: Path, status: int) -> None:
    async with listening() as post, inside("warehouse", tmp_path, AT_ONCE, webhook_url=post.url) as warehouse:
        post.behaviour = answer(status)
        await post_to(warehouse, "/picks", "p1", a_pick())
        await eventually(lambda: len(post.received) >= 2, "a second attempt")
        post.behaviour = answer(202)
        await eventually(lambda: webhook_states(tmp_path, "warehouse")[0][0] == "delivered", "delivery")

    assert len({envelope.event_id for envelope in post.webhooks()}) == 1


async def test_a_subject_that_never_appears_is_given_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.simulators.courier.KEEP_TRYING_UNKNOWN_SUBJECT", 0.1)
    async with listening() as post, inside("warehouse", tmp_path, AT_ONCE, webhook_url=post.url) as warehouse:
        post.behaviour = answer(404)
        await post_to(warehouse, "/picks", "p1", a_pick())
        await eventually(lambda: webhook_states(tmp_path, "warehouse") == [("refused", 2)], "giving up")


@pytest.mark.parametrize("status", [301, 400, 401, 410, 422])
async def test_a_refused_webhook_is_recorded_and_holds_up_nothing(tmp_path: Path, status: int) -> None:
    async with listening() as post, inside("carrier", tmp_path, AT_ONCE, webhook_url=post.url) as carrier:
        post.behaviour = answer(status)
        await post_to(carrier, "/labels", "l1", a_label())
        refused = [("refused", 1)] * 4
        await eventually(lambda: webhook_states(tmp_path, "carrier") == refused, "four refusals")

    assert len(post.received) == 4


# --- keys -------------------------------------------------------------------------------------------------------------
async def test_a_key_is_needed_and_belongs_to_one_request(tmp_path: Path) -> None:
    async with inside("payment", tmp_path) as payment:
        keyless = await post_to(payment, "/authorisations", "", an_authorisation())
        malformed = await post_to(payment, "/authorisations", "a1", {"reference": "web:1"})
        # Nothing was decided under that key yet, so it is still free.
        first = await post_to(payment, "/authorisations", "a1", an_authorisation())
        other_body = await post_to(payment, "/authorisations", "a1", an_authorisation(amount_minor=1001))
        hold = f"/authorisations/{first.json()['authorisation_id']}"
        other_place = await post_to(payment, f"{hold}/void", "a1", {})
        again = await post_to(payment, "/authorisations", "a1", an_authorisation())

    assert (keyless.status_code, keyless.json()["code"]) == (400, "key_missing")
    assert (malformed.status_code, malformed.json()["code"]) == (400, "malformed")
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    for refused in (other_body, other_place):
        assert (refused.status_code, refused.json()["code"]) == (422, "key_reused")


async def test_a_refusal_is_kept_for_its_key_too(tmp_path: Path) -> None:
    async with inside("payment", tmp_path) as payment:
        held = (await post_to(payment, "/authorisations", "a1", an_authorisation())).json()
        captures = f"/authorisations/{held['authorisation_id']}/captures"
        first = await post_to(payment, captures, "c1", an_amount(1001))
        again = await post_to(payment, captures, "c1", an_amount(1001))

    assert first.status_code == again.status_code == 422
    assert first.json() == again.json()


async def test_an_authorisation_called_off_by_key_before_it_came_is_refused_when_it_comes(
    tmp_path: Path,
) -> None:
    async with inside("payment", tmp_path) as payment:
        off = await post_to(payment, "/authorisations/void", "v1", {"authorisation_key": "a1"})
        late = await post_to(payment, "/authorisations", "a1", an_authorisation())
        await post_to(payment, "/authorisations", "a2", an_authorisation())
        voided = await post_to(payment, "/authorisations/void", "v2", {"authorisation_key": "a2"})

    assert (off.status_code, off.json()["amount_minor"]) == (200, 0)
    assert (late.status_code, late.json()["code"]) == (409, "called_off")
    assert voided.json() == {"amount_minor": 1000, "currency": "GBP"}


async def test_a_hold_that_ended_cannot_be_captured(tmp_path: Path) -> None:
    async with inside("payment", tmp_path, Settings(seed=0, speed=1.0, hold_days=1e-9)) as payment:
        held = (await post_to(payment, "/authorisations", "a1", an_authorisation())).json()
        captures = f"/authorisations/{held['authorisation_id']}/captures"
        refused = await post_to(payment, captures, "c1", an_amount(1))
        statement = (await payment.get("/statement")).json()

    assert (refused.status_code, refused.json()["code"]) == (409, "hold_expired")
    assert statement["totals"]["authorisations_expired"] == {"count": 1, "amounts": {"GBP": 1000}}


# --- statement --------------------------------------------------------------------------------------------------------
async def test_the_statement_adds_up_what_was_charged_refunded_held_and_given_back(tmp_path: Path) -> None:
    async with inside("payment", tmp_path) as payment:
        captures = []
        holds = []
        for n, amount in enumerate((1000, 400, 300)):
            held = (await post_to(payment, "/authorisations", f"a{n}", an_authorisation())).json()
            holds.append(f"/authorisations/{held['authorisation_id']}")
            taken = await post_to(payment, f"{holds[n]}/captures", f"c{n}", an_amount(amount))
            captures.append(f"/captures/{taken.json()['capture_id']}")
        await post_to(payment, "/authorisations", "a9", an_authorisation("tok_declined_1"))
        await post_to(payment, f"{captures[0]}/refunds", "r1", an_amount(150, cause="goodwill"))
        await post_to(payment, f"{holds[1]}/void", "v1", {})
        statement = (await payment.get("/statement")).json()

    assert statement["totals"] == {
        "charges": {"count": 3, "amounts": {"GBP": 1700}},
        "refunds": {"count": 1, "amounts": {"GBP": 150}},
        "authorisations_open": {"count": 1, "amounts": {"GBP": 700}},
        "authorisations_used": {"count": 1, "amounts": {"GBP": 1000}},
        "authorisations_voided": {"count": 1, "amounts": {"GBP": 600}},
        "authorisations_declined": {"count": 1, "amounts": {"GBP": 1000}},
        "authorisations_expired": {"count": 0, "amounts": {}},
    }
    charge = next(line for line in statement["effects"] if line["kind"] == "capture")
    assert (charge["key"], charge["reference"], charge["amount_minor"]) == ("c0", "web:1", 1000)
