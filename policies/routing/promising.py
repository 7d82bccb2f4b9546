"""The plan of a promise made the plan of the order that takes it."""

from collections import Counter
from collections.abc import Sequence

from models.plan import Plan, PlannedLine
from policies.routing.problem import DemandLine, RoutingProblem


def why_not(problem: RoutingProblem, order: RoutingProblem) -> str | None:
    """Why an order cannot be shipped by the plan of ``problem``; None where it can."""
    if _units(problem.lines) != _units(order.lines):
        return "other goods were ordered than it was made for"
    if problem.ship_country != order.ship_country:
        return f"it was made for {problem.ship_country}, and the order goes to {order.ship_country}"
    for name in ("ship_complete", "carrier_service", "promise_by"):
        asked = getattr(order, name)
        if asked != getattr(problem, name) and asked not in (None, False):
            return f"the order asks for another {name}"
    return None


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
