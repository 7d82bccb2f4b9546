"""The sweeper: sees to it that every accepted order has a run, so that nothing accepted is ever forgotten.

Every API process has one; what one takes up, the others leave alone. It starts what has no run because a process died
between the commit and the start, or because Temporal was down; it looks after open orders whose run is gone; and it
runs the invariant job, which puts before a person what has broken. It frees reservations that nobody will come for and
extends those of orders that go on. Beside that it forgets the receipts of webhooks that nobody will send again, and
events that everybody was told of, and tells runs of tenders that were given when they could not be told, and of units
that a warehouse does not hold.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from structlog.contextvars import bind_contextvars, bound_contextvars

from activities.store import allocating, expiring, lots, outbox, promises, reads, rerouting
from activities.store.arrived import arrivals
from activities.store.expiring import Expired, Fate
from activities.store.intake import Taken, give_back, is_open, stored_draft, take_started, take_unstarted
from activities.store.lost import told_of, untold_losses
from activities.store.receipts import forget_receipts
from activities.store.tenders import untold
from apps.api.broken_runs import ASTRAY
from apps.api.intake import run_start, start_again, start_run
from apps.api.invariants import GRACE as INVARIANT_GRACE
from apps.api.parts import Parts
from apps.api.runs import RunStart, Standing
from apps.api.tenders import tell_run
from models.errors import NotAwaited, NotReachable
from models.identifiers import order_workflow_id
from models.journal import SYSTEM
from workers.logging import get_logger

_BATCH = 100
# A request that is just being handled starts its own run; it is given this long.
GRACE = timedelta(seconds=5)
PAUSE = timedelta(seconds=2)
# A request that has just stored a tender tells of it itself: an update, then a signal.
TELL_AFTER = timedelta(seconds=15)
# A run that was started writes its first step within moments of a worker being there.
LOOK_AFTER = timedelta(minutes=1)
LOOK_PAUSE = timedelta(seconds=30)
TIDY_PAUSE = timedelta(minutes=10)
_TIDY_BATCH = 1_000
_SPREAD_BATCH = 500
_TOLD_KEPT = timedelta(days=30)
# How long a reservation of an order that goes on is good for, and when one is looked at again whose order is open but
# has no run: a person is asked about that, and what they decide may need the units.
EXTENDED_BY = timedelta(days=1)
PUT_OFF_BY = timedelta(hours=1)
# What broke before this was found then; every open order has its turn all the same.
_LATELY = timedelta(hours=1)

_log = get_logger(__name__)


class Sweeper:
    """Sweeps for one application.

    ``grace`` is the age from which a row without a run counts as forgotten, ``look_after`` the time after its start
    from which an open order is looked after, ``tell_after`` the age from which a tender that no run has taken is told.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        grace: timedelta = GRACE,
        pause: timedelta = PAUSE,
        look_after: timedelta = LOOK_AFTER,
        tell_after: timedelta = TELL_AFTER,
    ) -> None:
        self._parts = parts
        self._grace = grace
        self._pause = pause
        self._look_after = look_after
        self._tell_after = tell_after
        self._full = False
        self._looked_at: tuple[str, ...] = ()

    async def run(self) -> None:
        """Sweep and look for ever, until cancelled."""
        bind_contextvars(actor=SYSTEM)
        look_at = tidy_at = time.monotonic()
        while True:
            more = await self._guarded(self.sweep)
            if time.monotonic() >= look_at:
                looked_on = await self._guarded(self.look)
                await self._guarded(self.prove)
                await self._guarded(self.tell)
                await self._guarded(self.plan_anew)
                looked_on = await self._guarded(self.spread) or looked_on
                looked_on = await self._guarded(self.reroute) or looked_on
                await self._guarded(self.turn)
                await self._guarded(self.wake)
                looked_on = await self._guarded(self.expire) or looked_on
                if not looked_on:
                    look_at = time.monotonic() + LOOK_PAUSE.total_seconds()
            if time.monotonic() >= tidy_at and not await self._guarded(self.tidy):
                tidy_at = time.monotonic() + TIDY_PAUSE.total_seconds()
            if not more:
                await asyncio.sleep(self._pause.total_seconds())

    async def sweep(self) -> int:
        """Start what is left over, at most one batch; returns how many were started.

        Raises ``NotReachable`` when the database or Temporal does not answer.
        """
        async with self._parts.store.transaction() as session:
            taken = await take_unstarted(session, self._grace, _BATCH)
        return await self._each(taken, self._start)

    async def look(self) -> int:
        """Compare open orders with Temporal, at most one batch; returns how many had no run.

        One that no run has ever moved gets a new one. One that is further along is only reported: what its run had
        begun is for a person to judge. Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            taken = await take_started(session, self._look_after, _BATCH)
        self._looked_at = tuple(order.order_id for order in taken)
        return await self._each(taken, self._look)

    async def prove(self) -> int:
        """The invariant job on what was looked at, and on all that broke lately; returns how many runs are broken.

        It runs here and not as a Temporal Schedule: a workflow could not say that the workers or the namespace are
        gone. Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            unowned = [order.order_id for order in await reads.unowned_orders(session, INVARIANT_GRACE)]
        report = await self._parts.invariants.round(
            {*self._looked_at, *unowned}, since=datetime.now(UTC) - _LATELY
        )
        astray = sum(finding.trouble in ASTRAY for finding in report.findings)
        self._parts.metrics.broken_runs.set(len(report.findings) - astray)
        self._parts.metrics.parcels_astray.set(astray)
        self._parts.metrics.unserved_runs.set(len(report.unserved))
        if report.unserved:
            _log.error("runs_unserved", runs=len(report.unserved), such_as=report.unserved[0])
        return len(report.findings)

    async def tell(self) -> int:
        """Tell runs of tenders that they may not know of, at most one batch; returns how many were taken.

        Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            waiting = await untold(session, self._tell_after, _BATCH)
        taken = 0
        for offered in waiting:
            with bound_contextvars(order_id=offered.order_id, actor=SYSTEM):
                try:
                    await tell_run(self._parts, offered)
                except NotReachable:
                    raise
                except NotAwaited as refused:
                    _log.warning("tender_not_wanted", tender=offered.number, reason=refused.message)
                except Exception as fault:
                    _log.error("tender_not_told", tender=offered.number, error=type(fault).__name__)
                else:
                    taken += 1
        return taken

    async def plan_anew(self) -> int:
        """Tell runs that a warehouse does not hold what was reserved for them, at most one batch; returns how many.

        An order that has no run any more has nothing to plan. Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            losses = await untold_losses(session, _BATCH)
        for loss in losses:
            with bound_contextvars(order_id=loss.order_id, actor=SYSTEM):
                told = await self._parts.runs.tell(
                    order_workflow_id(loss.order_id), "stock_lost", loss.message
                )
                async with self._parts.store.transaction() as session:
                    await told_of(session, loss.released)
                _log.info("stock_lost_told", document_id=loss.document_id, told=told.name.lower())
        return len(losses)

    async def reroute(self) -> int:
        """Tell runs to plan anew for a notice, or by a plan that a person has set, at most one batch; returns how many.

        An order that has no run any more has nothing to plan. Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            waiting = await rerouting.untold(session, _BATCH)
        self._full = len(waiting) == _BATCH
        done: list[int] = []
        try:
            for one in waiting:
                with bound_contextvars(order_id=one.order_id, actor=one.message.actor):
                    try:
                        told = await self._parts.runs.tell(
                            order_workflow_id(one.order_id), "plan_again", one.message
                        )
                    except NotReachable:
                        raise
                    except Exception as fault:
                        # It is tried again behind the others: one that cannot be told holds up nobody.
                        _log.error("plan_again_not_told", error=type(fault).__name__)
                        async with self._parts.store.transaction() as session:
                            await rerouting.put_off(session, one.plan_again_id)
                        continue
                    done.append(one.plan_again_id)
                    _log.info("plan_again_told", event_id=one.message.event_id, told=told.name.lower())
        finally:
            async with self._parts.store.transaction() as session:
                await rerouting.told_of(session, done)
        return len(waiting)

    async def spread(self) -> int:
        """Find orders that a notice is about, at most one batch; returns how many were looked at.

        Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            looked_at = await rerouting.spread(session, _SPREAD_BATCH)
        self._full = looked_at is not None
        return looked_at or 0

    async def turn(self) -> int:
        """Tell subscribers what rules of allocation that began or ran out, and lots that expired, have made of
        availability; returns how many.

        Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            return await allocating.tell_of_time(session) + await lots.tell_of_time(session)

    async def wake(self) -> int:
        """Tell back-ordered orders that there is more of what they wait for, at most one batch; returns how many.

        Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            found = await arrivals(session, _BATCH)
        for arrival in found:
            with bound_contextvars(order_id=arrival.order_id, actor=SYSTEM):
                told = await self._parts.runs.tell(
                    order_workflow_id(arrival.order_id), "stock_arrived", arrival.message
                )
                _log.info("stock_arrived_told", movement_id=arrival.movement_id, told=told.name.lower())
        return len(found)

    async def expire(self) -> int:
        """Free reservations whose time is up and that nobody comes for, extend the others, at most one batch.

        Returns how many units became free. Raises ``NotReachable`` as above.
        """
        async with self._parts.store.transaction() as session:
            due = await expiring.take_expired(session, _BATCH)
        freed = 0
        for reservation in due:
            with bound_contextvars(order_id=reservation.order_id, actor=SYSTEM):
                freed += await self._expire(reservation)
        self._full = len(due) == _BATCH
        return freed

    async def tidy(self) -> int:
        """Forget old receipts, old events, promises that nobody took, and what the others were made of, which their
        orders' plans have: at most one batch of each; returns how many.

        Raises ``NotReachable`` as above.
        """
        settings = self._parts.settings
        async with self._parts.store.transaction() as session:
            receipts = await forget_receipts(
                session, timedelta(days=settings.webhook_receipt_days), _TIDY_BATCH
            )
        async with self._parts.store.transaction() as session:
            events = await outbox.forget(session, timedelta(days=settings.outbox_days), _TIDY_BATCH)
        async with self._parts.store.transaction() as session:
            untaken = await promises.drop_untaken(session, _TIDY_BATCH)
        async with self._parts.store.transaction() as session:
            problems = await promises.drop_problems(session, _TIDY_BATCH)
        async with self._parts.store.transaction() as session:
            told = await rerouting.forget(session, _TOLD_KEPT, _TIDY_BATCH)
        self._full = _TIDY_BATCH in (receipts, events, untaken, problems, told)
        return receipts + events + untaken + problems + told

    async def _expire(self, due: Expired) -> int:
        now = datetime.now(UTC)
        freed, until, outcome = 0, None, "spent"
        if due.fate is Fate.ASK:
            # Whatever Temporal does not answer for is asked again when it is taken up the next time.
            run = await self._parts.runs.view(order_workflow_id(due.order_id))
            alive = run.standing in (Standing.RUNNING, Standing.HANGS)
            until, outcome = now + (EXTENDED_BY if alive else PUT_OFF_BY), "extended" if alive else "put_off"
        async with self._parts.store.transaction() as session:
            if due.fate is Fate.STRAY:
                freed = await expiring.free(session, due)
                # What it holds for other shipments, or for an order that has gone on meanwhile, is looked at next time.
                until, outcome = now + PUT_OFF_BY, "freed" if freed else "put_off"
            await expiring.extend(session, due.key, until)
        self._parts.metrics.expired.labels(outcome).inc()
        if freed:
            self._parts.metrics.strays.inc(freed)
            _log.warning("reservation_freed", reservation=due.key, units=freed, order_state=due.order_state)
        elif outcome == "put_off":
            _log.warning("reservation_expired_without_run", reservation=due.key)
        return freed

    async def _guarded(self, work: Callable[[], Awaitable[int]]) -> bool:
        """Do one batch of ``work``; whether it was a full one, so that there may be more to do at once."""
        self._full = False
        try:
            await work()
        except NotReachable as unreachable:
            _log.warning("sweep_put_off", reason=unreachable.message)
        except Exception as fault:
            # A sweeper that died quietly would be missed only when an order is.
            _log.error("sweep_failed", error=type(fault).__name__)
        else:
            return self._full
        return False

    async def _each(self, taken: Sequence[Taken], work: Callable[[Taken], Awaitable[bool]]) -> int:
        done, self._full = 0, len(taken) == _BATCH
        for index, order in enumerate(taken):
            with bound_contextvars(order_id=order.order_id, workflow_id=order.workflow_id, actor=SYSTEM):
                try:
                    done += await work(order)
                except NotReachable:
                    async with self._parts.store.transaction() as session:
                        await give_back(session, taken[index:])
                    raise
                except Exception as fault:
                    # One order that cannot be started must not keep the others from it; the text may quote a
                    # document.
                    _log.error("run_not_started", error=type(fault).__name__)
        return done

    async def _start(self, order: Taken) -> bool:
        await start_run(self._parts.store, self._parts.runs, await self._run_start(order))
        self._note_start(order)
        return True

    async def _look(self, order: Taken) -> bool:
        store, runs = self._parts.store, self._parts.runs
        if await runs.is_running(order.workflow_id):
            return False
        if await start_again(store, runs, await self._run_start(order)):
            self._note_start(order)
            return True
        # It may have come to its end between the two looks.
        async with store.transaction() as session:
            lost = await is_open(session, order.order_id)
        if lost:
            _log.error("order_has_no_run")
            self._parts.metrics.without_run.inc()
        return lost

    async def _run_start(self, order: Taken) -> RunStart:
        async with self._parts.store.transaction() as session:
            stored = await stored_draft(session, order.order_id)
        return run_start(
            stored.draft,
            order.document_hash,
            order.clock,
            order.order_id,
            traceparent=stored.traceparent,
        )

    def _note_start(self, order: Taken) -> None:
        self._parts.metrics.swept.inc()
        _log.info("run_started_by_sweeper", accepted_at=order.received_at.isoformat())
