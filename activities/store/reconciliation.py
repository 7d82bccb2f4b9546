"""Reads and writes of the reconciliation: both sides of each comparison, runs, and what became of differences."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import AwareDatetime
from sqlalchemy import (
    ColumnElement,
    Select,
    SQLColumnExpression,
    case,
    func,
    or_,
    select,
    text,
    true,
    tuple_,
    union,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import broken, lots, reads, stock, stock_books
from activities.store.operations import PaymentOperation, ShippingOperation
from activities.store.record import record
from models.base import Contract
from models.errors import Refused
from models.identifiers import order_of_shipment
from models.journal import SYSTEM, Carried, TimelineEntry
from models.ledger import HELD, TransactionKind
from models.money import Money
from models.operations import OperationState, PaymentKind, ShippingKind
from models.order import TenderKind
from models.reconciliation import (
    COMPARISONS,
    Area,
    Comparison,
    Difference,
    DifferenceKind,
    DifferenceState,
    LineState,
    Rule,
    RunState,
    Side,
    StatementLine,
    Tally,
)
from models.review import Flag, ReviewKind, ReviewTask, Verdict
from models.states import ORDER_TERMINAL, SHIPMENT_TERMINAL, OrderState, ReviewState, ShipmentState
from models.tables.ledger import LedgerEntryRow, LedgerTransactionRow
from models.tables.operations import PaymentOperationRow, ShippingOperationRow
from models.tables.orders import OrderRow, ShipmentRow
from models.tables.reconciliation import DifferenceRow, ReconciliationRunRow, StatementLineRow
from models.tables.stock import (
    ReservationRow,
    ReservedUnitsRow,
    StockLotRow,
    StockMovementRow,
    StockRow,
    UnitState,
)
from policies.reconciliation import (
    AllocationCounter,
    Counts,
    OrderStock,
    OurLabel,
    OurMovement,
    Posting,
    ReservedUnits,
    ShipmentStanding,
    StockStanding,
    fingerprint,
    remedies,
)

PAYMENT, CARRIER = "payment", "carrier"
# What a review task about a difference stands for, in place of a workflow.
SUBJECT_PREFIX = broken.DIFFERENCE_PREFIX
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
# A run looks back a day beyond the one before it: clocks differ, and a neighbour may book late.
_OVERLAP = timedelta(days=1)
_UNDER_WAY = (OrderState.RELEASED, OrderState.PARTIALLY_SHIPPED, OrderState.SHIPPED)
MAX_PAGE = 500


# --- runs ---
class RunView(Contract):
    """A run of the reconciliation. ``left_open``: differences of its area that waited for a person when it ended."""

    run_id: str
    area: Area
    state: RunState
    since: AwareDatetime
    started_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    checked: int = 0
    differing: int = 0
    under_way: int = 0
    healed: int = 0
    opened: int = 0
    gone: int = 0
    left_open: int = 0
    failure: str | None = None


async def begin(session: AsyncSession, *, run_id: str, area: Area, everything: bool) -> datetime:
    """Note that a run begins; answers from when on it looks. Beginning it again changes nothing."""
    last = None
    if not everything:
        last = await session.scalar(
            select(func.max(col(ReconciliationRunRow.started_at))).where(
                col(ReconciliationRunRow.area) == area, col(ReconciliationRunRow.state) == RunState.DONE
            )
        )
    await session.execute(
        insert(ReconciliationRunRow)
        .values(
            run_id=run_id,
            area=area,
            state=RunState.RUNNING,
            since=_EVER if last is None else last - _OVERLAP,
            started_at=datetime.now(UTC),
            **dict.fromkeys((*Tally.model_fields, "left_open"), 0),
        )
        .on_conflict_do_nothing(index_elements=["run_id"])
    )
    since = await session.scalar(
        select(col(ReconciliationRunRow.since)).where(col(ReconciliationRunRow.run_id) == run_id)
    )
    assert since is not None  # noqa: S101 - just written
    return since


async def finish(session: AsyncSession, *, run_id: str, area: Area, tally: Tally, failure: str | None) -> int:
    """Note how a run ended; answers how many differences of its area wait for a person."""
    comparisons = COMPARISONS[area]
    left_open = await session.scalar(
        select(func.count()).where(
            col(DifferenceRow.comparison).in_(comparisons), col(DifferenceRow.state) == DifferenceState.OPEN
        )
    )
    row = await session.get(ReconciliationRunRow, run_id, with_for_update=True, populate_existing=True)
    if row is None or row.state != RunState.RUNNING:
        return int(left_open or 0)
    # From what stands there: an attempt that died after it mended something had counted it for nobody.
    settled = await session.execute(
        select(col(DifferenceRow.rule), func.count())
        .where(
            col(DifferenceRow.comparison).in_(comparisons),
            col(DifferenceRow.state) == DifferenceState.HEALED,
            col(DifferenceRow.settled_at) >= row.started_at,
        )
        .group_by(col(DifferenceRow.rule))
    )
    by_rule = {rule: int(count) for rule, count in settled}
    opened = await session.scalar(
        select(func.count()).where(
            col(DifferenceRow.comparison).in_(comparisons),
            col(DifferenceRow.state) == DifferenceState.OPEN,
            col(DifferenceRow.opened_at) >= row.started_at,
        )
    )
    row.state = RunState.FAILED if failure else RunState.DONE
    row.ended_at = datetime.now(UTC)
    row.checked, row.under_way = tally.checked, tally.under_way
    row.gone = by_rule.pop(Rule.GONE, 0)
    row.healed = sum(by_rule.values())
    row.differing = max(tally.differing, row.healed)
    row.opened, row.left_open = int(opened or 0), int(left_open or 0)
    row.failure = failure
    return row.left_open


async def run(session: AsyncSession, run_id: str) -> RunView | None:
    """One run, or None while it has not begun."""
    row = await session.get(ReconciliationRunRow, run_id, populate_existing=True)
    return None if row is None else RunView.model_validate(row.model_dump())


async def last_runs(session: AsyncSession) -> dict[Area, RunView]:
    """The newest run of each area that got to its end, however it ended."""
    found: dict[Area, RunView] = {}
    for area in Area:
        row = await session.scalar(
            select(ReconciliationRunRow)
            .where(
                col(ReconciliationRunRow.area) == area, col(ReconciliationRunRow.state) != RunState.RUNNING
            )
            .order_by(col(ReconciliationRunRow.number).desc())
            .limit(1)
        )
        if row is not None:
            found[area] = RunView.model_validate(row.model_dump())
    return found


# --- statements ---
async def keep_lines(session: AsyncSession, source: str, lines: Sequence[StatementLine]) -> None:
    """Copy lines of a neighbour's statement; one that we have is brought up to date."""
    if not lines:
        return
    now = datetime.now(UTC)
    newest = {line.line_id: line for line in lines}
    rows = [
        {
            **line.model_dump(exclude={"amount", "held"}),
            "source": source,
            "amount_minor": None if line.amount is None else line.amount.minor,
            "currency": None if line.amount is None else line.amount.currency,
            "held_minor": None if line.held is None else line.held.minor,
            "read_at": now,
        }
        # One order for everybody: two runs that copy the same lines must not wait for each other.
        for _, line in sorted(newest.items())
    ]
    statement = insert(StatementLineRow)
    columns = [name for name in rows[0] if name not in ("source", "line_id")]
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["source", "line_id"],
            set_={name: statement.excluded[name] for name in columns},
            # Whoever read it later knows better.
            where=col(StatementLineRow.read_at) <= statement.excluded.read_at,
        ),
        rows,
    )


async def _lines(
    session: AsyncSession, source: str, subjects: Collection[str]
) -> dict[str, list[StatementLine]]:
    rows = await session.scalars(
        select(StatementLineRow)
        .where(col(StatementLineRow.source) == source, col(StatementLineRow.reference).in_(subjects))
        .order_by(col(StatementLineRow.at), col(StatementLineRow.line_id))
        .execution_options(populate_existing=True)
    )
    found: dict[str, list[StatementLine]] = defaultdict(list)
    for row in rows:
        found[row.reference].append(
            StatementLine(
                line_id=row.line_id,
                kind=row.kind,
                key=row.key,
                reference=row.reference,
                parent_id=row.parent_id,
                state=LineState(row.state),
                amount=_money(row.amount_minor, row.currency),
                held=_money(row.held_minor, row.currency),
                in_use=row.in_use,
                at=row.at,
                changed_at=row.changed_at,
            )
        )
    return found


# --- money ---
class MoneySides(Contract):
    """Both sides of an order's money, and where the order stands; ``order_state`` None: there is no such order.

    ``ours``: movements at the provider. ``own``: of gift cards, store credit and accounts, of which no provider has a
    statement. ``postings``: what the ledger has of all of them, and of whatever else was written for the order.
    """

    ours: tuple[OurMovement, ...] = ()
    own: tuple[OurMovement, ...] = ()
    postings: tuple[Posting, ...] = ()
    theirs: tuple[StatementLine, ...] = ()
    order_state: OrderState | None = None


async def money_subjects(session: AsyncSession, since: datetime, after: str, limit: int) -> list[str]:
    """The orders whose money moved since then in either side's books, that hold money there, or differed before."""
    payments, lines, ledger = PaymentOperationRow, StatementLineRow, LedgerTransactionRow
    return await _subjects(
        session,
        Comparison.MONEY,
        after,
        limit,
        (
            col(payments.order_id),
            or_(col(payments.intended_at) >= since, col(payments.answered_at) >= since),
        ),
        # Also what was written there by hand, and no movement stands behind.
        (
            col(ledger.order_id),  # type: ignore[arg-type]
            col(ledger.order_id).is_not(None) & (col(ledger.recorded_at) >= since),
        ),
        (col(lines.reference), (col(lines.source) == PAYMENT) & (col(lines.changed_at) >= since)),
        (col(lines.reference), (col(lines.source) == PAYMENT) & (col(lines.held_minor) > 0)),
    )


async def money_sides(session: AsyncSession, subjects: Collection[str]) -> dict[str, MoneySides]:
    """All sides of each, as of one moment: what is intended before it is asked for is there before their line of it."""
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    theirs = await _lines(session, PAYMENT, subjects)
    at_provider: dict[str, list[OurMovement]] = defaultdict(list)
    own: dict[str, list[OurMovement]] = defaultdict(list)
    rows = await session.scalars(
        select(PaymentOperationRow)
        .where(col(PaymentOperationRow.order_id).in_(subjects))
        .order_by(col(PaymentOperationRow.intended_at), col(PaymentOperationRow.key))
        .execution_options(populate_existing=True)
    )
    movements = rows.all()
    posted = await _posted(session, [row.key for row in movements if row.tender == TenderKind.CARD])
    for row in movements:
        of_card = row.tender == TenderKind.CARD
        (at_provider if of_card else own)[row.order_id].append(
            OurMovement(
                key=row.key,
                order_id=row.order_id,
                kind=PaymentKind(row.kind),
                state=OperationState(row.state),
                amount=Money(minor=row.amount_minor, currency=row.currency),
                provider_ref=row.provider_ref,
                parent=row.parent,
                posted=_posting(row, posted) if of_card else None,
                touched_at=row.answered_at or row.intended_at,
            )
        )
    postings = await _postings(session, subjects)
    states = await _states(session, subjects)
    return {
        subject: MoneySides(
            ours=tuple(at_provider[subject]),
            own=tuple(own[subject]),
            postings=tuple(postings.get(subject, ())),
            theirs=tuple(theirs[subject]),
            order_state=states.get(subject),
        )
        for subject in subjects
    }


async def _postings(session: AsyncSession, order_ids: Collection[str]) -> Mapping[str, Sequence[Posting]]:
    """What the ledger has for each order: of every transaction, what it moved under which hold."""
    wrote, entry = LedgerTransactionRow, LedgerEntryRow
    amount, on_hold = func.sum(col(entry.amount_minor)), col(entry.account) == HELD
    rows = await session.execute(
        select(
            col(wrote.order_id),
            col(wrote.id),
            col(wrote.kind),
            col(wrote.source),
            col(entry.tender),
            col(entry.currency),
            func.coalesce(amount.filter(on_hold), 0),
            func.coalesce(amount.filter(~on_hold), 0),
        )
        .outerjoin(entry, (col(entry.transaction_id) == col(wrote.id)) & col(entry.tender).is_not(None))
        .where(col(wrote.order_id).in_(order_ids))
        .group_by(col(wrote.id), col(entry.tender), col(entry.currency))
        .order_by(col(wrote.position), col(entry.tender), col(entry.currency))
    )
    found: dict[str, list[Posting]] = defaultdict(list)
    for order_id, transaction, kind, source, tender, currency, held, money in rows:
        found[str(order_id)].append(
            Posting(
                transaction=transaction,
                kind=TransactionKind(kind),
                source=source,
                tender=tender,
                currency=currency,
                held=int(held),
                money=int(money),
            )
        )
    return found


async def _posted(session: AsyncSession, keys: Collection[str]) -> dict[tuple[str, str, str], int]:
    """What the ledger has of each movement, by its key, kind and currency, in minor units."""
    amount, account = col(LedgerEntryRow.amount_minor), col(LedgerEntryRow.account)
    kind = col(LedgerTransactionRow.kind)
    rows = await session.execute(
        select(
            col(LedgerTransactionRow.id),
            kind,
            col(LedgerEntryRow.currency),
            func.coalesce(
                func.sum(
                    case(
                        ((kind == TransactionKind.AUTHORISE) & (account == HELD), amount),
                        ((kind == TransactionKind.CAPTURE) & (account != HELD) & (amount > 0), amount),
                        ((kind == TransactionKind.REFUND) & (account != HELD) & (amount < 0), -amount),
                        else_=0,
                    )
                ),
                0,
            ),
        )
        .join(LedgerEntryRow, col(LedgerEntryRow.transaction_id) == col(LedgerTransactionRow.id))
        .where(col(LedgerTransactionRow.id).in_(keys), col(LedgerEntryRow.tender).is_not(None))
        .group_by(col(LedgerTransactionRow.id), kind, col(LedgerEntryRow.currency))
    )
    return {(key, kind, currency): int(minor) for key, kind, currency, minor in rows}


def _posting(row: PaymentOperationRow, posted: Mapping[tuple[str, str, str], int]) -> Money | None:
    if row.state != OperationState.CONFIRMED or row.kind == PaymentKind.VOID:
        return None
    return Money(minor=posted.get((row.key, row.kind, row.currency), 0), currency=row.currency)


async def payment_operation(session: AsyncSession, key: str) -> PaymentOperation:
    """A movement of our books, as it was asked for. Raises ``Refused`` when it is not there."""
    row = await session.get(PaymentOperationRow, key, populate_existing=True)
    if row is None:
        raise Refused(f"our books have no movement of money under {key} any more")
    return PaymentOperation(
        key=row.key,
        order_id=row.order_id,
        shipment_id=row.shipment_id,
        kind=PaymentKind(row.kind),
        amount=Money(minor=row.amount_minor, currency=row.currency),
        parent=row.parent,
        cause=row.cause,
    )


async def shipping_operation(session: AsyncSession, key: str) -> ShippingOperation:
    """A label of our books, as it was asked for. Raises ``Refused`` when it is not there."""
    row = await session.get(ShippingOperationRow, key, populate_existing=True)
    if row is None or row.shipment_id is None:
        raise Refused(f"our books have no label under {key} any more")
    return ShippingOperation(
        key=row.key,
        order_id=row.order_id,
        shipment_id=row.shipment_id,
        kind=ShippingKind(row.kind),
        parent=row.parent,
    )


# --- labels ---
class LabelSides(Contract):
    """Both sides of a shipment's labels. ``order_id`` None: no order of ours goes by the shipment's name."""

    ours: tuple[OurLabel, ...] = ()
    theirs: tuple[StatementLine, ...] = ()
    shipment: ShipmentStanding | None = None
    order_id: str | None = None


async def label_subjects(session: AsyncSession, since: datetime, after: str, limit: int) -> list[str]:
    """The shipments that moved, or whose label did, since then in either side's books, or that differed before."""
    operations, lines, shipments = ShippingOperationRow, StatementLineRow, ShipmentRow
    of_label = col(operations.kind).in_((ShippingKind.LABEL, ShippingKind.VOID_LABEL))
    return await _subjects(
        session,
        Comparison.LABELS,
        after,
        limit,
        (
            col(operations.shipment_id),  # type: ignore[arg-type]
            of_label & or_(col(operations.intended_at) >= since, col(operations.answered_at) >= since),
        ),
        (col(lines.reference), (col(lines.source) == CARRIER) & (col(lines.changed_at) >= since)),
        (col(shipments.shipment_id), col(shipments.updated_at) >= since),
    )


async def label_sides(session: AsyncSession, subjects: Collection[str]) -> dict[str, LabelSides]:
    """Both sides of each; theirs before ours."""
    theirs = await _lines(session, CARRIER, subjects)
    ours: dict[str, list[OurLabel]] = defaultdict(list)
    rows = await session.scalars(
        select(ShippingOperationRow)
        .where(
            col(ShippingOperationRow.shipment_id).in_(subjects),
            col(ShippingOperationRow.kind) == ShippingKind.LABEL,
        )
        .order_by(col(ShippingOperationRow.intended_at), col(ShippingOperationRow.key))
        .execution_options(populate_existing=True)
    )
    for row in rows:
        cost = (row.answer or {}).get("cost")
        ours[str(row.shipment_id)].append(
            OurLabel(
                key=row.key,
                state=OperationState(row.state),
                provider_ref=row.provider_ref,
                cost=None if cost is None else Money.model_validate(cost),
                touched_at=row.answered_at or row.intended_at,
            )
        )
    orders = {subject: order for subject in subjects if (order := _order_of(subject)) is not None}
    known = await _states(session, orders.values())
    shipments = await _shipments(session, col(ShipmentRow.shipment_id).in_(subjects))
    standing = {one.shipment_id: one for some in shipments.values() for one in some}
    return {
        subject: LabelSides(
            ours=tuple(ours[subject]),
            theirs=tuple(theirs[subject]),
            shipment=standing.get(subject),
            order_id=order if (order := orders.get(subject)) in known else None,
        )
        for subject in subjects
    }


# --- reservations and stock ---
async def reservation_subjects(session: AsyncSession, since: datetime, after: str, limit: int) -> list[str]:
    """The orders for which units are held, those that are released and not delivered yet, and those closed since."""
    held = (
        select(col(ReservationRow.order_id))
        .join(ReservedUnitsRow, col(ReservedUnitsRow.key) == col(ReservationRow.key))
        .where(col(ReservedUnitsRow.state) == UnitState.HELD)
    )
    return await _subjects(
        session,
        Comparison.RESERVATIONS,
        after,
        limit,
        (col(ReservationRow.order_id), col(ReservationRow.order_id).in_(held)),
        (col(OrderRow.order_id), col(OrderRow.state).in_(_UNDER_WAY)),
        (
            col(OrderRow.order_id),
            (col(OrderRow.state) == OrderState.CLOSED) & (col(OrderRow.closed_at) >= since),
        ),
    )


async def order_stock(session: AsyncSession, order_ids: Collection[str]) -> dict[str, OrderStock]:
    """What each order has to do with stock, all of it as of one moment."""
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    states = await _states(session, order_ids)
    shipments = await _shipments(session, col(ShipmentRow.order_id).in_(order_ids))
    units: dict[str, list[ReservedUnits]] = defaultdict(list)
    rows = await session.execute(
        select(ReservedUnitsRow, col(ReservationRow.order_id))
        .join(ReservationRow, col(ReservationRow.key) == col(ReservedUnitsRow.key))
        .where(col(ReservationRow.order_id).in_(order_ids), col(ReservedUnitsRow.state) != UnitState.RELEASED)
        .order_by(col(ReservedUnitsRow.key), col(ReservedUnitsRow.shipment_id), col(ReservedUnitsRow.sku))
    )
    for row, order_id in rows:
        units[order_id].append(
            ReservedUnits(
                key=row.key,
                shipment_id=row.shipment_id,
                node=row.node,
                sku=row.sku,
                quantity=row.quantity,
                held=row.state == UnitState.HELD,
            )
        )
    paid, kept = set[str](), dict[str, Money]()
    moved = await session.execute(
        select(
            col(PaymentOperationRow.order_id),
            col(PaymentOperationRow.kind),
            col(PaymentOperationRow.currency),
            func.sum(col(PaymentOperationRow.amount_minor)),
        )
        .where(
            col(PaymentOperationRow.order_id).in_(order_ids),
            col(PaymentOperationRow.state) == OperationState.CONFIRMED,
            col(PaymentOperationRow.kind) != PaymentKind.VOID,
        )
        .group_by(
            col(PaymentOperationRow.order_id),
            col(PaymentOperationRow.kind),
            col(PaymentOperationRow.currency),
        )
    )
    for order_id, kind, currency, minor in moved:
        paid.add(order_id)
        if kind != PaymentKind.AUTHORISE:
            sign = 1 if kind == PaymentKind.CAPTURE else -1
            before = kept.get(order_id, Money.zero(currency))
            kept[order_id] = before + Money(minor=sign * int(minor), currency=currency)
    return {
        order_id: OrderStock(
            order_id=order_id,
            state=states.get(order_id),
            paid=order_id in paid,
            kept=kept.get(order_id),
            shipments=tuple(shipments.get(order_id, ())),
            units=tuple(units[order_id]),
        )
        for order_id in order_ids
    }


async def stock_rows(session: AsyncSession, after: tuple[str, str], limit: int) -> list[StockStanding]:
    """Stock rows that follow ``after``, each with what is held of it, what moved it and what expired: one moment."""
    rows = (
        _counts()
        .where(tuple_(col(StockRow.node), col(StockRow.sku)) > after)
        .order_by(col(StockRow.node), col(StockRow.sku))
        .limit(limit)
    )
    return await _standing(session, rows.subquery())


async def stock_row(session: AsyncSession, node: str, sku: str) -> StockStanding | None:
    """One stock row, as above."""
    rows = _counts().where(col(StockRow.node) == node, col(StockRow.sku) == sku)
    found = await _standing(session, rows.subquery())
    return found[0] if found else None


def _counts() -> Select[str, str, int, int]:
    return select(col(StockRow.node), col(StockRow.sku), col(StockRow.on_hand), col(StockRow.reserved))


async def _standing(session: AsyncSession, rows: Any) -> list[StockStanding]:
    held = (
        select(func.coalesce(func.sum(col(ReservedUnitsRow.quantity)), 0))
        .where(
            col(ReservedUnitsRow.node) == rows.c.node,
            col(ReservedUnitsRow.sku) == rows.c.sku,
            col(ReservedUnitsRow.state) == UnitState.HELD,
        )
        .correlate(rows)
        .scalar_subquery()
    )
    expired = (
        select(func.coalesce(func.sum(col(StockLotRow.on_hand)), 0))
        .where(
            col(StockLotRow.node) == rows.c.node,
            col(StockLotRow.sku) == rows.c.sku,
            col(StockLotRow.expires_on) < lots.today(),
        )
        .correlate(rows)
        .scalar_subquery()
    )
    moved = (
        select(
            func.coalesce(func.sum(col(StockMovementRow.on_hand)), 0).label("on_hand"),
            func.coalesce(func.sum(col(StockMovementRow.reserved)), 0).label("reserved"),
        )
        .where(col(StockMovementRow.node) == rows.c.node, col(StockMovementRow.sku) == rows.c.sku)
        .correlate(rows)
        .lateral()
    )
    found = await session.execute(
        select(
            rows.c.node,
            rows.c.sku,
            rows.c.on_hand,
            rows.c.reserved,
            held,
            expired,
            moved.c.on_hand,
            moved.c.reserved,
        )
        .select_from(rows.join(moved, true()))
        .order_by(rows.c.node, rows.c.sku)
    )
    return [
        StockStanding(
            node=node,
            sku=sku,
            on_hand=int(on_hand),
            reserved=int(reserved),
            held=int(some),
            expired=int(gone),
            moved=Counts(on_hand=int(moved_on_hand), reserved=int(moved_reserved)),
        )
        for node, sku, on_hand, reserved, some, gone, moved_on_hand, moved_reserved in found
    ]


async def allocation_counters(session: AsyncSession, limit: int) -> list[AllocationCounter]:
    """The counters of rules that differ from the units that they count, at most ``limit`` of them."""
    return [
        AllocationCounter(
            rule_id=one.source, sku=one.sku, node=one.node, counted=one.found, units=one.expected
        )
        for one in await stock_books.miscounted(session, limit)
    ]


async def open_allocation_differences(session: AsyncSession) -> list[str]:
    """The subjects of differences of this kind that wait for a person."""
    return list(
        await session.scalars(
            select(col(DifferenceRow.subject)).where(
                col(DifferenceRow.comparison) == Comparison.STOCK,
                col(DifferenceRow.state) == DifferenceState.OPEN,
                col(DifferenceRow.kind) == DifferenceKind.ALLOCATION_DIFFERS,
            )
        )
    )


async def free_units(session: AsyncSession, order_id: str, key: str, shipment_ids: Collection[str]) -> None:
    """Free what a reservation holds for nobody. Raises ``Refused`` when somebody needs it after all."""
    state = await session.scalar(
        select(col(OrderRow.state)).where(col(OrderRow.order_id) == order_id).with_for_update()
    )
    if state is not None and state not in ORDER_TERMINAL:
        raise Refused(f"order {order_id} is {state}: what is held for it is its run's business")
    needed = await session.scalar(
        select(func.count()).where(
            col(ShipmentRow.shipment_id).in_(shipment_ids), col(ShipmentRow.state).not_in(SHIPMENT_TERMINAL)
        )
    )
    if needed:
        raise Refused(f"a shipment of order {order_id} is still under way, and needs its units")
    for shipment_id in sorted(shipment_ids):
        await stock.release(
            session,
            key=key,
            order_id=order_id,
            shipment_id=shipment_id,
            reason="held for an order that has ended: found by the reconciliation",
        )


# --- differences ---
class DifferenceView(Contract):
    """A difference with both sides, and what became of it. ``rule`` is what mended it, if something did."""

    key: str
    comparison: Comparison
    kind: DifferenceKind
    state: DifferenceState
    subject: str
    order_id: str | None = None
    what: str
    ours: Side
    theirs: Side
    first_seen_at: AwareDatetime
    last_seen_at: AwareDatetime
    times: int = 1
    task_id: str | None = None
    rule: Rule | None = None
    settled_by: str | None = None
    settled_why: str | None = None
    settled_at: AwareDatetime | None = None


class DifferencePage(Contract):
    """A page of differences, oldest first. ``next_cursor`` None: there are no more."""

    differences: tuple[DifferenceView, ...]
    next_cursor: str | None = None


class Known(Contract):
    """What is known of a difference from before. ``wished_by``: who approved that it is mended, and why."""

    difference: Difference
    state: DifferenceState
    wished_by: str | None = None
    wished_why: str | None = None

    def accepted(self, found: Difference) -> bool:
        """Whether a person has accepted just what was found now."""
        return self.state is DifferenceState.ACCEPTED and fingerprint(self.difference) == fingerprint(found)


async def known(
    session: AsyncSession, comparison: Comparison, subjects: Collection[str]
) -> dict[str, dict[str, Known]]:
    """By subject and key: the differences that are open, and those that were accepted."""
    rows = await session.scalars(
        select(DifferenceRow)
        .where(
            col(DifferenceRow.comparison) == comparison,
            col(DifferenceRow.subject).in_(subjects),
            col(DifferenceRow.state).in_((DifferenceState.OPEN, DifferenceState.ACCEPTED)),
        )
        .execution_options(populate_existing=True)
    )
    found: dict[str, dict[str, Known]] = defaultdict(dict)
    for row in rows:
        found[row.subject][row.key] = Known(
            difference=Difference.model_validate(row.difference),
            state=DifferenceState(row.state),
            wished_by=row.wished_by,
            wished_why=row.wished_why,
        )
    return found


async def open_difference(
    session: AsyncSession,
    found: Difference,
    policy_version: str,
    *,
    looked_at: datetime,
    refused: str = "",
) -> bool:
    """Put a difference before a person, unless it is already; whether it was put there now.

    ``looked_at``: when it was found: one that was settled since is not opened by who looked before. ``refused``: why a
    rule, or what a person approved, could not mend it.
    """
    now = datetime.now(UTC)
    row = await _locked(session, found.key)
    if row is not None and row.settled_at is not None and row.settled_at > looked_at:
        return False
    if row is not None and row.state == DifferenceState.ACCEPTED:
        same = Known(difference=Difference.model_validate(row.difference), state=DifferenceState.ACCEPTED)
        if same.accepted(found):
            row.last_seen_at = now
            return False
    if row is None:
        row = DifferenceRow(
            key=found.key,
            comparison=found.comparison,
            kind=found.kind,
            subject=found.subject,
            what="",
            ours={},
            theirs={},
            difference={},
            state=DifferenceState.HEALED,
            first_seen_at=now,
            last_seen_at=now,
            opened_at=now,
            times=0,
        )
        session.add(row)
    fresh = row.state != DifferenceState.OPEN
    if fresh:
        row.state, row.times, row.opened_at = DifferenceState.OPEN, row.times + 1, now
        row.rule = row.settled_by = row.settled_why = row.settled_at = None
    if fresh or refused:
        row.wished_by = row.wished_why = None
    row.last_seen_at, row.order_id, row.what = now, found.order_id, found.what
    row.ours, row.theirs = found.ours.model_dump(mode="json"), found.theirs.model_dump(mode="json")
    row.difference = found.model_dump(mode="json")
    await session.flush()
    if row.wished_by is None:
        task = await broken.open_task(
            session, _task_about(found, policy_version, refused), SUBJECT_PREFIX + found.key
        )
        if task is not None:
            row.task_id = task.task_id
    return fresh


class Healing(Contract):
    """What mended a difference, on whose word and why."""

    rule: Rule
    actor: str = SYSTEM
    why: str
    policy_version: str


async def healed(session: AsyncSession, found: Difference, by: Healing, *, looked_at: datetime) -> None:
    """Note that a difference was mended; its order's timeline says so, too.

    ``looked_at`` as above: two runs that mend the same thing at once tell of it once.
    """
    now = datetime.now(UTC)
    row = await _locked(session, found.key)
    if row is None:
        row = DifferenceRow(
            key=found.key,
            comparison=found.comparison,
            kind=found.kind,
            subject=found.subject,
            order_id=found.order_id,
            what=found.what,
            ours=found.ours.model_dump(mode="json"),
            theirs=found.theirs.model_dump(mode="json"),
            difference=found.model_dump(mode="json"),
            state=DifferenceState.OPEN,
            first_seen_at=now,
            last_seen_at=now,
            opened_at=now,
        )
        session.add(row)
    elif row.settled_at is not None and row.settled_at > looked_at:
        return
    elif row.state != DifferenceState.OPEN:
        row.times += 1
    await _settle(session, row, DifferenceState.HEALED, by)
    if found.order_id is not None:
        await _write(session, row, found.order_id, by)


async def gone(session: AsyncSession, key: str) -> bool:
    """Note that a difference is not there any more; its task is taken off the list."""
    row = await _locked(session, key)
    if row is None or row.state != DifferenceState.OPEN:
        return False
    await _settle(
        session,
        row,
        DifferenceState.HEALED,
        Healing(rule=Rule.GONE, why="the two sides agree again", policy_version=""),
    )
    return True


async def decide(
    session: AsyncSession, task_id: str, verdict: Verdict, *, actor: str, reason: str
) -> tuple[ReviewTask, Area]:
    """Do what a person answered, and close the task. Answers which area has to be compared again.

    Raises ``Refused`` when there is nothing to decide any more, or not like this.
    """
    asked = await reads.review(session, task_id)
    # The difference before its task, as whoever reconciles takes them.
    row = None if asked is None else await _locked(session, asked.workflow_id.removeprefix(SUBJECT_PREFIX))
    task = await broken.lock_task(session, task_id)
    if task is None or task.state is not ReviewState.OPEN or row is None or row.state != DifferenceState.OPEN:
        raise Refused(
            "this difference was settled, or has gone, meanwhile: there is nothing to decide any more"
        )
    if verdict not in task.options:
        raise Refused(f"{verdict} is no option here; possible: {', '.join(sorted(task.options))}")
    await broken.close_task(session, task, ReviewState.DECIDED, reason, actor=actor, verdict=verdict)
    if verdict is Verdict.APPROVE:
        row.wished_by, row.wished_why, row.task_id = actor, reason, None
    else:
        state = DifferenceState.ACCEPTED if verdict is Verdict.REJECT else DifferenceState.RESOLVED
        await _settle(session, row, state, None, actor=actor, why=reason)
    comparison = Comparison(row.comparison)
    return task, next(area for area, comparisons in COMPARISONS.items() if comparison in comparisons)


async def differences(
    session: AsyncSession,
    *,
    state: DifferenceState | None = None,
    comparisons: Collection[Comparison] | None = None,
    kind: DifferenceKind | None = None,
    order_id: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> DifferencePage:
    """A page of differences, oldest first. Raises ``InvalidDocument`` for a cursor that is not ours."""
    limit = max(1, min(limit, MAX_PAGE))
    oldest_first = tuple_(col(DifferenceRow.first_seen_at), col(DifferenceRow.key))
    query = select(DifferenceRow).order_by(col(DifferenceRow.first_seen_at), col(DifferenceRow.key))
    if state is not None:
        query = query.where(col(DifferenceRow.state) == state)
    if comparisons is not None:
        query = query.where(col(DifferenceRow.comparison).in_(comparisons))
    if kind is not None:
        query = query.where(col(DifferenceRow.kind) == kind)
    if order_id is not None:
        query = query.where(col(DifferenceRow.order_id) == order_id)
    if cursor is not None:
        query = query.where(oldest_first > reads.read_cursor(cursor))
    rows = (await session.scalars(query.limit(limit + 1))).all()
    page = rows[:limit]
    return DifferencePage(
        differences=tuple(DifferenceView.model_validate(row.model_dump()) for row in page),
        next_cursor=reads.cursor_of(page[-1].first_seen_at, page[-1].key) if len(rows) > limit else None,
    )


async def open_counts(session: AsyncSession) -> dict[DifferenceKind, int]:
    """How many differences of each kind wait for a person; kinds without any are left out."""
    rows = await session.execute(
        select(col(DifferenceRow.kind), func.count())
        .where(col(DifferenceRow.state) == DifferenceState.OPEN)
        .group_by(col(DifferenceRow.kind))
    )
    return {DifferenceKind(kind): count for kind, count in rows}


async def done_at(session: AsyncSession) -> dict[Area, datetime]:
    """When the newest run of each area that compared everything it had to came to its end."""
    rows = await session.execute(
        select(col(ReconciliationRunRow.area), func.max(col(ReconciliationRunRow.ended_at)))
        .where(col(ReconciliationRunRow.state) == RunState.DONE)
        .group_by(col(ReconciliationRunRow.area))
    )
    return {Area(area): at for area, at in rows if at is not None}


async def _locked(session: AsyncSession, key: str) -> DifferenceRow | None:
    """The difference, for whoever works on it now: two runs may find the same one at once."""
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 1))"), {"key": SUBJECT_PREFIX + key}
    )
    return await session.get(DifferenceRow, key, with_for_update=True, populate_existing=True)


async def _settle(
    session: AsyncSession,
    row: DifferenceRow,
    state: DifferenceState,
    by: Healing | None,
    *,
    actor: str = SYSTEM,
    why: str = "",
) -> None:
    now = datetime.now(UTC)
    row.state, row.rule = state, by.rule if by else None
    row.settled_by, row.settled_why = (by.actor, by.why) if by else (actor, why)
    row.settled_at = row.last_seen_at = now
    row.wished_by = row.wished_why = None
    await session.flush()
    for task in await broken.open_tasks(session, [SUBJECT_PREFIX + row.key]):
        await broken.close_task(session, task, ReviewState.WITHDRAWN, f"it has healed: {row.settled_why}")


async def _write(session: AsyncSession, row: DifferenceRow, order_id: str, by: Healing) -> None:
    now = datetime.now(UTC)
    entry = TimelineEntry(
        entry_id=f"{SUBJECT_PREFIX}{row.key}/{row.times}/healed",
        order_id=order_id,
        at=now,
        business_at=now,
        actor=by.actor,
        kind="reconciliation.healed",
        what=f"{row.what}: {_DONE[by.rule]}",
        why=by.why,
        policy_version=by.policy_version,
        details={"difference": row.key, "rule": by.rule},
    )
    await record(session, order_id, Carried(entries=(entry,)))


_DONE: Mapping[Rule, str] = {
    Rule.RELEASE_UNITS: "the units were freed",
    Rule.VOID_LABEL: "the label was given back",
    Rule.VOID_HOLD: "the hold was given back",
    Rule.WRITE_DOWN_ANSWER: "the answer was written down as the neighbour has it",
}


def _task_about(found: Difference, policy_version: str, refused: str) -> ReviewTask:
    options, recommended, recommendation = remedies(found)
    flags = [Flag(code=found.kind, reason=found.what)]
    if refused:
        flags.append(Flag(code="not_mended", reason=refused))
    return ReviewTask(
        task_id="",
        order_id=found.order_id or found.subject[:200],
        workflow_id=SUBJECT_PREFIX + found.key,
        kind=ReviewKind.RUN_BROKEN,
        what_happened=f"Two sides do not agree: {found.what}.",
        why_flagged=tuple(flags),
        recommended=recommended,
        recommendation=recommendation,
        options=options,
        opened_at=datetime.now(UTC),
        policy_version=policy_version,
        sides=(found.ours, found.theirs),
    )


async def _subjects(
    session: AsyncSession,
    comparison: Comparison,
    after: str,
    limit: int,
    *parts: tuple[SQLColumnExpression[str], ColumnElement[bool]],
) -> list[str]:
    """What follows ``after`` in any of the parts, or has an open difference, at most ``limit``, in order."""
    known_before = (
        col(DifferenceRow.subject),
        (col(DifferenceRow.comparison) == comparison) & (col(DifferenceRow.state) == DifferenceState.OPEN),
    )
    pieces: list[Select[tuple[str]]] = [
        select(subject.label("subject"))
        .where(belongs, subject > after)
        .distinct()
        .order_by(subject)
        .limit(limit)
        for subject, belongs in (*parts, known_before)
    ]
    every = union(*(select(piece.subquery().c.subject) for piece in pieces)).subquery()
    return list(await session.scalars(select(every.c.subject).order_by(every.c.subject).limit(limit)))


async def _states(session: AsyncSession, order_ids: Iterable[str]) -> dict[str, OrderState]:
    rows = await session.execute(
        select(col(OrderRow.order_id), col(OrderRow.state)).where(col(OrderRow.order_id).in_(list(order_ids)))
    )
    return {order_id: OrderState(state) for order_id, state in rows}


async def _shipments(
    session: AsyncSession, which: ColumnElement[bool]
) -> Mapping[str, Sequence[ShipmentStanding]]:
    rows = await session.execute(
        select(
            col(ShipmentRow.shipment_id),
            col(ShipmentRow.order_id),
            col(ShipmentRow.state),
            col(ShipmentRow.handed_over_at).is_not(None),
        )
        .where(which)
        .order_by(col(ShipmentRow.number))
    )
    found: dict[str, list[ShipmentStanding]] = defaultdict(list)
    for shipment_id, order_id, state, handed_over in rows:
        found[order_id].append(
            ShipmentStanding(
                shipment_id=shipment_id,
                order_id=order_id,
                state=ShipmentState(state),
                handed_over=handed_over,
            )
        )
    return found


def _order_of(shipment_id: str) -> str | None:
    try:
        return order_of_shipment(shipment_id)
    except ValueError:
        return None


def _money(minor: int | None, currency: str | None) -> Money | None:
    return None if minor is None or currency is None else Money(minor=minor, currency=currency)
