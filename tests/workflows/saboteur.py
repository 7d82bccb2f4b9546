"""A real worker process that is made to go wrong at chosen moments: ``… DIR READY [WORKFLOW …]``.

It serves every queue with the real activities. ``DIR/plan.json`` says what befalls which step of which order; what has
befallen is marked by files in ``DIR``, so that whoever drives the test sees it, and a worker that takes over knows it.
A step is named with the workflow that runs it, ``order.notify`` or ``shipment.notify``.

A *moment* is ``before`` (the attempt has begun, nothing is done), ``during`` (the neighbour has done it and its answer
is in our hands, or our rows are written and not committed) or ``after`` (all is done, and Temporal does not know).
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity
from temporalio.client import Client
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.adapters import http
from activities.store.store import Store
from models.clock import BusinessClock
from workers import client, running
from workers import exit as process_exit
from workers.registry import PROFILES, QueueProfile
from workflows import case, steps

# Business deadlines are this long on a scaled clock: long enough for a busy machine, short enough to wait for.
_DEADLINE_FLOOR = timedelta(seconds=10)


class Moment(StrEnum):
    """When, within one attempt at a step."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


class Trouble(StrEnum):
    """What befalls a step.

    FAIL: it fails for good, once. LOSE: one attempt does everything, and every answer is lost. TWICE: every
    attempt is carried out twice. The others hold each attempt at a moment until the driver lets it go (or kills us).
    """

    FAIL = "fail"
    LOSE = "lose"
    TWICE = "twice"
    HOLD_BEFORE = "hold_before"
    HOLD_DURING = "hold_during"
    HOLD_AFTER = "hold_after"


_MOMENT = {
    Trouble.HOLD_BEFORE: Moment.BEFORE,
    Trouble.HOLD_DURING: Moment.DURING,
    Trouble.HOLD_AFTER: Moment.AFTER,
}
# Their effect is at a neighbour; that of all others is in our own database.
AT_A_NEIGHBOUR = frozenset(
    step.name
    for step in (
        steps.AUTHORISE_PAYMENT,
        steps.VOID_AUTHORISATION,
        steps.CAPTURE_PAYMENT,
        steps.REFUND_PAYMENT,
        steps.REQUEST_PICK,
        steps.CHECK_PICK,
        steps.CANCEL_PICK,
        steps.BUY_LABEL,
        steps.TRACK_PARCEL,
        steps.INTERCEPT_PARCEL,
        steps.VOID_LABEL,
        steps.NOTIFY,
    )
)
# What a look sees may change between two looks.
_LOOKS = frozenset({steps.CHECK_PICK.name, steps.TRACK_PARCEL.name})


def acts_at_a_neighbour(step: str) -> bool:
    """Whether the effect of ``order.…`` or ``shipment.…`` is at a neighbour."""
    return step.partition(".")[2] in AT_A_NEIGHBOUR


def mark(folder: Path, sign: str, order_id: str, step: str) -> Path:
    """The file that says ``sign`` of a step of an order."""
    return folder / f"{sign}.{order_id.replace(':', '_')}.{step}"


class Plan:
    """What befalls whom: ``{order id: {step: trouble}}``, read anew whenever the file changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamp = -1
        self._plan: Mapping[str, Mapping[str, str]] = {}

    def here(self) -> tuple[str, str, Trouble] | None:
        """The order, the step and what befalls it, for the attempt that is running in this task."""
        try:
            info = activity.info()
        except RuntimeError:
            return None
        file = self.folder / "plan.json"
        stamp = file.stat().st_mtime_ns
        if stamp != self._stamp:
            self._plan, self._stamp = json.loads(file.read_text()), stamp
        workflow, *order = (info.workflow_id or "").split(":")[:3]
        order_id, step = ":".join(order), f"{workflow}.{info.activity_type}"
        trouble = self._plan.get(order_id, {}).get(step)
        return None if trouble is None else (order_id, step, Trouble(trouble))

    async def come_to(self, moment: Moment) -> None:
        """Stay here if the plan says so, until the driver lets go."""
        here = self.here()
        if here is None or _MOMENT.get(here[2]) is not moment:
            return
        order_id, step, _ = here
        let_go = mark(self.folder, "let_go", order_id, step)
        if not let_go.exists():
            mark(self.folder, "struck", order_id, step).touch()
        while not let_go.exists():  # noqa: ASYNC110 - the driver is another process
            await asyncio.sleep(0.05)

    def loses_answers(self) -> bool:
        """Whether the answers of this attempt get lost."""
        here = self.here()
        if here is None or here[2] is not Trouble.LOSE:
            return False
        struck, attempt = mark(self.folder, "struck", here[0], here[1]), str(activity.info().attempt)
        if not struck.exists():
            struck.write_text(attempt)
        return struck.read_text() == attempt


class Sabotage(ClientInterceptor, Interceptor):
    """Carries the plan out around every activity."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Saboteur(next, self.plan)


class _Saboteur(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, plan: Plan) -> None:
        super().__init__(following)
        self._plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        # A killed process is missed after seconds. But as without heart beats, an attempt is never torn down by them.
        attempt = asyncio.ensure_future(self._attempt(input))
        beats = asyncio.ensure_future(_beat())
        try:
            while not attempt.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(asyncio.wait([attempt]))
        finally:
            beats.cancel()
        return attempt.result()

    async def _attempt(self, work: ExecuteActivityInput) -> Any:
        here = self._plan.here()
        if here is not None and here[2] is Trouble.FAIL:
            order_id, step, _ = here
            struck = mark(self._plan.folder, "struck", order_id, step)
            if not struck.exists():
                struck.touch()
                raise ApplicationError("made to fail for good", type="sabotage", non_retryable=True)
        await self._plan.come_to(Moment.BEFORE)
        answer = await super().execute_activity(work)
        if here is not None and here[2] is Trouble.TWICE:
            await self._again(work, answer, here)
        if here is not None and not acts_at_a_neighbour(here[1]) and self._plan.loses_answers():
            raise ApplicationError("made to lose its answer", type="sabotage")
        await self._plan.come_to(Moment.AFTER)
        return answer

    async def _again(self, work: ExecuteActivityInput, answer: Any, here: tuple[str, str, Trouble]) -> None:
        order_id, step, _ = here
        if await super().execute_activity(work) != answer and step.partition(".")[2] not in _LOOKS:
            mark(self._plan.folder, "differs", order_id, step).touch()
        mark(self._plan.folder, "struck", order_id, step).touch()


async def _beat() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(1)


def sabotage(plan: Plan) -> None:
    """Hook the plan into this process: around activities, exchanges with neighbours and commits."""
    exchange, transaction = httpx.AsyncClient.request, Store.transaction

    async def connect_with_sabotage(*arguments: Any, **options: Any) -> Client:
        config = (await client.connect(*arguments, **options)).config()
        config["interceptors"] = [*config["interceptors"], Sabotage(plan)]
        return Client(**config)

    async def exchange_with_sabotage(self: httpx.AsyncClient, *arguments: Any, **options: Any) -> Any:
        response = await exchange(self, *arguments, **options)
        here = plan.here()
        if here is not None and acts_at_a_neighbour(here[1]):
            if plan.loses_answers():
                raise httpx.ReadTimeout("made to lose its answer")
            await plan.come_to(Moment.DURING)
        return response

    @asynccontextmanager
    async def transaction_with_sabotage(self: Store) -> AsyncIterator[AsyncSession]:
        async with transaction(self) as session:
            yield session
            await session.flush()
            here = plan.here()
            if here is not None and not acts_at_a_neighbour(here[1]):
                await plan.come_to(Moment.DURING)

    running.__dict__["connect"] = connect_with_sabotage
    httpx.AsyncClient.request = exchange_with_sabotage  # type: ignore[method-assign]
    Store.transaction = transaction_with_sabotage  # type: ignore[method-assign]


def hurry() -> None:
    """Let nothing in this process take longer than a test can wait, and nothing held be given up."""
    for step in steps.ALL_STEPS:
        object.__setattr__(step, "start_to_close", timedelta(minutes=10))
        object.__setattr__(step, "schedule_to_close", None)
        object.__setattr__(step, "heartbeat", timedelta(seconds=8))
        object.__setattr__(step.retry, "maximum_interval", timedelta(seconds=2))
    http.WHOLE_EXCHANGE_SECONDS = 600.0
    case._FLUSH_AGAIN_AFTER = timedelta(seconds=1)
    BusinessClock.wall_delay.__defaults__ = (_DEADLINE_FLOOR,)
    for queue in PROFILES:
        PROFILES[queue] = QueueProfile(concurrent_activities=200)


def main() -> int:
    """Serve until killed."""
    folder, ready, *instead = sys.argv[1:]
    hurry()
    if instead:
        running.__dict__["WORKFLOW_CLASSES"] = tuple(instead)
    sabotage(Plan(Path(folder)))
    asyncio.run(running.serve(steps.QUEUES, asyncio.Event(), Path(ready)))
    return 0


if __name__ == "__main__":
    process_exit.run(main)
