"""The optimiser's answer: a plan with its cost and how good it is proven to be, or why there is none."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from policies.routing.instance import Instance


@dataclass(frozen=True, order=True)
class Assignment:
    """``quantity`` units of a line from an option, both by their place in the instance."""

    line: int
    option: int
    quantity: int


@dataclass(frozen=True)
class Terms:
    """What a plan's cost consists of, in mills. They add up to ``total_mills``."""

    fixed_mills: int
    freight_mills: int
    unit_mills: int
    split_mills: int
    unfilled_mills: int

    @property
    def total_mills(self) -> int:
        """The objective."""
        return (
            self.fixed_mills + self.freight_mills + self.unit_mills + self.split_mills + self.unfilled_mills
        )


@dataclass(frozen=True)
class Solution:
    """A feasible plan: ``assignments`` in order of line and option, ``unfilled`` units per line.

    ``proven``: no plan costs less. If not, none costs less than ``lower_bound_mills``. ``fallback``: it is the quick
    plan, because no better one was found in time.
    """

    assignments: tuple[Assignment, ...]
    unfilled: tuple[int, ...]
    cost_mills: int
    lower_bound_mills: int
    method: str
    fallback: bool = False

    @property
    def proven(self) -> bool:
        """Whether it is the cheapest."""
        return self.lower_bound_mills >= self.cost_mills

    @property
    def gap(self) -> float:
        """By how much of its cost a cheaper plan could still undercut it; 0 if proven."""
        return (
            0.0 if self.proven else (self.cost_mills - self.lower_bound_mills) / max(1, abs(self.cost_mills))
        )


class Code(StrEnum):
    """What stands in the way of a plan."""

    NO_STOCK = "no_stock"
    NOT_ENOUGH_STOCK = "not_enough_stock"
    NO_ALLOWED_OPTION = "no_allowed_option"
    NOT_ENOUGH_ALLOWED = "not_enough_allowed"
    NOT_WHOLE = "not_whole"
    WEIGHT_LIMIT = "weight_limit"
    CAPACITY = "capacity"
    MAX_SHIPMENTS = "max_shipments"
    MIN_SPLIT_VALUE = "min_split_value"
    SHIP_COMPLETE = "ship_complete"
    TOGETHER = "together"
    OUT_OF_TIME = "out_of_time"


@dataclass(frozen=True)
class Reason:
    """One constraint that binds: ``needed`` against ``found``, in units, grams, shipments or minor units as the code
    has it. ``line_id`` is ``None`` where it is about the order.
    """

    code: Code
    needed: int
    found: int
    line_id: str | None = None


@dataclass(frozen=True)
class Unfillable:
    """No plan serves every line that must be served. ``proven``: there is none; else none was found in time."""

    reasons: tuple[Reason, ...]
    proven: bool = True


@dataclass(frozen=True)
class NoPlan:
    """A method's proof that no plan serves every line that must be served."""


@dataclass(frozen=True)
class OnlyBound:
    """A method solved less than the whole problem: no plan costs below this, and ``assignments`` may break a rule."""

    lower_bound_mills: int
    assignments: tuple[Assignment, ...] = ()


Outcome = Solution | NoPlan | OnlyBound


def unfilled(instance: Instance, assignments: Iterable[Assignment]) -> tuple[int, ...]:
    """Units per line that the assignments leave out."""
    left = [line.quantity for line in instance.lines]
    for one in assignments:
        left[one.line] -= one.quantity
    return tuple(left)


def terms(instance: Instance, assignments: Iterable[Assignment]) -> Terms:
    """What these assignments cost, term by term. They must keep to ``unit_cost`` and to the tables of freight."""
    assignments = tuple(assignments)
    weight: dict[int, int] = defaultdict(int)
    unit_mills = 0
    for one in assignments:
        weight[one.option] += one.quantity * instance.lines[one.line].unit_weight_g
        unit_mills += one.quantity * (instance.unit_cost[one.line][one.option] or 0)
    return Terms(
        fixed_mills=sum(instance.options[option].fixed_mills for option in weight),
        freight_mills=sum(instance.options[option].rate.freight(grams) for option, grams in weight.items()),
        unit_mills=unit_mills,
        split_mills=instance.split_penalty_mills * max(0, len(weight) - 1),
        unfilled_mills=sum(
            left * (line.unfilled_mills or 0)
            for line, left in zip(instance.lines, unfilled(instance, assignments), strict=True)
        ),
    )


def solution(
    instance: Instance,
    assignments: Iterable[Assignment],
    method: str,
    *,
    lower_bound_mills: int | None = None,
    fallback: bool = False,
) -> Solution:
    """The answer that these feasible assignments are; without a bound they are the proven best."""
    assignments = tuple(sorted(assignments))
    cost = terms(instance, assignments).total_mills
    return Solution(
        assignments=assignments,
        unfilled=unfilled(instance, assignments),
        cost_mills=cost,
        lower_bound_mills=cost if lower_bound_mills is None else min(cost, lower_bound_mills),
        method=method,
        fallback=fallback,
    )


def fits(instance: Instance, assignments: Iterable[Assignment]) -> bool:
    """Whether the assignments keep every rule of the instance."""
    assignments = tuple(assignments)
    served: dict[int, list[int]] = defaultdict(list)
    stock: dict[tuple[str, str], int] = defaultdict(int)
    picked: dict[str, int] = defaultdict(int)
    weight: dict[int, int] = defaultdict(int)
    value: dict[int, int] = defaultdict(int)
    for one in assignments:
        line, option = instance.lines[one.line], instance.options[one.option]
        if instance.unit_cost[one.line][one.option] is None:
            return False
        served[one.line].append(one.quantity)
        stock[option.node, line.sku] += one.quantity
        picked[option.node] += one.quantity
        weight[one.option] += one.quantity * line.unit_weight_g
        value[one.option] += one.quantity * line.unit_value_minor
    return (
        all(units <= instance.stock.get(place, 0) for place, units in stock.items())
        and all(units <= instance.capacity.get(node, units) for node, units in picked.items())
        and all(
            (limit := instance.options[option].weight_limit_g) is None or grams <= limit
            for option, grams in weight.items()
        )
        and len(weight) <= instance.most_shipments
        and (len(value) < 2 or min(value.values()) >= instance.min_split_value_minor)
        and _lines_fit(instance, served)
        and (not instance.ship_complete or _complete(instance, assignments, shipments=len(weight)))
    )


def _lines_fit(instance: Instance, served: dict[int, list[int]]) -> bool:
    for place, line in enumerate(instance.lines):
        parts = served.get(place, [])
        left = line.quantity - sum(parts)
        if left < 0 or (left > 0 and line.unfilled_mills is None):
            return False
        if not line.splittable and parts not in ([], [line.quantity]):
            return False
    return True


def _complete(instance: Instance, assignments: tuple[Assignment, ...], shipments: int) -> bool:
    return shipments == 0 or (shipments == 1 and not any(unfilled(instance, assignments)))
