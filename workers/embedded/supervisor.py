"""Keeps child processes alive: starts them, restarts what dies with a growing pause, ends them in order."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from workers.embedded import children
from workers.embedded.children import Child, ChildRecords
from workers.logging import get_logger

_POLL_SECONDS = 0.05
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
# A child that served this long before it died starts again with the shortest pause.
_STEADY_SECONDS = 30.0

log = get_logger(__name__)


@dataclass
class _Supervised:
    child: Child
    process: subprocess.Popen[bytes]
    started: float
    pause: float = _FIRST_PAUSE_SECONDS
    restart_at: float | None = None
    restarts: int = 0
    watched: bool = False


class Supervisor:
    """Owns a set of children on one event loop.

    ``records`` is where they are written down for the next start, ``lock_fd`` the lock that they inherit.
    """

    def __init__(self, *, records: ChildRecords | None = None, lock_fd: int | None = None) -> None:
        self._records = records
        self._lock_fd = lock_fd
        self._supervised: dict[str, _Supervised] = {}
        self._watching: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    async def start(self, child: Child) -> None:
        """Start ``child``, wait until it is ready, and keep it alive from then on.

        Raises:
            ChildFailed: it ended first, or took longer than its ``ready_within``. It is not left running.
        """
        children.rotate_log(child.log)
        supervised = _Supervised(child, self._spawn(child), time.monotonic())
        self._supervised[child.name] = supervised
        deadline = supervised.started + child.ready_within
        pauses = children.poll_pauses()
        try:
            while not await _is_ready(child):
                children.check_starting(child, supervised.process, deadline)
                await asyncio.sleep(next(pauses))
        except children.ChildFailed:
            await self.stop([child.name])
            raise
        supervised.watched = True
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="supervisor")

    async def stop(self, names: Iterable[str]) -> None:
        """End the named children together: each is asked, given its grace, then killed. Unknown names are ignored."""
        ending = [self._supervised.pop(name) for name in names if name in self._supervised]
        await asyncio.gather(*(self._end(supervised) for supervised in ending))
        if self._records and ending:
            self._records.remove(supervised.child.name for supervised in ending)
        if not self._supervised and self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    async def stop_all(self) -> None:
        """End whatever still runs, last started first."""
        for name in reversed(list(self._supervised)):
            await self.stop([name])

    def hurry(self) -> None:
        """Stop being patient: everything that is being ended is killed at once."""
        self._hurry.set()

    def pids(self) -> dict[str, int]:
        """The process id of each child, as of now."""
        return {name: supervised.process.pid for name, supervised in self._supervised.items()}

    def restarts(self) -> dict[str, int]:
        """How often each child was started again."""
        return {name: supervised.restarts for name, supervised in self._supervised.items()}

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        process = children.spawn(child, lock_fd=self._lock_fd)
        if self._records:
            self._records.add(child, process.pid)
        return process

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            for supervised in list(self._supervised.values()):
                if supervised.watched:
                    self._revive(supervised)

    def _revive(self, supervised: _Supervised) -> None:
        """Notice a death, and once its pause is over start the child again."""
        now = time.monotonic()
        if supervised.restart_at is None:
            if supervised.process.poll() is None:
                return
            if now - supervised.started > _STEADY_SECONDS:
                supervised.pause = _FIRST_PAUSE_SECONDS
            supervised.restart_at = now + supervised.pause
            log.warning(
                "child ended, starting it again",
                child=supervised.child.name,
                how=children.describe_end(supervised.process),
                pause_seconds=supervised.pause,
                log=str(supervised.child.log),
            )
        elif now >= supervised.restart_at:
            supervised.restart_at = None
            supervised.started = now
            supervised.restarts += 1
            supervised.pause = min(supervised.pause * 2, _LONGEST_PAUSE_SECONDS)
            try:
                supervised.process = self._spawn(supervised.child)
            except (children.ChildFailed, OSError) as refused:
                supervised.restart_at = now + supervised.pause
                log.error("child could not be started again", child=supervised.child.name, why=str(refused))

    async def _end(self, supervised: _Supervised) -> None:
        process, child = supervised.process, supervised.child
        deadline = time.monotonic() + child.grace
        if process.poll() is None:
            process.send_signal(child.stop_signal)
        while process.poll() is None:
            if self._hurry.is_set() or time.monotonic() > deadline:
                children.kill_group(process.pid)
            await asyncio.sleep(_POLL_SECONDS)


async def _is_ready(child: Child) -> bool:
    return child.ready is None or await asyncio.to_thread(child.ready)
