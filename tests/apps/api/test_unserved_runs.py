"""Runs whose next step no worker takes: told of together in an outage, and each by itself when others are served."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from activities.store import reads
from activities.store.store import Store
from apps.api.broken_runs import Trouble
from apps.api.invariants import Invariants
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.runs import RunView, Standing
from apps.api.sweeper import Sweeper
from models.review import Verdict
from tests.apps.api.test_questions import Said, an_order
from workers.settings import Settings
from workflows import steps

NOW = datetime.now(UTC)


class Waiting(Said):
    """Every run waits for a worker since ``ready``; workers last served another one at ``served``."""

    def __init__(self, ready: datetime, served: datetime | None) -> None:
        super().__init__()
        self.ready, self.served = ready, served
        self.asked_when_served = 0

    async def is_running(self, workflow_id: str) -> bool:
        return True

    async def view(self, workflow_id: str) -> RunView:
        return RunView(
            standing=Standing.RUNNING, run_id="r", queue=steps.WORKFLOWS, unserved_since=self.ready, busy=True
        )

    async def served_since(self, since: datetime) -> datetime | None:
        self.asked_when_served += 1
        return self.served if self.served is not None and self.served > since else None


@pytest.mark.parametrize(
    ("ready", "served"),
    [
        pytest.param(timedelta(hours=1), None, id="an outage"),
        pytest.param(timedelta(hours=1), timedelta(minutes=59), id="an outage that began just then"),
        pytest.param(timedelta(minutes=5), timedelta(0), id="a busy queue"),
    ],
)
async def test_a_run_that_waits_as_all_others_do_is_told_of_and_is_no_task(
    fresh_store: Store, ready: timedelta, served: timedelta | None
) -> None:
    orders = [await an_order(fresh_store) for _ in range(3)]
    runs = Waiting(NOW - ready, served if served is None else NOW - served)
    report = await Invariants(fresh_store, runs).round()
    assert (report.unserved, report.findings) == (tuple(sorted(f"order:{order}" for order in orders)), ())
    assert runs.asked_when_served <= 1


async def test_a_run_that_no_worker_takes_while_others_are_served_is_put_before_a_person(
    fresh_store: Store,
) -> None:
    await an_order(fresh_store)
    runs = Waiting(NOW - timedelta(hours=1), NOW - timedelta(minutes=5))
    report = await Invariants(fresh_store, runs).round()
    (finding,) = report.findings
    assert (finding.trouble, report.unserved) == (Trouble.PASSED_OVER, ())
    assert "while other runs are served" in finding.why
    assert finding.task_id is not None
    async with fresh_store.transaction() as session:
        task = await reads.review(session, finding.task_id)
    assert task is not None and task.recommended is Verdict.APPROVE
    assert "go on from its last completed step" in task.options[Verdict.APPROVE]


async def test_the_api_counts_the_runs_that_wait_for_a_worker_and_says_so_in_its_log(
    fresh_store: Store, settings: Settings
) -> None:
    order_id = await an_order(fresh_store)
    metrics = Metrics()
    runs = Waiting(NOW - timedelta(hours=1), None)
    sweeper = Sweeper(
        Parts(settings=settings, store=fresh_store, runs=runs, metrics=metrics), look_after=timedelta(0)
    )
    await sweeper.look()
    with capture_logs() as lines:
        assert await sweeper.prove() == 0
    told = next(line for line in lines if line["event"] == "runs_unserved")
    assert (told["runs"], told["such_as"]) == (1, f"order:{order_id}")
    assert b"orderwright_unserved_runs 1.0" in generate_latest(metrics.registry)
    assert b"orderwright_broken_runs 0.0" in generate_latest(metrics.registry)
