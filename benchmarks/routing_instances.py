"""Made-up orders to route, of chosen size and kind; the same seed gives the same order."""

import random
from dataclasses import dataclass, field, replace

from policies.routing.instance import Brackets, Instance, Line, Linear, Option, Rate, Stepped


@dataclass(frozen=True)
class Kind:
    """What an order has. Shares are chances per line or option.

    ``partly``: how often a node holds a part of a line; ``none``: how often nothing of it. ``spread_mills``: by how
    much the services of a node differ for a unit of a line, beyond freight; the more, the more of them pay together.
    ``alike``: all units weigh the same, and cost the same from an option, as in the example network.
    """

    lines: int
    nodes: int
    services: int = 1
    most_units: int = 3
    splittable: float = 0.0
    optional: float = 0.0
    partly: float = 0.0
    none: float = 0.3
    forbidden: float = 0.05
    stepped: float = 0.0
    brackets: float = 0.0
    weight_limits: float = 0.0
    capacities: float = 0.0
    shared_skus: bool = False
    max_shipments: int | None = None
    min_split_value_minor: int = 0
    ship_complete: bool = False
    served: bool = True
    spread_mills: int = 20_000
    # Not part of what is drawn from: the other kinds stay what they were.
    alike: bool = field(default=False, repr=False)


def instance(kind: Kind, seed: int) -> Instance:
    """One order. ``kind.served``: some node holds each line whole, as in an order that was promised."""
    chance = random.Random(f"{kind}:{seed}")
    nodes = [f"node-{number}" for number in range(kind.nodes)]
    lines = tuple(_line(kind, number, chance) for number in range(kind.lines))
    if kind.alike:
        lines = tuple(replace(line, unit_weight_g=lines[0].unit_weight_g) for line in lines)
    distance = {node: chance.randint(15, 130) for node in nodes}
    weight = sum(line.quantity * line.unit_weight_g for line in lines)
    options = tuple(
        _option(kind, (node, distance[node]), service, weight, chance)
        for node in nodes
        for service in range(kind.services)
    )
    unit_cost = tuple(_row(kind, options, distance, chance) for _ in lines)
    if kind.alike:
        unit_cost = unit_cost[:1] * len(lines)
    stock: dict[tuple[str, str], int] = {}
    for line in lines:
        for node in nodes:
            drawn = chance.random()
            held = line.quantity + chance.randint(0, 5)
            if drawn < kind.none:
                held = 0
            elif drawn < kind.none + kind.partly:
                held = chance.randint(1, max(1, line.quantity - 1))
            stock[node, line.sku] = held
    if kind.served:
        _serve(lines, options, unit_cost, stock, chance)
    units = sum(line.quantity for line in lines)
    return Instance(
        lines=lines,
        options=options,
        unit_cost=unit_cost,
        stock=stock,
        capacity={
            node: chance.randint(units // 3, units) for node in nodes if chance.random() < kind.capacities
        },
        split_penalty_mills=chance.choice((0, 50_000, 150_000, 400_000)),
        max_shipments=kind.max_shipments,
        min_split_value_minor=kind.min_split_value_minor,
        ship_complete=kind.ship_complete,
    )


def _line(kind: Kind, number: int, chance: random.Random) -> Line:
    return Line(
        line_id=f"line-{number}",
        sku=f"sku-{chance.randint(0, kind.lines // 2) if kind.shared_skus else number}",
        quantity=chance.randint(1, kind.most_units),
        unit_weight_g=chance.choice((0, 80, 250, 400, 900, 1_500, 4_000)),
        unit_value_minor=chance.randint(100, 9_000),
        unfilled_mills=chance.randint(100, 3_000) * 1_000 if chance.random() < kind.optional else None,
        splittable=chance.random() < kind.splittable,
    )


def _option(kind: Kind, at: tuple[str, int], service: int, weight: int, chance: random.Random) -> Option:
    node, distance = at
    per_gram = max(1, round(distance * (1 - 0.12 * service) * chance.uniform(0.9, 1.1)))
    return Option(
        node=node,
        service=f"carrier/{service}",
        fixed_mills=chance.randint(250, 900) * 1_000 + 150_000 * service,
        rate=_rate(kind, per_gram, weight, chance),
        max_weight_g=chance.randint(weight // 4, weight) if chance.random() < kind.weight_limits else None,
    )


def _rate(kind: Kind, per_gram: int, weight: int, chance: random.Random) -> Rate:
    drawn = chance.random()
    if drawn < kind.stepped:
        step_g = chance.choice((500, 1_000, 2_000))
        return Stepped(step_g, per_gram * step_g)
    if drawn < kind.stepped + kind.brackets:
        bounds = sorted({500, 2_000, weight // 2 + 1, weight + chance.choice((0, 1, 1)) - weight // 5})
        return Brackets(tuple((up_to_g, round(per_gram * up_to_g**0.9) + 50_000) for up_to_g in bounds))
    return Linear(per_gram)


def _row(
    kind: Kind, options: tuple[Option, ...], distance: dict[str, int], chance: random.Random
) -> tuple[int | None, ...]:
    near = {node: chance.randint(-30, 60) * 1_000 for node in distance}
    return tuple(
        None
        if chance.random() < kind.forbidden
        else near[option.node] + distance[option.node] * 500 + chance.randint(0, kind.spread_mills)
        for option in options
    )


def _serve(
    lines: tuple[Line, ...],
    options: tuple[Option, ...],
    unit_cost: tuple[tuple[int | None, ...], ...],
    stock: dict[tuple[str, str], int],
    chance: random.Random,
) -> None:
    wanted: dict[str, int] = {}
    for line in lines:
        wanted[line.sku] = wanted.get(line.sku, 0) + line.quantity
    for line, row in zip(lines, unit_cost, strict=True):
        allowed = sorted({option.node for option, cost in zip(options, row, strict=True) if cost is not None})
        if allowed:
            place = (chance.choice(allowed), line.sku)
            stock[place] = max(stock[place], wanted[line.sku])
