"""Accept order documents: written down first, started afterwards, the same document never twice."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col

from models.base import Contract
from models.clock import ClockStart
from models.errors import NotFound
from models.identifiers import order_id as make_order_id
from models.identifiers import order_workflow_id
from models.order import CustomerType, OrderDraft
from models.states import ORDER_TERMINAL, OrderState
from models.tables.amendments import AmendmentRow
from models.tables.journal import TimelineRow
from models.tables.orders import IntakeRow, IntakeState, OrderLineRow, OrderRow


class Acceptance(StrEnum):
    """What became of a document. CONFLICT: its id is taken by other content."""

    NEW = "new"
    SAME = "same"
    CONFLICT = "conflict"


class Accepted(Contract):
    """The answer of the intake: ``document_hash`` is that of the stored document, also in a conflict."""

    acceptance: Acceptance
    order_id: str
    workflow_id: str
    document_hash: str


class Taken(Contract):
    """An accepted document that the sweeper has taken up: all that is needed to start its run."""

    order_id: str
    workflow_id: str
    document_hash: str
    clock: ClockStart
    received_at: datetime


def canonical_hash(draft: OrderDraft) -> str:
    """SHA-256 (hex) of the draft's content: order of keys, white space and explicit defaults do not matter.

    Defaults are left out, so that a field added to the contract later does not change the hash of an old document.
    """
    content = draft.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


async def accept_draft(
    session: AsyncSession,
    draft: OrderDraft,
    *,
    source: str,
    clock: ClockStart | None = None,
    traceparent: str | None = None,
) -> Accepted:
    """Store a checked draft with its order in state RECEIVED, unless its id is known.

    Args:
        draft: has passed ``policies.intake``.
        source: who handed it over, e.g. ``api``, ``temporal``, ``import``; never a person's name.
        clock: how the order's business clock starts; default real time.
        traceparent: the trace that it comes with (W3C Trace Context), for who starts its run.
    """
    clock = clock or ClockStart()
    order_id = make_order_id(draft.channel, draft.external_id)
    document_hash = canonical_hash(draft)
    now = _now()
    stored = await session.scalar(
        insert(IntakeRow)
        .values(
            order_id=order_id,
            channel=draft.channel,
            external_id=draft.external_id,
            document_hash=document_hash,
            document=draft.model_dump(mode="json"),
            source=source,
            state=IntakeState.ACCEPTED,
            speed=clock.speed,
            business_start=clock.business_start,
            received_at=now,
            traceparent=traceparent,
        )
        .on_conflict_do_nothing(index_elements=["order_id"])
        .returning(col(IntakeRow.order_id))
    )
    acceptance = Acceptance.NEW
    if stored is None:
        # Waited for by the insert above, so it is committed and can be read.
        known = await session.scalar(
            select(col(IntakeRow.document_hash)).where(col(IntakeRow.order_id) == order_id)
        )
        acceptance = Acceptance.SAME if known == document_hash else Acceptance.CONFLICT
        document_hash = known or document_hash
    else:
        await _open_order(session, draft, order_id, now)
    return Accepted(
        acceptance=acceptance,
        order_id=order_id,
        workflow_id=order_workflow_id(order_id),
        document_hash=document_hash,
    )


async def mark_started(session: AsyncSession, order_id: str) -> None:
    """Note that the order's workflow was started. Marking twice keeps the first time."""
    await session.execute(
        update(IntakeRow)
        .where(col(IntakeRow.order_id) == order_id, col(IntakeRow.state) == IntakeState.ACCEPTED)
        .values(state=IntakeState.STARTED, started_at=_now(), tries=0, try_at=None)
    )


async def keep_customer_type(session: AsyncSession, order_id: str, customer_type: CustomerType) -> None:
    """Note how the order was classified."""
    await session.execute(
        update(OrderRow).where(col(OrderRow.order_id) == order_id).values(customer_type=customer_type)
    )


async def take_unstarted(session: AsyncSession, older_than: timedelta, limit: int = 100) -> list[Taken]:
    """Take up documents that were accepted longer than ``older_than`` ago and not started, the longest waiting first.

    What is taken up is not given out again for a while, twice as long each time: one process at a time works on it,
    one that dies does not keep it, and one order that cannot be started does not keep the others from it.
    """
    return await _take(
        session,
        select(IntakeRow)
        .where(
            col(IntakeRow.state) == IntakeState.ACCEPTED,
            col(IntakeRow.received_at) < _now() - older_than,
            func.coalesce(col(IntakeRow.try_at), col(IntakeRow.received_at)) <= _now(),
        )
        .order_by(func.coalesce(col(IntakeRow.try_at), col(IntakeRow.received_at)))
        .limit(limit),
    )


async def take_started(session: AsyncSession, older_than: timedelta, limit: int = 100) -> list[Taken]:
    """Take up open orders that were started longer than ``older_than`` ago, to see whether they still have a run."""
    return await _take(
        session,
        select(IntakeRow)
        .join(OrderRow, col(OrderRow.order_id) == col(IntakeRow.order_id))
        .where(
            col(OrderRow.state).in_(_OPEN),
            col(IntakeRow.started_at) < _now() - older_than,
            func.coalesce(col(IntakeRow.try_at), col(IntakeRow.started_at)) <= _now(),
        )
        .order_by(func.coalesce(col(IntakeRow.try_at), col(IntakeRow.started_at)))
        .limit(limit),
    )


async def give_back(session: AsyncSession, taken: Sequence[Taken]) -> None:
    """Let what was taken up be taken up again at once, behind whatever is waiting: it was not its own fault."""
    await session.execute(
        update(IntakeRow)
        .where(col(IntakeRow.order_id).in_([order.order_id for order in taken]))
        .values(tries=func.greatest(col(IntakeRow.tries) - 1, 0), try_at=_now())
    )


async def hold_unmoved(session: AsyncSession, order_id: str) -> int | None:
    """The number of the next timeline entry of an order that no run has ever moved; None when one has.

    Until the session's transaction ends, no run can move the order either: a run writes its order before it ends.
    """
    # Document before order, as everybody does who locks both.
    await session.execute(
        select(col(IntakeRow.order_id)).where(col(IntakeRow.order_id) == order_id).with_for_update()
    )
    version = await session.scalar(
        select(col(OrderRow.version))
        .where(col(OrderRow.order_id) == order_id, col(OrderRow.state) == OrderState.RECEIVED)
        .with_for_update()
    )
    if version != 0:
        return None
    # A run that came with another document may have left entries; ids of entries are never used again.
    written = await session.scalars(
        select(col(TimelineRow.entry_id)).where(
            col(TimelineRow.order_id) == order_id, col(TimelineRow.shipment_id).is_(None)
        )
    )
    numbers = (entry_id.rpartition("/")[2] for entry_id in written)
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


async def is_open(session: AsyncSession, order_id: str) -> bool:
    """Whether the order is known and has not ended."""
    state = await session.scalar(select(col(OrderRow.state)).where(col(OrderRow.order_id) == order_id))
    return state in _OPEN


async def runs_elsewhere(session: AsyncSession, order_id: str, first_run_id: str | None) -> bool:
    """Whether another run than this one has moved the order."""
    owner = await session.scalar(
        select(col(OrderRow.first_run_id)).where(col(OrderRow.order_id) == order_id).with_for_update()
    )
    return owner is not None and owner != first_run_id


class StoredDraft(Contract):
    """A document with its version (1: as it was accepted), and the trace that the order came with."""

    draft: OrderDraft
    document_hash: str
    traceparent: str | None
    version: int = 1


async def stored_draft(session: AsyncSession, order_id: str, version: int | None = None) -> StoredDraft:
    """The document of ``order_id`` that is in force, or one of its versions. Raises ``NotFound``."""
    wanted = col(OrderRow.document_version) if version is None else version
    row = (
        await session.execute(
            select(
                col(IntakeRow.document),
                col(IntakeRow.document_hash),
                col(IntakeRow.traceparent),
                col(OrderRow.document_version),
                col(AmendmentRow.document).label("amended"),
                col(AmendmentRow.document_hash).label("amended_hash"),
            )
            .join(OrderRow, col(OrderRow.order_id) == col(IntakeRow.order_id))
            .outerjoin(
                AmendmentRow,
                and_(
                    col(AmendmentRow.order_id) == col(IntakeRow.order_id),
                    col(AmendmentRow.number) == wanted,
                ),
            )
            .where(col(IntakeRow.order_id) == order_id)
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"no document is stored for order {order_id}")
    found = row.document_version if version is None else version
    if found != 1 and row.amended is None:
        raise NotFound(f"order {order_id} has no document of version {found}")
    return StoredDraft(
        draft=OrderDraft.model_validate(row.document if found == 1 else row.amended),
        document_hash=row.document_hash if found == 1 else row.amended_hash,
        traceparent=row.traceparent,
        version=found,
    )


def line_rows(order_id: str, draft: OrderDraft) -> list[dict[str, Any]]:
    """The rows of ``order_lines`` that ``draft`` has."""
    return [
        {
            "order_id": order_id,
            "line_id": line.line_id,
            "position": position,
            "sku": line.sku,
            "description": line.description,
            "quantity": line.quantity,
            "unit_price_minor": line.unit_price_minor,
        }
        for position, line in enumerate(draft.lines, start=1)
    ]


def document_facts(draft: OrderDraft) -> dict[str, Any]:
    """What the order's row repeats of its document, and an amendment may change."""
    return {
        "total_minor": draft.totals.total_minor,
        "goods_minor": draft.totals.lines_minor,
        "line_count": len(draft.lines),
        "unit_count": sum(line.quantity for line in draft.lines),
        "ship_country": draft.ship_to.country,
        "min_shelf_life_days": draft.min_shelf_life_days,
    }


_OPEN = frozenset(OrderState) - ORDER_TERMINAL
_FIRST_PAUSE = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(minutes=30)


async def _take(session: AsyncSession, due: Select[IntakeRow]) -> list[Taken]:
    rows = await session.scalars(
        due.options(defer(IntakeRow.document)).with_for_update(skip_locked=True, of=IntakeRow)  # type: ignore[arg-type]
    )
    taken = []
    for row in rows:
        row.try_at = _now() + min(_FIRST_PAUSE * 2 ** min(row.tries, 10), _LONGEST_PAUSE)
        row.tries += 1
        taken.append(
            Taken(
                order_id=row.order_id,
                workflow_id=order_workflow_id(row.order_id),
                document_hash=row.document_hash,
                clock=ClockStart(speed=row.speed, business_start=row.business_start),
                received_at=row.received_at,
            )
        )
    return taken


def _now() -> datetime:
    return datetime.now(UTC)


async def _open_order(session: AsyncSession, draft: OrderDraft, order_id: str, now: datetime) -> None:
    session.add(
        OrderRow(
            order_id=order_id,
            workflow_id=order_workflow_id(order_id),
            channel=draft.channel,
            external_id=draft.external_id,
            state=OrderState.RECEIVED,
            currency=draft.currency,
            customer_tier=draft.customer_tier,
            placed_at=draft.placed_at,
            created_at=now,
            updated_at=now,
            **document_facts(draft),
        )
    )
    await session.flush()
    await session.execute(insert(OrderLineRow), line_rows(order_id, draft))
