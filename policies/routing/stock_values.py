"""What units weigh where they lie, beside what it costs to send them: the price of what comes later, and a credit.

The optimiser adds them up in whole mills, unit by unit, so that no order of adding makes a difference. What a person
is told is rounded once, from the sum: to the nearest minor unit.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self, TypedDict

from models.money import Money
from models.plan import PlannedShipment
from policies.routing.problem import RoutingProblem

_MILLS = 1000


class Told(TypedDict):
    """As plans, parcels and alternatives have it; None for what weighs nothing."""

    look_ahead: Money | None
    markdown: Money | None


class Weighed(NamedTuple):
    """Mills that some units weigh: ``look_ahead`` more, ``markdown`` less. Both are at least 0."""

    look_ahead: int = 0
    markdown: int = 0

    @property
    def mills(self) -> int:
        """Both together, as the optimiser has them."""
        return self.look_ahead - self.markdown

    def told(self, currency: str) -> Told:
        """What people are told of it."""
        return {
            "look_ahead": _told(self.look_ahead, currency),
            "markdown": _told(-self.markdown, currency),
        }

    def plus(self, other: Self) -> "Weighed":
        """Of these units and those."""
        return Weighed(self.look_ahead + other.look_ahead, self.markdown + other.markdown)


def unit_values(problem: RoutingProblem) -> Mapping[tuple[str, str], Weighed]:
    """What a unit weighs, by node and SKU, where it weighs anything."""
    return {
        (row.node, row.sku): Weighed(row.look_ahead_mills, row.markdown_mills)
        for row in problem.stock
        if row.look_ahead_mills or row.markdown_mills
    }


def weighed(problem: RoutingProblem, shipments: Iterable[PlannedShipment]) -> Weighed:
    """What all units of ``shipments`` weigh."""
    return weighed_by(unit_values(problem), shipments)


def weighed_by(values: Mapping[tuple[str, str], Weighed], shipments: Iterable[PlannedShipment]) -> Weighed:
    """The same by known values."""
    total = Weighed()
    for one in shipments:
        for line in one.lines:
            unit = values.get((one.node, line.sku), Weighed())
            total = total.plus(Weighed(line.quantity * unit.look_ahead, line.quantity * unit.markdown))
    return total


def _told(mills: int, currency: str) -> Money | None:
    return Money(minor=(mills + _MILLS // 2) // _MILLS, currency=currency) if mills else None
