"""What a carrier service can do for an order from a node: the zone it goes by, and when it would be there."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from models.network import CarrierService, Node, ServiceZone
from models.plan import PlannedShipment
from policies.routing.calendars import counts_days, dates_of, notes_of
from policies.routing.problem import RoutingProblem


class Offer(NamedTuple):
    """A service that goes from a node to where the order is to go. Its freight is the zone's."""

    service: CarrierService
    zone: ServiceZone
    promised_at: datetime


def offer_of(problem: RoutingProblem, node: Node, service: CarrierService) -> Offer | None:
    """What ``service`` offers from ``node``; None when it does not go there.

    Promised is the end of a day. Where node or service say on which days they work, those are counted and the day is
    the node's own; else every day is, and the day is that of ``business_now``.
    """
    zone = zone_of(service, node.country, problem.ship_country)
    if zone is None:
        return None
    if counts_days(node, service):
        dates = dates_of(problem, node, service, zone.transit_days)
        return None if dates is None else Offer(service, zone, dates.promised_at)
    due = problem.business_now + timedelta(days=problem.processing_days + zone.transit_days)
    return Offer(service, zone, due.replace(hour=23, minute=59, second=59, microsecond=0))


def zone_of(service: CarrierService, origin: str, destination: str) -> ServiceZone | None:
    """The zone that parcels go by between two countries. The country itself is before ``*``."""
    zones = [zone for zone in service.zones if zone.origin in (origin, "*")]
    exact = [zone for zone in zones if destination in zone.destinations]
    anywhere = [zone for zone in zones if "*" in zone.destinations]
    return next(iter((*exact, *anywhere)), None)


def in_time(problem: RoutingProblem, promised_at: datetime) -> bool:
    """Whether that is not later than the order says."""
    return problem.promise_by is None or promised_at <= problem.promise_by


def notes_on(problem: RoutingProblem, shipments: Iterable[PlannedShipment]) -> tuple[str, ...]:
    """What a person should know of the problem, and of how the days of ``shipments`` were counted, each once."""
    nodes = {node.node_id: node for node in problem.nodes}
    services = {(service.carrier, service.service): service for service in problem.services}
    notes: dict[str, None] = dict.fromkeys(problem.notes)
    for one in shipments:
        node, service = nodes[one.node], services[one.carrier, one.service]
        if counts_days(node, service):
            dates = dates_of(problem, node, service, one.transit_days)
            if dates is not None:
                notes |= dict.fromkeys(notes_of(problem, node, service, dates))
    return tuple(notes)
