"""Questions on the list that no run asks (any more), and shipments that go on although their order has ended."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from activities.store import broken, reads
from activities.store.intake import mark_started
from activities.store.store import Store
from apps.api.broken_runs import Trouble
from apps.api.invariants import Invariants, Report
from apps.api.runs import Runs, RunView, Standing
from models.identifiers import order_workflow_id, review_task_id, shipment_workflow_id
from models.journal import Carried
from models.review import ReviewTask, Verdict
from models.states import OrderState, ReviewState, ShipmentState
from tests.builders import NOON, a_draft, a_review, a_shipment, accepted, carrying, write_down
from workflows import steps


class Said(Runs):
    """Runs of which each stands, and asks, as the test says; all of them have a timer."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing.RUNNING
        self.asked: set[str] = set()
        self.silent = False
        self.timer = True
        self.terminated: list[str] = []

    async def view(self, workflow_id: str) -> RunView:
        return RunView(standing=self.standing, run_id="r", queue=steps.WORKFLOWS, status="terminated")

    async def asks(self, task: ReviewTask) -> bool | None:
        return None if self.silent else task.task_id in self.asked

    async def has_timer(self, workflow_id: str, run_id: str) -> bool:
        return self.timer

    async def sent_before_it_hung(self, workflow_id: str, run_id: str) -> tuple[str, ...]:
        return ()

    async def terminate(self, workflow_id: str, reason: str) -> None:
        self.terminated.append(workflow_id)

    async def _nothing(self) -> AsyncIterator[list[str]]:
        pages: list[list[str]] = []
        for page in pages:
            yield page

    def broken_since(self, since: datetime) -> AsyncIterator[list[str]]:
        return self._nothing()

    started_since = broken_since

    def others_on_our_queue(self) -> AsyncIterator[list[str]]:
        return self._nothing()


@pytest.fixture
def runs() -> Said:
    return Said()


async def an_order(store: Store, state: OrderState = OrderState.ROUTING) -> str:
    order_id = await accepted(store, a_draft())
    async with store.transaction() as session:
        await mark_started(session, order_id)
    await write_down(store, order_id, carrying(order_id, state, 5))
    return order_id


async def asked(store: Store, order_id: str, number: int = 1, **changes: object) -> str:
    """A question that was written down long ago."""
    await write_down(store, order_id, Carried(reviews=(a_review(order_id, number, **changes),)))
    return review_task_id(order_id, number)


async def look(
    store: Store, runs: Runs, order_id: str, grace: timedelta = timedelta(0), *, named: bool = True
) -> Report:
    """What a round says of this order; other tests have left orders as well. Not ``named``: it has to find it."""
    report = await Invariants(store, runs, grace=grace).round({order_id} if named else set())
    return report.model_copy(
        update={
            "findings": tuple(found for found in report.findings if found.order_id == order_id),
            "withdrawn": tuple(task for task in report.withdrawn if task.startswith(f"{order_id}:")),
        }
    )


async def state_of(store: Store, task_id: str) -> ReviewState:
    async with store.transaction() as session:
        task = await reads.review(session, task_id)
    assert task is not None
    return task.state


async def kinds(store: Store, order_id: str) -> list[str]:
    async with store.transaction() as session:
        return [entry.kind for entry in await reads.timeline(session, order_id)]


async def test_a_question_that_its_run_does_not_ask_any_more_is_withdrawn_and_hides_nothing(
    store: Store, runs: Said
) -> None:
    order_id = await an_order(store)
    task_id = await asked(store, order_id)
    runs.timer = False
    report = await look(store, runs, order_id)
    assert report.withdrawn == (task_id,)
    assert await state_of(store, task_id) is ReviewState.WITHDRAWN
    assert "review.withdrawn" in await kinds(store, order_id)
    assert [finding.trouble for finding in report.findings] == [Trouble.NOTHING_UNDER_WAY]


async def test_a_question_that_was_withdrawn_comes_back_when_the_run_asks_it_again(
    store: Store, runs: Said
) -> None:
    order_id = await an_order(store)
    task_id = await asked(store, order_id)
    await look(store, runs, order_id)
    await asked(store, order_id, opened_at=NOON + timedelta(days=1))
    assert await state_of(store, task_id) is ReviewState.OPEN


async def test_a_question_that_is_asked_or_that_nobody_can_say_stays(store: Store, runs: Said) -> None:
    order_id = await an_order(store)
    task_id = await asked(store, order_id)
    runs.asked = {task_id}
    assert not (await look(store, runs, order_id)).withdrawn
    runs.asked, runs.silent = set(), True
    assert not (await look(store, runs, order_id)).withdrawn
    runs.silent, runs.standing = False, Standing.HANGS
    assert not (await look(store, runs, order_id)).withdrawn
    # Its run may be brought back, and asks it then.
    runs.standing = Standing.ENDED
    assert not (await look(store, runs, order_id)).withdrawn
    assert await state_of(store, task_id) is ReviewState.OPEN


async def test_a_question_that_was_asked_a_moment_ago_stays(store: Store, runs: Said) -> None:
    order_id = await an_order(store)
    await asked(store, order_id, opened_at=datetime.now(UTC) - timedelta(seconds=5))
    assert not (await look(store, runs, order_id, timedelta(minutes=1))).withdrawn


async def test_of_two_questions_of_one_run_the_one_that_it_does_not_ask_is_withdrawn(
    store: Store, runs: Said
) -> None:
    order_id = await an_order(store, OrderState.IN_REVIEW)
    first, second = await asked(store, order_id, 1), await asked(store, order_id, 2)
    runs.asked = {first}
    assert (await look(store, runs, order_id)).withdrawn == (second,)
    assert await state_of(store, first) is ReviewState.OPEN


async def test_a_question_of_a_run_that_is_gone_and_had_come_to_its_end_is_withdrawn(
    store: Store, runs: Said
) -> None:
    order_id = await an_order(store, OrderState.CANCELLED)
    task_id = await asked(store, order_id)
    runs.standing = Standing.MISSING
    assert task_id in (await look(store, runs, order_id)).withdrawn


async def test_an_order_that_ends_withdraws_what_its_run_asked_and_leaves_its_shipments_questions(
    store: Store,
) -> None:
    order_id = await an_order(store)
    own = await asked(store, order_id)
    shipments = await asked(store, order_id, 2, workflow_id=shipment_workflow_id(f"{order_id}:1"))
    await write_down(store, order_id, carrying(order_id, OrderState.CANCELLED, 6))
    assert await state_of(store, own) is ReviewState.WITHDRAWN
    assert await state_of(store, shipments) is ReviewState.OPEN
    ended = a_shipment(order_id, version=9, state=ShipmentState.CANCELLED)
    await write_down(store, order_id, Carried(shipment=ended))
    assert await state_of(store, shipments) is ReviewState.WITHDRAWN
    assert (await kinds(store, order_id)).count("review.withdrawn") == 2


async def test_a_shipment_that_stands_still_is_found_although_its_order_has_ended(
    store: Store, runs: Said
) -> None:
    order_id = await an_order(store, OrderState.CLOSED)
    shipment = a_shipment(order_id, version=9, state=ShipmentState.IN_TRANSIT, handed_over_at=NOON)
    await write_down(store, order_id, Carried(shipment=shipment))
    assert (await look(store, runs, order_id)).findings == ()
    runs.standing = Standing.ENDED
    # Temporal's lists do not name it: its run hangs, or has ended while nobody looked.
    (finding,) = (await look(store, runs, order_id, named=False)).findings
    assert (finding.workflow_id, finding.trouble) == (
        shipment_workflow_id(shipment.shipment_id),
        Trouble.RUN_ENDED,
    )
    assert finding.task_id is not None
    async with store.transaction() as session:
        task = await reads.review(session, finding.task_id)
    assert task is not None
    assert "Its order has ended as closed, and this goes on." in task.what_happened
    assert "the order stays closed" in task.options[Verdict.FINISH]
    job = Invariants(store, runs, grace=timedelta(0))
    await job.decide(task.task_id, Verdict.FINISH, actor="dana", reason="seen there", request_id="d")
    async with store.transaction() as session:
        (ended,) = await reads.shipments(session, order_id)
        order = await reads.order(session, order_id)
    assert (ended.state, order and order.state) == (ShipmentState.DELIVERED, OrderState.CLOSED)
    assert runs.terminated == [shipment_workflow_id(shipment.shipment_id)]
    assert (await look(store, runs, order_id)).findings == ()


async def test_a_shipment_under_way_is_a_subject_though_its_order_has_ended(store: Store) -> None:
    order_id = await an_order(store, OrderState.CANCELLED)
    shipment = a_shipment(order_id, version=9, state=ShipmentState.PICKED)
    await write_down(store, order_id, Carried(shipment=shipment))
    async with store.transaction() as session:
        assert order_id in await broken.unfinished_orders(session, after="", limit=10_000)
        found = {subject.workflow_id for subject in await broken.subjects(session, timedelta(0), [order_id])}
        # Other tests of this database look at everything as well.
        await session.execute(
            text("UPDATE shipments SET state = 'cancelled' WHERE order_id = :id"), {"id": order_id}
        )
    assert shipment_workflow_id(shipment.shipment_id) in found
    assert order_workflow_id(order_id) not in found
