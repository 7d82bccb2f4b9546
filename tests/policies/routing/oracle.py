"""What is right about a plan, worked out the slow way and from the instance alone: rules, cost, and all plans."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator

from policies.routing.instance import Brackets, Instance, Linear, Rate, Stepped
from policies.routing.solution import Assignment

# Line, option, units.
Part = tuple[int, int, int]


def parts_of(assignments: Iterable[Assignment]) -> list[Part]:
    return [(one.line, one.option, one.quantity) for one in assignments]


def broken_rules(instance: Instance, parts: list[Part]) -> list[str]:
    """Every rule that a plan breaks."""
    return [*_of_lines(instance, parts), *_of_nodes(instance, parts), *_of_shipments(instance, parts)]


def _of_lines(instance: Instance, parts: list[Part]) -> Iterator[str]:
    if len({(line, option) for line, option, _ in parts}) < len(parts):
        yield "a line twice in one shipment"
    for line, option, units in parts:
        if units < 1:
            yield f"{units} units"
        if instance.unit_cost[line][option] is None:
            yield f"line {line} may not come from option {option}"
    for number, asked in enumerate(instance.lines):
        quantities = [units for place, _, units in parts if place == number]
        if sum(quantities) > asked.quantity:
            yield f"too much of line {number}"
        if sum(quantities) < asked.quantity and asked.unfilled_mills is None:
            yield f"too little of line {number}"
        if not asked.splittable and quantities not in ([], [asked.quantity]):
            yield f"line {number} is not whole"


def _of_nodes(instance: Instance, parts: list[Part]) -> Iterator[str]:
    for node in {option.node for option in instance.options}:
        here = [part for part in parts if instance.options[part[1]].node == node]
        for sku in {line.sku for line in instance.lines}:
            taken = sum(units for line, _, units in here if instance.lines[line].sku == sku)
            if taken > instance.stock.get((node, sku), 0):
                yield f"more {sku} than lies at {node}"
        if node in instance.capacity and sum(units for _, _, units in here) > instance.capacity[node]:
            yield f"more than {node} can pick"


def _of_shipments(instance: Instance, parts: list[Part]) -> Iterator[str]:
    shipped: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        shipped[part[1]].append(part)
    for number, of_shipment in shipped.items():
        grams = sum(units * instance.lines[line].unit_weight_g for line, _, units in of_shipment)
        limit = instance.options[number].max_weight_g
        if limit is not None and grams > limit:
            yield f"shipment {number} is too heavy"
        if freight(instance.options[number].rate, grams) is None:
            yield f"shipment {number} is past its table"
        value = sum(units * instance.lines[line].unit_value_minor for line, _, units in of_shipment)
        if len(shipped) > 1 and value < instance.min_split_value_minor:
            yield f"shipment {number} is worth too little"
    if instance.max_shipments is not None and len(shipped) > instance.max_shipments:
        yield "too many shipments"
    asked = sum(line.quantity for line in instance.lines)
    if instance.ship_complete and parts and (len(shipped) > 1 or sum(part[2] for part in parts) < asked):
        yield "not complete"


def freight(rate: Rate, grams: int) -> int | None:
    match rate:
        case Linear(mills_per_g=mills):
            return grams * mills
        case Stepped(step_g=step_g, step_mills=mills):
            steps, rest = divmod(grams, step_g)
            return mills * (steps + (1 if rest else 0))
        case Brackets(rows=rows):
            for up_to_g, mills in rows:
                if grams <= up_to_g:
                    return mills
            return None


def cost_of(instance: Instance, parts: list[Part]) -> int:
    total = 0
    for number in {option for _, option, _ in parts}:
        of_shipment = [part for part in parts if part[1] == number]
        grams = sum(units * instance.lines[line].unit_weight_g for line, _, units in of_shipment)
        total += instance.options[number].fixed_mills + (freight(instance.options[number].rate, grams) or 0)
        total += instance.split_penalty_mills
    if parts:
        total -= instance.split_penalty_mills
    for line, option, units in parts:
        total += units * (instance.unit_cost[line][option] or 0)
    for number, asked in enumerate(instance.lines):
        left = asked.quantity - sum(units for line, _, units in parts if line == number)
        total += left * (asked.unfilled_mills or 0)
    return total


def cheapest(instance: Instance) -> int | None:
    """The cost of the best of all plans, each of which is looked at; ``None``: none keeps the rules."""
    ways = [list(_ways(instance, line)) for line in range(len(instance.lines))]
    costs = []
    for chosen in itertools.product(*ways):
        parts = [part for way in chosen for part in way]
        if not broken_rules(instance, parts):
            costs.append(cost_of(instance, parts))
    return min(costs, default=None)


def count_of_plans(instance: Instance) -> int:
    """How many ``cheapest`` has to look at."""
    count = 1
    for line in range(len(instance.lines)):
        count *= sum(1 for _ in _ways(instance, line))
    return count


def _ways(instance: Instance, line: int) -> Iterator[list[Part]]:
    """Every way to divide a line over the options, those that break a rule by themselves left out."""
    asked = instance.lines[line]
    options = [
        (number, instance.stock.get((option.node, asked.sku), 0))
        for number, option in enumerate(instance.options)
        if instance.unit_cost[line][number] is not None
    ]
    for units in itertools.product(*(range(min(asked.quantity, held) + 1) for _, held in options)):
        left = asked.quantity - sum(units)
        whole = asked.splittable or sorted(units)[-1:] in ([], [0], [asked.quantity])
        if left >= 0 and whole and not (left and asked.unfilled_mills is None):
            if not asked.splittable and left not in (0, asked.quantity):
                continue
            yield [(line, number, taken) for (number, _), taken in zip(options, units, strict=True) if taken]
