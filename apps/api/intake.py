"""Taking an order in: commit the document, then start its run. In that order nothing accepted can be lost."""

import asyncio

from activities.store import reads
from activities.store.broken import clock_of
from activities.store.intake import (
    Acceptance,
    Accepted,
    accept_draft,
    hold_unmoved,
    mark_started,
    stored_draft,
)
from activities.store.store import Store
from apps.api.runs import Runs, RunStart
from models.clock import ClockStart
from models.errors import Conflict, OrderwrightError
from models.messages import CancelOrder
from models.money import Money
from models.order import OrderDraft
from models.states import OrderState
from policies.classification import classify
from policies.intake import check_document
from workers.logging import get_logger
from workers.telemetry import current_traceparent

SOURCE = "api"

# Checking a document of this size takes a few milliseconds; a larger one would hold up everybody else's requests.
_CHECK_IN_PLACE_BYTES = 32 * 1024

_log = get_logger(__name__)


async def check(raw: bytes) -> OrderDraft:
    """The draft in ``raw``. Raises ``InvalidDocument`` or ``DocumentTooLarge`` as ``policies.intake`` does."""
    if len(raw) <= _CHECK_IN_PLACE_BYTES:
        return check_document(raw)
    return await asyncio.to_thread(check_document, raw)


async def take_in(store: Store, runs: Runs, draft: OrderDraft, clock: ClockStart) -> Accepted:
    """Store a checked draft and start its run.

    Once stored the order is accepted, whatever becomes of the start: the sweeper makes up for it. Raises ``Conflict``
    when the id is taken by other content.
    """
    async with store.transaction() as session:
        accepted = await accept_draft(
            session, draft, source=SOURCE, clock=clock, traceparent=current_traceparent()
        )
    if accepted.acceptance is Acceptance.CONFLICT:
        raise Conflict(
            f"order {accepted.order_id} was already accepted with other content: an order number is used once"
        )
    if accepted.acceptance is Acceptance.NEW:
        try:
            await start_run(store, runs, run_start(draft, accepted.document_hash, clock, accepted.order_id))
        except OrderwrightError as not_started:
            _log.warning("start_left_to_sweeper", reason=not_started.message)
    return accepted


async def start_run(store: Store, runs: Runs, order: RunStart) -> None:
    """Start an accepted order's run and note that it was. Doing it twice is harmless; raises as ``Runs`` does."""
    if not await runs.start(order):
        await start_again(store, runs, order)
    async with store.transaction() as session:
        await mark_started(session, order.order_id)


async def call_off_unstarted(store: Store, runs: Runs, order_id: str, wish: CancelOrder) -> bool:
    """Start the run of an accepted order that no run has ever moved, with ``wish`` as the first that it hears.

    So nobody has to wait for the sweeper to be able to call an order off, and it does not ship meanwhile. False when a
    run has moved it. Raises as ``Runs`` does.
    """
    async with store.transaction() as session:
        if await hold_unmoved(session, order_id) is None:
            return False
        stored, clock = await stored_draft(session, order_id), await clock_of(session, order_id)
    order = run_start(stored.draft, stored.document_hash, clock, order_id)
    if not await runs.start(order, wish=wish) and not await start_again(store, runs, order, wish):
        return False
    async with store.transaction() as session:
        await mark_started(session, order_id)
    _log.info("run_started_to_be_called_off", order_id=order_id)
    return True


async def start_unstarted(store: Store, runs: Runs, order_id: str) -> None:
    """Start the run of an accepted order that no run has ever moved. Raises as ``Runs`` does."""
    async with store.transaction() as session:
        if await hold_unmoved(session, order_id) is None:
            return
        stored, clock = await stored_draft(session, order_id), await clock_of(session, order_id)
    await start_run(store, runs, run_start(stored.draft, stored.document_hash, clock, order_id))


async def start_again(store: Store, runs: Runs, order: RunStart, wish: CancelOrder | None = None) -> bool:
    """Start the run of an order whose id had one that ended (or is gone) without ever moving the order.

    Such a run was not the order's own: somebody else's, with an unusable or another document, or one that was
    terminated before its first step. False when a run has moved the order: then it is never run a second time.
    """
    # Held while it is started: otherwise a run started by another process could come to its end in between.
    async with store.transaction() as session:
        first_entry = await hold_unmoved(session, order.order_id)
        if first_entry is None:
            return False
        await runs.start(order.model_copy(update={"first_entry": first_entry}), again=True, wish=wish)
    _log.warning("run_started_again", order_id=order.order_id)
    return True


def run_start(
    draft: OrderDraft,
    document_hash: str,
    clock: ClockStart,
    order_id: str,
    *,
    traceparent: str | None = None,
) -> RunStart:
    """What starts the run of a stored draft. ``traceparent``: the trace that it belongs to, if not the current one."""
    customer_type, _ = classify(draft)
    return RunStart(
        order_id=order_id,
        document_hash=document_hash,
        channel=draft.channel,
        customer_type=customer_type,
        total=Money(minor=draft.totals.total_minor, currency=draft.currency),
        line_count=len(draft.lines),
        clock=clock,
        traceparent=traceparent,
    )


async def state_of(store: Store, accepted: Accepted) -> OrderState:
    """Where an accepted order stands."""
    if accepted.acceptance is Acceptance.NEW:
        return OrderState.RECEIVED
    async with store.transaction() as session:
        order = await reads.order(session, accepted.order_id)
    return order.state if order is not None else OrderState.RECEIVED
