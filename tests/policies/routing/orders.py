"""Orders for the tests: small builders, and strategies over the kinds that the benchmark makes up."""

from dataclasses import replace

from hypothesis import strategies as st

from benchmarks.routing_instances import Kind, instance
from policies.routing.instance import Instance, Line, Option

SEEDS = st.integers(0, 10**9)


def a_line(name: str = "a", quantity: int = 1, **changes: object) -> Line:
    plain = Line(line_id=f"l-{name}", sku=name, quantity=quantity, unit_weight_g=100)
    return replace(plain, **changes)  # type: ignore[arg-type]


def an_option(node: str = "n1", fixed: int = 100, **changes: object) -> Option:
    return replace(Option(node=node, service="post/standard", fixed_mills=fixed), **changes)  # type: ignore[arg-type]


def an_instance(
    lines: tuple[Line, ...], options: tuple[Option, ...], stock: dict[tuple[str, str], int], **changes: object
) -> Instance:
    """Every option may ship every line, for nothing but its fixed cost, unless ``changes`` say otherwise."""
    free = tuple(tuple(0 for _ in options) for _ in lines)
    return Instance(**{"lines": lines, "options": options, "unit_cost": free, "stock": stock} | changes)  # type: ignore[arg-type]


@st.composite
def any_kind(draw: st.DrawFn) -> Instance:
    """Small orders with everything that an instance can say."""
    kind = Kind(
        lines=draw(st.integers(1, 6)),
        nodes=draw(st.integers(1, 2)),
        services=draw(st.integers(1, 2)),
        most_units=draw(st.integers(1, 3)),
        splittable=draw(st.sampled_from((0.0, 0.3, 1.0))),
        optional=draw(st.sampled_from((0.0, 0.3, 1.0))),
        partly=draw(st.sampled_from((0.0, 0.3))),
        none=draw(st.sampled_from((0.1, 0.4))),
        stepped=draw(st.sampled_from((0.0, 0.5, 1.0))),
        brackets=draw(st.sampled_from((0.0, 0.4))),
        weight_limits=draw(st.sampled_from((0.0, 0.5))),
        capacities=draw(st.sampled_from((0.0, 0.6))),
        shared_skus=draw(st.booleans()),
        max_shipments=draw(st.sampled_from((None, 1, 2))),
        min_split_value_minor=draw(st.sampled_from((0, 3_000))),
        ship_complete=draw(st.sampled_from((False, False, False, True))),
        served=draw(st.booleans()),
    )
    return instance(kind, draw(SEEDS))


@st.composite
def whole_lines(draw: st.DrawFn) -> Instance:
    """What the dynamic program is for: whole lines, freight of any shape, limits of weight and of shipments."""
    kind = Kind(
        lines=draw(st.integers(1, 7)),
        nodes=draw(st.integers(1, 8)),
        services=draw(st.integers(1, 2)),
        optional=draw(st.sampled_from((0.0, 0.3))),
        stepped=draw(st.sampled_from((0.0, 1.0))),
        weight_limits=draw(st.sampled_from((0.0, 0.3))),
        max_shipments=draw(st.sampled_from((None, 1, 2, 3))),
        min_split_value_minor=draw(st.sampled_from((0, 3_000))),
        served=draw(st.booleans()),
    )
    return instance(kind, draw(SEEDS))


@st.composite
def linear_freight(draw: st.DrawFn) -> Instance:
    """What the search over sets is for: linear freight, quantities that may be split, nothing that couples lines."""
    kind = Kind(
        lines=draw(st.integers(1, 25)),
        nodes=draw(st.integers(1, 6)),
        services=draw(st.integers(1, 3)),
        most_units=draw(st.sampled_from((1, 3, 40))),
        splittable=draw(st.sampled_from((0.0, 0.5, 1.0))),
        optional=draw(st.sampled_from((0.0, 0.3))),
        partly=draw(st.sampled_from((0.0, 0.4))),
        max_shipments=draw(st.sampled_from((None, 1, 3))),
        served=draw(st.booleans()),
    )
    return instance(kind, draw(SEEDS))


@st.composite
def units_alike(draw: st.DrawFn) -> Instance:
    """What the search over parcels is for: units that weigh and cost the same, limits of weight, counts, capacity."""
    kind = Kind(
        lines=draw(st.integers(1, 12)),
        nodes=draw(st.integers(1, 6)),
        services=draw(st.integers(1, 3)),
        most_units=draw(st.sampled_from((1, 4, 40))),
        splittable=1.0,
        partly=draw(st.sampled_from((0.0, 0.5))),
        none=draw(st.sampled_from((0.1, 0.4))),
        stepped=draw(st.sampled_from((0.0, 0.0, 0.3))),
        weight_limits=draw(st.sampled_from((0.0, 0.5, 1.0))),
        capacities=draw(st.sampled_from((0.0, 0.5))),
        shared_skus=draw(st.booleans()),
        max_shipments=draw(st.sampled_from((None, 1, 2, 3))),
        served=draw(st.booleans()),
        alike=True,
    )
    return instance(kind, draw(SEEDS))
