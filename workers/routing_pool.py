"""Routing in processes of its own: what crashes or hangs there costs an order the best plan, and never its plan.

Each process routes one problem at a time, so it is known which problem broke it, and no other one pays for that. A
problem whose process ends is tried once more; one that is not answered in time is not, and its process is ended. What
is left without an answer is routed by the simple rule, in this process, and its plan says why.

OR-tools and numpy are loaded by the processes alone. They are started as programs, not forked: a fork of a process with
threads, such as the SDK's, may find a lock held that nobody will release. In hundreds of problems they do not grow, so
none is replaced for its age.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from temporalio.common import MetricMeter

from models.errors import NotReachable, OrderwrightError
from models.plan import Plan, Unfillable
from policies.routing.problem import RoutingProblem
from policies.routing.router import by_rule
from workers.embedded.children import describe_end
from workers.logging import get_logger
from workers.routing_child import FAILED, HEADER, PLAN, PROBLEM, READY
from workers.settings import REPOSITORY

log = get_logger(__name__)

EXACT = "policies.routing.exact:ExactRouter"
LOST_PROCESSES = "orderwright_routing_processes_lost"
SIMPLE_PLANS = "orderwright_routed_by_simple_rule"

# Far above what a problem takes: a policy gives the optimiser a second at most.
ANSWER_SECONDS = 5.0
# As long as a worker may take to become ready, less what else it does; loading takes seconds, on a busy machine many.
_READY_SECONDS = 150.0
# After the time is up: if this process itself stood still, the answer lies there unread.
_ONE_MORE_LOOK_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
# Whatever ended the first one may have had nothing to do with the problem.
_TRIES = 2


class RoutingPoolFailed(OrderwrightError):
    """A routing process does not start. The message says why, and what to do."""

    code = "routing_pool_failed"
    http_status = 503


@asynccontextmanager
async def routing_pool(
    processes: int,
    router: str = EXACT,
    *,
    answer_seconds: float = ANSWER_SECONDS,
    meter: MetricMeter = MetricMeter.noop,
) -> AsyncIterator["RoutingPool"]:
    """A pool of so many ``processes`` while inside, ready when it begins; none of them is left when it ends.

    ``router`` names ``module:Class`` of a ``Router`` with a method ``warm_up``.

    Raises:
        RoutingPoolFailed: a process does not become ready.
    """
    pool = RoutingPool(router, answer_seconds, meter)
    try:
        await pool.start(processes)
        yield pool
    finally:
        await pool.stop()


class RoutingPool:
    """See ``routing_pool``, which makes one."""

    def __init__(self, router: str, answer_seconds: float, meter: MetricMeter) -> None:
        self._router = router
        self._answer_seconds = answer_seconds
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._keepers: list[asyncio.Task[None]] = []
        self._children: set[_Child] = set()
        self._lost = meter.create_counter(
            LOST_PROCESSES, "Routing processes that ended by themselves or were ended for want of an answer"
        )
        self._simple = meter.create_counter(
            SIMPLE_PLANS, "Problems that a routing process did not answer, so that the simple rule did"
        )
        # Whoever watches sees a series grow only from its second value on: the first failure is to be one.
        for how in ("ended", "hung"):
            self._lost.add(0, {"how": how})
        for why in ("busy", "ended", "hung", "raised"):
            self._simple.add(0, {"why": why})

    async def route(self, problem: RoutingProblem, *, within: float) -> Plan | Unfillable:
        """The router's answer; the simple rule's where there is none ``within`` so many seconds, or it failed.

        Whoever is cancelled leaves his problem to be finished by the process that has it: nobody else's is lost.
        """
        job = _Job(problem.order_id, problem.model_dump_json().encode(), asyncio.Future())
        self._jobs.put_nowait(job)
        try:
            async with asyncio.timeout(within):
                return await job.answer
        except TimeoutError:
            # Tried or not: most of the time went by before a process was free.
            why, how = f"no process was free for it within {within:.3g} s", "busy"
        except _NoAnswerError as failed:
            why, how = failed.why, failed.how
        log.warning("routed by the simple rule", order_id=problem.order_id, why=why)
        self._simple.add(1, {"why": how})
        return await asyncio.to_thread(by_rule, problem, f"the optimiser failed ({why})")

    async def ping(self) -> None:
        """Raise ``NotReachable`` when no process is there to route."""
        if not self._children:
            raise NotReachable("no routing process runs: orders are routed by the simple rule")

    @property
    def pids(self) -> list[int]:
        """The processes that are ready, or route."""
        return [child.process.pid for child in self._children]

    async def start(self, processes: int) -> None:
        """Start so many processes together, and keep up as many from then on. Raises ``RoutingPoolFailed``."""
        starts = [asyncio.create_task(_start(self._router)) for _ in range(processes)]
        try:
            first = await asyncio.gather(*starts)
        except BaseException:
            for one in starts:
                one.cancel()
            for child in await asyncio.gather(*starts, return_exceptions=True):
                if isinstance(child, _Child):
                    await child.end()
            raise
        self._children.update(first)
        self._keepers = [asyncio.create_task(self._keep(child), name="routing") for child in first]

    async def stop(self) -> None:
        """End every process. They have nothing to lose: what is decided is kept by whoever asked."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        # One whose keeper had no turn yet.
        await asyncio.gather(*(child.end() for child in self._children))
        self._children.clear()
        while not self._jobs.empty():
            self._jobs.get_nowait().fail("the worker stops", "stopped")

    async def _keep(self, child: "_Child") -> None:
        """Have one process serve for ever: another one whenever it is lost."""
        while True:
            try:
                await self._serve(child)
            except Exception:
                log.exception("routing process given up, starting another")
            finally:
                self._children.discard(child)
                await child.end()
            child = await self._another()
            self._children.add(child)

    async def _another(self) -> "_Child":
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await _start(self._router)
            except RoutingPoolFailed as failed:
                log.error(
                    "routing process could not be started again", why=failed.message, pause_seconds=pause
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _serve(self, child: "_Child") -> None:
        """Give the process one problem after the other, until it is lost."""
        while (job := await self._next_for(child)) is not None:
            try:
                there = await self._answered(child, job)
            except BaseException:
                job.fail("its process was given up", "stopped")
                raise
            if not there:
                return
        await self._told_lost(child, None)

    async def _next_for(self, child: "_Child") -> "_Job | None":
        """The next problem that somebody still waits for; None: the process ended before there was one."""
        while True:
            getting = asyncio.create_task(self._jobs.get())
            try:
                await asyncio.wait((getting, child.answering), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
            if not getting.done():
                return None
            job = getting.result()
            if child.answering.done():
                self._jobs.put_nowait(job)
                return None
            if not job.answer.done():
                return job

    async def _answered(self, child: "_Child", job: "_Job") -> bool:
        """Whether the process is still there after it was given ``job``, which then has its answer."""
        child.send(PROBLEM, job.problem)
        for seconds in (self._answer_seconds, _ONE_MORE_LOOK_SECONDS):
            await asyncio.wait((child.answering,), timeout=seconds)
        if not child.answering.done():
            child.process.kill()
            await self._told_lost(child, job, how="hung")
            job.fail(f"no answer within {self._answer_seconds:.3g} s", "hung")
            return False
        frame = child.answering.result()
        if frame is None:
            how = await self._told_lost(child, job)
            job.tries += 1
            if job.tries < _TRIES:
                # Behind the others: one that breaks processes is not to hold them up.
                self._jobs.put_nowait(job)
            else:
                job.fail(f"its process ended twice, by {how}", "ended")
            return False
        child.expect_another()
        job.take(*frame)
        return True

    async def _told_lost(self, child: "_Child", job: "_Job | None", how: str = "ended") -> str:
        ended = await child.end()
        log.warning(
            "routing process lost, starting another",
            pid=child.process.pid,
            how=how,
            ended=ended,
            order_id=None if job is None else job.order_id,
        )
        self._lost.add(1, {"how": how})
        return ended


class _NoAnswerError(Exception):
    def __init__(self, why: str, how: str) -> None:
        self.why, self.how = why, how
        super().__init__(why)


@dataclass(eq=False)
class _Job:
    """A problem somebody waits for the answer of; ``tries``: how many processes ended over it."""

    order_id: str
    problem: bytes
    answer: asyncio.Future[Plan | Unfillable]
    tries: int = 0

    def take(self, kind: bytes, payload: bytes) -> None:
        if kind == FAILED:
            self.fail(payload.decode(), "raised")
        elif not self.answer.done():
            self.answer.set_result((Plan if kind == PLAN else Unfillable).model_validate_json(payload))

    def fail(self, why: str, how: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(_NoAnswerError(why, how))


_Frame = tuple[bytes, bytes]


class _Child:
    """A process, and the frame that is to come from it: None once it is gone."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self.expect_another()

    def send(self, kind: bytes, payload: bytes) -> None:
        """Not waited for: a process that reads nothing answers nothing either, and that is noticed."""
        self._writer.write(HEADER.pack(kind, len(payload)) + payload)

    def expect_another(self) -> None:
        self.answering = asyncio.create_task(self._frame())

    async def end(self) -> str:
        """Kill it if it lives, and reap it; how it ended."""
        self.process.kill()
        self.answering.cancel()
        self._writer.close()
        await asyncio.to_thread(self.process.wait)
        return describe_end(self.process)

    async def _frame(self) -> _Frame | None:
        try:
            kind, length = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            return None


async def _start(router: str) -> _Child:
    """A process that is ready. Raises ``RoutingPoolFailed``."""
    began = time.monotonic()
    child = await _spawn(router)
    try:
        await asyncio.wait((child.answering,), timeout=_READY_SECONDS)
        frame = child.answering.result() if child.answering.done() else None
        if frame is None or frame[0] != READY:
            alive = not child.answering.done()
            ended = await child.end()
            why = f"it was not ready after {_READY_SECONDS:.0f} s" if alive else f"it ended ({ended})"
            if frame is not None:
                why = frame[1].decode()
            raise RoutingPoolFailed(
                f"a routing process does not start: {why}. Mend that, or have this worker route without processes of"
                " their own (ORDERWRIGHT_ROUTING_PROCESSES=0)"
            )
    except BaseException:
        await child.end()
        raise
    child.expect_another()
    log.info("routing process ready", pid=child.process.pid, seconds=round(time.monotonic() - began, 1))
    return child


async def _spawn(router: str) -> _Child:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", "workers.routing_child", str(theirs.fileno()), router],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd=REPOSITORY,
            )
        except OSError as refused:
            ours.close()
            raise RoutingPoolFailed(f"a routing process cannot be started: {refused}") from refused
    try:
        return _Child(process, *await asyncio.open_unix_connection(sock=ours))
    except BaseException:
        ours.close()
        process.kill()
        process.wait()
        raise
