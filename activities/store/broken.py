"""Reads and writes of the invariant job: which runs there must be, and the tasks about those that are broken."""

import hashlib
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Select,
    SQLColumnExpression,
    and_,
    exists,
    func,
    or_,
    select,
    text,
    union,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from activities.store import reads, stock
from activities.store.amendments import ORDER_ENDED, refuse_what_waits
from activities.store.departing import leave
from activities.store.outcomes import keep_order_outcome
from activities.store.record import record
from models.base import Contract
from models.clock import ClockStart
from models.errors import NotFound
from models.identifiers import order_workflow_id, shipment_id, shipment_workflow_id
from models.journal import SYSTEM, Carried, TimelineEntry
from models.money import Money
from models.operations import OperationState, ShippingKind
from models.review import ReviewKind, ReviewTask, Verdict
from models.states import ORDER_TERMINAL, SHIPMENT_TERMINAL, OrderState, ReviewState, ShipmentState
from models.tables.journal import ReviewTaskRow, TimelineRow
from models.tables.operations import ShippingOperationRow
from models.tables.orders import IntakeRow, IntakeState, OrderRow, PlanRow, ShipmentRow
from models.tables.stock import ReservationRow, ReservedUnitsRow, UnitState

_OURS = re.compile(r"^(?:order|shipment):([A-Za-z0-9._:-]{1,140})$")
# Whatever a task is about, stands in the place of a workflow id; these are no runs, but differences of two sides.
DIFFERENCE_PREFIX = "difference:"
_UNDOING = (OrderState.CANCELLING, OrderState.COMPENSATING)
_UNDER_WAY = (OrderState.RELEASED, OrderState.PARTIALLY_SHIPPED, OrderState.SHIPPED)
# Before its release an order goes through some of these, and again after a reset to there or when it starts over.
_BEFORE_RELEASE = (
    OrderState.RECEIVED,
    OrderState.VALIDATING,
    OrderState.ASSESSING,
    OrderState.AUTHORISING,
    OrderState.ROUTING,
    OrderState.BACKORDERED,
    OrderState.RESERVING,
)
# States in which a run waits for a person of ours; a shipment's have the same names.
WAIT_FOR_US = (OrderState.IN_REVIEW, OrderState.NEEDS_OPERATOR)


class Subject(Contract):
    """A run that there must be: of an open order, or of a shipment under way, whatever has become of its order.

    ``asked``: somebody is asked about it by a review of its own. ``forgotten``: it waits for a person of ours, and
    nobody is asked. ``overdue``: old enough that a run which has not started is nobody's next moment any more.
    ``over``: a shipment that has come to its end by the books, of which its order may not have heard.
    """

    workflow_id: str
    order_id: str
    shipment_id: str | None = None
    state: str
    started: bool = True
    overdue: bool = False
    asked: bool = False
    forgotten: bool = False
    over: bool = False
    first_run_id: str | None = None


class Asked(Contract):
    """A pick or a label that was asked for and is in force: nobody called it off, and its goods have not left.

    ``reference``: the warehouse's or the carrier's own; None: they have not answered yet, so it may be in force.
    """

    kind: ShippingKind
    key: str
    reference: str | None
    where: str


class Holdings(Contract):
    """What an order holds and has moved, for a person who has to decide about it without its run.

    ``asked``: what warehouse and carrier go on doing unless they are told. ``ended``: the state it has ended in, while
    a shipment of it is still under way.
    """

    held: Money
    captured: Money
    refunded: Money
    unclear: int
    units_reserved: int
    shipments: int
    handed_over: int
    undoing: bool
    asked: tuple[Asked, ...] = ()
    ended: OrderState | None = None


class Decided(Contract):
    """A decision that is being carried out: should we die on the way, it is known what was meant."""

    verdict: Verdict
    decided_by: str
    reason: str


class Begun(Contract):
    """What a new run of an order must not use again: numbers of its entries, its reviews and its plans."""

    entries: int
    reviews: int
    plans: int


async def unfinished_orders(session: AsyncSession, *, after: str, limit: int) -> list[str]:
    """The ids of orders that follow ``after``, at most ``limit``, in the order of their ids.

    Those that are open, or of which something is: a shipment under way, a question to a person.
    """
    open_ones: tuple[tuple[SQLColumnExpression[str], ColumnElement[bool]], ...] = (
        (col(OrderRow.order_id), col(OrderRow.state).not_in(ORDER_TERMINAL)),
        (col(ShipmentRow.order_id), col(ShipmentRow.state).not_in(SHIPMENT_TERMINAL)),
        (col(ReviewTaskRow.order_id), col(ReviewTaskRow.state) == ReviewState.OPEN),
    )
    parts: list[Select[tuple[str]]] = [
        select(order_id.label("order_id")).where(is_open, order_id > after).order_by(order_id).limit(limit)
        for order_id, is_open in open_ones
    ]
    every = union(*(select(part.subquery().c.order_id) for part in parts)).subquery()
    return list(await session.scalars(select(every.c.order_id).order_by(every.c.order_id).limit(limit)))


async def subjects(session: AsyncSession, grace: timedelta, order_ids: Collection[str]) -> list[Subject]:
    """The runs that there must be of ``order_ids``. Younger orders than ``grace`` may not be started yet."""
    before = datetime.now(UTC) - grace
    listed = col(OrderRow.order_id).in_(order_ids)
    wanted = and_(listed, col(OrderRow.state).not_in(ORDER_TERMINAL))
    orders = await session.execute(
        select(
            OrderRow, col(IntakeRow.state), col(IntakeRow.received_at), _is_asked(col(OrderRow.workflow_id))
        )
        .join(IntakeRow, col(IntakeRow.order_id) == col(OrderRow.order_id))
        .where(wanted)
        .order_by(col(OrderRow.created_at), col(OrderRow.order_id))
    )
    found = [
        Subject(
            workflow_id=order_workflow_id(row.order_id),
            order_id=row.order_id,
            state=row.state,
            started=intake == IntakeState.STARTED,
            overdue=received_at < before,
            asked=asked,
            forgotten=row.state in WAIT_FOR_US and not asked and row.updated_at < before,
            first_run_id=row.first_run_id,
        )
        for row, intake, received_at, asked in orders
    ]
    shipments = await session.execute(
        select(ShipmentRow, _is_asked(func.concat("shipment:", col(ShipmentRow.shipment_id))))
        .join(OrderRow, col(OrderRow.order_id) == col(ShipmentRow.order_id))
        # Books that were closed as they are, or by a run that was reset, end no shipment.
        .where(listed, col(ShipmentRow.state).not_in(SHIPMENT_TERMINAL))
        .order_by(col(ShipmentRow.shipment_id))
    )
    found += [
        Subject(
            workflow_id=shipment_workflow_id(row.shipment_id),
            order_id=row.order_id,
            shipment_id=row.shipment_id,
            state=row.state,
            asked=asked,
            forgotten=row.state in WAIT_FOR_US and not asked and row.updated_at < before,
        )
        for row, asked in shipments
    ]
    found += await _over_and_quiet(session, and_(wanted, col(OrderRow.updated_at) < before))
    return found + await _unwritten_shipments(session, and_(wanted, col(OrderRow.updated_at) < before))


async def _over_and_quiet(session: AsyncSession, wanted: ColumnElement[bool]) -> list[Subject]:
    """Shipments of orders all of whose shipments have come to their ends by the books, and that do not move on.

    A run writes its end down before it tells its order: one that is ended from outside in between tells nobody.
    """
    going = (
        select(col(ShipmentRow.shipment_id))
        .where(
            col(ShipmentRow.order_id) == col(OrderRow.order_id),
            col(ShipmentRow.state).not_in(SHIPMENT_TERMINAL),
        )
        .correlate(OrderRow)
        .exists()
    )
    shipments = await session.execute(
        select(ShipmentRow, _is_asked(func.concat("shipment:", col(ShipmentRow.shipment_id))))
        .join(OrderRow, col(OrderRow.order_id) == col(ShipmentRow.order_id))
        .where(wanted, ~going)
        .order_by(col(ShipmentRow.shipment_id))
    )
    return [
        Subject(
            workflow_id=shipment_workflow_id(row.shipment_id),
            order_id=row.order_id,
            shipment_id=row.shipment_id,
            state=row.state,
            asked=asked,
            over=True,
        )
        for row, asked in shipments
    ]


async def _unwritten_shipments(session: AsyncSession, wanted: ColumnElement[bool]) -> list[Subject]:
    """Shipments that were released and have written nothing yet: their first step has not come through."""
    planned = col(PlanRow.summary)["shipments"]
    written = (
        select(func.count())
        .select_from(ShipmentRow)
        .where(col(ShipmentRow.order_id) == col(OrderRow.order_id))
        .scalar_subquery()
    )
    plans = await session.execute(
        select(col(OrderRow.order_id), planned)
        .join(PlanRow, col(PlanRow.plan_id) == col(OrderRow.plan_id))
        .where(
            wanted,
            or_(col(OrderRow.state).in_(_UNDER_WAY), _released()),
            func.jsonb_array_length(planned) > written,
        )
        .order_by(col(OrderRow.order_id))
    )
    missing = {
        shipment_id(order_id, ref["number"]): order_id for order_id, shipments in plans for ref in shipments
    }
    known = set(
        await session.scalars(
            select(col(ShipmentRow.shipment_id)).where(col(ShipmentRow.shipment_id).in_(missing))
        )
    )
    return [
        Subject(
            workflow_id=shipment_workflow_id(shipment),
            order_id=order_id,
            shipment_id=shipment,
            state=ShipmentState.PLANNED,
        )
        for shipment, order_id in missing.items()
        if shipment not in known
    ]


def _released() -> ColumnElement[bool]:
    """Whether the order was released, and is not on its way there again; its state may be a pause or an undoing since.

    A shipment without its own run keeps an order from being called off as well as from being delivered.
    """
    again = aliased(TimelineRow)
    since = (
        exists()
        .where(
            col(again.order_id) == col(TimelineRow.order_id),
            col(again.position) > col(TimelineRow.position),
            col(again.kind).in_([f"order.{state}" for state in _BEFORE_RELEASE]),
        )
        .correlate(TimelineRow)
    )
    return and_(
        col(OrderRow.state).not_in(_BEFORE_RELEASE),
        exists()
        .where(
            col(TimelineRow.order_id) == col(OrderRow.order_id),
            col(TimelineRow.kind) == f"order.{OrderState.RELEASED}",
            ~since,
        )
        .correlate(OrderRow),
    )


async def holdings(session: AsyncSession, order_id: str) -> Holdings | None:
    """What the order holds, or None for one that is not known."""
    order = await session.get(OrderRow, order_id, populate_existing=True)
    if order is None:
        return None
    money = await reads.money(session, order_id, order.currency)
    shipments = await reads.shipments(session, order_id)
    units = await session.scalar(
        select(func.coalesce(func.sum(col(ReservedUnitsRow.quantity)), 0))
        .join(ReservationRow, col(ReservationRow.key) == col(ReservedUnitsRow.key))
        .where(col(ReservationRow.order_id) == order_id, col(ReservedUnitsRow.state) == UnitState.HELD)
    )
    return Holdings(
        held=money.held,
        captured=money.captured,
        refunded=money.refunded,
        unclear=money.unclear,
        units_reserved=int(units or 0),
        shipments=len(shipments),
        handed_over=sum(shipment.handed_over_at is not None for shipment in shipments),
        undoing=order.state in _UNDOING or order.exit_reason is not None,
        asked=await _asked(session, order_id),
        ended=OrderState(order.state) if order.state in ORDER_TERMINAL else None,
    )


async def _asked(session: AsyncSession, order_id: str) -> tuple[Asked, ...]:
    rows = await session.execute(
        select(ShippingOperationRow, col(ShipmentRow.node), col(ShipmentRow.carrier))
        .join(ShipmentRow, col(ShipmentRow.shipment_id) == col(ShippingOperationRow.shipment_id))
        .where(
            col(ShipmentRow.order_id) == order_id,
            # What has left needs its label, and nobody picks it any more.
            col(ShipmentRow.handed_over_at).is_(None),
            col(ShippingOperationRow.kind).in_((ShippingKind.PICK, ShippingKind.LABEL)),
            col(ShippingOperationRow.state).in_((OperationState.CONFIRMED, OperationState.INTENDED)),
        )
        .order_by(col(ShippingOperationRow.intended_at), col(ShippingOperationRow.key))
    )
    return tuple(
        Asked(
            kind=ShippingKind(row.kind),
            key=row.key,
            reference=row.provider_ref,
            where=node if row.kind == ShippingKind.PICK else carrier,
        )
        for row, node, carrier in rows
    )


async def open_tasks(session: AsyncSession, workflow_ids: Collection[str] | None = None) -> list[ReviewTask]:
    """The open tasks about broken runs, or about ``workflow_ids`` whatever they are, oldest first."""
    query = select(ReviewTaskRow).where(_broken(), col(ReviewTaskRow.state) == ReviewState.OPEN)
    if workflow_ids is None:
        query = query.where(~col(ReviewTaskRow.workflow_id).startswith(DIFFERENCE_PREFIX))
    else:
        query = query.where(col(ReviewTaskRow.workflow_id).in_(workflow_ids))
    rows = await session.scalars(query.order_by(col(ReviewTaskRow.opened_at), col(ReviewTaskRow.task_id)))
    return [ReviewTask.model_validate(row.task) for row in rows]


async def open_task(session: AsyncSession, task: ReviewTask, subject: str) -> ReviewTask | None:
    """Put ``task`` about ``subject`` (a workflow id) before people, under a number of its own.

    None when one about the same is open already, whoever put it there: there is never more than one. If what is wrong
    has changed meanwhile, that one is brought up to date.
    """
    await _lock(session, subject)
    known = await open_tasks(session, [subject])
    if known:
        if known[0].why_flagged != task.why_flagged or known[0].options != task.options:
            same = {"task_id": known[0].task_id, "opened_at": known[0].opened_at}
            await _write(session, task.model_copy(update=same))
        return None
    earlier = await session.scalar(
        select(func.count()).where(_broken(), col(ReviewTaskRow.workflow_id) == subject)
    )
    task = task.model_copy(update={"task_id": f"{_short(subject)}:x{(earlier or 0) + 1}"})
    await record(
        session,
        task.order_id,
        Carried(entries=(_entry(task, "opened", task.what_happened),), reviews=(task,)),
    )
    await _flag(session, task.order_id)
    return task


async def open_questions(
    session: AsyncSession, grace: timedelta, order_ids: Collection[str]
) -> list[ReviewTask]:
    """What runs of ``order_ids`` asked longer than ``grace`` ago and nobody has answered."""
    rows = await session.scalars(
        select(ReviewTaskRow)
        .where(
            ~_broken(),
            col(ReviewTaskRow.state) == ReviewState.OPEN,
            col(ReviewTaskRow.opened_at) <= datetime.now(UTC) - grace,
            col(ReviewTaskRow.order_id).in_(order_ids),
        )
        .order_by(col(ReviewTaskRow.opened_at), col(ReviewTaskRow.task_id))
    )
    return [ReviewTask.model_validate(row.task) for row in rows]


async def asked_after_their_end(session: AsyncSession) -> list[str]:
    """The ids of orders that have ended while a person is still asked something about them."""
    found = await session.scalars(
        select(col(ReviewTaskRow.order_id))
        .distinct()
        .join(OrderRow, col(OrderRow.order_id) == col(ReviewTaskRow.order_id))
        .where(
            ~_broken(), col(ReviewTaskRow.state) == ReviewState.OPEN, col(OrderRow.state).in_(ORDER_TERMINAL)
        )
    )
    return list(found)


async def travelling_after_their_end(session: AsyncSession) -> list[str]:
    """The ids of orders that have ended while a shipment is under way. It reads every such shipment: not too often."""
    found = await session.scalars(
        select(col(ShipmentRow.order_id))
        .distinct()
        .join(OrderRow, col(OrderRow.order_id) == col(ShipmentRow.order_id))
        .where(col(ShipmentRow.state).not_in(SHIPMENT_TERMINAL), col(OrderRow.state).in_(ORDER_TERMINAL))
    )
    return list(found)


async def withdraw_question(session: AsyncSession, task: ReviewTask, why: str) -> bool:
    """Take a question off the list that its run does not ask; False when it has changed since it was looked at."""
    still = await lock_task(session, task.task_id)
    if still is None or still.state is not ReviewState.OPEN or still.opened_at != task.opened_at:
        return False
    await close_task(session, still, ReviewState.WITHDRAWN, why)
    return True


async def lock_task(session: AsyncSession, task_id: str) -> ReviewTask | None:
    """The task as it stands, held until the transaction ends: only one person decides it."""
    row = await session.get(ReviewTaskRow, task_id, with_for_update=True, populate_existing=True)
    return None if row is None else ReviewTask.model_validate(row.task)


async def close_task(
    session: AsyncSession,
    task: ReviewTask,
    state: ReviewState,
    reason: str,
    *,
    actor: str = SYSTEM,
    verdict: Verdict | None = None,
) -> None:
    """Take the task off the list: decided by a person, or withdrawn because there is nothing to decide any more."""
    closed = task.model_copy(
        update={
            "state": state,
            "decided_at": datetime.now(UTC),
            "decided_by": actor,
            "verdict": verdict,
            "reason": reason,
        }
    )
    what = f"{verdict}: {task.options[verdict]}" if verdict else f"review {state}"
    entry = _entry(task, state.value, what, why=reason, actor=actor)
    await record(session, task.order_id, Carried(entries=(entry,), reviews=(closed,)))
    await _flag(session, task.order_id)


async def begin_decision(session: AsyncSession, task: ReviewTask, decision: Decided | None) -> None:
    """Keep what a person decided before it is carried out; None takes that back, for it could not be."""
    begun = decision.model_dump() if decision else dict.fromkeys(Decided.model_fields)
    await _write(session, task.model_copy(update=begun))


async def begin_again(session: AsyncSession, order_id: str) -> Begun | None:
    """Let another run take an order over whose own is gone. None when the order has ended meanwhile."""
    await session.execute(
        select(col(IntakeRow.order_id)).where(col(IntakeRow.order_id) == order_id).with_for_update()
    )
    order = await session.get(OrderRow, order_id, with_for_update=True, populate_existing=True)
    if order is None or order.state in ORDER_TERMINAL:
        return None
    order.first_run_id = None
    await _withdraw_questions(session, order_id, "its run is gone; a new one asks anew")
    entries = await session.scalars(
        select(col(TimelineRow.entry_id)).where(
            col(TimelineRow.order_id) == order_id, col(TimelineRow.shipment_id).is_(None)
        )
    )
    reviews = await session.scalars(
        select(col(ReviewTaskRow.task_id)).where(
            col(ReviewTaskRow.order_id) == order_id,
            col(ReviewTaskRow.workflow_id) == order_workflow_id(order_id),
            col(ReviewTaskRow.kind) != ReviewKind.RUN_BROKEN,
        )
    )
    plans = await session.scalar(
        select(func.max(col(PlanRow.attempt))).where(col(PlanRow.order_id) == order_id)
    )
    return Begun(
        entries=max(
            (number + 1 for entry in entries if (number := _number(entry, "/")) is not None), default=0
        ),
        reviews=max((number for task in reviews if (number := _number(task, ":r")) is not None), default=0),
        plans=plans or 0,
    )


async def clock_of(session: AsyncSession, order_id: str) -> ClockStart:
    """How the order's business clock was to start. Raises ``NotFound``."""
    row = (
        await session.execute(
            select(col(IntakeRow.speed), col(IntakeRow.business_start)).where(
                col(IntakeRow.order_id) == order_id
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"no document is stored for order {order_id}")
    return ClockStart(speed=row.speed, business_start=row.business_start)


async def close_order(session: AsyncSession, order_id: str, *, actor: str, reason: str) -> None:
    """End an order whose run cannot end it any more, and its shipments; a person answers for what that leaves undone.

    Goods that left are taken out of the stock, what was reserved for others is freed. Money is only ever moved by a
    run: none is moved here. Of an order that has ended before, only the shipments are ended.
    """
    order = await session.get(OrderRow, order_id, with_for_update=True, populate_existing=True)
    if order is None:
        return
    now = datetime.now(UTC)
    shipments = (
        await session.scalars(
            select(ShipmentRow).where(col(ShipmentRow.order_id) == order_id).with_for_update()
        )
    ).all()
    left = [shipment for shipment in shipments if shipment.handed_over_at is not None]
    for shipment in shipments:
        if shipment.state in SHIPMENT_TERMINAL:
            continue
        shipment.state = ShipmentState.DELIVERED if shipment in left else ShipmentState.CANCELLED
        shipment.version += 1
        shipment.updated_at = now
    await session.flush()
    for shipment in left:
        await leave(session, shipment.shipment_id)
    await stock.release_all(session, order_id)
    if order.state in ORDER_TERMINAL:
        await _withdraw_questions(session, order_id, f"its shipment was ended by hand: {reason}")
        return
    money = await reads.money(session, order_id, order.currency)
    kept = left or money.captured != money.refunded
    order.state = OrderState.CLOSED if kept else OrderState.CANCELLED
    order.needs_review = False
    order.closed_at = order.updated_at = now
    order.exit_reason = f"closed by hand by {actor}: {reason}"
    # Beyond all that a run of it may still be about to write.
    order.version = max(order.version + 1, int(now.timestamp() * 1000))
    await session.flush()
    await session.execute(
        update(IntakeRow)
        .where(col(IntakeRow.order_id) == order_id, col(IntakeRow.state) == IntakeState.ACCEPTED)
        .values(state=IntakeState.STARTED, started_at=now, tries=0, try_at=None)
    )
    await refuse_what_waits(session, order_id, ORDER_ENDED)
    await keep_order_outcome(session, order_id)
    await _withdraw_questions(session, order_id, "the order was closed by hand")


async def _withdraw_questions(session: AsyncSession, order_id: str, why: str) -> None:
    """Take off the list what runs asked that are gone: nobody hears the answer any more."""
    rows = await session.scalars(
        select(ReviewTaskRow).where(
            col(ReviewTaskRow.order_id) == order_id,
            col(ReviewTaskRow.state) == ReviewState.OPEN,
            col(ReviewTaskRow.kind) != ReviewKind.RUN_BROKEN,
        )
    )
    for row in rows.all():
        await close_task(session, ReviewTask.model_validate(row.task), ReviewState.WITHDRAWN, why)


def _is_asked(workflow_id: SQLColumnExpression[str]) -> ColumnElement[bool]:
    return exists().where(
        col(ReviewTaskRow.workflow_id) == workflow_id,
        col(ReviewTaskRow.state) == ReviewState.OPEN,
        col(ReviewTaskRow.kind) != ReviewKind.RUN_BROKEN,
    )


def _broken() -> ColumnElement[bool]:
    return col(ReviewTaskRow.kind) == ReviewKind.RUN_BROKEN


async def _lock(session: AsyncSession, subject: str) -> None:
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:subject, 0))"), {"subject": subject}
    )


async def _write(session: AsyncSession, task: ReviewTask) -> None:
    await session.execute(
        update(ReviewTaskRow)
        .where(col(ReviewTaskRow.task_id) == task.task_id, col(ReviewTaskRow.state) == ReviewState.OPEN)
        .values(task=task.model_dump(mode="json"))
    )


async def _flag(session: AsyncSession, order_id: str) -> None:
    """Let lists of orders show that a person is asked; the run itself may not be there to say so."""
    asked = exists().where(
        col(ReviewTaskRow.order_id) == order_id, col(ReviewTaskRow.state) == ReviewState.OPEN
    )
    await session.execute(
        update(OrderRow)
        .where(
            col(OrderRow.order_id) == order_id,
            or_(col(OrderRow.state).not_in(ORDER_TERMINAL), col(OrderRow.needs_review)),
        )
        .values(needs_review=asked & col(OrderRow.state).not_in(ORDER_TERMINAL))
    )


def _entry(
    task: ReviewTask, event: str, what: str, *, why: str | None = None, actor: str = SYSTEM
) -> TimelineEntry:
    now = datetime.now(UTC)
    return TimelineEntry(
        entry_id=f"{task.task_id}/{event}",
        order_id=task.order_id,
        at=now,
        business_at=now,
        actor=actor,
        kind=f"review.{event}",
        what=what,
        why=why if why is not None else "; ".join(flag.reason for flag in task.why_flagged),
        policy_version=task.policy_version,
        details={"task_id": task.task_id},
    )


def _short(workflow_id: str) -> str:
    """A workflow id as the start of a task's: a stranger's may be long, or hold anything."""
    ours = _OURS.match(workflow_id)
    what = "difference" if workflow_id.startswith(DIFFERENCE_PREFIX) else "run"
    return ours[1] if ours else f"{what}-" + hashlib.sha256(workflow_id.encode()).hexdigest()[:16]


def _number(identifier: str, before: str) -> int | None:
    number = identifier.rpartition(before)[2]
    return int(number) if number.isdigit() else None
