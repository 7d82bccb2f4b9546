"""Why an order has no plan: which constraints bind, for which line, and by how much."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

from policies.routing.instance import Instance, Line, Linear
from policies.routing.solution import Assignment, Code, Reason, Solution

Solver = Callable[[Instance], Solution | None]


def impossible_lines(instance: Instance) -> tuple[Reason, ...]:
    """The lines that must be served and could not be even if nothing else were; the first reason for each."""
    must = Counter[str]()
    for line in instance.lines:
        if line.unfilled_mills is None:
            must[line.sku] += line.quantity
    held = Counter[str]()
    for (_, sku), units in instance.stock.items():
        held[sku] += units
    return tuple(
        reason
        for place, line in enumerate(instance.lines)
        if line.unfilled_mills is None
        and (reason := next(_of_line(instance, place, must[line.sku], held[line.sku]), None)) is not None
    )


def binding(instance: Instance, solve: Solver) -> tuple[Reason, ...]:
    """Which rules of the order or of its nodes leave no plan for lines each of which could be served by itself.

    A rule binds if there is a plan without it: ``solve`` is asked for one that has the fewest shipments. Where only
    several rules together leave none, ``TOGETHER`` comes first (units asked for, none served), and all rules are
    told of with the plan that none of them held back.
    """
    plain = _without_costs(instance)
    rules = list(_rules(plain))
    found = tuple(
        told(instance, plan.assignments) for relaxed, told in rules if (plan := solve(relaxed)) is not None
    )
    if found:
        return found
    free = replace(
        plain,
        options=tuple(replace(option, max_weight_g=None) for option in plain.options),
        capacity={},
        max_shipments=None,
        min_split_value_minor=0,
        ship_complete=False,
    )
    plan = solve(free)
    return (
        Reason(Code.TOGETHER, instance.units, 0),
        *(told(instance, plan.assignments) for _, told in rules if plan is not None),
    )


def out_of_time(instance: Instance) -> Reason:
    """No plan was found, and none was proven not to be there."""
    return Reason(Code.OUT_OF_TIME, instance.units, 0)


def _of_line(instance: Instance, place: int, must: int, held: int) -> Iterator[Reason]:
    line = instance.lines[place]

    def reason(code: Code, needed: int, found: int) -> Iterator[Reason]:
        if found < needed:
            yield Reason(code, needed, found, line.line_id)

    if held == 0:
        yield from reason(Code.NO_STOCK, line.quantity, 0)
    yield from reason(Code.NOT_ENOUGH_STOCK, must, held)
    allowed = [
        option
        for option, cost in zip(instance.options, instance.unit_cost[place], strict=True)
        if cost is not None
    ]
    if not allowed:
        yield from reason(Code.NO_ALLOWED_OPTION, line.quantity, 0)
    stock = {option.node: instance.held(line, option) for option in allowed}
    yield from reason(Code.NOT_ENOUGH_ALLOWED, line.quantity, sum(stock.values()))
    yield from reason(Code.NOT_WHOLE, line.quantity, _most(line, stock))
    room = {node: min(units, instance.capacity.get(node, units)) for node, units in stock.items()}
    yield from reason(Code.CAPACITY, line.quantity, _most(line, room))
    if line.unit_weight_g:
        light: dict[str, int] = defaultdict(int)
        for option in allowed:
            limit = option.weight_limit_g
            units = line.quantity if limit is None else limit // line.unit_weight_g
            light[option.node] = (
                light[option.node] + units if line.splittable else max(light[option.node], units)
            )
        carried = {node: min(units, light[node]) for node, units in room.items()}
        grams = line.unit_weight_g
        yield from reason(Code.WEIGHT_LIMIT, line.quantity * grams, _most(line, carried) * grams)


def _most(line: Line, by_node: dict[str, int]) -> int:
    """Units of the line that nodes can ship: all together, or the one that can ship most if it must stay whole."""
    return sum(by_node.values()) if line.splittable else max(by_node.values(), default=0)


def _without_costs(instance: Instance) -> Instance:
    """The same order where only the number of shipments costs anything."""
    return replace(
        instance,
        lines=tuple(
            replace(line, unfilled_mills=None if line.unfilled_mills is None else 0)
            for line in instance.lines
        ),
        options=tuple(
            replace(option, fixed_mills=0, rate=Linear(), max_weight_g=option.weight_limit_g)
            for option in instance.options
        ),
        unit_cost=tuple(tuple(None if cost is None else 0 for cost in row) for row in instance.unit_cost),
        split_penalty_mills=1,
    )


Told = Callable[[Instance, tuple[Assignment, ...]], Reason]


def _rules(plain: Instance) -> Iterator[tuple[Instance, Told]]:
    """Each rule that is there: the instance without it, and how to tell of it with a plan for that."""
    if plain.ship_complete:
        yield replace(plain, ship_complete=False), _ship_complete
    if plain.max_shipments is not None:
        yield replace(plain, max_shipments=None), _max_shipments
    if plain.min_split_value_minor:
        yield replace(plain, min_split_value_minor=0), _min_split_value
    if any(option.max_weight_g is not None for option in plain.options):
        options = tuple(replace(option, max_weight_g=None) for option in plain.options)
        yield replace(plain, options=options), _weight_limit
    if plain.capacity:
        yield replace(plain, capacity={}), _capacity


def _ship_complete(instance: Instance, plan: tuple[Assignment, ...]) -> Reason:
    largest = max(_by_option(plan, lambda one: one.quantity).values(), default=0)
    return Reason(Code.SHIP_COMPLETE, instance.units, largest)


def _max_shipments(instance: Instance, plan: tuple[Assignment, ...]) -> Reason:
    return Reason(Code.MAX_SHIPMENTS, len({one.option for one in plan}), instance.max_shipments or 0)


def _min_split_value(instance: Instance, plan: tuple[Assignment, ...]) -> Reason:
    worth = _by_option(plan, lambda one: one.quantity * instance.lines[one.line].unit_value_minor)
    return Reason(Code.MIN_SPLIT_VALUE, instance.min_split_value_minor, min(worth.values(), default=0))


def _weight_limit(instance: Instance, plan: tuple[Assignment, ...]) -> Reason:
    """The shipment that is most above its limit."""
    weight = _by_option(plan, lambda one: one.quantity * instance.lines[one.line].unit_weight_g)
    limits = {
        option: limit for option in weight if (limit := instance.options[option].weight_limit_g) is not None
    }
    worst = max(limits, key=lambda option: (weight[option] - limits[option], -option), default=None)
    return Reason(
        Code.WEIGHT_LIMIT, 0 if worst is None else weight[worst], 0 if worst is None else limits[worst]
    )


def _capacity(instance: Instance, plan: tuple[Assignment, ...]) -> Reason:
    """The node that is most above its capacity."""
    picked = Counter[str]()
    for one in plan:
        picked[instance.options[one.option].node] += one.quantity
    over = {node: units for node, units in picked.items() if node in instance.capacity}
    worst = max(over, key=lambda node: (over[node] - instance.capacity[node], node), default=None)
    return Reason(
        Code.CAPACITY, 0 if worst is None else over[worst], 0 if worst is None else instance.capacity[worst]
    )


def _by_option(plan: tuple[Assignment, ...], amount: Callable[[Assignment], int]) -> dict[int, int]:
    found: dict[int, int] = defaultdict(int)
    for one in plan:
        found[one.option] += amount(one)
    return dict(found)
