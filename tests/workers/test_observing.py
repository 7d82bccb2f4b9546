"""What a worker says of each attempt at a step."""

import asyncio
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from workers.observing import DONE_ATTEMPTS, FAILED_ATTEMPTS, Observing

PERSON = "Wilhelmina Marple"


class Step(ActivityInboundInterceptor):
    """The step itself, which ends as it is told."""

    def __init__(self, ends: BaseException | None) -> None:
        self._ends = ends

    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002
        if self._ends is not None:
            raise self._ends
        return PERSON


@pytest.fixture(autouse=True)
def nothing_bound() -> Iterator[None]:
    yield
    structlog.contextvars.clear_contextvars()


class Counters:
    """A meter that keeps what is added to its counters."""

    def __init__(self) -> None:
        self.added: list[tuple[str, int, dict[str, str]]] = []

    def create_counter(self, name: str, _description: str) -> SimpleNamespace:
        return SimpleNamespace(add=lambda value, labels: self.added.append((name, value, labels)))


async def told_of(ends: BaseException | None) -> dict[str, Any]:
    """The one line about a step that ended like this."""
    stage = ActivityEnvironment()
    stage.info = dataclasses.replace(
        stage.info, workflow_id="shipment:web:1001:2", activity_type="request_pick", attempt=3
    )
    observed = Observing().intercept_activity(Step(ends))

    async def attempt() -> None:
        given = ExecuteActivityInput(fn=print, args=[PERSON], executor=None, headers={})
        await asyncio.gather(observed.execute_activity(given), return_exceptions=True)

    with capture_logs(processors=[merge_contextvars]) as lines:
        await stage.run(attempt)
    (line,) = lines
    return dict(line)


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        (None, "done"),
        (ApplicationError(PERSON, type="neighbour_unavailable"), "neighbour_unavailable"),
        (ValueError(PERSON), "unexpected"),
        (asyncio.CancelledError(), "interrupted"),
    ],
)
async def test_each_attempt_at_a_step_is_one_line_that_names_its_order_and_no_person(
    ends: BaseException | None, outcome: str
) -> None:
    line = await told_of(ends)
    assert line.pop("ms") >= 0
    assert line == {
        "event": "step_ended",
        "log_level": "info",
        "order_id": "web:1001",
        "workflow_id": "shipment:web:1001:2",
        "actor": "orderwright",
        "step": "request_pick",
        "attempt": 3,
        "trace_id": None,
        "outcome": outcome,
    }


STEP = {"step": "request_pick"}


@pytest.mark.parametrize(
    ("ends", "counted"),
    [
        (None, [(DONE_ATTEMPTS, 1, STEP)]),
        (
            ApplicationError(PERSON, type="neighbour_unavailable"),
            [(FAILED_ATTEMPTS, 1, STEP | {"code": "neighbour_unavailable"}), (DONE_ATTEMPTS, 0, STEP)],
        ),
        (asyncio.CancelledError(), []),
    ],
)
async def test_each_attempt_is_counted_by_how_it_ended(
    ends: BaseException | None,
    counted: list[tuple[str, int, dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counters = Counters()
    monkeypatch.setattr(activity, "metric_meter", lambda: counters)
    await told_of(ends)
    assert counters.added == counted
