"""How the time for one order grows with its lines and with the nodes, and how that of a wave grows with its orders."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import routing_exact, routing_streams
from benchmarks.alone import Tell
from benchmarks.routing_exact import Latency, Method
from benchmarks.routing_instances import Kind, instance
from benchmarks.tables import Listing
from models.base import Contract
from policies.routing import optimiser

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES, NODES = (1, 2, 4, 6, 8, 10, 12), (5, 10, 25, 50, 100)
AT_NODES, AT_LINES = 25, 6
MANY_LINES = (12, 25, 50, 100, 250, 500, 1_000)
_ORDERS, _QUICK_ORDERS = 60, 4
_DOTS_PER_INCH = 130


class Figures(Contract):
    """``by_lines``: at 25 nodes; ``by_nodes``: at 6 lines; ``by_many_lines``: at 6 nodes with 3 services each."""

    by_lines: tuple[Latency, ...]
    by_nodes: tuple[Latency, ...]
    by_many_lines: tuple[Latency, ...]


def measure(tell: Tell, *, quick: bool) -> Figures:
    """Each method at each size."""
    optimiser.warm_up()
    orders = _QUICK_ORDERS if quick else _ORDERS
    tell("growth with lines …")
    by_lines = [one for lines in LINES for one in _few(Kind(lines=lines, nodes=AT_NODES), orders)]
    tell("growth with nodes …")
    by_nodes = [one for nodes in NODES for one in _few(Kind(lines=AT_LINES, nodes=nodes), orders)]
    tell("growth with many lines …")
    many = MANY_LINES[:4] if quick else MANY_LINES
    by_many_lines = [one for lines in many for one in _many(lines, 2 if quick else 20)]
    return Figures(by_lines=tuple(by_lines), by_nodes=tuple(by_nodes), by_many_lines=tuple(by_many_lines))


def _few(kind: Kind, count: int) -> Iterator[Latency]:
    orders = [instance(kind, seed) for seed in range(count)]
    methods: dict[str, Method] = {"dp, numpy": routing_exact.by_dp}
    if importlib.util.find_spec("numba"):
        methods["dp, numba"] = routing_exact.by_dp_compiled
    methods["cp-sat, tuned"] = routing_exact.by_cp_sat
    yield from routing_exact.in_turns(methods, (kind.lines, kind.nodes, 1), orders)


def _many(lines: int, count: int) -> Iterator[Latency]:
    size = lines, 6, 3
    kind = Kind(lines=lines, nodes=6, services=3, most_units=60, splittable=1, partly=0.2, spread_mills=1_000)
    differing = [instance(kind, seed) for seed in range(count)]
    alike = [
        instance(
            Kind(
                lines=lines,
                nodes=6,
                services=3,
                most_units=60,
                splittable=1,
                partly=0.2,
                weight_limits=0.5,
                alike=True,
            ),
            seed,
        )
        for seed in range(count)
    ]
    yield routing_exact.timed("units differ: sets", routing_exact.as_set, size, differing)
    yield routing_exact.timed("units alike, weight limits: parcels", routing_exact.as_set, size, alike)


def listings(figures: Figures) -> Iterator[Listing]:
    """A table for each way to grow."""
    for name, title, points, along in (
        ("growth-lines", f"Time by lines, {AT_NODES} nodes: p50 · p99, ms", figures.by_lines, "lines"),
        ("growth-nodes", f"Time by nodes, {AT_LINES} lines: p50 · p99, ms", figures.by_nodes, "nodes"),
        ("growth-many-lines", "Time by many lines, 6 nodes × 3 services: p50 · p99, ms (proven)",
         figures.by_many_lines, "lines"),
    ):  # fmt: skip
        methods = list(dict.fromkeys(one.method for one in points))
        sizes = list(dict.fromkeys(getattr(one, along) for one in points))
        cells = {(one.method, getattr(one, along)): one for one in points}
        yield Listing(
            name,
            title,
            (along, *methods),
            [(f"{size:,}", *(_cell(cells[method, size]) for method in methods)) for size in sizes],
        )


def _cell(one: Latency) -> str:
    proven = "" if one.proven == one.orders else f" ({one.proven} of {one.orders})"
    return f"{one.p50_ms:.2f} · {one.p99_ms:.2f}{proven}"


# --- the plots ---
BY_LINES, BY_NODES, BY_MANY_LINES, BY_WAVE = "lines", "nodes", "many-lines", "waves"
PICTURES = BY_LINES, BY_NODES, BY_MANY_LINES, BY_WAVE


def plot(
    what: str, figures: Figures, waves: Sequence[routing_streams.Growth], file: Path, comment: str
) -> None:
    """Draw how the time grows, as PNG; ``comment`` stands in the file."""
    # Imported here: only whoever draws needs the library, which is a development dependency.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"font.size": 9}):
        picture = Figure(figsize=(5.6, 4.0), layout="constrained")
        axes = picture.subplots()
        if what == BY_LINES:
            _curves(axes, figures.by_lines, "lines")
            _finish(axes, f"One order, {AT_NODES} nodes", "lines")
        elif what == BY_NODES:
            _curves(axes, figures.by_nodes, "nodes")
            _finish(axes, f"One order, {AT_LINES} lines", "nodes")
        elif what == BY_MANY_LINES:
            _curves(axes, figures.by_many_lines, "lines")
            axes.axhline(
                routing_exact.LARGEST_P99_BELOW_MS,
                color="grey",
                linewidth=1,
                linestyle=":",
                label="time that the optimiser gives itself",
            )
            axes.set_xscale("log")
            _finish(axes, "One order, 6 nodes × 3 services", "lines", columns=1)
        else:
            _draw_waves(axes, waves)
        # The same figures give the same file, so that its history shows only what changed.
        picture.savefig(
            file, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None, "Comment": comment}
        )


def _curves(axes: "Axes", points: Sequence[Latency], along: str) -> None:
    colours = ("tab:blue", "tab:green", "tab:orange")
    for colour, method in zip(colours, dict.fromkeys(one.method for one in points), strict=False):
        mine = [one for one in points if one.method == method]
        sizes = [getattr(one, along) for one in mine]
        axes.plot(sizes, [one.p50_ms for one in mine], marker="o", color=colour, label=f"{method}, p50")
        axes.plot(
            sizes,
            [one.p99_ms for one in mine],
            marker="s",
            color=colour,
            linestyle="--",
            label=f"{method}, p99",
        )


def _finish(axes: "Axes", title: str, along: str, *, columns: int = 2) -> None:
    axes.set_title(title)
    axes.set_xlabel(along)
    axes.set_ylabel("ms")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _draw_waves(axes: "Axes", waves: Sequence[routing_streams.Growth]) -> None:
    orders = [one.orders for one in waves]
    axes.plot(orders, [one.seconds for one in waves], marker="o", label="on the clock")
    axes.plot(
        orders, [one.cpu_seconds for one in waves], marker="s", linestyle="--", label="of the processor"
    )
    axes.axhline(
        routing_streams.WAVE_WITHIN_S,
        color="grey",
        linewidth=1,
        linestyle=":",
        label=f"aim for {routing_streams.WAVE_ORDERS:,} orders: {routing_streams.WAVE_WITHIN_S:g} s",
    )
    axes.set_title("A wave, 20 nodes")
    axes.set_xlabel("orders")
    axes.set_ylabel("s")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
