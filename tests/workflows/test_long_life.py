"""Cases that live long and hear much: no run outgrows the engine's limits, and nothing is lost from one to the next.

The server here suggests to continue as new after a few hundred events instead of 4,096, so that it happens often.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from models import effects as e
from models.clock import ClockStart
from models.messages import (
    CarrierEvent,
    CarrierEventKind,
    DecideReview,
    FailureResolution,
    PaymentEvent,
    PaymentEventKind,
    ResolveFailure,
)
from models.review import ReviewTask, Verdict
from models.states import OrderState
from tests.workflows.engine import Case, eventually, serving, told_by
from tests.workflows.scripted import Script, pounds, some_plan
from workers.client import connect
from workers.embedded.namespace import reconcile_search_attributes
from workers.embedded.temporal import EmbeddedTemporal
from workflows.order import OrderWorkflow

# After so many events the server suggests it; a run comes to it at its next wait, with what arrived till then.
SUGGESTED = 250
LONGEST = 2 * SUGGESTED
# What a run hands on: a payload may have 256 KB, and what grows with age would find its way past any limit.
LARGEST_HANDED_ON = 96 * 1024


@pytest.fixture(scope="module")
def engine_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedTemporal(
        tmp_path_factory.mktemp("impatient"),
        in_memory=True,
        dynamic_config={
            "frontend.WorkflowTimeSkippingEnabled": "true",
            "limit.historyCount.suggestContinueAsNew": str(SUGGESTED),
        },
    ) as server:
        yield server.address


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(engine_address: str) -> Client:
    client = await connect(engine_address, "default", from_environment=False)
    await reconcile_search_attributes(client)
    return client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scripts(client: Client) -> AsyncIterator[dict[str, Script]]:
    playing: dict[str, Script] = {}
    async with serving(client, playing):
        yield playing


@pytest.fixture
async def case(client: Client, scripts: dict[str, Script]) -> Case:
    case = Case(client, Script())
    scripts[case.order_id] = case.script
    return case


@dataclass(frozen=True)
class Run:
    """One run of a chain: events in its history, and the bytes that it was started with."""

    events: int
    handed_on: int


async def runs_of(client: Client, workflow_id: str) -> list[Run]:
    """Every run of a case, the first one first."""
    found: list[Run] = []
    run_id: str | None = None
    while run_id != "":
        history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        started = history.events[0].workflow_execution_started_event_attributes
        found.append(Run(len(history.events), sum(len(p.data) for p in started.input.payloads)))
        run_id = started.continued_execution_run_id
    return found[::-1]


async def assert_within_limits(client: Client, workflow_id: str, at_least: int) -> None:
    runs = await runs_of(client, workflow_id)
    assert len(runs) >= at_least, runs
    assert max(run.events for run in runs) <= LONGEST, runs
    assert max(run.handed_on for run in runs) <= LARGEST_HANDED_ON, runs


async def answered(case: Case, task: ReviewTask, verdict: Verdict) -> None:
    """Answer a review by signal, as any Temporal client may, and wait until it is closed."""
    await case.order.signal(
        verdict.value, {"actor": "ana", "reason": "goods are coming", "task_id": task.task_id}
    )

    async def closed() -> bool:
        now = await pending(case)
        return now is None or now.task_id != task.task_id

    await eventually(closed, f"{task.task_id} to be closed")


async def test_an_order_of_two_hundred_days_stays_small_and_remembers_every_answer(case: Case) -> None:
    """A clock ten times slower than the wall's: three business days of waiting for goods last a month of its life."""
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(unfillable=("no node holds any",))
    order = await case.start(clock=ClockStart(speed=0.1))
    await case.until(OrderState.BACKORDERED)
    began, passed, told = datetime.now(UTC), timedelta(0), 0
    asked: list[str] = []
    while passed < timedelta(days=200):
        # One wait for goods after the other. A skip ends with the run that it was asked of: then the next is asked.
        while await pending(case) is None:
            await skip_a_wait_for_goods(case)
        if len(asked) == 3:  # a person takes their time, is reminded and escalated to
            await case.skip(timedelta(hours=20))
        task = await until_asked(case, len(asked) + 1)
        asked.append(task.task_id)
        passed = task.opened_at - began
        await asyncio.gather(*(order.signal("payment_event", a_notice(told + n)) for n in range(60)))
        told += 60
        await answered(case, task, Verdict.APPROVE)
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan())
    while (await told_by(order, OrderWorkflow.snapshot)).state is OrderState.BACKORDERED:
        await skip_a_wait_for_goods(case)
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    attempts = [request.attempt for request in case.script.requests("route_order", case.order_id)]
    assert attempts == list(range(1, 3 * len(asked) + 2)), "each look at the stock is made once"
    assert len({request.key for request in case.script.requests("authorise_payment", case.order_id)}) == 1
    assert {case.script.reviews[task_id].verdict for task_id in asked} == {Verdict.APPROVE}
    assert notices(case) == Counter(f"ref-{n}" for n in range(told))
    await assert_within_limits(case.client, case.workflow_id, at_least=3)


async def skip_a_wait_for_goods(case: Case) -> None:
    """To the next look at the stock and past its outcome: a skip too many would pass a review's deadline as well."""
    before = (await told_by(case.order, OrderWorkflow.snapshot)).deadlines.get("backorder")
    await case.skip(timedelta(days=10, minutes=1))

    async def looked() -> bool:
        memory = await told_by(case.order, OrderWorkflow.snapshot)
        waits_anew = memory.deadlines.get("backorder") not in (None, before)
        return bool(waits_anew or memory.open_review is not None or memory.released)

    await eventually(looked, "the look at the stock")


async def test_a_parcel_of_two_hundred_days_is_looked_for_again_and_again_and_never_outgrows_a_run(
    case: Case,
) -> None:
    """A released order with a parcel that nobody finds; a person waits on for the carrier, again and again.

    Its business day lasts two and a half of the wall's, so that its eighty days take less of ours.
    """
    order = await case.start(clock=ClockStart(speed=0.4))
    await case.handed_over()
    began, passed, asked = datetime.now(UTC), timedelta(0), 0
    while passed < timedelta(days=200):
        while (task := await told_by(case.shipment(), OrderWorkflow.pending_review)) is None:
            await case.skip(timedelta(days=2, hours=13), number=1)
        asked, passed = asked + 1, task.opened_at - began
        await decide(case.shipment(), task, Verdict.REJECT)
    await case.scanned(CarrierEventKind.DELIVERED, at=datetime.now(UTC))
    assert (await order.result()).state is OrderState.CLOSED
    assert asked >= 7
    assert len(case.script.requests("track_parcel", case.order_id)) >= 60
    assert {review.verdict for review in case.script.reviews.values()} == {Verdict.REJECT}
    assert len(case.script.requests("capture_payment", case.order_id)) == 1
    await assert_within_limits(case.client, case.shipment().id, at_least=4)
    await assert_within_limits(case.client, case.workflow_id, at_least=1)


def a_notice(number: int) -> PaymentEvent:
    return PaymentEvent(
        event_id=f"n-{number}",
        kind=PaymentEventKind.AUTHORISED,
        occurred_at=datetime.now(UTC),
        provider_ref=f"ref-{number}",
        amount=pounds(100),
    )


def notices(case: Case) -> Counter[object]:
    """The payment provider's notices on the timeline, by their reference."""
    return Counter(
        entry.details["ref"]
        for entry in case.script.entries.values()
        if entry.kind.startswith("payment.notice")
    )


async def test_hundreds_of_signals_on_both_sides_of_the_switch_are_each_recorded_once(case: Case) -> None:
    order = await case.start()
    await case.until(OrderState.RELEASED)

    async def send(notice: PaymentEvent) -> None:
        # Providers repeat themselves; the repeat may meet the next run.
        await order.signal("payment_event", notice)
        await order.signal("payment_event", notice)

    for start in range(0, 400, 40):
        await asyncio.gather(*(send(a_notice(n)) for n in range(start, start + 40)), order.signal("renew"))
        await told_by(order, "snapshot")
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert notices(case) == Counter(f"ref-{n}" for n in range(400))
    await assert_within_limits(case.client, case.workflow_id, at_least=4)


async def test_shipments_and_an_open_review_are_carried_over_while_the_parcels_are_scanned(
    case: Case,
) -> None:
    case.script.answers["route_order"] = lambda r: e.RouteAnswer(plan=some_plan(2))
    order = await case.start()
    await case.handed_over(1)
    await case.handed_over(2)
    await case.scanned(CarrierEventKind.IN_TRANSIT, 2)
    await case.scanned(CarrierEventKind.DAMAGED, 1)
    task = await case.review(1)

    async def scan(number: int, n: int) -> None:
        await case.shipment(number).signal(
            "carrier_event",
            CarrierEvent(
                event_id=f"s-{number}-{n}",
                kind=CarrierEventKind.EXCEPTION if number == 1 else CarrierEventKind.COLLECTED,
                occurred_at=datetime.now(UTC),
                tracking=f"TRK-{number}",
                detail=f"scan {n}",
            ),
        )

    async def scan_both(n: int) -> None:
        await asyncio.gather(scan(1, n), scan(2, n))

    for start in range(0, 150, 50):
        storm = [scan_both(n) for n in range(start, start + 50)]
        await asyncio.gather(
            *storm, *(h.signal("renew") for h in (order, case.shipment(1), case.shipment(2)))
        )
        await asyncio.gather(
            *(told_by(handle, "snapshot") for handle in (order, case.shipment(1), case.shipment(2)))
        )
    assert (await case.review(1)).task_id == task.task_id
    await decide(case.shipment(1), task, Verdict.APPROVE)
    await case.scanned(CarrierEventKind.DELIVERED, 2)
    assert (await order.result()).state is OrderState.CLOSED
    kinds = Counter((entry.shipment_id, entry.kind) for entry in case.script.entries.values())
    assert kinds[(f"{case.order_id}:1", "carrier.exception")] == 150
    assert kinds[(f"{case.order_id}:2", "carrier.scan")] == 150
    for name in ("capture_payment", "buy_label", "request_pick"):
        assert len({request.key for request in case.script.requests(name, case.order_id)}) == 2, name
    assert len(case.script.requests("refund_payment", case.order_id)) == 1
    for number in (1, 2):
        await assert_within_limits(case.client, case.shipment(number).id, at_least=3)
    await assert_within_limits(case.client, case.workflow_id, at_least=3)


async def test_updates_sent_during_the_switch_all_get_their_answer_and_count_once(case: Case) -> None:
    """A step fails twenty times; each time its operator's answer, sent twice, meets a run that continues as new."""
    times = 20
    case.script.fail("reserve_stock", times=times)
    order = await case.start()
    for n in range(1, times + 1):
        task = await until_asked(case, n)
        request = ResolveFailure(
            request_id=f"q-{n}",
            actor="ana",
            task_id=task.task_id,
            resolution=FailureResolution.RETRY,
            reason=f"try {n}",
        )
        first, second, _ = await asyncio.gather(
            order.execute_update(OrderWorkflow.resolve_failure, request, id=f"first-{n}"),
            order.execute_update(OrderWorkflow.resolve_failure, request, id=f"second-{n}"),
            order.signal("renew"),
        )
        assert first == second
        assert (first.task_id, first.verdict) == (task.task_id, Verdict.APPROVE)
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert len(case.script.requests("reserve_stock", case.order_id)) == times + 1
    decided = [task for task in case.script.reviews.values() if task.verdict is not None]
    assert sorted(task.reason or "" for task in decided) == sorted(f"try {n}" for n in range(1, times + 1))
    kinds = Counter(entry.kind for entry in case.script.entries.values())
    assert kinds["review.opened"] == kinds["review.decided"] == times
    assert len(await runs_of(case.client, case.workflow_id)) > times / 4


async def test_a_hundred_people_decide_while_the_run_is_renewed_and_one_of_them_counts(case: Case) -> None:
    case.script.fail("reserve_stock")
    order = await case.start()
    task = await case.review()
    decisions = [
        DecideReview(
            request_id=f"d-{n}",
            actor=f"p{n}",
            task_id=task.task_id,
            verdict=Verdict.APPROVE,
            reason=f"as {n} says",
        )
        for n in range(100)
    ]
    # Ten updates may be in flight at once; the eleventh is told to come again, and so is one between two runs.
    turn = asyncio.Semaphore(8)

    async def decided(decision: DecideReview) -> Any:
        async with turn:
            if decision.request_id.endswith("0"):
                await order.signal("renew")
            while True:
                try:
                    return await order.execute_update(OrderWorkflow.decide_review, decision)
                except WorkflowUpdateFailedError as refused:
                    return refused.cause
                except RPCError as between_two_runs:
                    if between_two_runs.status is not RPCStatusCode.FAILED_PRECONDITION:
                        raise

    answers = await asyncio.gather(*(decided(decision) for decision in decisions))
    taken = [answer for answer in answers if not isinstance(answer, Exception)]
    assert len(taken) == 1
    causes = {str(answer) for answer in answers if isinstance(answer, Exception)}
    assert all("was just decided" in cause or "no review is open" in cause for cause in causes), causes
    await case.delivered()
    assert (await order.result()).state is OrderState.CLOSED
    assert [task.verdict for task in case.script.reviews.values()] == [Verdict.APPROVE]


async def pending(case: Case) -> ReviewTask | None:
    task: ReviewTask | None = await told_by(case.order, OrderWorkflow.pending_review)
    return task


async def until_asked(case: Case, number: int) -> ReviewTask:
    found: list[ReviewTask] = []

    async def there() -> bool:
        task = await pending(case)
        found[:] = [task] if task is not None and task.task_id.endswith(f":r{number}") else []
        return bool(found)

    await eventually(there, f"review {number} to open")
    return found[0]


async def decide(handle: WorkflowHandle[Any, Any], task: ReviewTask, verdict: Verdict) -> None:
    await handle.execute_update(
        OrderWorkflow.decide_review,
        DecideReview(
            request_id=task.task_id, actor="ana", task_id=task.task_id, verdict=verdict, reason="looked at it"
        ),
    )
