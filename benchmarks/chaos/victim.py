"""The stack that everything happens to: ``orderwright up`` as its operator's service manager would run it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import BaseModel, TypeAdapter, ValidationError

from models.errors import OrderwrightError
from workers.embedded.children import log_tail
from workers.embedded.identity import ProcessIdentity, processes_with_open
from workers.embedded.ports import any_port
from workers.embedded.published import PublishedStack
from workers.settings import REPOSITORY

_UP_WITHIN = 300.0
_THERE_WITHIN = 120.0
_STOPS_WITHIN = 120.0
_POLL_SECONDS = 0.1
# A service manager tries again. More often means that somebody has to look.
_STARTS = 3
_OWN_SETTINGS = ("ORDERWRIGHT_", "TEMPORAL_", "DATABASE_URL")


class StackDown(OrderwrightError):
    """The stack, or a process of it, does not come up (again)."""

    code = "stack_down"
    http_status = 503


class _Child(BaseModel):
    """What is written down about a child; see ``workers.embedded.children``."""

    name: str
    identity: ProcessIdentity


_CHILDREN = TypeAdapter(list[_Child])


class Victim:
    """A stack on ``data_dir`` under a supervisor of its own, whose processes are killed and frozen by name.

    Args:
        speed: business seconds per wall second.
        on_address: told where everything is, after each start.
    """

    def __init__(self, data_dir: Path, *, speed: float, on_address: Callable[[PublishedStack], None]) -> None:
        self._data_dir = data_dir
        self._speed = speed
        self._on_address = on_address
        self._port = any_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._published: PublishedStack | None = None
        self.failed_starts = 0

    @property
    def published(self) -> PublishedStack:
        """Where everything is. Raises ``StackDown`` before the first start."""
        if self._published is None:
            raise StackDown("the stack was not started yet")
        return self._published

    async def start(self) -> None:
        """Start the supervisor, and wait until everything serves. Raises ``StackDown``."""
        for left in reversed(range(_STARTS)):
            try:
                self._published = await self._start_once()
            except StackDown:
                self.failed_starts += 1
                if not left:
                    raise
            else:
                self._on_address(self._published)
                return

    async def kill(self, name: str) -> int:
        """Kill a process with SIGKILL as soon as it runs; answers its process id. Raises ``StackDown``."""
        while True:
            process = await self._there(name)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                return process.pid

    async def freeze(self, name: str, seconds: float) -> int:
        """Stop a process in its tracks and let it go on after so many seconds; answers its process id."""
        process = await self._there(name)
        process.suspend()
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        return process.pid

    async def kill_supervisor(self, pause: float) -> int:
        """Kill the supervisor alone, and start another on the same data after a pause; answers the first one's id."""
        process = self._process
        if process is None:
            raise StackDown("the stack was not started yet")
        process.kill()
        await asyncio.to_thread(process.wait)
        await asyncio.sleep(pause)
        await self.start()
        return process.pid

    def running(self) -> dict[str, psutil.Process]:
        """The children that live now."""
        try:
            children = _CHILDREN.validate_json((self._data_dir / "children.json").read_bytes())
        except (OSError, ValidationError):
            return {}
        found = {child.name: child.identity.process() for child in children}
        return {name: process for name, process in found.items() if process is not None}

    async def stop(self) -> tuple[int, ...]:
        """Ask the supervisor to stop everything, and kill whatever is left after that; answers what was left."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, _STOPS_WITHIN)
            if process.poll() is None:
                process.kill()
                await asyncio.to_thread(process.wait)
        return await asyncio.to_thread(self._kill_the_rest)

    def _kill_the_rest(self) -> tuple[int, ...]:
        # Every child has the lock's file open, whoever its parent is by now.
        left = processes_with_open(self._data_dir / "stack.lock")
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        return tuple(process.pid for process in left)

    async def _start_once(self) -> PublishedStack:
        log = self._log("supervisor")
        log.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "apps.cli", "up", "--json", "--data-dir", str(self._data_dir)]
        command += ["--port", str(self._port), "--speed", repr(self._speed)]
        with log.open("ab") as output:
            self._process = process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                command,
                cwd=REPOSITORY,
                env={name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                # A Ctrl-C at the terminal is for us: we stop it in our turn.
                start_new_session=True,
            )
        reading = asyncio.create_task(asyncio.to_thread(_first_line, process))
        try:
            line = await asyncio.wait_for(asyncio.shield(reading), _UP_WITHIN)
            return PublishedStack.model_validate_json(line)
        except (TimeoutError, ValidationError) as failed:
            process.kill()
            await asyncio.to_thread(process.wait)
            raise StackDown(f"the stack does not start.{log_tail(log)}") from failed
        except asyncio.CancelledError:
            process.send_signal(signal.SIGTERM)
            raise

    def _log(self, name: str) -> Path:
        return self._data_dir / "logs" / f"{name}.log"

    async def _there(self, name: str) -> psutil.Process:
        """The process ``name``: one that died a moment ago is waited for."""
        deadline = time.monotonic() + _THERE_WITHIN
        while (process := self.running().get(name)) is None:
            if self._process is not None and (code := self._process.poll()) is not None:
                raise StackDown(
                    f"the supervisor ended by itself ({code}).{log_tail(self._log('supervisor'))}"
                )
            if time.monotonic() > deadline:
                raise StackDown(
                    f"{name} did not come back within {_THERE_WITHIN:.0f} s.{log_tail(self._log(name))}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        return process


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    if process.stdout is None:
        raise AssertionError("started with a pipe")
    # Nothing else is ever written there.
    with process.stdout as said:
        line: bytes = said.readline()
    return line
