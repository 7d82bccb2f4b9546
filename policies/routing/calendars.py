"""On which days nodes work and carriers move, and when an order would be handed over and arrive by that.

Nodes and services that say nothing of days are not counted here: see ``policies.routing.offers``.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple
from zoneinfo import ZoneInfo

from models.network import CarrierService, Closure, Node, Weekday
from policies.routing.problem import RoutingProblem

_DAY = timedelta(days=1)
_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NONE: Mapping[date, str] = MappingProxyType({})
# Who does not work for longer than that does not work at all.
_LONGEST_PAUSE = timedelta(days=400)
# What the night of a change of clocks has twice, ends with the second time.
_END_OF_DAY = time(23, 59, 59, fold=1)


class Dates(NamedTuple):
    """Days of the node's own time zone: it prepares from ``prepared_from``, the carrier has it on ``handed_over``."""

    prepared_from: date
    handed_over: date
    promised_at: datetime


def counts_days(node: Node, service: CarrierService) -> bool:
    """Whether either says on which days it works."""
    return (
        node.calendar is not None
        or service.pickup_days is not None
        or service.delivery_days is not None
        or not service.holiday_delivery
    )


def dates_of(problem: RoutingProblem, node: Node, service: CarrierService, transit_days: int) -> Dates | None:
    """When ``service`` would have an order from ``node``, and by when it delivers it: the end of that day, in UTC.

    None when their days never meet.
    """
    zone = ZoneInfo(node.time_zone)
    works = _working_days(problem, node)
    first = problem.business_now.astimezone(zone).date()
    if after_cut_off(problem, node):
        first += _DAY
    try:
        prepared_from = works.nth(first, 0)
        ready = works.nth(prepared_from, problem.processing_days)
        handed_over = works.only(service.pickup_days).nth(ready, 0)
        due = _delivery_days(problem, service).nth(handed_over, transit_days)
    except _NeverError:
        return None
    promised_at = datetime.combine(due, _END_OF_DAY, tzinfo=zone).astimezone(UTC)
    return Dates(prepared_from, handed_over, promised_at)


def after_cut_off(problem: RoutingProblem, node: Node) -> bool:
    """Whether it is past the node's cut-off of its day. At the very minute it is not yet."""
    if node.calendar is None or node.calendar.cut_off is None:
        return False
    zone = ZoneInfo(node.time_zone)
    day = problem.business_now.astimezone(zone).date()
    # Moments and not what the clock shows: it shows some twice, and a cut-off does not come back.
    cut_off = datetime.combine(day, time.fromisoformat(node.calendar.cut_off), tzinfo=zone)
    return problem.business_now.astimezone(UTC) > cut_off.astimezone(UTC)


def notes_of(problem: RoutingProblem, node: Node, service: CarrierService, dates: Dates) -> Iterator[str]:
    """What a person should know of how the days were counted: what moved the start, and what was not known."""
    zone = ZoneInfo(node.time_zone)
    today = problem.business_now.astimezone(zone).date()
    if node.calendar is not None:
        if dates.prepared_from > today:
            closed = _working_days(problem, node).why_not(today)
            why = (
                f"after its cut-off, {node.calendar.cut_off} in {node.time_zone}"
                if closed is None
                else f"closed on {today} ({closed})"
            )
            yield f"{node.node_id}: {why}; prepared from {dates.prepared_from}"
        until = node.calendar.maintained_until
        if until is not None and dates.handed_over > until:
            yield (
                f"the calendar of {node.node_id} is maintained until {until}: later days are counted by weekdays only"
            )
        yield from _unknown_holidays(problem, node.calendar.holidays, dates.handed_over)
    if not service.holiday_delivery:
        yield from _unknown_holidays(problem, problem.ship_country, dates.promised_at.astimezone(zone).date())


class _NeverError(Exception):
    """There is no such day."""


class _Days(NamedTuple):
    """The days of the ``weekdays`` (Monday first) but those with a reason, which is not asked for after ``until``."""

    weekdays: tuple[bool, ...]
    closures: tuple[Closure, ...] = ()
    holidays: Mapping[date, str] = _NONE
    until: date = date.max

    def only(self, weekdays: tuple[Weekday, ...] | None) -> "_Days":
        """Those that are on ``weekdays`` as well; None: on any."""
        if weekdays is None:
            return self
        both = zip(self.weekdays, _by_number(weekdays), strict=True)
        return self._replace(weekdays=tuple(ours and theirs for ours, theirs in both))

    def why_not(self, day: date) -> str | None:
        """The reason why ``day`` is none of them; None when it is."""
        if not self.weekdays[day.weekday()]:
            return _NAMES[day.weekday()]
        if day > self.until:
            return None
        for closure in self.closures:
            if closure.covers(day):
                return closure.reason
        return self.holidays.get(day)

    def nth(self, day: date, count: int) -> date:
        """The ``count``-th of them after ``day``; for 0 the first that is not before it. Raises ``_NeverError``."""
        if count == 0:
            day -= _DAY
        for _ in range(count or 1):
            last = day + _LONGEST_PAUSE
            day += _DAY
            while self.why_not(day) is not None:
                if day >= last:
                    raise _NeverError
                day += _DAY
        return day


_EVERY_WEEKDAY = (True,) * 7


def _working_days(problem: RoutingProblem, node: Node) -> _Days:
    calendar = node.calendar
    if calendar is None:
        return _Days(_EVERY_WEEKDAY)
    known = problem.holidays_of(calendar.holidays)
    return _Days(
        _by_number(calendar.working_days),
        calendar.closures,
        _NONE if known is None else known.days,
        calendar.maintained_until or date.max,
    )


def _delivery_days(problem: RoutingProblem, service: CarrierService) -> _Days:
    days = _Days(_EVERY_WEEKDAY).only(service.delivery_days)
    known = None if service.holiday_delivery else problem.holidays_of(problem.ship_country)
    return days if known is None else days._replace(holidays=known.days)


@lru_cache(maxsize=256)
def _by_number(weekdays: tuple[Weekday, ...]) -> tuple[bool, ...]:
    return tuple(day in weekdays for day in Weekday)


def _unknown_holidays(problem: RoutingProblem, region: str | None, last: date) -> Iterator[str]:
    if region is None:
        return
    known = problem.holidays_of(region)
    if known is None:
        yield f"the public holidays of {region} are not known: none was counted"
    elif last > known.until:
        yield f"the public holidays of {region} are known until {known.until}: none was counted after that"
