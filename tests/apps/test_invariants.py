"""What is done to runs from outside, on the real engine, database and neighbours, and how it is found and mended."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.store import reads
from activities.store.intake import accept_draft
from activities.store.late import keep_late_event
from activities.store.store import Store
from activities.store.views import OrderView
from apps.api import invariants, runs
from apps.api.application import create_app
from apps.api.broken_runs import Finding, Trouble
from apps.api.intake import call_off_unstarted, take_in
from apps.api.invariants import Invariants, Report
from apps.api.runs import Runs, Standing
from apps.cli import doctor
from models.base import Contract
from models.clock import ClockStart
from models.errors import NotReachable, Refused
from models.identifiers import order_workflow_id, shipment_workflow_id
from models.journal import Carried
from models.messages import CancelOrder, CarrierEvent, CarrierEventKind, WmsEvent, WmsEventKind
from models.order import OrderDraft
from models.review import ReviewTask, Verdict
from models.states import OrderState, ReviewState, ShipmentState
from models.webhooks import WebhookKind
from tests.activities.conftest import Street
from tests.apps.cli.conftest import run
from tests.builders import a_draft, order_id_of, paying_with, skus_of, stocked, write_down
from tests.workflows.engine import eventually
from workers.client import connect
from workers.embedded.namespace import reconcile_search_attributes
from workers.embedded.published import PublishedStack
from workers.embedded.temporal import EmbeddedTemporal
from workers.running import open_activities
from workers.settings import Settings
from workflows import steps
from workflows.order import OrderWorkflow
from workflows.shipment import ShipmentWorkflow

__all__ = ["run"]
TOKEN = "a-token-of-the-tests"
BY = {"actor": "dana", "reason": "looked at it", "request_id": "d-1"}


@pytest.fixture(scope="module")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTemporal]:
    with EmbeddedTemporal(tmp_path_factory.mktemp("engine"), in_memory=True) as server:
        yield server


@pytest.fixture(scope="module")
async def client(temporal: EmbeddedTemporal) -> Client:
    connected = await connect(temporal.address, "default", from_environment=False)
    await reconcile_search_attributes(connected)
    return connected


@pytest.fixture(scope="module")
def settings(database_url: str, street: Street) -> Settings:
    return Settings(
        database_url=database_url,
        api_token=TOKEN,
        webhook_secret="a-secret",
        pay_link_secret="another-secret",
        payment_url=street.simulators["payment"].url,
        warehouse_url=street.simulators["warehouse"].url,
        carrier_url=street.simulators["carrier"].url,
        message_url=street.simulators["messages"].url,
    )


@asynccontextmanager
async def serving(client: Client, settings: Settings, *queues: str) -> AsyncIterator[None]:
    """Our workers for ``queues``, with the real activities."""
    async with AsyncExitStack() as stack:
        activities, _ = await stack.enter_async_context(open_activities(queues, settings))
        for queue in queues:
            workflows = [OrderWorkflow, ShipmentWorkflow] if queue == steps.WORKFLOWS else []
            await stack.enter_async_context(
                Worker(client, task_queue=queue, workflows=workflows, activities=activities.get(queue, []))
            )
        yield


@pytest.fixture(scope="module")
async def workers(client: Client, settings: Settings) -> AsyncIterator[None]:
    """Everything is served but routing: an order that is to go on needs ``routing`` too."""
    async with serving(client, settings, *(queue for queue in steps.QUEUES if queue != steps.ROUTING)):
        yield


@pytest.fixture
async def routing(client: Client, settings: Settings, workers: None) -> AsyncIterator[None]:
    async with serving(client, settings, steps.ROUTING):
        yield


@pytest.fixture
def stack(settings: Settings, temporal: EmbeddedTemporal, tmp_path: Path) -> PublishedStack:
    return PublishedStack(
        pid=1, started=0, data_dir=tmp_path, speed=1, api_url="http://127.0.0.1:9", api_token=TOKEN,
        database_url=settings.database_url, temporal_address=temporal.address, temporal_namespace="default",
        temporal_ui_url="http://127.0.0.1:9", build_id="b", simulators={},
    )  # fmt: skip


class Shop:
    """One order of a test, the job that looks after it, and what may be done to it."""

    def __init__(self, client: Client, store: Store, street: Street) -> None:
        self.client, self.store, self.street = client, store, street
        self.runs = Runs(client)
        self.job = Invariants(store, self.runs, grace=timedelta(0))
        self.draft = a_draft()
        self.order_id = order_id_of(self.draft)
        self.order = order_workflow_id(self.order_id)
        self.shipment = shipment_workflow_id(f"{self.order_id}:1")

    async def submit(self) -> None:
        await stocked(self.store, north=dict.fromkeys(skus_of(self.draft), 10))
        await take_in(self.store, self.runs, self.draft, ClockStart())

    async def in_state(self, state: OrderState) -> None:
        async def there() -> bool:
            return (await self.view()).state is state

        await eventually(there, f"the order to be {state}")

    async def picking(self) -> None:
        """Money is held, stock reserved, the pick released; nothing has left."""
        await self.submit()

        async def asked() -> bool:
            return any(s.state is ShipmentState.PICK_REQUESTED for s in (await self.view()).shipments)

        await eventually(asked, "the pick to be asked for")
        await self.in_state(OrderState.RELEASED)

    async def unrouted(self) -> None:
        """Money is held; nothing serves the next step."""
        await self.submit()

        async def held() -> bool:
            return (await self.view()).money.held.minor > 0

        await eventually(held, "the money to be held")

    async def delivered(
        self, scans: tuple[CarrierEventKind, ...] = (CarrierEventKind.COLLECTED, CarrierEventKind.DELIVERED)
    ) -> None:
        """The warehouse picks, the carrier collects and delivers. Without ``scans`` it is only picked."""
        handle = self.client.get_workflow_handle(self.shipment)

        async def asked() -> bool:
            return (await handle.query("snapshot"))["pick"] is not None

        await eventually(asked, "the pick")
        pick = (await handle.query("snapshot"))["pick"]["pick_id"]
        now = datetime.now(UTC)
        await handle.signal(
            "wms_event", WmsEvent(event_id="w", kind=WmsEventKind.PICKED, occurred_at=now, pick_id=pick)
        )

        if not scans:
            return

        async def labelled() -> bool:
            return (await handle.query("snapshot"))["label"] is not None

        await eventually(labelled, "the label")
        tracking = (await handle.query("snapshot"))["label"]["tracking"]
        for kind in scans:
            scan = CarrierEvent(event_id=kind, kind=kind, occurred_at=now, tracking=tracking)
            await handle.signal("carrier_event", scan)

    async def view(self) -> OrderView:
        async with self.store.transaction() as session:
            found = await reads.order(session, self.order_id)
        assert found is not None
        return found

    async def reserved(self) -> int:
        async with self.store.transaction() as session:
            units = await session.scalar(
                text("SELECT sum(reserved) FROM stock WHERE sku = ANY(:skus)"), {"skus": skus_of(self.draft)}
            )
        return int(units or 0)

    async def messages(self) -> list[str]:
        """The ids of the messages by which its customer was asked for another means of payment."""
        async with self.store.transaction() as session:
            found = await session.scalars(
                text(
                    "SELECT message_id FROM notifications WHERE order_id = :id AND state = 'sent'"
                    " AND template = 'payment_declined'"
                ),
                {"id": self.order_id},
            )
            return list(found)

    def done(self, simulator: str, kind: str, reference: str = "") -> list[str]:
        """The states of what a neighbour did for the order (or its first shipment)."""
        found = self.street.effects(simulator, kind=kind, reference=reference or self.order_id)
        return [str(effect["state"]) for effect in found]

    async def round(self) -> Report:
        return await self.job.round({self.order_id})

    async def finding(self, workflow_id: str = "") -> Finding | None:
        found = {finding.workflow_id: finding for finding in (await self.round()).findings}
        return found.get(workflow_id or self.order)

    async def task(self, trouble: Trouble, workflow_id: str = "") -> ReviewTask:
        """The open task about the one thing that is broken."""
        found: list[Finding | None] = [None]

        async def put_before_a_person() -> bool:
            # On a busy machine a round may come before all there is to see of it can be seen.
            found[0] = finding = await self.finding(workflow_id)
            return finding is not None and finding.task_id is not None and finding.trouble is trouble

        await eventually(put_before_a_person, f"a task about {trouble}")
        assert found[0] is not None and found[0].task_id is not None
        async with self.store.transaction() as session:
            task = await reads.review(session, found[0].task_id)
        assert task is not None and task.state is ReviewState.OPEN
        return task

    async def decide(self, task: ReviewTask, verdict: Verdict) -> str:
        return await self.job.decide(task.task_id, verdict, **BY)

    async def terminate(self, workflow_id: str = "") -> None:
        await self.client.get_workflow_handle(workflow_id or self.order).terminate("by hand")

    async def status(self, workflow_id: str = "") -> WorkflowExecutionStatus | None:
        return (await self.client.get_workflow_handle(workflow_id or self.order).describe()).status

    async def end(self) -> None:
        """Leave nothing open behind for the next test."""
        for workflow_id in (self.order, self.shipment):
            await self.runs.terminate(workflow_id, "the test is over")
        async with self.store.transaction() as session:
            await session.execute(
                text("UPDATE orders SET state = 'closed' WHERE order_id = :id"), {"id": self.order_id}
            )
            await session.execute(
                text("UPDATE shipments SET state = 'cancelled' WHERE order_id = :id"), {"id": self.order_id}
            )

    async def well(self) -> bool:
        return await self.finding() is None and await self.finding(self.shipment) is None


@pytest.fixture
async def shop(client: Client, store: Store, street: Street, workers: None) -> AsyncIterator[Shop]:
    shop = Shop(client, store, street)
    yield shop
    await shop.end()


async def test_an_order_that_goes_on_is_well(shop: Shop, routing: None) -> None:
    await shop.picking()
    assert await shop.well()


def link_sent_for(shop: Shop) -> str:
    """What the message gateway was given for the customer; its statement does not show it."""
    file = shop.street.simulators["messages"].data_dir / "messages.sqlite"
    with sqlite3.connect(file) as kept:
        (details,) = kept.execute(
            "select details from effects where reference = 'payment_declined' and key like ?",
            (f"%{shop.order_id}:%",),
        ).fetchone()
    return str(json.loads(details)["facts"]["pay_link"])


async def test_an_order_that_awaits_its_customer_is_well_and_goes_on_when_it_is_paid_by_the_link(
    shop: Shop, routing: None, settings: Settings
) -> None:
    shop.draft = OrderDraft.model_validate(
        shop.draft.model_dump() | paying_with("tok_insufficient_1", shop.draft)
    )
    await shop.submit()
    await shop.in_state(OrderState.AWAITING_CUSTOMER)
    assert await shop.well(), "its timer runs"
    assert not (await shop.view()).needs_review

    async def told() -> bool:
        return bool(await shop.messages())

    await eventually(told, "the customer to be told")
    link = link_sent_for(shop)
    assert link.startswith(settings.pay_link_base)
    token = link.removeprefix(settings.pay_link_base)
    history = await shop.client.get_workflow_handle(shop.order).fetch_history()
    assert token not in history.to_json()

    app = create_app(settings, client=shop.client)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", timeout=60) as customer,
    ):
        due = (await customer.get(f"/v1/pay/{token}")).json()
        assert (due["order_number"], due["amount"]) == (
            shop.draft.external_id,
            {"minor": 1395, "currency": "GBP"},
        )
        # Two clicks, and a card that is declined as well.
        bad = {"token": "tok_insufficient_2"}
        assert {(await customer.post(f"/v1/pay/{token}", json=bad)).status_code for _ in range(2)} == {200}

        async def told_again() -> bool:
            return len(await shop.messages()) == 2

        await eventually(told_again, "the customer to be told of the second decline")
        used = await customer.post(f"/v1/pay/{token}", json={"token": "tok_good"})
        assert used.json()["code"] == "pay_link_used"
        good = {"token": "tok_good", "actor": "dana"}
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        offered = await customer.post(f"/v1/orders/{shop.order_id}/tenders", json=good, headers=bearer)
        assert (offered.status_code, offered.json()["tender"]) == (200, 2)
        await shop.in_state(OrderState.RELEASED)
        late = await customer.get(f"/v1/pay/{token}")
        assert late.json()["code"] == "not_awaited"
    view = await shop.view()
    assert view.money.held.minor == 1395
    assert shop.done("payment", "authorisation") == ["declined", "declined", "open"]
    assert await shop.well()


async def test_a_terminated_order_goes_on_where_it_stood_and_does_nothing_twice(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.terminate()
    task = await shop.task(Trouble.RUN_ENDED)
    assert "13.95 GBP held" in task.what_happened and "2 units reserved" in task.what_happened
    assert (await shop.view()).needs_review
    await shop.decide(task, Verdict.APPROVE)
    assert await shop.well()
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)
    view = await shop.view()
    assert (view.money.captured.minor, view.money.held.minor, await shop.reserved()) == (1395, 0, 0)
    assert len(shop.done("payment", "authorisation")) == len(shop.done("payment", "capture")) == 1
    assert len(shop.done("warehouse", "pick", f"{shop.order_id}:1")) == 1
    decided = next(review for review in view.reviews if review.task_id == task.task_id)
    assert (decided.state, decided.verdict, decided.decided_by) == (
        ReviewState.DECIDED,
        Verdict.APPROVE,
        "dana",
    )


async def test_a_terminated_order_can_be_called_off_by_its_own_saga(shop: Shop, routing: None) -> None:
    await shop.picking()
    await shop.terminate()
    await shop.decide(await shop.task(Trouble.RUN_ENDED), Verdict.REJECT)
    await shop.in_state(OrderState.CANCELLED)
    assert (await shop.view()).money.held.minor == 0
    assert await shop.reserved() == 0
    assert len(shop.done("payment", "void")) == 1


async def test_a_decision_to_call_off_is_finished_by_the_next_round_if_we_die_after_the_reset(
    shop: Shop, routing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.picking()
    await shop.terminate()
    task = await shop.task(Trouble.RUN_ENDED)
    with monkeypatch.context() as dying, pytest.raises(ConnectionError):
        dying.setattr(Invariants, "_call_off", dies)
        await shop.decide(task, Verdict.REJECT)
    await eventually_running(shop)
    assert (await shop.round()).healed == (task.task_id,)
    await shop.in_state(OrderState.CANCELLED)
    (decided,) = [review for review in (await shop.view()).reviews if review.task_id == task.task_id]
    assert (decided.state, decided.verdict) == (ReviewState.DECIDED, Verdict.REJECT)


async def dies(*_: object) -> None:
    raise ConnectionError("as if the process were gone")


async def test_a_decision_that_could_not_be_carried_out_is_forgotten_and_another_can_be_taken(
    shop: Shop, routing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.picking()
    await shop.terminate(shop.shipment)
    task = await shop.task(Trouble.RUN_ENDED, shop.shipment)
    with monkeypatch.context() as gone, pytest.raises(Refused, match="history"):
        gone.setattr(Runs, "reset", no_history)
        await shop.decide(task, Verdict.REJECT)
    assert (await shop.task(Trouble.RUN_ENDED, shop.shipment)).verdict is None
    await shop.decide(task, Verdict.APPROVE)
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)


async def no_history(*_: object, **__: object) -> None:
    return None


async def test_a_terminated_order_can_be_closed_by_hand_and_frees_its_stock(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    assert await shop.reserved() == 2
    await shop.terminate()
    task = await shop.task(Trouble.RUN_ENDED)
    assert "void the 13.95 GBP at the provider yourself" in task.options[Verdict.FINISH]
    (pick,) = shop.street.effects("warehouse", kind="pick", reference=f"{shop.order_id}:1")
    assert f"pick {pick['effect_id']} at north" in task.options[Verdict.FINISH]
    await shop.decide(task, Verdict.FINISH)
    view = await shop.view()
    assert view.state is OrderState.CANCELLED and "closed by hand by dana" in (view.exit_reason or "")
    assert await shop.reserved() == 0
    assert await shop.status(shop.shipment) is WorkflowExecutionStatus.TERMINATED
    assert await shop.well()


async def test_picks_and_labels_in_force_are_named_with_their_keys_to_whoever_closes_by_hand(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.delivered(scans=())

    async def labelled() -> bool:
        return [shipment.state for shipment in (await shop.view()).shipments] == [ShipmentState.LABELLED]

    await eventually(labelled, "the label to be written down")
    await shop.terminate()
    task = await shop.task(Trouble.RUN_ENDED)
    for kind, simulator in (("pick", "warehouse"), ("label", "carrier")):
        (effect,) = shop.street.effects(simulator, kind=kind, reference=f"{shop.order_id}:1")
        for said in (task.what_happened, task.options[Verdict.FINISH]):
            assert f"{kind} {effect['effect_id']}" in said
            assert f"(key {shop.shipment}:{kind}:1)" in said
    assert "before that have these called off yourself" in task.options[Verdict.FINISH]


async def test_what_has_left_or_was_called_off_is_not_in_force_any_more(shop: Shop, routing: None) -> None:
    await shop.picking()
    await shop.delivered(scans=(CarrierEventKind.COLLECTED,))

    async def left() -> bool:
        return (await shop.view()).shipments[0].handed_over_at is not None

    await eventually(left, "the parcel to leave")
    await shop.terminate()
    assert "called off yourself" not in (await shop.task(Trouble.RUN_ENDED)).options[Verdict.FINISH]


async def test_a_parcel_that_arrives_while_its_orders_run_is_away_is_heard_of_afterwards(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.terminate()
    await shop.delivered()

    async def arrived() -> bool:
        return [shipment.state for shipment in (await shop.view()).shipments] == [ShipmentState.DELIVERED]

    await eventually(arrived, "the parcel to arrive")
    await shop.decide(await shop.task(Trouble.RUN_ENDED), Verdict.APPROVE)
    await shop.in_state(OrderState.CLOSED)
    await eventually_ended(shop, shop.shipment)


async def test_a_cancellation_that_a_terminated_shipment_missed_is_sent_again(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.terminate(shop.shipment)
    await shop.client.get_workflow_handle(shop.order).signal(
        "cancel_order", {"actor": "ana", "reason": "not wanted", "request_id": "c"}
    )
    await shop.in_state(OrderState.CANCELLING)
    await shop.decide(await shop.task(Trouble.RUN_ENDED, shop.shipment), Verdict.APPROVE)
    await shop.in_state(OrderState.CANCELLED)
    assert (shop.done("payment", "capture"), await shop.reserved()) == ([], 0)


async def test_what_came_for_a_shipment_while_its_run_was_away_is_handed_on(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    (pick,) = shop.street.effects("warehouse", kind="pick", reference=f"{shop.order_id}:1")
    await shop.terminate(shop.shipment)
    picked = WmsEvent(
        event_id="came-late",
        kind=WmsEventKind.PICKED,
        occurred_at=datetime.now(UTC),
        pick_id=pick["effect_id"],
    )
    async with shop.store.transaction() as session:
        await keep_late_event(
            session,
            workflow_id=shop.shipment,
            order_id=shop.order_id,
            event_id="came-late",
            kind=WebhookKind.WMS_EVENT,
            event=picked,
        )
    await shop.decide(await shop.task(Trouble.RUN_ENDED, shop.shipment), Verdict.APPROVE)

    async def labelled() -> bool:
        return [shipment.state for shipment in (await shop.view()).shipments] == [ShipmentState.LABELLED]

    await eventually(labelled, "the label, which is bought once it is picked")


@pytest.mark.parametrize("verdict", [Verdict.FINISH, Verdict.REJECT])
async def test_a_question_of_a_terminated_run_stands_only_as_long_as_somebody_hears_the_answer(
    shop: Shop, routing: None, verdict: Verdict
) -> None:
    shop.draft = a_draft(price=150_000).model_copy(update={"external_id": shop.draft.external_id})
    await shop.submit()
    await shop.in_state(OrderState.IN_REVIEW)
    await shop.terminate()
    await shop.decide(await shop.task(Trouble.RUN_ENDED), verdict)
    await shop.in_state(OrderState.CANCELLED)
    (asked,) = [review for review in (await shop.view()).reviews if review.kind == "risk"]
    assert asked.state is ReviewState.WITHDRAWN


async def test_an_order_that_was_closed_by_hand_stays_closed_if_its_run_is_reset_all_the_same(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.terminate()
    await shop.decide(await shop.task(Trouble.RUN_ENDED), Verdict.FINISH)
    await reset(shop, shop.order, await before_release(shop))

    async def started_again() -> bool:
        return await shop.status(shop.shipment) is WorkflowExecutionStatus.RUNNING

    await eventually(started_again, "the shipment to be started again")
    await shop.delivered(scans=())
    task = await asked_by(shop, shop.shipment)
    assert "nothing new is begun for it" in task.why_flagged[0].reason
    assert ((await shop.view()).state, await shop.reserved()) == (OrderState.CANCELLED, 0)
    assert len(shop.done("warehouse", "pick", f"{shop.order_id}:1")) == 1
    assert not shop.done("carrier", "label", f"{shop.order_id}:1")


async def test_an_order_whose_id_was_taken_on_a_queue_that_nobody_serves_gets_its_own_run(
    shop: Shop, routing: None
) -> None:
    await shop.client.start_workflow("OrderWorkflow", {}, id=shop.order, task_queue="oms-wrokflows")
    await shop.submit()
    task = await shop.task(Trouble.RUN_HANGS)
    assert "oms-wrokflows" in task.why_flagged[0].reason
    await shop.decide(task, Verdict.APPROVE)
    await shop.in_state(OrderState.RELEASED)


async def hanging(shop: Shop, workflow_id: str) -> None:
    async def hangs() -> bool:
        return (await shop.runs.view(workflow_id)).standing is Standing.HANGS

    await eventually(hangs, "the workflow task to have failed more often than by chance")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours: the workflow task fails at events and cancellations of this id, again and again."""

    def failing_at(contract: type[Contract]) -> Any:
        understood = contract.model_validate

        def model_validate(_: Any, /, payload: Any, **how: Any) -> Contract:
            if isinstance(payload, dict) and "poison" in (payload.get("event_id"), payload.get("request_id")):
                raise RuntimeError("a fault of the workflow's code")
            return understood(payload, **how)

        return classmethod(model_validate)

    # Contracts are shared with the workflows' sandbox.
    for contract in (CarrierEvent, CancelOrder):
        monkeypatch.setattr(contract, "model_validate", failing_at(contract))


async def poisoned(shop: Shop) -> None:
    """The shipment hangs on what it was sent; the warehouse's news came after that."""
    await shop.picking()
    (pick,) = shop.street.effects("warehouse", kind="pick", reference=f"{shop.order_id}:1")
    now, handle = datetime.now(UTC), shop.client.get_workflow_handle(shop.shipment)
    scan = CarrierEvent(event_id="poison", kind=CarrierEventKind.EXCEPTION, occurred_at=now, tracking="T")
    await handle.signal("carrier_event", scan)
    await hanging(shop, shop.shipment)
    picked = WmsEvent(event_id="p", kind=WmsEventKind.PICKED, occurred_at=now, pick_id=pick["effect_id"])
    await handle.signal("wms_event", picked)


@pytest.mark.usefixtures("poison")
async def test_what_a_run_hung_on_is_named_and_forgotten_and_what_came_later_is_kept(
    shop: Shop, routing: None
) -> None:
    await poisoned(shop)
    task = await shop.task(Trouble.RUN_HANGS, shop.shipment)
    assert "it does not hear again: 'carrier_event poison'" in task.options[Verdict.APPROVE]
    assert "'carrier_event poison'. That is forgotten" in task.recommendation
    await shop.decide(task, Verdict.APPROVE)

    async def labelled() -> bool:
        return [shipment.state for shipment in (await shop.view()).shipments] == [ShipmentState.LABELLED]

    await eventually(labelled, "the label, which is bought once it is picked")
    assert await shop.well()


@pytest.mark.usefixtures("poison")
async def test_what_came_after_a_run_hung_is_sent_on_by_the_next_round_if_we_die_after_the_reset(
    shop: Shop, routing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await poisoned(shop)
    task = await shop.task(Trouble.RUN_HANGS, shop.shipment)
    with monkeypatch.context() as dying, pytest.raises(ConnectionError):
        dying.setattr(Runs, "hand_on", dies)
        await shop.decide(task, Verdict.APPROVE)
    assert (await shop.round()).healed == (task.task_id,)

    async def labelled() -> bool:
        return [shipment.state for shipment in (await shop.view()).shipments] == [ShipmentState.LABELLED]

    await eventually(labelled, "the label, which is bought once it is picked")


@pytest.mark.usefixtures("poison")
async def test_a_cancellation_that_a_run_hung_on_is_named_with_its_id(shop: Shop, routing: None) -> None:
    await shop.picking()
    wish = CancelOrder(request_id="poison", actor="ana", reason="not wanted")
    await shop.client.get_workflow_handle(shop.order).signal("cancel_order", wish)
    await hanging(shop, shop.order)
    task = await shop.task(Trouble.RUN_HANGS)
    assert "'cancel_order poison'" in task.options[Verdict.APPROVE]
    await shop.decide(task, Verdict.APPROVE)
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)


@pytest.mark.parametrize(
    ("kind", "queue"),
    [
        ("NobodyKnowsThisType", steps.WORKFLOWS),
        ("ShipmentWorkflow", "oms-wrokflows"),
        ("OrderWorkflow", steps.WORKFLOWS),
    ],
)
async def test_a_shipment_whose_id_was_taken_gets_its_own_run_from_its_order(
    shop: Shop, routing: None, kind: str, queue: str
) -> None:
    stranger = await shop.client.start_workflow(kind, {}, id=shop.shipment, task_queue=queue)
    if kind == "OrderWorkflow":
        await stranger.result()
        assert await shop.status(shop.shipment) is WorkflowExecutionStatus.COMPLETED
    await shop.submit()
    await shop.in_state(OrderState.RELEASED)
    task = await shop.task(Trouble.ID_TAKEN, shop.shipment)
    assert stranger.first_execution_run_id is not None
    assert stranger.first_execution_run_id in task.why_flagged[0].reason
    await shop.decide(task, Verdict.APPROVE)

    async def asked() -> bool:
        return any(s.state is ShipmentState.PICK_REQUESTED for s in (await shop.view()).shipments)

    await eventually(asked, "the pick to be asked for")
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)
    assert len(shop.done("payment", "authorisation")) == len(shop.done("payment", "capture")) == 1
    assert len(shop.done("warehouse", "pick", f"{shop.order_id}:1")) == 1


@pytest.mark.parametrize("verdict", [Verdict.APPROVE, Verdict.FINISH])
async def test_a_shipment_whose_id_was_taken_is_still_looked_for_when_its_order_is_called_off(
    shop: Shop, routing: None, verdict: Verdict
) -> None:
    stranger = await shop.client.start_workflow(
        "OrderWorkflow", {}, id=shop.shipment, task_queue=steps.WORKFLOWS
    )
    await stranger.result()
    await shop.submit()
    await shop.in_state(OrderState.RELEASED)
    task = await shop.task(Trouble.ID_TAKEN, shop.shipment)
    cancel = CancelOrder(request_id="c-1", actor="dana", reason="ordered twice")
    await shop.client.get_workflow_handle(shop.order).signal("cancel_order", cancel)
    await shop.in_state(OrderState.CANCELLING)
    # Nothing has healed: the order waits for a shipment that never hears of it.
    assert (await shop.task(Trouble.ID_TAKEN, shop.shipment)).task_id == task.task_id
    await shop.decide(task, verdict)
    await shop.in_state(OrderState.CANCELLED)

    async def given_back() -> bool:
        return (await shop.reserved(), (await shop.view()).money.held.minor) == (0, 0)

    if verdict is Verdict.APPROVE:
        await eventually(given_back, "stock and money to be given back")


async def test_a_shipment_whose_id_was_taken_while_its_run_was_away_goes_on_where_it_stood(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.terminate(shop.shipment)
    await shop.client.start_workflow("NobodyKnowsThisType", id=shop.shipment, task_queue=steps.WORKFLOWS)
    await shop.decide(await shop.task(Trouble.ID_TAKEN, shop.shipment), Verdict.APPROVE)
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)
    assert len(shop.done("warehouse", "pick", f"{shop.order_id}:1")) == 1


async def test_a_shipment_whose_order_has_no_history_of_its_start_can_only_be_closed_by_hand(
    shop: Shop, routing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.client.start_workflow("NobodyKnowsThisType", id=shop.shipment, task_queue=steps.WORKFLOWS)
    await shop.submit()
    await shop.in_state(OrderState.RELEASED)
    task = await shop.task(Trouble.ID_TAKEN, shop.shipment)
    with monkeypatch.context() as gone, pytest.raises(Refused, match="close the order by hand"):
        gone.setattr(Runs, "_before_child", no_history)
        await shop.decide(task, Verdict.APPROVE)
    assert await shop.status(shop.shipment) is WorkflowExecutionStatus.RUNNING, (
        "nothing was ended for nothing"
    )
    await shop.decide(task, Verdict.FINISH)
    assert ((await shop.view()).state, await shop.reserved()) == (OrderState.CANCELLED, 0)


async def test_runs_without_a_workflow_worker_are_told_of_together_and_are_no_tasks(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "WORKFLOW_QUEUE", "not-served-yet")
    monkeypatch.setattr(runs, "TAKEN_WITHIN", timedelta(0))
    await shop.client.start_workflow("OrderWorkflow", {}, id=shop.order, task_queue="not-served-yet")
    await shop.submit()
    report = await shop.round()
    assert (report.unserved, report.findings) == ((shop.order,), ())


async def test_one_task_however_often_and_by_however_many_it_is_found(shop: Shop, routing: None) -> None:
    await shop.picking()
    await shop.terminate()
    other = Invariants(shop.store, shop.runs, grace=timedelta(0))
    reports = await asyncio.gather(*(job.round({shop.order_id}) for job in (shop.job, other) * 3))
    await shop.round()
    found = {f.task_id for report in reports for f in report.findings if f.workflow_id == shop.order}
    assert found == {f"{shop.order_id}:x1"}
    broken = [review for review in (await shop.view()).reviews if review.kind == "run_broken"]
    assert len(broken) == 1
    kinds = [entry.kind for entry in await timeline(shop)]
    assert kinds.count("review.opened") == 1


async def test_of_two_people_who_decide_at_once_one_is_refused(shop: Shop, routing: None) -> None:
    await shop.picking()
    await shop.terminate()
    task = await shop.task(Trouble.RUN_ENDED)
    decided = await asyncio.gather(
        *(shop.decide(task, verdict) for verdict in (Verdict.APPROVE, Verdict.REJECT)), return_exceptions=True
    )
    assert [isinstance(answer, Refused) for answer in decided].count(True) == 1


async def test_what_healed_by_itself_is_taken_off_the_list(shop: Shop, routing: None) -> None:
    await shop.picking()
    await shop.terminate()
    task = await shop.task(Trouble.RUN_ENDED)
    await reset(shop, shop.order, 3)
    with pytest.raises(Refused, match="healed"):
        await shop.decide(task, Verdict.FINISH)
    assert (await shop.round()).healed == (task.task_id,)
    view = await shop.view()
    assert [r.state for r in view.reviews if r.task_id == task.task_id] == [ReviewState.WITHDRAWN]
    assert not view.needs_review
    await shop.terminate()
    assert (await shop.task(Trouble.RUN_ENDED)).task_id == f"{shop.order_id}:x2"


async def test_a_terminated_shipment_goes_on_and_its_order_hears_of_it(shop: Shop, routing: None) -> None:
    await shop.picking()
    await shop.terminate(shop.shipment)
    await shop.decide(await shop.task(Trouble.RUN_ENDED, shop.shipment), Verdict.APPROVE)
    assert await shop.well()
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)
    assert len(shop.done("warehouse", "pick", f"{shop.order_id}:1")) == 1


async def test_a_shipment_that_was_ended_between_writing_its_end_down_and_telling_it_is_found(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.terminate(shop.shipment)
    async with shop.store.transaction() as session:
        arrived = "UPDATE shipments SET state = 'delivered' WHERE order_id = :order_id"
        await session.execute(text(arrived), {"order_id": shop.order_id})
    task = await shop.task(Trouble.RUN_ENDED, shop.shipment)
    await shop.decide(task, Verdict.APPROVE)
    assert await shop.well()
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)


async def test_a_run_started_by_hand_over_an_order_that_has_moved_is_rejected_and_the_right_one_goes_on(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    before = await shop.view()
    await shop.terminate()
    by_hand: Any = await shop.client.start_workflow(
        "OrderWorkflow", {"order_id": shop.order_id}, id=shop.order, task_queue=steps.WORKFLOWS
    )
    assert (await by_hand.result())["state"] == "rejected"
    after = await shop.view()
    assert (after.state, after.version) == (before.state, before.version)
    await shop.decide(await shop.task(Trouble.RUN_ENDED), Verdict.APPROVE)
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)
    assert len(shop.done("payment", "authorisation")) == 1


async def test_a_reset_to_the_very_first_step_finds_everything_it_did(shop: Shop, routing: None) -> None:
    await shop.picking()
    entries = len(await timeline(shop))
    await reset(shop, shop.order, 3)

    async def there_again() -> bool:
        found = await timeline(shop)
        return [e.kind for e in found[entries:]].count("order.released") == 1

    await eventually(there_again, "the second release")
    assert await shop.well()
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)
    assert len(shop.done("payment", "authorisation")) == len(shop.done("payment", "capture")) == 1
    assert len(shop.done("warehouse", "pick", f"{shop.order_id}:1")) == 1
    assert len(shop.done("carrier", "label", f"{shop.order_id}:1")) == 1


async def test_an_order_that_was_reset_and_called_off_is_cancelled_in_the_books(
    shop: Shop, routing: None
) -> None:
    """What it writes after a reset must not be taken for a late and repeated write of what it was before."""
    await shop.picking()
    await reset(shop, shop.order, 3)
    await eventually_running(shop)
    answer = await shop.client.get_workflow_handle(shop.order).execute_update(
        "cancel", {"request_id": "c-1", "actor": "dana", "reason": "twice"}
    )
    assert answer["outcome"] == "cancelling"
    # It does not know the shipment that it began before; but it does not end while that goes on.
    await shop.in_state(OrderState.NEEDS_OPERATOR)
    settlement = next(review for review in (await shop.view()).reviews if review.kind == "settlement")
    assert f"shipment {shop.order_id}:1 is still pick_requested" in settlement.what_happened
    signalled = {"request_id": "c-1", "actor": "dana", "reason": "twice"}
    await shop.client.get_workflow_handle(shop.shipment).signal("cancel_shipment", signalled)
    await eventually_ended(shop, shop.shipment)
    approval = {"request_id": "d-1", "actor": "dana", "reason": "ended", "task_id": settlement.task_id}
    await shop.client.get_workflow_handle(shop.order).signal("approve", approval)
    await shop.in_state(OrderState.CANCELLED)
    assert "cancel.requested" in [entry.kind for entry in await timeline(shop)]
    assert (await shop.view()).money.held.minor == 0
    assert await shop.reserved() == 0


async def test_an_order_whose_history_is_gone_is_started_again_and_finds_the_money_it_holds(
    shop: Shop, settings: Settings
) -> None:
    await shop.unrouted()
    await gone(shop, shop.order)
    task = await shop.task(Trouble.RUN_MISSING)
    assert "13.95 GBP held" in task.what_happened
    await shop.decide(task, Verdict.APPROVE)
    assert await shop.well()
    async with serving(shop.client, settings, steps.ROUTING):
        await shop.in_state(OrderState.RELEASED)
        await shop.delivered()
        await shop.in_state(OrderState.CLOSED)
    assert len(shop.done("payment", "authorisation")) == 1


async def test_without_history_and_with_goods_on_their_way_only_a_person_can_end_it(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await gone(shop, shop.order)
    task = await shop.task(Trouble.RUN_MISSING)
    assert set(task.options) == {Verdict.FINISH}
    with pytest.raises(Refused, match="no option"):
        await shop.decide(task, Verdict.APPROVE)


async def test_an_accepted_order_whose_id_was_taken_by_a_start_with_two_inputs_gets_its_own_run(
    shop: Shop,
) -> None:
    await shop.client.start_workflow(
        "OrderWorkflow", args=[{}, {}], id=shop.order, task_queue=steps.WORKFLOWS
    )
    await shop.submit()

    async def hangs() -> bool:
        return await shop.finding() is not None

    await eventually(hangs, "the workflow task to have failed more often than by chance")
    await shop.decide(await shop.task(Trouble.RUN_HANGS), Verdict.APPROVE)

    async def moved() -> bool:
        return (await shop.view()).state is not OrderState.RECEIVED

    await eventually(moved, "its own run")
    assert await shop.well()


@activity.defn(name="another_step")
async def another_step() -> None:
    """A step that an older build of the workers has, instead of the one that is asked for."""


async def test_a_step_that_no_worker_has_registered_yet_is_tried_until_one_has(
    shop: Shop, settings: Settings, client: Client
) -> None:
    await shop.unrouted()
    async with Worker(client, task_queue=steps.ROUTING, activities=[another_step]):

        async def tried() -> bool:
            described = await client.get_workflow_handle(shop.order).describe()
            return any(activity.attempt > 1 for activity in described.raw_description.pending_activities)

        await eventually(tried, "the step to be refused")
        assert await shop.well(), "an activity is under way: somebody looks after the order"
    async with serving(client, settings, steps.ROUTING):
        await shop.in_state(OrderState.RELEASED)


async def test_an_order_that_could_never_be_started_becomes_a_task(shop: Shop) -> None:
    async with shop.store.transaction() as session:
        await accept_draft(session, OrderDraft.model_validate(shop.draft), source="api")
    task = await shop.task(Trouble.NEVER_STARTED)
    await shop.decide(task, Verdict.APPROVE)

    async def moved() -> bool:
        return (await shop.view()).state is not OrderState.RECEIVED

    await eventually(moved, "its run")
    assert await shop.well()


async def test_an_order_that_is_called_off_before_it_was_ever_started_holds_and_ships_nothing(
    shop: Shop,
) -> None:
    async with shop.store.transaction() as session:
        await accept_draft(session, OrderDraft.model_validate(shop.draft), source="api")
    wish = CancelOrder(request_id="c", actor="ana", reason="ordered twice")
    assert await call_off_unstarted(shop.store, shop.runs, shop.order_id, wish)
    await shop.in_state(OrderState.CANCELLED)
    assert "ordered twice" in ((await shop.view()).exit_reason or "")
    assert shop.done("payment", "authorisation") == []
    assert not await call_off_unstarted(shop.store, shop.runs, shop.order_id, wish), "its run has moved it"


async def test_a_question_that_was_lost_from_the_store_is_put_on_the_list_again(shop: Shop) -> None:
    await shop.unrouted()
    question = "UPDATE orders SET state = 'needs_operator', updated_at = now() - interval '1 day' WHERE order_id = :id"
    async with shop.store.transaction() as session:
        await session.execute(text(question), {"id": shop.order_id})
    task = await shop.task(Trouble.NOBODY_ASKED)
    with pytest.raises(Refused, match="asks nobody"):
        await shop.decide(task, Verdict.APPROVE)


async def test_a_question_that_a_run_does_not_ask_any_more_is_told_from_one_that_it_asks(
    shop: Shop, routing: None
) -> None:
    shop.draft = a_draft(price=150_000).model_copy(update={"external_id": shop.draft.external_id})
    await shop.submit()
    await shop.in_state(OrderState.IN_REVIEW)
    (asked,) = (await shop.view()).reviews
    forgotten = asked.model_copy(update={"task_id": f"{shop.order_id}:r7"})
    await write_down(shop.store, shop.order_id, Carried(reviews=(forgotten,)))
    assert (await shop.round()).withdrawn == (forgotten.task_id,)
    assert await shop.runs.asks(asked) is True
    assert await shop.well()


async def test_what_runs_on_our_queue_and_is_not_ours_is_found_and_ended(shop: Shop) -> None:
    strange = "a stranger's run: äöü\n" + "x" * 300
    await shop.client.start_workflow("NobodyKnowsThisType", id=strange, task_queue=steps.WORKFLOWS)

    async def found() -> bool:
        return await shop.finding(strange) is not None

    await eventually(found, "the workflow task to have failed more often than by chance")
    task = await shop.task(Trouble.NOT_OURS, strange)
    assert set(task.options) == {Verdict.APPROVE}
    await shop.decide(task, Verdict.APPROVE)
    assert await shop.status(strange) is WorkflowExecutionStatus.TERMINATED
    assert await shop.finding(strange) is None


async def test_a_start_on_a_misspelt_queue_for_an_order_that_nobody_placed_is_found_and_ended(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.client.start_workflow("OrderWorkflow", {}, id=shop.order, task_queue="oms-wrokflows")
    assert await shop.finding() is None, "it may be anybody's, and be taken at any moment"
    monkeypatch.setattr(runs, "TAKEN_WITHIN", timedelta(0))
    task = await shop.task(Trouble.NOT_OURS)
    assert "oms-wrokflows" in task.why_flagged[0].reason
    await shop.decide(task, Verdict.APPROVE)
    assert await shop.status() is WorkflowExecutionStatus.TERMINATED
    assert await shop.finding() is None


async def test_what_hangs_under_the_id_of_an_order_that_has_ended_is_not_called_a_strangers(
    shop: Shop, routing: None
) -> None:
    await shop.picking()
    await shop.delivered()
    await shop.in_state(OrderState.CLOSED)
    await shop.client.get_workflow_handle(shop.order).result()
    await shop.client.start_workflow(
        "OrderWorkflow", args=[{}, {}], id=shop.order, task_queue=steps.WORKFLOWS
    )
    await hanging(shop, shop.order)
    task = await shop.task(Trouble.AFTER_ITS_END)
    assert f"Order {shop.order_id} has ended as closed" in task.what_happened
    assert "13.95 GBP taken, 0.00 GBP given back" in task.what_happened
    await shop.decide(task, Verdict.APPROVE)
    assert await shop.status() is WorkflowExecutionStatus.TERMINATED
    assert (await shop.view()).state is OrderState.CLOSED


async def test_the_moment_at_which_workers_last_served_a_run_is_known(shop: Shop, routing: None) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    await shop.picking()
    await shop.delivered()
    await shop.client.get_workflow_handle(shop.order).result()

    async def listed() -> bool:
        return await shop.runs.served_between(before, datetime.now(UTC)) is not None

    await eventually(listed, "Temporal to list the run that came to its end")
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert await shop.runs.served_between(later, later + timedelta(minutes=1)) is None
    assert await shop.runs.served_between(before - timedelta(days=1), before - timedelta(hours=1)) is None


async def test_nothing_is_missed_however_much_temporal_and_the_store_list(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_PAGE", 1)
    monkeypatch.setattr(invariants, "_BATCH", 1)
    # Under an id that is no order's, and begun before all the others: Temporal lists the newest first.
    strange = "an older run than any order's"
    await shop.client.start_workflow("OrderWorkflow", args=[{}, {}], id=strange, task_queue=steps.WORKFLOWS)
    others = [Shop(shop.client, shop.store, shop.street) for _ in range(2)]
    for other in others:
        await take_in(other.store, other.runs, other.draft, ClockStart())

    async def hangs() -> bool:
        return (await shop.runs.view(strange)).standing is Standing.HANGS

    try:
        await eventually(hangs, "the workflow task to have failed more often than by chance")
        await others[0].terminate()
        report = await shop.job.round()
        assert report.examined >= len(others), "every open order was looked at"
        assert {finding.workflow_id for finding in report.findings} >= {strange, others[0].order}
    finally:
        await shop.runs.terminate(strange, "the test is over")
        for other in others:
            await other.end()


async def test_nothing_is_said_while_temporal_does_not_answer(shop: Shop) -> None:
    with pytest.raises(NotReachable):
        await Invariants(shop.store, Runs(), grace=timedelta(0)).round()


async def test_the_task_is_listed_and_decided_over_http_like_any_other(
    shop: Shop, settings: Settings, routing: None
) -> None:
    await shop.picking()
    await shop.terminate()
    task = await shop.task(Trouble.RUN_ENDED)
    app = create_app(settings, client=shop.client)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://api",
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as api,
    ):
        listed = (await api.get("/v1/reviews", params={"kind": "run_broken"})).json()["reviews"]
        assert task.task_id in [review["task_id"] for review in listed]
        answer = await api.post(f"/v1/reviews/{task.task_id}/decision", json={"verdict": "approve"} | BY)
        assert answer.status_code == 200, answer.text
        assert answer.json()["message"].startswith("go on from its last completed step")
        again = await api.post(f"/v1/reviews/{task.task_id}/decision", json={"verdict": "approve"} | BY)
        assert again.json()["message"] == "it was already decided like this"
    assert await shop.well()


@pytest.mark.usefixtures("routing")
async def test_the_command_proves_it_and_says_which_task_to_look_at(
    shop: Shop, stack: PublishedStack, monkeypatch: pytest.MonkeyPatch, capfd: Any, run: Any
) -> None:
    await shop.picking()
    await shop.terminate()
    monkeypatch.setattr(doctor, "read_stack", lambda _: stack)
    capfd.readouterr()  # what the workers beside it have said so far
    outcome = await asyncio.to_thread(run, "doctor", "--orders", "--json")
    assert outcome.code == 1, outcome
    # The engine's own code writes to the same stream when a worker beside it has something to warn of.
    found = json.loads(re.sub(r"(?m)^\x1b.*\n", "", outcome.out))
    assert outcome.code == found["exit_code"] == 1
    assert {"workflow_id": shop.order, "task_id": f"{shop.order_id}:x1"}.items() <= next(
        f for f in found["findings"] if f["workflow_id"] == shop.order
    ).items()
    await shop.decide(await shop.task(Trouble.RUN_ENDED), Verdict.APPROVE)
    outcome = await asyncio.to_thread(run, "doctor", "--orders")
    assert shop.order not in outcome.out and "runs examined" in outcome.out


async def timeline(shop: Shop) -> list[Any]:
    async with shop.store.transaction() as session:
        return list(await reads.timeline(session, shop.order_id))


async def reset(shop: Shop, workflow_id: str, finished: int) -> None:
    """What ``temporal workflow reset --event-id`` asks of the server."""
    described = await shop.client.get_workflow_handle(workflow_id).describe()
    await shop.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=described.run_id),
            reason="by hand",
            workflow_task_finish_event_id=finished,
            request_id=f"reset-{workflow_id}",
        )
    )


async def before_release(shop: Shop) -> int:
    """The workflow task of the order's run that starts its shipments."""
    history = await shop.client.get_workflow_handle(shop.order).fetch_history()
    child = EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
    return next(
        event.start_child_workflow_execution_initiated_event_attributes.workflow_task_completed_event_id
        for event in history.events
        if event.event_type == child
    )


async def asked_by(shop: Shop, workflow_id: str) -> ReviewTask:
    found: list[ReviewTask] = []

    async def asks() -> bool:
        task = await shop.runs.question(workflow_id)
        found[:] = [task] if task is not None else []
        return bool(found)

    await eventually(asks, "the run to ask somebody")
    return found[0]


async def eventually_ended(shop: Shop, workflow_id: str) -> None:
    async def ended() -> bool:
        return await shop.status(workflow_id) is WorkflowExecutionStatus.COMPLETED

    await eventually(ended, f"{workflow_id} to end")


async def eventually_running(shop: Shop) -> None:
    async def answers() -> bool:
        return await shop.client.get_workflow_handle(shop.order).query("snapshot") is not None

    await eventually(answers, "the run to answer")


async def gone(shop: Shop, workflow_id: str) -> None:
    """Let Temporal forget a run, as it does when the retention is over."""
    await shop.terminate(workflow_id)
    described = await shop.client.get_workflow_handle(workflow_id).describe()
    await shop.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace="default",
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=described.run_id),
        )
    )

    async def forgotten() -> bool:
        try:
            await shop.client.get_workflow_handle(workflow_id).describe()
        except RPCError:
            return True
        return False

    await eventually(forgotten, "the run to be forgotten")
