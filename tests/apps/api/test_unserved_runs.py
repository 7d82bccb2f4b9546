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


def minutes_ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


class Waiting(Said):
    """Every run waits for a worker since ``ready``; workers served others at ``served``, the latest first."""

    def __init__(self, ready: datetime, *served: datetime) -> None:
        super().__init__()
        self.ready, self.served = ready, served
        self.asked_when_served = 0

    async def is_running(self, workflow_id: str) -> bool:
        return True

    async def view(self, workflow_id: str) -> RunView:
        return RunView(
            standing=Standing.RUNNING, run_id="r", queue=steps.WORKFLOWS, unserved_since=self.ready, busy=True
        )

    async def served_between(self, after: datetime, until: datetime) -> datetime | None:
        self.asked_when_served += 1
        return next((moment for moment in self.served if after < moment <= until), None)


@pytest.mark.parametrize(
    ("ready", "served"),
    [
        pytest.param(60, [], id="an outage"),
        pytest.param(60, [59], id="an outage that began just then"),
        pytest.param(60, [0, 1, 62], id="workers that have just come back"),
        pytest.param(60, [15, 20, 30], id="an outage after another one"),
        pytest.param(5, [0, 20], id="a busy queue"),
    ],
)
async def test_a_run_that_waits_as_all_others_do_is_told_of_and_is_no_task(
    fresh_store: Store, ready: float, served: list[float]
) -> None:
    orders = [await an_order(fresh_store) for _ in range(3)]
    runs = Waiting(minutes_ago(ready), *map(minutes_ago, served))
    report = await Invariants(fresh_store, runs).round()
    assert (report.unserved, report.findings) == (tuple(sorted(f"order:{order}" for order in orders)), ())
    assert runs.asked_when_served <= 2


async def test_a_run_that_no_worker_takes_while_others_are_served_is_put_before_a_person(
    fresh_store: Store,
) -> None:
    await an_order(fresh_store)
    runs = Waiting(minutes_ago(60), minutes_ago(5), minutes_ago(12))
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
    runs = Waiting(minutes_ago(60))
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
