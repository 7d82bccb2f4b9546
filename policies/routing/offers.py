"""What a carrier service can do for an order from a node: the zone it goes by, and when it would be there."""

from datetime import datetime, timedelta
from typing import NamedTuple

from models.network import CarrierService, Node, ServiceZone
from policies.routing.problem import RoutingProblem


class Offer(NamedTuple):
    """A service that goes from a node to where the order is to go. Its freight is the zone's."""

    service: CarrierService
    zone: ServiceZone
    promised_at: datetime


def offer_of(problem: RoutingProblem, node: Node, service: CarrierService) -> Offer | None:
    """What ``service`` offers from ``node``; None when it does not go there. The country itself is before ``*``."""
    zones = [zone for zone in service.zones if zone.origin in (node.country, "*")]
    exact = [zone for zone in zones if problem.ship_country in zone.destinations]
    anywhere = [zone for zone in zones if "*" in zone.destinations]
    zone = next(iter((*exact, *anywhere)), None)
    if zone is None:
        return None
    # To the end of the promised day.
    due = problem.business_now + timedelta(days=problem.processing_days + zone.transit_days)
    return Offer(service, zone, due.replace(hour=23, minute=59, second=59, microsecond=0))


def in_time(problem: RoutingProblem, promised_at: datetime) -> bool:
    """Whether that is not later than the order says."""
    return problem.promise_by is None or promised_at <= problem.promise_by
