"""Promises: kept with their plans until an order takes one, or nobody did in time."""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.errors import Conflict, NotFound
from models.plan import Plan, PlannedLine
from models.promise import CartLine, PromiseAnswer, PromisedParcel, PromiseRequest, PromiseView
from models.states import ShipmentState
from models.tables.orders import IntakeRow, OrderRow, PlanRow, ShipmentRow
from models.tables.promises import PromiseRow
from policies.routing.problem import RoutingProblem
from policies.routing.promising import why_not

# What nobody took is kept a while longer, for whoever asks why an order was not shipped as it was promised.
_UNTAKEN_KEPT = timedelta(days=2)


class Taken(NamedTuple):
    """The promised plan, and all that its router looked at."""

    plan: Plan
    problem: RoutingProblem


async def known(session: AsyncSession, request: PromiseRequest) -> PromiseAnswer | None:
    """What was answered to this request before. Raises ``Conflict`` when its id stands for another one."""
    row = await session.scalar(select(PromiseRow).where(col(PromiseRow.request_id) == request.request_id))
    if row is None:
        return None
    if row.request_hash != _fingerprint(request):
        raise Conflict(
            f"request_id {request.request_id} was used for another cart: an id is used for one request"
        )
    return answer_of(row)


async def keep(
    session: AsyncSession, request: PromiseRequest, plan: Plan, problem: RoutingProblem
) -> PromiseAnswer:
    """Store what is promised; when the request was answered meanwhile, that answer counts. Raises ``Conflict``."""
    now = datetime.now(UTC)
    await session.execute(
        insert(PromiseRow)
        .values(
            promise_id=f"p-{uuid.uuid4().hex}",
            request_id=request.request_id,
            request_hash=_fingerprint(request),
            channel=request.channel,
            plan=plan.model_dump(mode="json"),
            problem=problem.model_dump(mode="json"),
            made_at=now,
            valid_until=now + timedelta(minutes=request.valid_minutes),
        )
        .on_conflict_do_nothing(index_elements=["request_id"])
    )
    kept = await known(session, request)
    assert kept is not None  # noqa: S101 - it was inserted, or had been
    return kept


async def take(session: AsyncSession, promise_id: str, order: RoutingProblem, channel: str) -> Taken | str:
    """The plan of a promise for the order of the problem ``order``, which has it from now on; or why it cannot.

    The same order gets it again, another one does not.
    """
    row = await session.get(PromiseRow, promise_id, with_for_update=True)
    if row is None or row.channel != channel:
        return "there is no such promise"
    if row.order_id is not None and row.order_id != order.order_id:
        return f"order {row.order_id} has taken it"
    problem = RoutingProblem.model_validate(row.problem)
    received = await session.scalar(
        select(col(IntakeRow.received_at)).where(col(IntakeRow.order_id) == order.order_id)
    )
    plan = Plan.model_validate(row.plan)
    late = received is None or received > row.valid_until
    why = (
        f"it was valid until {row.valid_until:%Y-%m-%d %H:%M} UTC" if late else why_not(plan, problem, order)
    )
    if why is not None:
        if row.order_id is None:
            row.not_taken = f"order {order.order_id}: {why}"
        return why
    if row.order_id is None:
        row.order_id, row.taken_at, row.not_taken = order.order_id, datetime.now(UTC), None
    return Taken(plan, problem)


async def view(session: AsyncSession, promise_id: str) -> PromiseView:
    """A promise and what became of it. Raises ``NotFound``."""
    row = await session.get(PromiseRow, promise_id)
    if row is None:
        raise NotFound(f"there is no promise {promise_id}: nobody took it in time, or nobody made it")
    shown = PromiseView(
        promise=answer_of(row),
        made_at=row.made_at,
        order_id=row.order_id,
        taken_at=row.taken_at,
        not_taken=row.not_taken,
    )
    order = None if row.order_id is None else await session.get(OrderRow, row.order_id)
    if order is None:
        return shown
    plan = await session.scalar(select(col(PlanRow.plan)).where(col(PlanRow.plan_id) == order.plan_id))
    arrived = list(
        await session.scalars(
            select(col(ShipmentRow.delivered_at)).where(
                col(ShipmentRow.order_id) == order.order_id, col(ShipmentRow.state) != ShipmentState.CANCELLED
            )
        )
    )
    days = [day for day in arrived if day is not None]
    return shown.model_copy(
        update={
            "order_promised_at": order.promised_at,
            "kept_to": plan is not None and plan.get("promise") == promise_id,
            "delivered_at": max(days) if days and len(days) == len(arrived) else None,
        }
    )


async def drop_untaken(session: AsyncSession, limit: int) -> int:
    """Forget promises that nobody took in time, at most ``limit``; how many those were."""
    done = await session.execute(
        text(
            "DELETE FROM promises WHERE promise_id IN (SELECT promise_id FROM promises "
            "WHERE order_id IS NULL AND valid_until < :before LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING 1"
        ),
        {"before": datetime.now(UTC) - _UNTAKEN_KEPT, "limit": limit},
    )
    return len(done.all())


async def drop_problems(session: AsyncSession, limit: int) -> int:
    """Forget what the router looked at for promises whose orders have a plan, which has it too; at most ``limit``.

    What was promised stays, for as long as the order does.
    """
    done = await session.execute(
        text(
            "UPDATE promises SET problem = '{}' WHERE promise_id IN (SELECT promise_id FROM promises p "
            "WHERE order_id IS NOT NULL AND problem <> '{}' "
            "AND EXISTS (SELECT FROM plans WHERE plans.order_id = p.order_id) "
            "LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING 1"
        ),
        {"limit": limit},
    )
    return len(done.all())


async def are_asked_for(session: AsyncSession) -> bool:
    """Whether anybody asked for a promise lately."""
    return bool(
        await session.scalar(
            text("SELECT EXISTS (SELECT FROM promises WHERE valid_until > :since)"),
            {"since": datetime.now(UTC) - _UNTAKEN_KEPT},
        )
    )


def answer_of(row: PromiseRow) -> PromiseAnswer:
    """What was answered when the promise was made."""
    plan = Plan.model_validate(row.plan)
    return PromiseAnswer(
        promise_id=row.promise_id,
        valid_until=row.valid_until,
        promised_at=plan.promised_at,
        cost=plan.cost,
        parcels=tuple(
            PromisedParcel(
                node=shipment.node,
                carrier=shipment.carrier,
                service=shipment.service,
                lines=_units(shipment.lines),
                promised_at=shipment.promised_at,
            )
            for shipment in plan.shipments
        ),
        policy=plan.policy,
        reasons=plan.reasons,
    )


def _units(lines: Iterable[PlannedLine]) -> tuple[CartLine, ...]:
    units = Counter[str]()
    for line in lines:
        units[line.sku] += line.quantity
    return tuple(CartLine(sku=sku, quantity=quantity) for sku, quantity in units.items())


def _fingerprint(request: PromiseRequest) -> str:
    # Without the postcode, which could be worked out of it: nothing about a person is kept here.
    content = request.model_dump(mode="json", exclude_defaults=True, exclude={"destination": {"postcode"}})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
