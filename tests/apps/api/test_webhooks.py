import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from activities.store.receipts import receipt_of
from activities.store.store import Store
from apps.api.application import create_app
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.runs import Runs
from apps.api.sweeper import Sweeper
from apps.api.webhooks import Neighbour
from models.errors import InvalidDocument
from models.tables.journal import LateEventRow, WebhookReceiptRow
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, WebhookEnvelope, WebhookKind, event_key, sign
from tests.apps.api.builders import new_number
from tests.apps.api.conftest import WEBHOOK_SECRET, serving
from tests.apps.api.test_orders import heard, submitted
from workers.settings import Settings


def a_scan(shipment_id: str, event_id: str = "scan-1", **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": event_id,
        "kind": "in_transit",
        "occurred_at": "2026-03-03T18:04:00Z",
        "tracking": "TRK1",
    }
    return {
        "event_id": event_id,
        "kind": "carrier_event",
        "shipment_id": shipment_id,
        "event": event,
    } | changes


def a_pick(shipment_id: str, event_id: str = "pick-1") -> dict[str, Any]:
    event = {
        "event_id": event_id,
        "kind": "picked",
        "occurred_at": "2026-03-03T18:04:00Z",
        "pick_id": "p-1",
    }
    return {"event_id": event_id, "kind": "wms_event", "shipment_id": shipment_id, "event": event}


def a_payment(order_id: str) -> dict[str, Any]:
    event = {
        "event_id": "pay-1",
        "kind": "captured",
        "occurred_at": "2026-03-03T18:04:00Z",
        "provider_ref": "cap-1",
        "amount": {"minor": 905, "currency": "GBP"},
    }
    return {"event_id": "pay-1", "kind": "payment_event", "order_id": order_id, "event": event}


async def post(
    api: httpx.AsyncClient,
    neighbour: str,
    envelope: dict[str, Any] | bytes,
    *,
    secret: str = WEBHOOK_SECRET,
    at: float | None = None,
) -> httpx.Response:
    body = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    timestamp = int(time.time() if at is None else at)
    return await api.post(
        f"/v1/webhooks/{neighbour}",
        content=body,
        headers={
            TIMESTAMP_HEADER: str(timestamp),
            SIGNATURE_HEADER: sign(secret, timestamp, body),
            "Authorization": "",
        },
    )


async def a_running_shipment(client: Client) -> str:
    shipment_id = f"web:{new_number()}:1"
    await client.start_workflow(
        "ShipmentWorkflow", {}, id=f"shipment:{shipment_id}", task_queue="oms-workflows"
    )
    return shipment_id


async def test_carriers_scan_reaches_its_shipment(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    shipment_id = await a_running_shipment(client)
    answer = await post(api, "carrier", a_scan(shipment_id))
    assert answer.status_code == 200
    assert answer.json() == {"status": "delivered", "repeated": False}
    ((name, event),) = (await heard(client, f"shipment:{shipment_id}")).messages
    assert name == "carrier_event"
    assert event["event_id"] == "scan-1"
    assert event["kind"] == "in_transit"


async def test_warehouses_event_reaches_its_shipment(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    shipment_id = await a_running_shipment(client)
    assert (await post(api, "warehouse", a_pick(shipment_id))).status_code == 200
    ((name, event),) = (await heard(client, f"shipment:{shipment_id}")).messages
    assert (name, event["pick_id"]) == ("wms_event", "p-1")


async def test_payment_event_is_on_its_orders_timeline_once_and_wakes_no_run(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    order_id = await submitted(api)
    for repeated in (False, True):
        answer = await post(api, "payment", a_payment(order_id))
        assert (answer.status_code, answer.json()) == (200, {"status": "delivered", "repeated": repeated})
    entries = (await api.get(f"/v1/orders/{order_id}/timeline")).json()
    (notice,) = [entry for entry in entries if entry["kind"] == "payment.notice.captured"]
    assert (notice["what"], notice["details"]) == ("the provider reports 9.05 GBP", {"ref": "cap-1"})
    assert not (await heard(client, f"order:{order_id}")).messages


async def test_payment_event_of_an_order_nobody_knows_is_kept_as_late(api: httpx.AsyncClient) -> None:
    answer = await post(api, "payment", a_payment(f"web:{new_number()}"))
    assert (answer.status_code, answer.json()["status"]) == (202, "late")


async def test_replayed_webhook_has_no_second_effect_in_any_process(
    api: httpx.AsyncClient, settings: Settings, client: Client, worker: Worker
) -> None:
    shipment_id = await a_running_shipment(client)
    body, at = json.dumps(a_scan(shipment_id)).encode(), time.time()
    assert (await post(api, "carrier", body, at=at)).json() == {"status": "delivered", "repeated": False}
    # Byte for byte, as whoever listened in would; signed anew, as the carrier does; and written down differently.
    again = json.dumps(a_scan(shipment_id) | {"unknown": 1}, indent=2).encode()
    for replayed, signed_at in ((body, at), (body, at + 1), (again, at)):
        answer = await post(api, "carrier", replayed, at=signed_at)
        assert (answer.status_code, answer.json()) == (200, {"status": "delivered", "repeated": True})
    # Another process, or this one after a restart.
    async with serving(create_app(settings, client=client)) as other:
        assert (await post(other, "carrier", body, at=at)).json()["repeated"] is True
    assert len((await heard(client, f"shipment:{shipment_id}")).messages) == 1


async def test_other_event_under_a_used_id_is_a_conflict(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    shipment_id = await a_running_shipment(client)
    assert (await post(api, "carrier", a_scan(shipment_id))).status_code == 200
    other = a_scan(shipment_id)
    other["event"]["kind"] = "delivered"
    answer = await post(api, "carrier", other)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    ((_, event),) = (await heard(client, f"shipment:{shipment_id}")).messages
    assert event["kind"] == "in_transit"
    # The same id about another parcel is another event: carriers count for themselves.
    assert (await post(api, "carrier", a_scan(await a_running_shipment(client)))).status_code == 200


async def test_warehouse_and_carrier_may_number_their_events_alike(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    shipment_id = await a_running_shipment(client)
    answers = [
        (await post(api, "warehouse", a_pick(shipment_id, "1"))).json(),
        (await post(api, "carrier", a_scan(shipment_id, "1"))).json(),
        (await post(api, "carrier", a_scan(shipment_id, "1"))).json(),
    ]
    assert [answer["repeated"] for answer in answers] == [False, False, True]
    told = (await heard(client, f"shipment:{shipment_id}")).messages
    assert [name for name, _ in told] == ["wms_event", "carrier_event"]


async def test_late_events_of_warehouse_and_carrier_under_one_id_are_both_kept(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    order_id = await submitted(api)
    for neighbour, event in (("warehouse", a_pick), ("carrier", a_scan)):
        assert (await post(api, neighbour, event(f"{order_id}:1", "1"))).status_code == 202
    kept = (await api.get(f"/v1/orders/{order_id}")).json()["late_events"]
    assert [(event["kind"], event["event_id"]) for event in kept] == [
        ("wms_event", "1"),
        ("carrier_event", "1"),
    ]


async def test_receipts_from_before_kinds_were_told_apart_count_for_the_event_that_they_are_of(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    shipment_id = await a_running_shipment(client)
    delivered = WebhookEnvelope.model_validate_json(json.dumps(a_scan(shipment_id, "1")))
    async with store.transaction() as session:
        session.add(
            WebhookReceiptRow(
                workflow_id=f"shipment:{shipment_id}",
                event_id="1",
                fingerprint=delivered.fingerprint,
                result="delivered",
                received_at=datetime.now(UTC),
            )
        )
    again = await post(api, "carrier", a_scan(shipment_id, "1"))
    other = await post(api, "warehouse", a_pick(shipment_id, "1"))
    assert (again.json()["repeated"], other.json()["repeated"]) == (True, False)
    assert [name for name, _ in (await heard(client, f"shipment:{shipment_id}")).messages] == ["wms_event"]


async def test_late_event_from_before_kinds_were_told_apart_is_not_kept_again(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    order_id = await submitted(api)
    scan = a_scan(f"{order_id}:1", "1")
    async with store.transaction() as session:
        session.add(
            LateEventRow(
                event_id="1",
                workflow_id=f"shipment:{order_id}:1",
                order_id=order_id,
                kind="carrier_event",
                event=scan["event"],
                received_at=datetime.now(UTC),
            )
        )
    assert (await post(api, "carrier", scan)).status_code == 202
    (kept,) = (await api.get(f"/v1/orders/{order_id}")).json()["late_events"]
    assert kept["event_id"] == "1"


async def test_a_conflict_counts_as_a_refused_webhook(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    async def refused() -> float:
        text = (await api.get("/metrics")).text
        counted = 'orderwright_webhooks_refused_total{code="conflict",neighbour="carrier"} '
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(counted))

    shipment_id, before = await a_running_shipment(client), await refused()
    assert (await post(api, "carrier", a_scan(shipment_id))).status_code == 200
    other = a_scan(shipment_id)
    other["event"]["kind"] = "delivered"
    assert (await post(api, "carrier", other)).status_code == 409
    assert await refused() == before + 1


async def test_late_event_that_is_sent_again_reaches_a_run_that_is_there_by_now(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    shipment_id = f"web:{new_number()}:1"
    assert (await post(api, "carrier", a_scan(shipment_id))).status_code == 202
    await client.start_workflow(
        "ShipmentWorkflow", {}, id=f"shipment:{shipment_id}", task_queue="oms-workflows"
    )
    told = [(await post(api, "carrier", a_scan(shipment_id))).json() for _ in range(2)]
    assert told == [{"status": "delivered", "repeated": False}, {"status": "delivered", "repeated": True}]
    assert len((await heard(client, f"shipment:{shipment_id}")).messages) == 1


async def test_webhook_that_could_not_be_delivered_is_not_taken_for_a_repeat(
    api: httpx.AsyncClient, settings: Settings, client: Client, worker: Worker
) -> None:
    nowhere = Client(client.service_client, namespace="nowhere", data_converter=client.data_converter)
    shipment_id = await a_running_shipment(client)
    async with serving(create_app(settings, client=nowhere)) as astray:
        assert (await post(astray, "carrier", a_scan(shipment_id))).status_code == 503
    assert (await post(api, "carrier", a_scan(shipment_id))).json() == {
        "status": "delivered",
        "repeated": False,
    }


async def test_old_and_new_secret_are_taken_while_they_are_exchanged(
    settings: Settings, client: Client
) -> None:
    app = create_app(settings.model_copy(update={"webhook_secret_previous": "the-old-one"}), client=client)
    async with serving(app) as caller:
        for secret, status in ((WEBHOOK_SECRET, 202), ("the-old-one", 202), ("neither", 401), ("", 401)):
            answer = await post(caller, "carrier", a_scan("web:nobody:1", f"scan-{secret}"), secret=secret)
            assert answer.status_code == status


async def test_neighbour_with_a_secret_of_its_own_is_believed_by_no_other(
    settings: Settings, client: Client
) -> None:
    own = {"webhook_secret_payment": "the-payments", "webhook_secret_payment_previous": "the-payments-old"}
    app = create_app(settings.model_copy(update=own), client=client)
    expected = {
        "payment": {"the-payments": 202, "the-payments-old": 202, WEBHOOK_SECRET: 401},
        "carrier": {"the-payments": 401, "the-payments-old": 401, WEBHOOK_SECRET: 202},
    }
    async with serving(app) as caller:
        for neighbour, answers in expected.items():
            for secret, status in answers.items():
                order_id = f"web:{new_number()}"
                event = a_payment(order_id) if neighbour == "payment" else a_scan(f"{order_id}:1")
                assert (await post(caller, neighbour, event, secret=secret)).status_code == status


def test_common_secret_may_be_missing_where_each_neighbour_has_its_own(settings: Settings) -> None:
    own = {f"webhook_secret_{neighbour}": neighbour for neighbour in Neighbour}
    create_app(settings.model_copy(update=own | {"webhook_secret": ""}))
    with pytest.raises(InvalidDocument, match="ORDERWRIGHT_WEBHOOK_SECRET"):
        create_app(settings.model_copy(update=own | {"webhook_secret": "", "webhook_secret_carrier": " "}))


async def test_receipts_are_forgotten_after_their_time(
    settings: Settings, client: Client, store: Store
) -> None:
    shipment_id = f"web:{new_number()}:1"
    old, fresh = (
        WebhookEnvelope.model_validate_json(json.dumps(a_scan(shipment_id, event_id)))
        for event_id in ("scan-old", "scan-fresh")
    )
    now = datetime.now(UTC)
    async with store.transaction() as session:
        for which, days in ((old, 31), (fresh, 29)):
            session.add(
                WebhookReceiptRow(
                    workflow_id=f"shipment:{shipment_id}",
                    event_id=event_key(which.kind, which.event_id),
                    fingerprint=which.fingerprint,
                    result="delivered",
                    received_at=now - timedelta(days=days),
                )
            )
    parts = Parts(settings=settings, store=store, runs=Runs(client), metrics=Metrics())
    await Sweeper(parts).tidy()
    async with store.transaction() as session:
        assert await receipt_of(session, f"shipment:{shipment_id}", old) is None
        assert await receipt_of(session, f"shipment:{shipment_id}", fresh) is not None


async def test_event_for_an_unknown_run_is_kept_once(api: httpx.AsyncClient, store: Store) -> None:
    shipment_id = f"web:{new_number()}:1"
    for _ in range(2):
        answer = await post(api, "carrier", a_scan(shipment_id, "scan-late"))
        assert answer.status_code == 202
        assert answer.json() == {"status": "late", "repeated": False}
    async with store.transaction() as session:
        row = await session.get(
            LateEventRow,
            {
                "event_id": event_key(WebhookKind.CARRIER_EVENT, "scan-late"),
                "workflow_id": f"shipment:{shipment_id}",
            },
        )
    assert row is not None
    assert row.kind == "carrier_event"
    assert row.event["tracking"] == "TRK1"


async def test_late_event_is_shown_with_its_order_and_counted(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    order_id = await submitted(api)
    before = await late_events(api)
    assert (await post(api, "carrier", a_scan(f"{order_id}:1", "scan-after-the-end"))).status_code == 202
    (event,) = (await api.get(f"/v1/orders/{order_id}")).json()["late_events"]
    assert (event["event_id"], event["workflow_id"]) == ("scan-after-the-end", f"shipment:{order_id}:1")
    assert event["event"]["tracking"] == "TRK1"
    assert await late_events(api) == before + 1


async def late_events(api: httpx.AsyncClient) -> float:
    (line,) = (
        line
        for line in (await api.get("/metrics")).text.splitlines()
        if line.startswith("orderwright_late_events ")
    )
    return float(line.split()[1])


async def test_event_for_a_run_that_has_ended_is_kept(
    api: httpx.AsyncClient, client: Client, worker: Worker
) -> None:
    shipment_id = await a_running_shipment(client)
    await client.get_workflow_handle(f"shipment:{shipment_id}").terminate()
    assert (await post(api, "carrier", a_scan(shipment_id))).status_code == 202


async def test_wrong_namespace_is_no_ended_run_and_asks_the_neighbour_to_try_again(
    settings: Settings, client: Client, store: Store
) -> None:
    nowhere = Client(client.service_client, namespace="nowhere", data_converter=client.data_converter)
    shipment_id = f"web:{new_number()}:1"
    async with serving(create_app(settings, client=nowhere)) as api:
        answer = await post(api, "carrier", a_scan(shipment_id, "scan-nowhere"))
    assert answer.status_code == 503
    assert "namespace" in answer.json()["detail"]
    async with store.transaction() as session:
        key = {
            "event_id": event_key(WebhookKind.CARRIER_EVENT, "scan-nowhere"),
            "workflow_id": f"shipment:{shipment_id}",
        }
        assert await session.get(LateEventRow, key) is None


async def test_wrong_secret_is_refused(api: httpx.AsyncClient) -> None:
    answer = await post(api, "carrier", a_scan("web:1:1"), secret="guess")
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthorised"


@pytest.mark.parametrize("away", [-301, 301])
async def test_signature_made_long_ago_or_ahead_is_refused(api: httpx.AsyncClient, away: int) -> None:
    answer = await post(api, "carrier", a_scan("web:1:1"), at=time.time() + away * 1.1)
    assert answer.status_code == 401


async def test_api_token_does_not_stand_in_for_a_signature(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/webhooks/carrier", json=a_scan("web:1:1"))
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"not json",
        a_scan("web:1:1", kind="wms_event"),
        a_scan("no shipment"),
        a_scan("web:1:1\n"),
        a_scan("web:1:1", event_id="nul\x00"),
        a_scan(f"web:{'1' * 65}:1"),
        a_scan("web:1:1") | {"event_id": "another"},
        a_pick("web:1:1"),
        a_payment("web:1"),
    ],
)
async def test_what_is_not_a_carriers_envelope_is_refused(
    api: httpx.AsyncClient, envelope: dict[str, Any] | bytes
) -> None:
    answer = await post(api, "carrier", envelope)
    assert answer.status_code == 422
    assert answer.json()["problems"]
