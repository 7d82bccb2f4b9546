"""Public holidays, from the library ``holidays``: of whom it knows any, and those that a routing problem is given."""

from datetime import date, datetime, timedelta
from functools import lru_cache

from models.network import Network
from policies.routing.problem import PublicHolidays

# Longer than anything is on its way; whoever counts further is told that none is known there.
_AHEAD = timedelta(days=400)


def warm_up() -> None:
    """Load the library and what it knows of all countries: seconds, which are nobody's who routes an order."""
    has_holidays("GB")


def has_holidays(region: str) -> bool:
    """Whether holidays are known of a country or a part of one, e.g. ``GB`` or ``GB-ENG``, by ISO 3166."""
    return _of_year(region, 2026) is not None


def holidays_for(network: Network, ship_country: str, business_now: datetime) -> tuple[PublicHolidays, ...]:
    """All that matter to an order that goes to ``ship_country``: of active nodes' calendars, and there if some active
    service does not deliver on holidays. Regions of which none are known are left out.
    """
    regions = {
        node.calendar.holidays
        for node in network.nodes
        if node.active and node.calendar is not None and node.calendar.holidays is not None
    }
    if any(service.active and not service.holiday_delivery for service in network.services):
        regions.add(ship_country)
    # A day earlier: it may still be the day before where a node is.
    first, until = business_now.date() - timedelta(days=1), business_now.date() + _AHEAD
    known = []
    for region in sorted(regions):
        years = [_of_year(region, year) for year in range(first.year, until.year + 1)]
        if None not in years:
            days = {day: name for year in years for day, name in year or () if first <= day <= until}
            known.append(PublicHolidays(region=region, until=until, days=days))
    return tuple(known)


@lru_cache(maxsize=4096)
def _of_year(region: str, year: int) -> tuple[tuple[date, str], ...] | None:
    # Imported here: with its first country it takes seconds and 45 MB, and whoever has no calendars needs it never.
    import holidays  # noqa: PLC0415

    country, dash, part = region.partition("-")
    if len(country) != 2 or bool(dash) != bool(part):
        return None
    try:
        known = holidays.country_holidays(country, subdiv=part or None, years=year)
    except NotImplementedError:
        return None
    return tuple(sorted(known.items()))
