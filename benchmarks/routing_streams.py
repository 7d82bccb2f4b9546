"""What routing rules cost on streams of orders: ``python -m benchmarks.routing_streams --data DIR --json FILE``.

Three worlds: made up, the project's example, and one drawn from Olist (``--data``: a folder with its files; without it
that one is left out). Of each rule: cost, fill rate, splits, distance and promised days; beside them a lower bound that
no plan can go below. Exit code 1 when a plan takes more than there is; 0 also when an aim is missed, as the tables say.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import routing_olist
from benchmarks.alone import console, keep
from benchmarks.figures import Aim, at_least, at_most
from benchmarks.routing_olist import Fit
from benchmarks.routing_rules import (
    Looking,
    fewest_splits,
    in_waves,
    looking_ahead,
    looking_both_ways,
    nearest,
    optimum,
    ranked,
)
from benchmarks.routing_worlds import World, example, synthetic
from benchmarks.tables import Listing, aims_table, print_tables
from models.base import Contract
from models.errors import Refused
from policies.routing.held_orders import HeldOrders, Ints
from policies.routing.prices import price, used_by
from policies.routing.waves import Effort, route_wave
from workers import exit as process_exit

NEAREST, OPTIMUM, LOOKING, WAVE = "nearest", "optimum, first come", "look-ahead", "wave of all"
SAVES_AT_LEAST, CLOSES_AT_LEAST, FILL_COSTS_AT_MOST = 5.0, 30.0, 0.1
WAVE_ORDERS, WAVE_WITHIN_S, WAVE_GAP_AT_MOST = 10_000, 10.0, 4.5
EVERY = 500
_BOUND_ROUNDS = 80
# As a share of the cost: with less there is nothing to close.
_NO_GAP = 1e-4


class Row(Contract):
    """One rule on one world. ``cost`` in major units, ``fill_percent`` of lines; the rest are means per order.

    ``gap_closed_percent``: of that between first come, first served and the bound; ``None`` where there is none.
    """

    rule: str
    cost: float
    against_first_come_percent: float
    gap_closed_percent: float | None
    fill_percent: float
    splits: float
    km: float
    days: float
    seconds: float
    feasible: bool


class Streams(Contract):
    """All rules on one world. ``bound`` in major units: Lagrangian, of the node-set formulation's LP."""

    world: str
    about: str
    orders: int
    lines: int
    bound: float
    orders_bounded: int
    rows: tuple[Row, ...]


class Growth(Contract):
    """Waves of the made-up world, by size. Seconds on the clock, and of the processor."""

    orders: int
    seconds: float
    cpu_seconds: float
    gap_percent: float
    fill_percent: float


class Figures(Contract):
    """Everything of one run. ``left_out``: why a world is missing."""

    quick: bool
    streams: tuple[Streams, ...]
    growth: tuple[Growth, ...]
    fits: tuple[Fit, ...] = ()
    left_out: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing_streams", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the Olist files")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a few hundred orders, and too rough to publish")
    asked = parser.parse_args(arguments)
    told = console()
    try:
        figures = measure(asked.data, quick=asked.quick, tell=told.print)
    except Refused as error:
        told.print(str(error), style="red")
        return 2
    show(figures, told)
    if asked.json is not None:
        keep(figures, asked.json, told)
    return 0 if good(figures) else 1


def good(figures: Figures) -> bool:
    """Whether no plan takes more than there is."""
    return all(row.feasible for streams in figures.streams for row in streams.rows)


def measure(data: Path | None, *, quick: bool, tell: Callable[[str], None]) -> Figures:
    """Measure everything. Raises ``Refused`` for a folder that lacks a file."""
    most = 250 if quick else None
    worlds = [synthetic(most or 10_000), example(most)]
    fits: tuple[Fit, ...] = ()
    left_out: tuple[str, ...] = ()
    if data is None:
        left_out = (
            "Olist is left out: its files are not part of this repository, --data names their folder.",
        )
    else:
        olist = routing_olist.read(data, most)
        worlds.append(olist.world)
        fits = olist.fits
    effort = Effort(pricing=20, improvement=10) if quick else Effort()
    sizes = (100, 250) if quick else (1_000, 2_500, 5_000, 10_000)
    return Figures(
        quick=quick,
        streams=tuple(_streams(world, effort, tell) for world in worlds),
        growth=tuple(_growth(size, effort, tell) for size in sizes),
        fits=fits,
        left_out=left_out,
    )


# --- the load ---
def _streams(world: World, effort: Effort, tell: Callable[[str], None]) -> Streams:
    held = world.held
    days = len({at.date() for at in world.at}) if world.per_day else 1
    whole = replace(held, capacity=held.capacity * days)
    tell(f"{world.name}: bound …")
    bound = price(whole, _BOUND_ROUNDS)
    every = min(EVERY, held.orders // 5)
    size = min(1_000, held.orders // 5)
    rules: dict[str, Callable[[], Ints]] = {
        OPTIMUM: lambda: optimum(world),
        NEAREST: lambda: nearest(world),
        "ranked locations": lambda: ranked(world),
        "fewest splits, then nearest": lambda: fewest_splits(world),
        "look-ahead, SKU and region": lambda: optimum(
            world, looking_ahead(world, Looking(every, by_region=True))
        ),
        "look-ahead, recent orders": lambda: optimum(world, looking_ahead(world, Looking(every))),
        LOOKING: lambda: optimum(world, looking_both_ways(world, every)),
        f"waves of {size:,}": lambda: in_waves(world, size, effort),
        f"waves of {size:,}, look-ahead": lambda: in_waves(
            world, size, effort, looking_both_ways(world, every)
        ),
        WAVE: lambda: route_wave(whole, effort).node,
    }
    rows: list[Row] = []
    for name, rule in rules.items():
        tell(f"{world.name}: {name} …")
        rows.append(_row(world, whole, name, rule, rows[0].cost if rows else None, bound.bound / 1e5))
    return Streams(
        world=world.name,
        about=world.about,
        orders=held.orders,
        lines=len(held.sku),
        bound=round(bound.bound / 1e5, 2),
        orders_bounded=int(bound.bounded.sum()),
        rows=tuple(rows),
    )


def _row(  # noqa: PLR0917
    world: World,
    whole: HeldOrders,
    name: str,
    rule: Callable[[], Ints],
    first_come: float | None,
    bound: float,
) -> Row:
    started = time.perf_counter()
    node = rule()
    seconds = time.perf_counter() - started
    held = world.held
    cost = float(held.costs(node).sum()) / 1e5
    base = cost if first_come is None else first_come
    shipped = held.shipments(node)
    taken = used_by(held, node).total(held.stock.size + held.nodes)
    return Row(
        rule=name,
        cost=round(cost, 2),
        against_first_come_percent=round(100 * (cost / base - 1), 2),
        gap_closed_percent=round(100 * (base - cost) / (base - bound), 1)
        if base - bound > _NO_GAP * base
        else None,
        fill_percent=round(100 * float((node >= 0).mean()), 2),
        splits=round(float(np.maximum(shipped.sum(axis=1) - 1, 0).mean()), 4),
        km=round(float((shipped * world.km).sum()) / held.orders, 1),
        days=round(float((shipped * world.days).max(axis=1).mean()), 2),
        seconds=round(seconds, 2),
        feasible=bool((taken <= np.concatenate([whole.stock.ravel(), whole.capacity])).all()),
    )


def _growth(orders: int, effort: Effort, tell: Callable[[str], None]) -> Growth:
    tell(f"a wave of {orders:,} …")
    held = synthetic(orders).held
    started, cpu = time.perf_counter(), time.process_time()
    plan = route_wave(held, effort)
    return Growth(
        orders=orders,
        seconds=round(time.perf_counter() - started, 2),
        cpu_seconds=round(time.process_time() - cpu, 2),
        gap_percent=round(100 * plan.gap, 2),
        fill_percent=round(100 * float((plan.node >= 0).mean()), 2),
    )


# --- telling ---
def aims(figures: Figures) -> Iterator[Aim]:
    """Each aim beside what was measured."""
    for streams in figures.streams:
        near, first, ahead = (rule(streams, name) for name in (NEAREST, OPTIMUM, LOOKING))
        most = saved_percent(streams.bound, near.cost)
        yield at_least(
            f"{streams.world}: look-ahead cheaper than nearest (no plan can be more than {most:.2f} %)",
            saved_percent(ahead.cost, near.cost),
            SAVES_AT_LEAST,
            " %",
        )
        yield at_least(
            f"{streams.world}: its fill against nearest", round(ahead.fill_percent - near.fill_percent, 2), 0
        )
        if ahead.gap_closed_percent is not None:
            wide = saved_percent(streams.bound, first.cost)
            yield at_least(
                f"{streams.world}: look-ahead closes of the gap, which is {wide:.2f} % wide",
                ahead.gap_closed_percent,
                CLOSES_AT_LEAST,
                " %",
            )
        yield at_most(
            f"{streams.world}: fill it costs",
            round(first.fill_percent - ahead.fill_percent, 2),
            FILL_COSTS_AT_MOST,
        )
    largest = figures.growth[-1]
    yield at_most(f"a wave of {largest.orders:,}", largest.seconds, WAVE_WITHIN_S, " s")
    yield at_most(f"its gap to the bound, {largest.orders:,}", largest.gap_percent, WAVE_GAP_AT_MOST, " %")


def rule(streams: Streams, name: str) -> Row:
    """What the rule of that name did."""
    return next(row for row in streams.rows if row.rule == name)


def saved_percent(cost: float, of: float) -> float:
    """By how much ``cost`` is below ``of``, in percent of it."""
    return round(100 * (1 - cost / of), 2)


def listings(figures: Figures) -> Iterator[Listing]:
    """Every table."""
    for number, streams in enumerate(figures.streams, 1):
        yield Listing(
            f"stream-{number}",
            f"{streams.world}; bound {streams.bound:,.0f}. {streams.about}",
            ("rule", "cost", "vs first come", "gap closed", "fill", "splits", "km", "days", "s"),
            [
                (
                    row.rule,
                    f"{row.cost:,.0f}",
                    f"{row.against_first_come_percent:+.2f} %",
                    "no gap" if row.gap_closed_percent is None else f"{row.gap_closed_percent:.1f} %",
                    f"{row.fill_percent:.2f} %",
                    f"{row.splits:.3f}",
                    f"{row.km:,.0f}",
                    f"{row.days:.2f}",
                    f"{row.seconds:.1f}",
                )
                for row in streams.rows
            ],
        )
    yield Listing(
        "growth",
        "Waves by size",
        ("orders", "seconds", "of the processor", "gap", "fill"),
        [
            (
                f"{one.orders:,}",
                f"{one.seconds:.1f}",
                f"{one.cpu_seconds:.1f}",
                f"{one.gap_percent:.2f} %",
                f"{one.fill_percent:.2f} %",
            )
            for one in figures.growth
        ],
    )
    if figures.fits:
        yield Listing(
            "fits-by-month",
            "The same by month",
            ("what, month", "told", "mean", "mean error", "bias"),
            [
                (
                    f"{fit.what}, {month.month}",
                    f"{month.told:,}",
                    f"{month.mean:.2f}",
                    f"{month.mean_error:.2f}",
                    f"{month.bias:+.2f}",
                )
                for fit in figures.fits
                for month in fit.months
            ],
        )
        yield Listing(
            "fits",
            "Fitted on earlier months, judged on later ones",
            ("what", "formula", "R², fitted", "R², later", "mean", "mean error", "bias"),
            [
                (
                    f"{fit.what}, {fit.unit}",
                    fit.formula,
                    f"{fit.r2_fitted:.2f}",
                    f"{fit.r2_later:.2f}",
                    f"{fit.mean_later:.2f}",
                    f"{fit.mean_error_later:.2f}",
                    f"{fit.bias_later:+.2f}",
                )
                for fit in figures.fits
            ],
        )


def show(figures: Figures, told: Console) -> None:
    """Print every table, each aim, and what is left out."""
    print_tables([*listings(figures), aims_table(aims(figures))], told)
    told.print(*figures.left_out)


if __name__ == "__main__":
    process_exit.run(main)
