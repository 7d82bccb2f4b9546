"""The plan of a promise made the plan of the order that takes it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from models.plan import Plan, PlannedLine
from policies.routing.problem import DemandLine, RoutingProblem


def why_not(plan: Plan, problem: RoutingProblem, order: RoutingProblem) -> str | None:
    """Why an order cannot be shipped by ``plan``, which was made of ``problem``; None where it can.

    ``order`` is its own problem, as it would be planned now: network and policy may have changed since the promise.
    """
    return next(chain(_another_order(problem, order), _not_any_more(plan, order)), None)


def _another_order(problem: RoutingProblem, order: RoutingProblem) -> Iterator[str]:
    if _units(problem.lines) != _units(order.lines):
        yield "other goods were ordered than it was made for"
    if problem.ship_country != order.ship_country:
        yield f"it was made for {problem.ship_country}, and the order goes to {order.ship_country}"
    for name in ("ship_complete", "carrier_service", "promise_by", "deliver_from"):
        asked = getattr(order, name)
        if asked != getattr(problem, name) and asked not in (None, False):
            yield f"the order asks for another {name}"


def _not_any_more(plan: Plan, order: RoutingProblem) -> Iterator[str]:
    policy = order.policy or "the policy"
    open_nodes = {node.node_id for node in order.within_rules().nodes if node.active}
    services = {(service.carrier, service.service) for service in order.usable_services()}
    for shipment in plan.shipments:
        if shipment.node not in open_nodes:
            yield f"{shipment.node} is closed, or {policy} bars it for this order"
        if (shipment.carrier, shipment.service) not in services:
            yield f"{shipment.carrier}/{shipment.service} is not to be had any more"
    if order.max_parcels is not None and len(plan.shipments) > order.max_parcels:
        yield f"it has {len(plan.shipments)} parcels, and {policy} allows {order.max_parcels}"
    if plan.promised_at < order.business_now:
        yield f"it was for {plan.promised_at:%Y-%m-%d}, which is past"


def taken(
    plan: Plan, problem: RoutingProblem, order_id: str, lines: Sequence[DemandLine]
) -> tuple[Plan, RoutingProblem]:
    """The plan with the order's own lines, and what it was made from with them: the router decides the same of it."""
    left = [Counter({line.sku: line.quantity for line in shipment.lines}) for shipment in plan.shipments]
    given: list[list[PlannedLine]] = [[] for _ in plan.shipments]
    for line in lines:
        asked = line.quantity
        for units, parcel in zip(left, given, strict=True):
            if (part := min(asked, units[line.sku])) > 0:
                units[line.sku] -= part
                asked -= part
                parcel.append(PlannedLine(line_id=line.line_id, sku=line.sku, quantity=part))
    shipments = tuple(
        shipment.model_copy(update={"lines": tuple(parcel)})
        for shipment, parcel in zip(plan.shipments, given, strict=True)
    )
    return (
        plan.model_copy(update={"shipments": shipments}),
        problem.model_copy(update={"order_id": order_id, "lines": tuple(lines)}),
    )


def _units(lines: Sequence[DemandLine]) -> Counter[str]:
    units = Counter[str]()
    for line in lines:
        units[line.sku] += line.quantity
    return units
