"""The router that finds the cheapest plan there is, and says how far that is proven."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple

from models.money import Money
from models.network import Node
from models.plan import Alternative, Plan, PlannedLine, PlannedShipment, Proof, Unfillable
from policies.cold_start import notes_on_newcomers
from policies.routing.carriers import Leg, late_risks, notes_on_carriers
from policies.routing.distance import distance_km
from policies.routing.instance import Instance, Line, Linear, Option, Stepped
from policies.routing.looking import notes_on_values
from policies.routing.offers import Offer, in_time, notes_on, offer_of
from policies.routing.optimiser import solve, warm_up
from policies.routing.problem import RoutingProblem
from policies.routing.router import CheapestNodeRouter, by_rule, in_sequence
from policies.routing.solution import Assignment, Solution
from policies.routing.stock_values import unit_values, weighed, weighed_by
from policies.routing.weights import RoutingWeights

_MILLS = 1000
_DAY = timedelta(days=1)
# What the optimiser has at least, when earlier steps of a sequence have used the budget up: enough for most orders. The
# longest sequence takes forty looks, and so at most 0.4 s more than the budget.
_LEAST_SECONDS = 0.01


class ExactRouter:
    """Minimises handling, freight, split penalties and what units weigh where they lie, over nodes, services and
    quantities.

    What arrives in time goes before what is cheaper; where nothing can, days of delay are weighed against money. Lines
    may be split in quantity unless everything is to come at once. Where there is no plan, or the optimiser fails, the
    simple rule answers: its plan is marked, its reasons name what is missing. Where the policy has a sequence of nodes,
    the first of them that can fill the order in time do, whatever later ones would cost.
    """

    name = "exact/2"

    def __init__(self, weights: RoutingWeights | None = None) -> None:
        self._weights = weights or RoutingWeights()
        self._rule = CheapestNodeRouter()

    def route(self, problem: RoutingProblem) -> Plan | Unfillable:
        """See ``Router.route``. However many times the optimiser is asked for it, it has its budget once."""
        until = time.monotonic() + self._weights_of(problem).budget_seconds
        answer = in_sequence(problem, lambda part: self._route(part, until))
        if isinstance(answer, Unfillable):
            return answer
        new = notes_on_newcomers(problem.within_rules(), answer.shipments)
        return answer.model_copy(update={"reasons": (*answer.reasons, *new)})

    def warm_up(self) -> None:
        """Load what the first order would wait for; see ``optimiser.warm_up``."""
        warm_up()

    def _route(self, problem: RoutingProblem, until: float) -> Plan | Unfillable:
        ways = _ways(problem)
        timely = [way for way in ways if in_time(problem, way.offer.promised_at)]
        for allowed in [timely, ways] if len(timely) < len(ways) else [ways]:
            try:
                found = self._solve(problem, allowed, max(until - time.monotonic(), _LEAST_SECONDS))
            except Exception as error:
                return by_rule(problem, f"the optimiser failed ({type(error).__name__}: {error})")
            if found is not None:
                return self._no_dearer_than_the_rule(problem, self._plan(problem, allowed, *found))
        return by_rule(problem, "the optimiser found no plan in time")

    def _solve(
        self, problem: RoutingProblem, ways: Sequence["_Way"], budget_s: float
    ) -> tuple[Instance, Solution] | None:
        if not ways:
            return None
        instance = _instance(problem, ways, self._weights_of(problem))
        # The simple rule says what is missing.
        answer = solve(instance, budget_s=budget_s, explained=False)
        return (instance, answer) if isinstance(answer, Solution) else None

    def _weights_of(self, problem: RoutingProblem) -> RoutingWeights:
        return problem.weights or self._weights

    def _no_dearer_than_the_rule(self, problem: RoutingProblem, plan: Plan) -> Plan:
        """The simple rule's plan, where the optimiser ran out of time before it found one as good."""
        if plan.proof is None or plan.proof.proven:
            return plan
        simple = self._rule.route(problem)
        if (
            isinstance(simple, Unfillable)
            or plan.late is not None
            or not in_time(problem, simple.promised_at)
        ):
            return plan
        risk = self._risk(problem, simple.shipments)
        worth, worth_of_plan = weighed(problem, simple.shipments), weighed(problem, plan.shipments)
        weighs = (simple.cost + risk).minor * _MILLS + worth.mills
        cost_of_plan = plan.cost if plan.late_risk is None else plan.cost + plan.late_risk
        if weighs >= cost_of_plan.minor * _MILLS + worth_of_plan.mills:
            return plan
        objective = -(-weighs // _MILLS)
        proof = plan.proof.model_copy(
            update={"method": f"simple rule, {plan.proof.method}", "objective_minor": objective}
        )
        return simple.model_copy(
            update={
                "router": self.name,
                "reasons": (
                    "the best that was found in time, by a simple rule",
                    *simple.reasons,
                    *notes_on_carriers(problem, simple.shipments),
                    *notes_on_values(problem),
                ),
                "late_risk": risk if risk.minor else None,
                "shipments": _with_values(problem, simple.shipments),
                **worth.told(problem.currency),
                "proof": proof.model_copy(update={"proven": proof.bound_minor >= objective}),
                "alternatives": tuple(_from_one_node(problem, simple.shipments)),
            }
        )

    def _plan(
        self, problem: RoutingProblem, ways: Sequence["_Way"], instance: Instance, found: Solution
    ) -> Plan:
        shipments = _with_values(problem, _shipments(problem, ways, instance, found.assignments))
        penalty = Money(minor=problem.split_penalty_minor * (len(shipments) - 1), currency=problem.currency)
        cost = Money.total((one.handling + one.freight for one in shipments), problem.currency) + penalty
        weights = self._weights_of(problem)
        late = sum(_late_minor(problem, ways[option], weights) for option in _used(found.assignments))
        risk = self._risk(problem, shipments)
        return Plan(
            shipments=shipments,
            split_penalty=penalty,
            cost=cost,
            promised_at=max(shipment.promised_at for shipment in shipments),
            router=self.name,
            reasons=(
                _reason(problem, ways, shipments, found),
                *notes_on(problem, shipments),
                *notes_on_carriers(problem, shipments),
                *notes_on_values(problem),
            ),
            late=Money(minor=late, currency=problem.currency) if late else None,
            late_risk=risk if risk.minor else None,
            **weighed(problem, shipments).told(problem.currency),
            proof=Proof(
                method=found.method,
                proven=found.proven,
                objective_minor=math.ceil(found.cost_mills / _MILLS),
                bound_minor=math.ceil(found.lower_bound_mills / _MILLS),
                fallback=found.fallback,
            ),
            alternatives=tuple(_from_one_node(problem, shipments)),
        )

    def _risk(self, problem: RoutingProblem, shipments: Sequence[PlannedShipment]) -> Money:
        risks = late_risks(problem, self._weights_of(problem).late_day_minor)
        weighs = sum(risks[Leg(one.node, one.carrier, one.service)] for one in shipments)
        return Money(minor=weighs, currency=problem.currency)


class _Way(NamedTuple):
    node: Node
    offer: Offer


def _ways(problem: RoutingProblem) -> list[_Way]:
    """Each active node with each service that goes from there; what is preferred among equals is first."""
    ways = [
        _Way(node, offer)
        for node in problem.nodes
        if node.active
        for service in problem.usable_services()
        if (offer := offer_of(problem, node, service)) is not None
    ]
    return sorted(
        ways, key=lambda way: (way.offer.promised_at, way.node.node_id, way.offer.service.carrier, _name(way))
    )


def _name(way: _Way) -> str:
    return f"{way.offer.service.carrier}/{way.offer.service.service}"


def _instance(problem: RoutingProblem, ways: Sequence[_Way], weights: RoutingWeights) -> Instance:
    # Lines of one SKU are one: where their units come from makes no difference.
    asked = Counter[str]()
    for line in problem.lines:
        asked[line.sku] += line.quantity
    lines = tuple(
        Line(
            line_id=sku,
            sku=sku,
            quantity=quantity,
            unit_weight_g=problem.unit_weight_g,
            splittable=not problem.ship_complete,
        )
        for sku, quantity in sorted(asked.items())
    )
    values = unit_values(problem)
    risks = late_risks(problem, weights.late_day_minor)
    options = tuple(
        Option(
            node=way.node.node_id,
            service=_name(way),
            fixed_mills=_MILLS
            * (
                way.node.handling_minor
                + way.offer.zone.base_minor
                + _late_minor(problem, way, weights)
                + risks[Leg(way.node.node_id, way.offer.service.carrier, way.offer.service.service)]
            ),
            rate=_rate(way),
            max_weight_g=way.offer.service.max_weight_g,
        )
        for way in ways
    )
    return Instance(
        lines=lines,
        options=options,
        unit_cost=tuple(
            tuple(
                values[option.node, line.sku].mills if (option.node, line.sku) in values else 0
                for option in options
            )
            for line in lines
        )
        if values
        else ((0,) * len(options),) * len(lines),
        stock={(row.node, row.sku): row.available for row in problem.stock},
        split_penalty_mills=problem.split_penalty_minor * _MILLS,
        max_shipments=problem.parcels_left,
        ship_complete=problem.ship_complete,
    )


def _rate(way: _Way) -> Linear | Stepped:
    zone = way.offer.zone
    if zone.weight_step_g == 1:
        return Linear(mills_per_g=zone.per_kg_minor)
    return Stepped(step_g=zone.weight_step_g, step_mills=zone.weight_step_g * zone.per_kg_minor)


def _late_minor(problem: RoutingProblem, way: _Way, weights: RoutingWeights) -> int:
    if problem.promise_by is None or in_time(problem, way.offer.promised_at):
        return 0
    late = way.offer.promised_at - problem.promise_by
    return weights.late_day_minor * -(-late // _DAY)


def _used(assignments: Iterable[Assignment]) -> list[int]:
    return sorted({one.option for one in assignments})


def _shipments(
    problem: RoutingProblem, ways: Sequence[_Way], instance: Instance, assignments: Iterable[Assignment]
) -> tuple[PlannedShipment, ...]:
    """The parcels, the one with most units first. Lines of one SKU are served one after the other."""
    given: dict[int, dict[str, int]] = {option: {} for option in _used(assignments)}
    for one in assignments:
        given[one.option][instance.lines[one.line].sku] = one.quantity
    order = sorted(given, key=lambda option: (-sum(given[option].values()), option))
    lines: dict[int, list[PlannedLine]] = {option: [] for option in order}
    for line in problem.lines:
        asked = line.quantity
        for option in order:
            units = min(asked, given[option].get(line.sku, 0))
            if units > 0:
                given[option][line.sku] -= units
                asked -= units
                lines[option].append(PlannedLine(line_id=line.line_id, sku=line.sku, quantity=units))
    return tuple(
        _shipment(problem, ways[option], tuple(lines[option]), number)
        for number, option in enumerate(order, start=1)
    )


def _with_values(
    problem: RoutingProblem, shipments: Sequence[PlannedShipment]
) -> tuple[PlannedShipment, ...]:
    """Each parcel with what its units weigh where they lie."""
    values = unit_values(problem)
    return tuple(
        one.model_copy(update=weighed_by(values, (one,)).told(problem.currency)) if values else one
        for one in shipments
    )


def _shipment(
    problem: RoutingProblem, way: _Way, lines: tuple[PlannedLine, ...], number: int
) -> PlannedShipment:
    weight_g = sum(line.quantity for line in lines) * problem.unit_weight_g
    service, zone = way.offer.service, way.offer.zone
    return PlannedShipment(
        number=number,
        node=way.node.node_id,
        carrier=service.carrier,
        service=service.service,
        lines=lines,
        weight_g=weight_g,
        handling=Money(minor=way.node.handling_minor, currency=problem.currency),
        freight=Money(minor=zone.freight_minor(weight_g), currency=problem.currency),
        transit_days=zone.transit_days,
        promised_at=way.offer.promised_at,
        held_until=way.offer.held_until,
        distance_km=distance_km(problem, way.node),
    )


def _reason(
    problem: RoutingProblem, ways: Sequence[_Way], shipments: Sequence[PlannedShipment], found: Solution
) -> str:
    count = len({way.node.node_id for way in ways})
    nodes = "1 node" if count == 1 else f"{count} nodes"
    what = "1 shipment" if len(shipments) == 1 else f"{len(shipments)} shipments"
    late = [str(one.number) for one in shipments if not in_time(problem, one.promised_at)]
    how = (
        "the cheapest there is"
        if found.proven
        else f"the best that was found in time, at most {found.gap:.1%} above the cheapest"
    )
    return f"{what}: {how} of {len(ways)} ways from {nodes} ({found.method})" + (
        f"; late by what is asked for: {', '.join(late)}" if late else ""
    )


def _from_one_node(problem: RoutingProblem, chosen: Sequence[PlannedShipment]) -> Iterable[Alternative]:
    """Everything from one node, for each active one that the plan does not do just that with."""
    rule = CheapestNodeRouter()
    for node in sorted(problem.nodes, key=lambda node: node.node_id):
        if not node.active or (len(chosen) == 1 and chosen[0].node == node.node_id):
            continue
        what = f"everything from {node.node_id}"
        alone = problem.model_copy(update={"nodes": (node,), "ship_complete": False})
        answer = rule.route(alone)
        if isinstance(answer, Unfillable):
            short = len(answer.missing)
            lines = "1 line" if short == 1 else f"{short} lines"
            why_not = f"short of {lines}" if answer.missing else "; ".join(answer.reasons)
            yield Alternative(what=what, why_not=why_not)
        else:
            yield Alternative(
                what=what,
                cost=answer.cost,
                promised_at=answer.promised_at,
                **weighed(problem, answer.shipments).told(problem.currency),
            )
