"""The numeric problem of one order: who could ship what, and what each unit of it costs. Integers only.

Costs are *mills*, thousandths of a minor unit: grams × minor units per kilogram is then exact. Weights are grams,
values minor units, quantities units. Whatever forbids (a capability, a date, a pinned node) is ``None`` in
``unit_cost``; who builds an instance has decided that.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

# Sums of costs, and a penalty above all of them for each missing unit, must fit into 64 bits with room to spare.
_LARGEST = 1 << 58


@dataclass(frozen=True)
class Line:
    """``quantity`` units of a SKU.

    ``unfilled_mills``: what each unit costs that is not shipped; ``None``: every unit must be. A line that is not
    ``splittable`` goes whole with one shipment, or is left unfilled whole.
    """

    line_id: str
    sku: str
    quantity: int
    unit_weight_g: int = 0
    unit_value_minor: int = 0
    unfilled_mills: int | None = None
    splittable: bool = False


@dataclass(frozen=True)
class Linear:
    """Freight of ``mills_per_g`` for every gram."""

    mills_per_g: int = 0

    def freight(self, weight_g: int) -> int:
        """Mills for a shipment of ``weight_g``."""
        return self.mills_per_g * weight_g


@dataclass(frozen=True)
class Stepped:
    """Freight of ``step_mills`` for every ``step_g`` begun, such as every kilogram."""

    step_g: int
    step_mills: int

    def freight(self, weight_g: int) -> int:
        """Mills for a shipment of ``weight_g``."""
        return -(-weight_g // self.step_g) * self.step_mills


@dataclass(frozen=True)
class Brackets:
    """A table of ``(up_to_g, mills)`` by rising weight. What is heavier than the last row cannot be sent."""

    rows: tuple[tuple[int, int], ...]

    def freight(self, weight_g: int) -> int:
        """Mills for a shipment of ``weight_g``, which must not be above the last row."""
        return next(mills for up_to_g, mills in self.rows if weight_g <= up_to_g)


Rate = Linear | Stepped | Brackets


@dataclass(frozen=True)
class Option:
    """A node with a carrier service: it can make one shipment.

    ``fixed_mills`` is due as soon as it ships anything: the carrier's base, handling, the opening charge, the trip's
    carbon.
    """

    node: str
    service: str
    fixed_mills: int = 0
    rate: Rate = field(default_factory=Linear)
    max_weight_g: int | None = None

    @property
    def weight_limit_g(self) -> int | None:
        """The most it can carry, of the service and of its table."""
        if not isinstance(self.rate, Brackets):
            return self.max_weight_g
        last = self.rate.rows[-1][0]
        return last if self.max_weight_g is None else min(last, self.max_weight_g)


@dataclass(frozen=True)
class Instance:
    """One order to be routed: L lines, O options.

    ``unit_cost[l][o]`` (L × O): mills for each unit of line ``l`` from option ``o`` beyond freight, may be negative;
    ``None``: it may not come from there. ``stock[(node, sku)]``: units, none if absent; lines of one SKU share it.
    ``capacity[node]``: units that it can still pick, no limit if absent. ``split_penalty_mills``: for each shipment
    beyond the first. ``min_split_value_minor``: where there are several shipments, the least that each must be worth.
    ``ship_complete``: one shipment with everything, or nothing at all. Raises one ``ValueError`` with all problems.
    """

    lines: tuple[Line, ...]
    options: tuple[Option, ...]
    unit_cost: tuple[tuple[int | None, ...], ...]
    stock: Mapping[tuple[str, str], int]
    capacity: Mapping[str, int] = field(default_factory=dict)
    split_penalty_mills: int = 0
    max_shipments: int | None = None
    min_split_value_minor: int = 0
    ship_complete: bool = False

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ValueError("not a routing instance: " + "; ".join(problems))
        if self.prohibitive_mills * max(1, self.units) > _LARGEST:
            raise ValueError(
                "not a routing instance: its costs add up to more than can be counted in 64 bits"
            )

    @cached_property
    def units(self) -> int:
        """Units asked for in all."""
        return sum(line.quantity for line in self.lines)

    @cached_property
    def prohibitive_mills(self) -> int:
        """More than the difference between any two plans: as the price of a unit it forbids to leave it out."""
        weight = sum(line.quantity * line.unit_weight_g for line in self.lines)
        per_line = sum(
            line.quantity
            * max(
                line.unfilled_mills or 0,
                max((abs(cost) for cost in row if cost is not None), default=0),
            )
            for line, row in zip(self.lines, self.unit_cost, strict=True)
        )
        per_option = sum(option.fixed_mills + _dearest(option.rate, weight) for option in self.options)
        return 2 * (per_line + per_option + self.split_penalty_mills * len(self.options)) + 1

    @cached_property
    def most_shipments(self) -> int:
        """How many shipments a plan can have at most."""
        most = min(len(self.options), self.units)
        return most if self.max_shipments is None else min(most, self.max_shipments)

    @cached_property
    def linear(self) -> bool:
        """Whether all freight is linear in weight."""
        return all(isinstance(option.rate, Linear) for option in self.options)

    def held(self, line: Line, option: Option) -> int:
        """Units of the line's SKU at the option's node."""
        return self.stock.get((option.node, line.sku), 0)

    def reach(self, line: int, option: int) -> int:
        """Units of ``line`` that ``option`` could ship if nothing else were shipped, weight and capacity aside."""
        if self.unit_cost[line][option] is None:
            return 0
        asked = self.lines[line]
        units = min(asked.quantity, self.held(asked, self.options[option]))
        return units if asked.splittable or units == asked.quantity else 0


def _dearest(rate: Rate, weight_g: int) -> int:
    if isinstance(rate, Brackets):
        return max(mills for _, mills in rate.rows)
    return rate.freight(weight_g)


def _problems(instance: Instance) -> Iterator[str]:
    yield from _line_problems(instance)
    yield from _option_problems(instance)
    if len(instance.unit_cost) != len(instance.lines):
        yield f"unit_cost has {len(instance.unit_cost)} rows for {len(instance.lines)} lines"
    for line, row in zip(instance.lines, instance.unit_cost, strict=False):
        if len(row) != len(instance.options):
            yield f"line {line.line_id}: unit_cost has {len(row)} columns for {len(instance.options)} options"
    for (node, sku), units in instance.stock.items():
        if units < 0:
            yield f"stock of {sku} at {node}: {units} is below 0"
    for node, units in instance.capacity.items():
        if units < 0:
            yield f"capacity of {node}: {units} is below 0"
    for name in ("split_penalty_mills", "max_shipments", "min_split_value_minor"):
        if (amount := getattr(instance, name)) is not None and amount < 0:
            yield f"{name} {amount} is below 0"


def _line_problems(instance: Instance) -> Iterator[str]:
    if not instance.lines:
        yield "there are no lines"
    for line_id, count in Counter(line.line_id for line in instance.lines).items():
        if count > 1:
            yield f"line {line_id} is there {count} times"
    for line in instance.lines:
        if line.quantity < 1:
            yield f"line {line.line_id}: quantity {line.quantity} is below 1"
        for name in ("unit_weight_g", "unit_value_minor", "unfilled_mills"):
            if (amount := getattr(line, name)) is not None and amount < 0:
                yield f"line {line.line_id}: {name} {amount} is below 0"


def _option_problems(instance: Instance) -> Iterator[str]:
    for (node, service), count in Counter(
        (option.node, option.service) for option in instance.options
    ).items():
        if count > 1:
            yield f"option {node} {service} is there {count} times"
    for option in instance.options:
        name = f"option {option.node} {option.service}"
        if option.fixed_mills < 0:
            yield f"{name}: fixed_mills {option.fixed_mills} is below 0"
        if option.max_weight_g is not None and option.max_weight_g < 0:
            yield f"{name}: max_weight_g {option.max_weight_g} is below 0"
        match option.rate:
            case Linear(mills_per_g=mills) if mills < 0:
                yield f"{name}: mills_per_g {mills} is below 0"
            case Stepped(step_g=grams, step_mills=mills) if grams < 1 or mills < 0:
                yield f"{name}: steps of {grams} g at {mills} mills"
            case Brackets(rows=rows):
                weights = [up_to_g for up_to_g, _ in rows]
                if not rows or weights != sorted(set(weights)) or weights[0] < 0:
                    yield f"{name}: the weights of its table do not rise"
                if any(mills < 0 for _, mills in rows):
                    yield f"{name}: its table has a price below 0"
            case _:
                pass
