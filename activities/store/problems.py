"""The routing problem put together from what is stored: of an order, or of a cart before there is one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Self

from pydantic import AwareDatetime
from sqlalchemy.ext.asyncio import AsyncSession

from activities.holidays import holidays_for
from activities.store import policies
from activities.store.history import orders_with
from activities.store.network import OpenStock, destination_of, network, stock_open_to
from models.base import Contract
from models.order import OrderDraft
from models.policy import MOST_SEEN
from models.promise import PromiseRequest
from policies.classification import classify
from policies.cold_start import Kind, Seen, last
from policies.document import Asker, Policy, allowed_nodes
from policies.routing.carriers import CarrierModel, beliefs_of
from policies.routing.problem import DemandLine, RoutingProblem, StockRow

# What stands for an order where there is none yet.
NO_ORDER = "cart"


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
) -> RoutingProblem:
    """All that a router may look at for ``wish``. Raises ``NotFound`` without a network."""
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
        holidays=holidays_for(known, wish.country, business_now),
        destination=await destination_of(session, wish.country, wish.postcode),
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
    return under(policy, wish.asker, problem)


def _seldom(problem: RoutingProblem, carriers: CarrierModel) -> Iterator[Seen]:
    for node in problem.nodes:
        if node.active and (times := carriers.delivered_from(node.node_id)) < MOST_SEEN:
            yield Seen(kind=Kind.NODE, name=node.node_id, times=times)


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
    return problem.model_copy(update=changes)


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
