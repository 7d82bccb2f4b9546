"""Routers: a problem in, a plan with its reasons out; and the simple one, whose rule everybody can follow."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from models.money import Money
from models.network import Node
from models.plan import Plan, PlannedLine, PlannedShipment, Unfillable
from policies.routing.distance import distance_km
from policies.routing.offers import in_time, notes_on, offer_of
from policies.routing.problem import RoutingProblem


class Router(Protocol):
    """Decides which node ships what with which service. Deterministic: the same problem gives the same plan."""

    name: str

    def route(self, problem: RoutingProblem) -> Plan | Unfillable:
        """A feasible plan, or why there is none. Never raises for a problem that merely cannot be served."""
        ...


class CheapestNodeRouter:
    """The cheapest node that holds everything; else fullest node first, each by its cheapest service.

    Exact for unsplit orders; for splits a simple rule that is feasible, not optimal.
    """

    name = "cheapest-node/1"

    def route(self, problem: RoutingProblem) -> Plan | Unfillable:
        """See ``Router.route``."""
        return in_sequence(problem, self._route)

    def _route(self, problem: RoutingProblem) -> Plan | Unfillable:
        if problem.carrier_service is not None and not problem.usable_services():
            return Unfillable(
                reasons=(f"{problem.carrier_service} is asked for, and the network has no such service",)
            )
        on_hand = _stock_by_node(problem)
        nodes = [node for node in problem.nodes if node.active]
        demand = {line.line_id: line.quantity for line in problem.lines}
        complete = [
            shipment
            for node in nodes
            if _covered(problem, demand, on_hand[node.node_id]) == demand
            and (shipment := _shipment(problem, node, demand, number=1)) is not None
        ]
        if complete:
            best = min(complete, key=lambda shipment: _preference(problem, shipment))
            return _plan(
                problem, (best,), f"cheapest of {len(complete)} nodes that hold everything", self.name
            )
        if problem.ship_complete:
            return Unfillable(
                reasons=(
                    "ship_complete is asked for and no single node can send everything"
                    + _by_service(problem),
                )
            )
        return self._split(problem, nodes, on_hand, demand)

    def _split(
        self,
        problem: RoutingProblem,
        nodes: list[Node],
        on_hand: dict[str, dict[str, int]],
        demand: dict[str, int],
    ) -> Plan | Unfillable:
        shipments: list[PlannedShipment] = []
        left = dict(demand)
        while left:
            candidates = [
                (covered, shipment)
                for node in nodes
                if (covered := _covered(problem, left, on_hand[node.node_id]))
                and (shipment := _shipment(problem, node, covered, number=len(shipments) + 1)) is not None
            ]
            if not candidates:
                return Unfillable(
                    reasons=tuple(_missing(problem, left)),
                    missing=tuple(
                        PlannedLine(line_id=line.line_id, sku=line.sku, quantity=left[line.line_id])
                        for line in problem.lines
                        if line.line_id in left
                    ),
                )
            if problem.parcels_left is not None and len(shipments) >= problem.parcels_left:
                return Unfillable(reasons=(_too_many(problem),))
            covered, shipment = min(
                candidates, key=lambda pair: (-sum(pair[0].values()), *_preference(problem, pair[1]))
            )
            shipments.append(shipment)
            nodes = [node for node in nodes if node.node_id != shipment.node]
            left = {line: rest for line, asked in left.items() if (rest := asked - covered.get(line, 0)) > 0}
        return _plan(
            problem, tuple(shipments), f"no node holds everything: {len(shipments)} shipments", self.name
        )


def in_sequence(
    problem: RoutingProblem, route: Callable[[RoutingProblem], Plan | Unfillable]
) -> Plan | Unfillable:
    """What ``route`` makes of the first nodes of a sequence that can fill the order in time, within the policy's rules.

    Each step adds its nodes to those of the steps before; where none is in time, the first that fills it counts.
    Without a sequence all nodes are asked at once.
    """
    problem = problem.within_rules()
    if problem.parcels_left == 0:
        return Unfillable(reasons=(_too_many(problem),))
    if not problem.sequence:
        return route(problem)
    tried: set[str] = set()
    late: Plan | None = None
    for step, named in enumerate(problem.sequence, start=1):
        tried |= set(named)
        nodes = tuple(node for node in problem.nodes if node.node_id in tried)
        answer = route(problem.model_copy(update={"nodes": nodes, "sequence": ()}))
        if isinstance(answer, Unfillable):
            continue
        whose = f"rule {problem.rule}" if problem.rule else "nodes, new ones last"
        said = [f"from step {step} of {len(problem.sequence)} of the sequence of {whose}"]
        in_time_at_last = in_time(problem, answer.promised_at)
        if late is not None and in_time_at_last:
            said.append(f"steps before could fill it on {late.promised_at:%Y-%m-%d} only, which is too late")
        plan = answer.model_copy(update={"reasons": (*answer.reasons, *said)})
        if in_time_at_last or not problem.sequence_in_time:
            return plan
        late = late or plan
    return late or answer


def by_rule(problem: RoutingProblem, why: str) -> Plan | Unfillable:
    """The simple rule's answer, for want of a better one; a plan is marked with ``why``."""
    answer = CheapestNodeRouter().route(problem)
    if isinstance(answer, Unfillable):
        return answer
    return answer.model_copy(update={"reasons": (f"{why}: by a simple rule", *answer.reasons)})


def _too_many(problem: RoutingProblem) -> str:
    kept = f" with the {problem.kept_parcels} that go on already" if problem.kept_parcels else ""
    return (
        f"it would take more than {problem.max_parcels} parcels{kept}, which is the most that "
        f"{problem.policy or 'the policy'} allows"
    )


def _stock_by_node(problem: RoutingProblem) -> dict[str, dict[str, int]]:
    stock: dict[str, dict[str, int]] = defaultdict(dict)
    for row in problem.stock:
        stock[row.node][row.sku] = row.available
    return stock


def _covered(problem: RoutingProblem, demand: dict[str, int], on_hand: dict[str, int]) -> dict[str, int]:
    """How much of each line a node can serve; two lines of one SKU share its stock."""
    left = dict(on_hand)
    covered: dict[str, int] = {}
    for line in problem.lines:
        served = min(demand.get(line.line_id, 0), left.get(line.sku, 0))
        if served > 0:
            covered[line.line_id] = served
            left[line.sku] -= served
    return covered


def _shipment(
    problem: RoutingProblem, node: Node, covered: dict[str, int], number: int
) -> PlannedShipment | None:
    weight_g = sum(covered.values()) * problem.unit_weight_g
    offers = [
        offer
        for service in problem.usable_services()
        if (offer := offer_of(problem, node, service)) is not None and weight_g <= service.max_weight_g
    ]
    if not offers:
        return None
    timely = [offer for offer in offers if in_time(problem, offer.promised_at)]
    offer = min(
        timely or offers,
        key=lambda o: (
            (o.zone.freight_minor(weight_g), o.promised_at, o.service.carrier, o.service.service)
            if timely
            else (o.promised_at, o.zone.freight_minor(weight_g), o.service.carrier, o.service.service)
        ),
    )
    return PlannedShipment(
        number=number,
        node=node.node_id,
        carrier=offer.service.carrier,
        service=offer.service.service,
        lines=tuple(
            PlannedLine(line_id=line.line_id, sku=line.sku, quantity=covered[line.line_id])
            for line in problem.lines
            if line.line_id in covered
        ),
        weight_g=weight_g,
        handling=Money(minor=node.handling_minor, currency=problem.currency),
        freight=Money(minor=offer.zone.freight_minor(weight_g), currency=problem.currency),
        transit_days=offer.zone.transit_days,
        promised_at=offer.promised_at,
        held_until=offer.held_until,
        distance_km=distance_km(problem, node),
    )


def _preference(problem: RoutingProblem, shipment: PlannedShipment) -> tuple[bool, int, datetime, str]:
    """Cheapest first; ties go to the earlier promise, then to the node's name, so that the choice is repeatable."""
    late = not in_time(problem, shipment.promised_at)
    return late, (shipment.handling + shipment.freight).minor, shipment.promised_at, shipment.node


def _plan(problem: RoutingProblem, shipments: tuple[PlannedShipment, ...], reason: str, router: str) -> Plan:
    penalty = Money(minor=problem.split_penalty_minor * (len(shipments) - 1), currency=problem.currency)
    cost = Money.total((s.handling + s.freight for s in shipments), problem.currency) + penalty
    return Plan(
        shipments=shipments,
        split_penalty=penalty,
        cost=cost,
        promised_at=max(shipment.promised_at for shipment in shipments),
        router=router,
        reasons=(reason, *notes_on(problem, shipments)),
    )


def _missing(problem: RoutingProblem, left: dict[str, int]) -> list[str]:
    active = {node.node_id for node in problem.nodes if node.active}
    held: dict[str, int] = defaultdict(int)
    kept_back: dict[str, int] = defaultdict(int)
    wanted: dict[str, int] = defaultdict(int)
    for row in problem.stock:
        if row.node in active:
            held[row.sku] += row.available
            kept_back[row.sku] += row.kept_back
    for line in problem.lines:
        wanted[line.sku] += line.quantity
    return [
        f"line {line.line_id}: {left[line.line_id]} of {line.quantity} units of {line.sku} cannot be served, "
        + (
            f"active nodes hold {held[line.sku]} of the {wanted[line.sku]} asked for"
            + (f" ({kept_back[line.sku]} more lie there, but are kept back)" if kept_back[line.sku] else "")
            if held[line.sku] < wanted[line.sku]
            else f"no carrier service takes them to {problem.ship_country} from where they are"
            + _by_service(problem)
        )
        for line in problem.lines
        if line.line_id in left
    ]


def _by_service(problem: RoutingProblem) -> str:
    return "" if problem.carrier_service is None else f" (only {problem.carrier_service} is asked for)"
