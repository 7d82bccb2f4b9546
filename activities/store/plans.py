"""Fulfilment plans, stored whole, one per order and attempt."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Text, cast, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from activities.store.intake import stored_draft
from models.effects import KeptShipment
from models.errors import NotFound
from models.identifiers import shipment_id
from models.money import Money
from models.order import CustomerType, OrderDraft
from models.plan import Plan, PlannedLine, PlannedShipment, PlanSummary, ShipmentRef
from models.states import ShipmentState
from models.tables.orders import OrderRow, PlanRow, ShipmentRow
from policies.document import Asker
from policies.money import Parts, ShipmentShare, by_shipment
from policies.routing.problem import RoutingProblem


def plan_id(order_id: str, attempt: int) -> str:
    """``web:1001`` and 2 give ``web:1001:p2``."""
    return f"{order_id}:p{attempt}"


async def keep_plan(
    session: AsyncSession,
    order_id: str,
    attempt: int,
    plan: Plan,
    summary: PlanSummary,
    *,
    document_version: int = 1,
    problem: RoutingProblem | None = None,
) -> PlanSummary:
    """Store a plan; when the attempt has one already, that one counts. Answers the one that counts.

    ``document_version``: of the document that it was made for. ``problem``: all that the router looked at.
    """
    await session.execute(
        insert(PlanRow)
        .values(
            plan_id=summary.plan_id,
            order_id=order_id,
            attempt=attempt,
            plan=plan.model_dump(mode="json"),
            summary=summary.model_dump(mode="json"),
            created_at=datetime.now(UTC),
            document_version=document_version,
            problem=None if problem is None else problem.model_dump(mode="json"),
        )
        .on_conflict_do_nothing()
    )
    kept = await summary_of_attempt(session, order_id, attempt)
    return kept or summary


async def summary_of_attempt(session: AsyncSession, order_id: str, attempt: int) -> PlanSummary | None:
    """What the workflow was told of an attempt's plan, or None."""
    summary = await session.scalar(
        select(col(PlanRow.summary)).where(col(PlanRow.order_id) == order_id, col(PlanRow.attempt) == attempt)
    )
    return None if summary is None else PlanSummary.model_validate(summary)


async def stored_plan(session: AsyncSession, order_id: str, wanted: str) -> Plan:
    """The plan ``wanted`` of an order. Raises ``NotFound``."""
    plan = await session.scalar(
        select(col(PlanRow.plan)).where(col(PlanRow.plan_id) == wanted, col(PlanRow.order_id) == order_id)
    )
    if plan is None:
        raise NotFound(f"order {order_id} has no plan {wanted}")
    return Plan.model_validate(plan)


class Decision(NamedTuple):
    """A stored plan, and all that its router looked at; None where that was not kept yet."""

    plan_id: str
    attempt: int
    plan: Plan
    problem: RoutingProblem | None
    made_at: datetime


async def decision(session: AsyncSession, order_id: str, wanted: str | None = None) -> Decision:
    """The plan ``wanted`` of an order, or the last that was made. Raises ``NotFound``."""
    query = select(PlanRow).where(col(PlanRow.order_id) == order_id)
    if wanted is not None:
        query = query.where(col(PlanRow.plan_id) == wanted)
    row = await session.scalar(query.order_by(col(PlanRow.attempt).desc()).limit(1))
    if row is None:
        raise NotFound(
            f"order {order_id} has no plan{'' if wanted is None else ' ' + wanted}"
            if await session.get(OrderRow, order_id) is not None
            else f"there is no order {order_id}"
        )
    return Decision(
        plan_id=row.plan_id,
        attempt=row.attempt,
        plan=Plan.model_validate(row.plan),
        problem=None if row.problem is None else RoutingProblem.model_validate(row.problem),
        made_at=row.created_at,
    )


class Past(NamedTuple):
    """A decision that was taken for an order, in the JSON that is stored, and whose the order is.

    ``problem`` None: it was not kept yet what the router looked at. To read hundreds of them takes a while, and is
    nothing for an event loop.
    """

    plan: str
    problem: str | None
    asker: Asker

    def read_plan(self) -> Plan:
        """What was decided."""
        return Plan.model_validate_json(self.plan)

    def read_problem(self) -> RoutingProblem | None:
        """What the router looked at."""
        return None if self.problem is None else RoutingProblem.model_validate_json(self.problem)


async def decisions_since(session: AsyncSession, since: datetime | None, limit: int) -> list[Past]:
    """The first decision for each order that was taken ``since`` then, the last first."""
    first = aliased(PlanRow)
    query = (
        select(
            cast(col(PlanRow.plan), Text),
            # What is not there is a JSON null, or no JSON at all if it was written before there was the column.
            func.nullif(cast(col(PlanRow.problem), Text), "null"),
            col(OrderRow.channel),
            col(OrderRow.customer_tier),
            col(OrderRow.customer_type),
            col(OrderRow.ship_country),
        )
        .join(OrderRow, col(OrderRow.order_id) == col(PlanRow.order_id))
        .where(
            # An order that was short at first has its first plan by a later attempt.
            col(PlanRow.attempt)
            == select(func.min(col(first.attempt)))
            .where(col(first.order_id) == col(PlanRow.order_id))
            .scalar_subquery()
        )
        .order_by(col(PlanRow.created_at).desc())
        .limit(limit)
    )
    if since is not None:
        query = query.where(col(PlanRow.created_at) >= since)
    return [
        Past(
            plan=plan,
            problem=problem,
            asker=Asker(
                channel=channel,
                tier=tier,
                customer_type=None if customer_type is None else CustomerType(customer_type),
                country=country,
            ),
        )
        for plan, problem, channel, tier, customer_type, country in await session.execute(query)
    ]


async def happened_since(session: AsyncSession, since: datetime | None) -> dict[str, float]:
    """What became of the parcels that were planned ``since`` then: how many, arrived, and arrived too late."""
    row = (await session.execute(text(_HAPPENED), {"since": since})).one()
    return {name: float(value) for name, value in row._mapping.items() if value is not None}


_HAPPENED = """
SELECT count(*) AS parcels, count(delivered_at) AS delivered,
       avg(CASE WHEN delivered_at IS NULL THEN NULL WHEN late THEN 1 ELSE 0 END) AS share_delivered_late
  FROM shipments
 WHERE state <> 'cancelled' AND created_at >= coalesce(CAST(:since AS timestamptz), '-infinity')
"""


async def split_of(
    session: AsyncSession, order_id: str, shipment_id: str, amount: Money
) -> dict[str, int] | None:
    """What ``amount`` for a shipment is for, by ``policies.money.Parts``; None where it is another amount's."""
    numbered = shipment_id.rpartition(":")[2]
    shares = await shares_of(session, order_id)
    found = shares[int(numbered)].share.parts if numbered.isdecimal() and int(numbered) in shares else None
    if found is None or Money(minor=found.total, currency=amount.currency) != amount:
        return None
    return found.model_dump()


class PlannedShare(NamedTuple):
    """What a shipment is charged for by the plan that it goes by."""

    plan_id: str
    share: ShipmentShare


async def shares_of(session: AsyncSession, order_id: str) -> dict[int, PlannedShare]:
    """What each of an order's shipments is charged for, by its number.

    Each plan's shipments share what the document it was made for comes to, less what shipments of earlier plans that
    went on are charged for.
    """
    plans = await session.execute(
        select(col(PlanRow.plan_id), col(PlanRow.plan), col(PlanRow.document_version))
        .where(col(PlanRow.order_id) == order_id)
        .order_by(col(PlanRow.attempt))
    )
    going = set(
        await session.scalars(
            select(col(ShipmentRow.number)).where(
                col(ShipmentRow.order_id) == order_id, col(ShipmentRow.state) != ShipmentState.CANCELLED
            )
        )
    )
    shares: dict[int, PlannedShare] = {}
    for identifier, stored, version in plans.all():
        plan = Plan.model_validate(stored)
        numbers = {shipment.number for shipment in plan.shipments}
        kept = sum((shares[n].share.parts for n in shares if n in going - numbers), start=Parts())
        draft = (await stored_draft(session, order_id, version or 1)).draft
        try:
            shares |= {
                n: PlannedShare(identifier, share) for n, share in by_shipment(draft, plan, kept).items()
            }
        except ValueError:
            # E.g. an earlier shipment was given up after this plan was made without it: whatever it is for, it is paid.
            for n in numbers:
                shares.pop(n, None)
    return shares


async def planned_shipment(session: AsyncSession, order_id: str, wanted: str, number: int) -> PlannedShipment:
    """One shipment of a stored plan. Raises ``NotFound``."""
    plan = await stored_plan(session, order_id, wanted)
    for shipment in plan.shipments:
        if shipment.number == number:
            return shipment
    raise NotFound(f"plan {wanted} has no shipment {number}")


async def planned_draft(session: AsyncSession, order_id: str, wanted: str) -> OrderDraft:
    """The document that the plan ``wanted`` was made for. Raises ``NotFound``.

    Its shipments go where that one says, also when the order was amended after they were packed.
    """
    versions = await session.execute(
        select(col(PlanRow.document_version)).where(
            col(PlanRow.plan_id) == wanted, col(PlanRow.order_id) == order_id
        )
    )
    found = versions.one_or_none()
    if found is None:
        raise NotFound(f"order {order_id} has no plan {wanted}")
    return (await stored_draft(session, order_id, found.document_version or 1)).draft


async def kept_lines(
    session: AsyncSession, order_id: str, kept: Sequence[KeptShipment]
) -> tuple[PlannedLine, ...]:
    """The lines of shipments that go on as they were planned. Raises ``NotFound`` for one that was not."""
    lines: list[PlannedLine] = []
    for shipment in kept:
        planned = await planned_shipment(session, order_id, shipment.plan_id, shipment.number)
        lines += planned.lines
    return tuple(lines)


async def keep_started(session: AsyncSession, order_id: str, started: Sequence[KeptShipment]) -> None:
    """Have a row for each shipment that was started, for one that has not written its own yet.

    What is planned next to them must not take what they hold for the order's to plan with.
    """
    for one in started:
        summary = await session.scalar(
            select(col(PlanRow.summary)).where(
                col(PlanRow.plan_id) == one.plan_id,
                col(PlanRow.order_id) == order_id,
                ~exists().where(col(ShipmentRow.order_id) == order_id, col(ShipmentRow.number) == one.number),
            )
        )
        refs = PlanSummary.model_validate(summary).shipments if summary is not None else ()
        for ref in refs:
            if ref.number == one.number:
                await _keep_planned(session, order_id, ref)


async def _keep_planned(session: AsyncSession, order_id: str, ref: ShipmentRef) -> None:
    now = datetime.now(UTC)
    await session.execute(
        insert(ShipmentRow)
        .values(
            shipment_id=shipment_id(order_id, ref.number),
            order_id=order_id,
            # Whatever the shipment writes itself is newer.
            version=0,
            state=ShipmentState.PLANNED,
            amount_minor=ref.amount.minor,
            currency=ref.amount.currency,
            late=False,
            created_at=now,
            updated_at=now,
            **ref.model_dump(exclude={"amount", "held_until"}),
        )
        .on_conflict_do_nothing()
    )


async def plan_of_each(session: AsyncSession, order_id: str) -> dict[int, str]:
    """The plan that each shipment goes by, by its number: the last that has it, for no number is used again."""
    plans = await session.execute(
        select(col(PlanRow.plan_id), col(PlanRow.summary))
        .where(col(PlanRow.order_id) == order_id)
        .order_by(col(PlanRow.attempt))
    )
    return {
        shipment["number"]: identifier for identifier, summary in plans for shipment in summary["shipments"]
    }
