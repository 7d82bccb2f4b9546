"""What a carrier service can do for an order from a node: the zone it goes by, and when it would be there."""

from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from models.network import CarrierService, Node, ServiceZone
from models.order import MAX_DAYS_AHEAD
from models.plan import PlannedShipment
from policies.routing.calendars import counts_days, dates_of, notes_of
from policies.routing.problem import RoutingProblem

# Intake takes no order that is wanted later than that; who is closed meanwhile may need a little more.
_LONGEST_HELD = MAX_DAYS_AHEAD + 30


class Offer(NamedTuple):
    """A service that goes from a node to where the order is to go. Its freight is the zone's.

    ``held_until``: it is not prepared before, for it would arrive before it is wanted.
    """

    service: CarrierService
    zone: ServiceZone
    promised_at: datetime
    held_until: datetime | None = None


def offer_of(problem: RoutingProblem, node: Node, service: CarrierService) -> Offer | None:
    """What ``service`` offers from ``node``; None when it does not go there.

    Promised is the end of a day. Where node or service say on which days they work, those are counted and the day is
    the node's own; else every day is, and the day is that of ``business_now``. What would arrive before
    ``deliver_from`` is begun so many days later, at the same time of the day, that it does not.
    """
    zone = zone_of(service, node.country, problem.ship_country)
    if zone is None:
        return None
    at_once = _promised(problem, node, service, zone)
    if at_once is None or not _too_early(problem, at_once):
        return None if at_once is None else Offer(service, zone, at_once)

    def days_later(days: int) -> datetime:
        return problem.business_now + timedelta(days=days)

    # The later it is begun, the later it arrives: the first day that is late enough.
    days = bisect_left(
        range(_LONGEST_HELD),
        x=True,
        key=lambda days: (
            not _too_early(problem, _promised(_begun(problem, days_later(days)), node, service, zone))
        ),
    )
    promised_at = _promised(_begun(problem, days_later(days)), node, service, zone)
    return None if promised_at is None else Offer(service, zone, promised_at, days_later(days))


def _promised(
    problem: RoutingProblem, node: Node, service: CarrierService, zone: ServiceZone
) -> datetime | None:
    if counts_days(node, service):
        dates = dates_of(problem, node, service, zone.transit_days)
        return None if dates is None else dates.promised_at
    due = problem.business_now + timedelta(days=problem.processing_days + zone.transit_days)
    return due.replace(hour=23, minute=59, second=59, microsecond=0)


def _too_early(problem: RoutingProblem, promised_at: datetime | None) -> bool:
    return promised_at is not None and problem.deliver_from is not None and promised_at < problem.deliver_from


def _begun(problem: RoutingProblem, at: datetime | None) -> RoutingProblem:
    """The problem of an order that is seen to from ``at`` on; None: at once."""
    return problem if at is None else problem.model_copy(update={"business_now": at})


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
        begun = _begun(problem, one.held_until)
        if counts_days(node, service):
            dates = dates_of(begun, node, service, one.transit_days)
            if dates is not None:
                notes |= dict.fromkeys(notes_of(begun, node, service, dates))
        if one.held_until is not None:
            notes[
                f"{node.node_id} holds its parcel until {one.held_until:%Y-%m-%d}: it is not wanted before "
                f"{problem.deliver_from:%Y-%m-%d}"
            ] = None
    return tuple(notes)
