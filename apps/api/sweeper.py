"""The sweeper: starts the run of every accepted order that has none, so that nothing accepted is ever forgotten.

Every API process has one and one of them sweeps at a time. A row has no run when a process died between the commit and
the start, or when Temporal was down.
"""

import asyncio
from datetime import timedelta

from sqlalchemy import text

from activities.store.intake import Unstarted, stored_draft, unstarted
from apps.api.intake import run_start, start_run
from apps.api.parts import Parts
from models.errors import NotReachable
from workers.logging import get_logger

# Any number of our own; whoever holds it sweeps. Another one than that of the migrations.
LOCK = 0x0DE15EE9
_BATCH = 100
# A request that is just being handled starts its own run; it is given this long.
GRACE = timedelta(seconds=5)
PAUSE = timedelta(seconds=2)

_log = get_logger(__name__)


class Sweeper:
    """Sweeps for one application. ``grace`` is the age from which a row without a run counts as forgotten."""

    def __init__(self, parts: Parts, *, grace: timedelta = GRACE, pause: timedelta = PAUSE) -> None:
        self._parts = parts
        self._grace = grace
        self._pause = pause

    async def run(self) -> None:
        """Sweep for ever, until cancelled."""
        while True:
            try:
                started = await self.sweep()
            except NotReachable as unreachable:
                _log.warning("sweep_put_off", reason=unreachable.message)
                started = 0
            except Exception as fault:
                # A sweeper that died quietly would be missed only when an order is.
                _log.error("sweep_failed", error=type(fault).__name__)
                started = 0
            if started < _BATCH:
                await asyncio.sleep(self._pause.total_seconds())

    async def sweep(self) -> int:
        """Start what is left over, at most one batch; returns how many were started. Zero while another one sweeps.

        Raises ``NotReachable`` when the database or Temporal does not answer.
        """
        started = 0
        # The lock ends with its transaction, so a dead sweeper holds it no longer than its connection.
        async with self._parts.store.transaction() as locked:
            if not await locked.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}):
                return 0
            for order in await unstarted(locked, self._grace, _BATCH):
                started += await self._start(order)
        return started

    async def _start(self, order: Unstarted) -> bool:
        store, runs = self._parts.store, self._parts.runs
        log = _log.bind(order_id=order.order_id)
        try:
            async with store.transaction() as session:
                stored = await stored_draft(session, order.order_id)
            await start_run(
                store, runs, run_start(stored.draft, order.document_hash, order.clock, order.order_id)
            )
        except NotReachable:
            raise
        except Exception as fault:
            # One order that cannot be started must not keep the others from it; the text may quote its document.
            log.error("run_not_started", error=type(fault).__name__)
            return False
        self._parts.metrics.swept.inc()
        log.info("run_started_by_sweeper", accepted_at=order.received_at.isoformat())
        return True
