"""Small builders for child processes and for waiting until something holds."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from workers.embedded.children import Child


async def until(holds: Callable[[], bool], *, within: float = 20.0, what: str = "the condition") -> None:
    """Wait until ``holds()``; fail after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, f"{what} did not come true within {within} s"
        await asyncio.sleep(0.02)


def a_child(data_dir: Path, name: str, program: str, **more: object) -> Child:
    """A Python child that runs ``program``; the data directory on its command line marks it as this test's."""
    return Child(
        name=name,
        argv=(sys.executable, "-c", program, str(data_dir)),
        log=data_dir / "logs" / f"{name}.log",
        **more,  # type: ignore[arg-type]
    )


SERVES_FOR_EVER = "import time; time.sleep(600)"
IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('set', flush=True); time.sleep(600)"
)
FAILS_AT_ONCE = "import sys; print('the port is taken'); sys.exit(3)"
