"""Accept order documents: written down first, started afterwards, the same document never twice."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.clock import ClockStart
from models.errors import NotFound
from models.identifiers import order_id as make_order_id
from models.identifiers import order_workflow_id
from models.order import CustomerType, OrderDraft
from models.states import OrderState
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


class Unstarted(Contract):
    """An accepted document whose workflow is not known to run: all that is needed to start it."""

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
    session: AsyncSession, draft: OrderDraft, *, source: str, clock: ClockStart | None = None
) -> Accepted:
    """Store a checked draft with its order in state RECEIVED, unless its id is known.

    Args:
        draft: has passed ``policies.intake``.
        source: who handed it over, e.g. ``api``, ``temporal``, ``import``; never a person's name.
        clock: how the order's business clock starts; default real time.
    """
    clock = clock or ClockStart()
    order_id = make_order_id(draft.channel, draft.external_id)
    document_hash = canonical_hash(draft)
    now = datetime.now(UTC)
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
    """Note that the order's workflow runs (or ran). Marking twice keeps the first time."""
    await session.execute(
        update(IntakeRow)
        .where(col(IntakeRow.order_id) == order_id, col(IntakeRow.state) == IntakeState.ACCEPTED)
        .values(state=IntakeState.STARTED, started_at=datetime.now(UTC))
    )


async def keep_customer_type(session: AsyncSession, order_id: str, customer_type: CustomerType) -> None:
    """Note how the order was classified."""
    await session.execute(
        update(OrderRow).where(col(OrderRow.order_id) == order_id).values(customer_type=customer_type)
    )


async def unstarted(session: AsyncSession, older_than: timedelta, limit: int = 100) -> list[Unstarted]:
    """Documents accepted longer than ``older_than`` ago and not started, oldest first: work for the sweeper."""
    rows = await session.scalars(
        select(IntakeRow)
        .where(
            col(IntakeRow.state) == IntakeState.ACCEPTED,
            col(IntakeRow.received_at) < datetime.now(UTC) - older_than,
        )
        .order_by(col(IntakeRow.received_at))
        .limit(limit)
    )
    return [
        Unstarted(
            order_id=row.order_id,
            workflow_id=order_workflow_id(row.order_id),
            document_hash=row.document_hash,
            clock=ClockStart(speed=row.speed, business_start=row.business_start),
            received_at=row.received_at,
        )
        for row in rows
    ]


class StoredDraft(Contract):
    """A document as it was accepted."""

    draft: OrderDraft
    document_hash: str


async def stored_draft(session: AsyncSession, order_id: str) -> StoredDraft:
    """The document of ``order_id``. Raises ``NotFound``."""
    row = await session.get(IntakeRow, order_id)
    if row is None:
        raise NotFound(f"no document is stored for order {order_id}")
    return StoredDraft(draft=OrderDraft.model_validate(row.document), document_hash=row.document_hash)


async def _open_order(session: AsyncSession, draft: OrderDraft, order_id: str, now: datetime) -> None:
    session.add(
        OrderRow(
            order_id=order_id,
            workflow_id=order_workflow_id(order_id),
            channel=draft.channel,
            external_id=draft.external_id,
            state=OrderState.RECEIVED,
            currency=draft.currency,
            total_minor=draft.totals.total_minor,
            goods_minor=draft.totals.lines_minor,
            line_count=len(draft.lines),
            unit_count=sum(line.quantity for line in draft.lines),
            ship_country=draft.ship_to.country,
            placed_at=draft.placed_at,
            created_at=now,
            updated_at=now,
        )
    )
    await session.flush()
    await session.execute(
        insert(OrderLineRow),
        [
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
        ],
    )
