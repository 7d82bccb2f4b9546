"""Whether what we need answers: asked at most once a second, however many want to know."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from activities.store.store import Store
from apps.api.runs import Runs
from models.errors import OrderwrightError

FRESH_SECONDS = 1.0


class PartsHealth:
    """What each part says of itself: ``ok``, or a sentence. One check at a time, and its answer for all who ask.

    ``/readyz`` is open to everybody and on nobody's budget: whoever asks a thousand times a second is to cost the
    database and Temporal no more than one who asks once.
    """

    def __init__(self, store: Store, runs: Runs, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._runs = runs
        self._clock = clock
        self._check: asyncio.Task[dict[str, str]] | None = None
        self._checked_at = 0.0

    async def now(self) -> dict[str, str]:
        """What ``database`` and ``temporal`` say, at most a second ago or as soon as they have said it."""
        check = self._check
        if check is None or (check.done() and self._clock() - self._checked_at >= FRESH_SECONDS):
            check = self._check = asyncio.create_task(self._ask_all(), name="readiness")
        # A caller that goes away takes nobody else's answer along.
        return await asyncio.shield(check)

    async def _ask_all(self) -> dict[str, str]:
        try:
            database, temporal = await asyncio.gather(_ask(self._store.ping()), _ask(self._runs.check()))
        finally:
            self._checked_at = self._clock()
        return {"database": database, "temporal": temporal}


async def _ask(check: Awaitable[None]) -> str:
    try:
        await check
    except OrderwrightError as failed:
        return failed.message
    return "ok"
