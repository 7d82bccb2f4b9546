"""The routing problem put together from what is stored: of an order, or of a cart before there is one."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Self

from pydantic import AwareDatetime
from sqlalchemy.ext.asyncio import AsyncSession

from activities import holidays
from activities.settlement import left
from activities.store import policies, reads, rerouting
from activities.store.history import orders_with
from activities.store.intake import stored_draft
from activities.store.network import OpenStock, destination_of, network, stock_of, stock_open_to
from activities.store.plans import kept_lines, plan_of_each
from activities.store.stock_values import known_values
from models.base import Contract
from models.effects import KeptShipment
from models.errors import Refused
from models.identifiers import shipment_id
from models.messages import Avoided
from models.order import OrderDraft
from models.plan import PlannedLine
from models.policy import MOST_SEEN
from models.promise import PromiseRequest
from models.states import ShipmentState
from policies.classification import classify
from policies.cold_start import Kind, Seen, last
from policies.document import Asker, Policy, allowed_nodes
from policies.routing.carriers import CarrierModel, beliefs_of
from policies.routing.looking import valued
from policies.routing.problem import DemandLine, RoutingProblem, StockRow
from policies.routing.rerouting import without

# What stands for an order where there is none yet.
NO_ORDER = "cart"
_PACKED = frozenset({ShipmentState.PICKED, ShipmentState.LABELLED})


class Wish(Contract):
    """What is to be sent, where, how and by when; and for whom."""

    asker: Asker
    lines: tuple[DemandLine, ...]
    country: str
    postcode: str = ""
    promise_by: AwareDatetime | None = None
    deliver_from: AwareDatetime | None = None
    ship_complete: bool = False
    carrier_service: str | None = None
    kept_parcels: int = 0

    @classmethod
    def of_order(cls, draft: OrderDraft, lines: tuple[DemandLine, ...], kept_parcels: int = 0) -> Self:
        """What is left to plan of an order, next to parcels that go on: ``lines``."""
        return cls(
            asker=Asker(
                channel=draft.channel,
                tier=draft.customer_tier,
                customer_type=classify(draft)[0],
                country=draft.ship_to.country,
            ),
            lines=lines,
            country=draft.ship_to.country,
            postcode=draft.ship_to.postcode,
            promise_by=draft.promise_by,
            deliver_from=draft.deliver_from,
            ship_complete=draft.ship_complete,
            carrier_service=draft.carrier_service,
            kept_parcels=kept_parcels,
        )

    @classmethod
    def of_cart(cls, cart: PromiseRequest) -> Self:
        """What a customer might order."""
        return cls(
            asker=Asker(
                channel=cart.channel,
                tier=cart.customer_tier,
                customer_type=cart.customer_type,
                country=cart.destination.country,
            ),
            lines=tuple(
                DemandLine(line_id=str(number), sku=line.sku, quantity=line.quantity)
                for number, line in enumerate(cart.lines, start=1)
            ),
            country=cart.destination.country,
            postcode=cart.destination.postcode,
            promise_by=cart.promise_by,
            deliver_from=cart.deliver_from,
            ship_complete=cart.ship_complete,
            carrier_service=cart.carrier_service,
        )


def warm_up() -> None:
    """Load what the first problem would wait for."""
    holidays.warm_up()


async def problem_of_cart(
    session: AsyncSession, cart: PromiseRequest, now: datetime, carriers: CarrierModel
) -> RoutingProblem:
    """The problem of a cart, as it would be if it were ordered ``now``. Raises ``NotFound`` without a network."""
    wish = Wish.of_cart(cart)
    levels = await stock_open_to(session, {line.sku for line in wish.lines}, cart.channel, cart.customer_tier)
    policy = await policies.active(session)
    return await problem_of(
        session, wish, levels, policy, order_id=NO_ORDER, business_now=now, carriers=carriers
    )


async def problem_of(
    session: AsyncSession,
    wish: Wish,
    levels: Sequence[OpenStock],
    policy: Policy,
    *,
    order_id: str,
    business_now: datetime,
    carriers: CarrierModel,
    avoid: Sequence[Avoided] = (),
) -> RoutingProblem:
    """All that a router may look at for ``wish``, without what is to be avoided at present, or by this order.

    Raises ``NotFound`` without a network.
    """
    known = await network(session)
    problem = RoutingProblem(
        order_id=order_id,
        currency=known.currency,
        business_now=business_now,
        lines=wish.lines,
        ship_country=wish.country,
        nodes=known.nodes,
        services=known.services,
        stock=stock_rows(levels, wish.lines),
        unit_weight_g=known.unit_weight_g,
        split_penalty_minor=known.split_penalty_minor,
        processing_days=known.processing_days,
        promise_by=wish.promise_by,
        deliver_from=wish.deliver_from,
        ship_complete=wish.ship_complete,
        carrier_service=wish.carrier_service,
        kept_parcels=wish.kept_parcels,
        # On a thread: whoever asks first loads a library.
        holidays=await asyncio.to_thread(holidays.holidays_for, known, wish.country, business_now),
        destination=await destination_of(session, wish.country, wish.postcode),
        values=await known_values(session, {line.sku for line in wish.lines}),
    )
    problem = problem.model_copy(
        update={
            "carriers": beliefs_of(carriers, problem),
            "history": (
                *_seldom(problem, carriers),
                *await orders_with(
                    session, {line.sku for line in wish.lines}, wish.asker.channel, but=order_id
                ),
            ),
        }
    )
    problem = without(problem, await rerouting.in_force(session), avoid, wish.postcode)
    return under(policy, wish.asker, problem)


def _seldom(problem: RoutingProblem, carriers: CarrierModel) -> Iterator[Seen]:
    for node in problem.nodes:
        if node.active and (times := carriers.delivered_from(node.node_id)) < MOST_SEEN:
            yield Seen(kind=Kind.NODE, name=node.node_id, times=times)


async def problem_of_rest(
    session: AsyncSession, order_id: str, now: datetime, carriers: CarrierModel
) -> RoutingProblem:
    """The problem of what is not packed yet of an order, as it would be planned ``now``.

    Raises ``NotFound`` without a network, and ``Refused`` when nothing is left to plan.
    """
    draft = (await stored_draft(session, order_id)).draft
    plans = await plan_of_each(session, order_id)
    kept = [
        KeptShipment(plan_id=plans[shipment.number], number=shipment.number)
        for shipment in await reads.shipments(session, order_id)
        if shipment.number in plans and (left(shipment) or shipment.state in _PACKED)
    ]
    demand = left_to_plan(draft, await kept_lines(session, order_id, kept))
    goes_on = [shipment_id(order_id, one.number) for one in kept]
    levels = await stock_of(session, {line.sku for line in demand}, order_id, goes_on=goes_on)
    return await problem_of(
        session,
        Wish.of_order(draft, demand, len(kept)),
        levels,
        await policies.active(session),
        order_id=order_id,
        business_now=now,
        carriers=carriers,
    )


def under(policy: Policy, asker: Asker, problem: RoutingProblem) -> RoutingProblem:
    """``problem`` as ``policy`` has it: what it weighs, how many parcels there may be, and from which nodes."""
    terms = policy.document.routing
    changes: dict[str, object] = {
        "policy": policy.label,
        "weights": policy.weights,
        "max_parcels": terms.max_parcels,
        "rule": None,
        "barred": (),
        "sequence": (),
        "sequence_in_time": False,
        "cold_start": policy.cold_start,
    }
    if terms.split_penalty_minor is not None:
        changes["split_penalty_minor"] = terms.split_penalty_minor
    if (rule := policy.routing_rule(asker)) is not None:
        allowed = set(allowed_nodes(policy, rule, [node.node_id for node in problem.nodes]))
        changes |= {
            "rule": rule.rule_id,
            "barred": tuple(node.node_id for node in problem.nodes if node.node_id not in allowed),
            "sequence": tuple(tuple(sorted(policy.nodes_named(step) & allowed)) for step in rule.sequence),
            "sequence_in_time": bool(rule.sequence),
        }
    if policy.cold_start.nodes_last:
        problem = problem.model_copy(update=changes)
        steps = problem.sequence or (tuple(node.node_id for node in problem.within_rules().nodes),)
        new = {one.name for one in policy.cold_start.new(problem.history) if one.kind is Kind.NODE}
        sequence = last(steps, new)
        if sequence != steps:
            changes |= {"sequence": sequence, "sequence_in_time": True}
    return valued(problem.model_copy(update=changes), policy.look_ahead, policy.markdowns)


def stock_rows(levels: Sequence[OpenStock], demand: Sequence[DemandLine]) -> tuple[StockRow, ...]:
    """What each row can give. Where all rows of a SKU together may give less than is asked for, they give no more."""
    asked = Counter[str]()
    for line in demand:
        asked[line.sku] += line.quantity
    given = Counter[str]()
    rows = []
    for level in levels:
        units = level.available
        if level.shared is not None and level.shared < asked[level.sku]:
            units = max(min(units, level.shared - given[level.sku]), 0)
        given[level.sku] += units
        rows.append(
            StockRow(
                node=level.node, sku=level.sku, available=units, kept_back=max(level.unreserved - units, 0)
            )
        )
    return tuple(rows)


def left_to_plan(draft: OrderDraft, kept: Sequence[PlannedLine]) -> tuple[DemandLine, ...]:
    """What is asked for beside what is kept. Raises ``Refused`` when that does not fit, or nothing is left."""
    units: Counter[tuple[str, str]] = Counter()
    for planned in kept:
        units[(planned.line_id, planned.sku)] += planned.quantity
    demand = []
    for line in draft.lines:
        left = line.quantity - units.pop((line.line_id, line.sku), 0)
        if left < 0:
            raise Refused(
                f"line {line.line_id}: {-left} more units of {line.sku} are kept than are asked for"
            )
        if left > 0:
            demand.append(DemandLine(line_id=line.line_id, sku=line.sku, quantity=left))
    if units:
        strange = ", ".join(f"line {line_id}: {sku}" for line_id, sku in sorted(units))
        raise Refused(f"what is kept is not in the document: {strange}")
    if not demand:
        raise Refused("nothing is left to be planned: every unit is in a shipment that goes on")
    return tuple(demand)
