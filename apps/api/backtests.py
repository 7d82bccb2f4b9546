"""Back tests, one at a time: each has a core to itself for up to fifteen seconds, and holds hundreds of problems."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from apps.api.problems import BacktestRunning
from models.policy import BacktestReport


class Backtests:
    """Those of one application."""

    def __init__(self) -> None:
        self._running: asyncio.Task[BacktestReport] | None = None

    async def run(self, begin: Callable[[], Coroutine[Any, Any, BacktestReport]]) -> BacktestReport:
        """The report of what ``begin`` begins. Raises ``BacktestRunning`` while another one is not done."""
        if self._running is not None and not self._running.done():
            raise BacktestRunning("another back test is running, for some seconds: try again when it is done")
        self._running = asyncio.create_task(begin(), name="back test")
        # Whoever goes away leaves its thread at work: until that is done, it is running.
        return await asyncio.shield(self._running)
