"""A problem without what cannot be planned with at present, and one as a person sets it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from models.messages import Avoided
from models.network import CarrierService
from models.rerouting import Notice, NoticeKind, SetPlan
from policies.routing.distance import beginnings, written_alike
from policies.routing.problem import RoutingProblem, StockRow


def without(
    problem: RoutingProblem, notices: Sequence[Notice], avoided: Sequence[Avoided], postcode: str
) -> RoutingProblem:
    """``problem`` as it is while ``notices`` are in force, and as its order has to ``avoid``; with a note of each.

    Closed nodes and services that are out are as those that are not active; a delay counts as days in transit.
    """
    told = [notice for notice in notices if _concerns(notice, problem, postcode)]
    if not told and not avoided:
        return problem
    closed = {notice.node for notice in told} | {one.node for one in avoided}
    lost = [(one.carrier, one.service) for one in told] + [(one.carrier, one.service) for one in avoided]
    services = []
    for service in problem.services:
        out = any(_is_out(service, carrier, name) for carrier, name in lost)
        nothing_goes = any(notice.kind is NoticeKind.REGION and notice.delay_days is None for notice in told)
        # Two notices of one snowfall are one delay.
        later = max((notice.delay_days or 0 for notice in told), default=0)
        services.append(_later(service, later, active=service.active and not out and not nothing_goes))
    return problem.model_copy(
        update={
            "nodes": tuple(
                node.model_copy(update={"active": False}) if node.node_id in closed else node
                for node in problem.nodes
            ),
            "services": tuple(services),
            "notes": (
                *problem.notes,
                *(f"{notice.about}: {notice.reason}{_until(notice.ends_at)}"[:300] for notice in told),
                *(
                    f"{one.node or f'{one.carrier}/{one.service}'} is left out: "
                    f"{one.why.replace('_', ' ')}{_until(one.until)}"[:300]
                    for one in avoided
                ),
            ),
        }
    )


def concerns_region(notice: Notice, country: str, postcode: str) -> bool:
    """Whether a notice of a region is about an address."""
    return notice.country == country and (
        notice.prefix is None or written_alike(country, notice.prefix) in beginnings(country, postcode)
    )


def as_set(problem: RoutingProblem, wish: SetPlan) -> RoutingProblem | tuple[str, ...]:
    """The problem in which every unit lies where a person wants it from, and nowhere else; or why it cannot be.

    The policy's rules of nodes and parcels do not hold for it: whoever sets a plan answers for it.
    """
    named: dict[str, Counter[str]] = defaultdict(Counter)
    left = {line.line_id: line.quantity for line in problem.lines}
    wrong: list[str] = []
    for units in wish.units:
        if units.line_id not in left:
            wrong.append(f"line {units.line_id} is not among what is left to plan: {', '.join(left)}")
            continue
        quantity = left[units.line_id] if units.quantity is None else units.quantity
        if quantity > left[units.line_id]:
            wrong.append(
                f"line {units.line_id}: {quantity} units from {units.node}, of which {left[units.line_id]} are left"
            )
            continue
        named[units.line_id][units.node] += quantity
        left[units.line_id] -= quantity
    for line_id, rest in left.items():
        if rest and wish.node is not None:
            named[line_id][wish.node] += rest
        elif rest:
            wrong.append(f"line {line_id}: nothing says where {rest} of its units come from")
    wanted = Counter[tuple[str, str]]()
    for line in problem.lines:
        for node, quantity in named[line.line_id].items():
            wanted[node, line.sku] += quantity
    wrong += _not_to_be_had(problem, wanted)
    if wrong:
        return tuple(wrong)
    used = {node for node, _ in wanted}
    return problem.model_copy(
        update={
            "nodes": tuple(node for node in problem.nodes if node.node_id in used),
            "stock": tuple(
                StockRow(node=node, sku=sku, available=quantity)
                for (node, sku), quantity in wanted.items()
                if quantity
            ),
            "carrier_service": wish.carrier_service or problem.carrier_service,
            "max_parcels": None,
            "sequence": (),
            "barred": (),
            "rule": None,
        }
    )


def _not_to_be_had(problem: RoutingProblem, wanted: Counter[tuple[str, str]]) -> Iterable[str]:
    nodes = {node.node_id: node for node in problem.nodes}
    there = {(row.node, row.sku): row.available for row in problem.stock}
    for name in dict.fromkeys(node for node, _ in wanted):
        if name not in nodes:
            yield f"{name} is no node: there are {', '.join(sorted(nodes))}"
        elif not nodes[name].active:
            yield f"{name} is closed"
    for (node, sku), quantity in wanted.items():
        if node in nodes and (has := there.get((node, sku), 0)) < quantity:
            yield f"{node} can give {has} of {sku}: {quantity - has} more would have to lie there"


def _concerns(notice: Notice, problem: RoutingProblem, postcode: str) -> bool:
    if notice.kind is NoticeKind.NODE:
        return any(node.node_id == notice.node for node in problem.nodes)
    if notice.kind is NoticeKind.CARRIER:
        return any(_is_out(service, notice.carrier, notice.service) for service in problem.services)
    return concerns_region(notice, problem.ship_country, postcode)


def _is_out(service: CarrierService, carrier: str | None, name: str | None) -> bool:
    return carrier is not None and service.carrier == carrier and name in (None, service.service)


def _later(service: CarrierService, days: int, *, active: bool) -> CarrierService:
    if not days and active == service.active:
        return service
    zones = tuple(
        zone.model_copy(update={"transit_days": zone.transit_days + days}) for zone in service.zones
    )
    return service.model_copy(update={"active": active, "zones": zones})


def _until(moment: datetime | None) -> str:
    return "" if moment is None else f" (until {moment:%Y-%m-%d %H:%M})"
