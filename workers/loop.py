"""The event loop of a process that serves: uvloop where there is one, which does the same for less."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_serving(main: Coroutine[Any, Any, Result]) -> Result:
    """Like ``asyncio.run``."""
    with asyncio.Runner(loop_factory=_factory()) as runner:
        return runner.run(main)


def _factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    from uvloop import new_event_loop  # noqa: PLC0415 - it is not to be had everywhere

    return new_event_loop
