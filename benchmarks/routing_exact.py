"""Whether routing is exact, and how long it takes: ``python -m benchmarks.routing_exact --json FILE``.

Exactness: the quick methods against CP-SAT, and CP-SAT against an oracle that looks at every plan. Latency: each method
at each size, one order at a time, from the numeric instance to the plan. Exit code 1 when two methods disagree; 0 also
when an aim is missed, which the tables say. Run it on a machine that has nothing else to do.
"""

import argparse
import importlib.util
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import alone, using
from benchmarks.alone import Tell
from benchmarks.figures import Aim, Computer, at_least, at_most, percentile
from benchmarks.routing_instances import Kind, instance
from benchmarks.tables import Listing, aims_table, print_tables
from models.base import Contract
from policies.routing import dp, exact_general, greedy, kernels, optimiser, parcels, sets
from policies.routing.instance import Instance
from policies.routing.solution import NoPlan, OnlyBound, Outcome, Solution, Unfillable
from tests.policies.routing import oracle
from workers import exit as process_exit

INSTANCES, QUICK_INSTANCES = 1_000, 24
SEED = 7
DP_P99_BELOW_MS = 2.0
# Of CP-SAT, tuned: from 5 lines on 25 nodes upwards.
TIMES_QUICKER_ON_NUMPY, TIMES_QUICKER_COMPILED = 8.0, 50.0
LARGEST = "optimiser", 500, 6, 5
LARGEST_P99_BELOW_MS = 250.0

_MOST_PLANS = 3_000
_REFERENCE_S = 10.0
_A_TURN = 50
_WHOLESALE_REFERENCE_S = 2.0

Method = Callable[[Instance], Outcome | Unfillable]


class Agreement(Contract):
    """How often ``method`` and ``reference`` had the same answer, the cost of a proven plan or that there is none.

    ``left``: orders that the method says it does not solve (a coupling binds); its bound was held against the
    reference instead. ``undecided``: orders that the reference did not prove in time.
    """

    method: str
    reference: str
    orders: str
    compared: int
    mismatches: int
    without_plan: int
    left: int
    undecided: int


class Latency(Contract):
    """How long a method took for ``orders`` orders of one size; ``proven``: how many of its plans were.

    ``p50_ms``, ``p99_ms``, ``longest_ms``: on the clock; ``cpu_…``: of the processor, whatever else the machine did.
    ``largest_gap_percent``: by how much of its cost a cheaper plan could still undercut a plan that is not proven.
    """

    method: str
    lines: int
    nodes: int
    services: int
    orders: int
    proven: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    cpu_p50_ms: float
    cpu_p99_ms: float
    largest_gap_percent: float = 0.0


class Ratio(Contract):
    """How many times quicker than CP-SAT, tuned, the dynamic program is at one size: medians of the processor's time.

    Both use one thread, and nothing but the processor: what else the machine does falls out of it.
    """

    lines: int
    nodes: int
    on_numpy: float
    compiled: float | None


class Figures(Contract):
    """Everything of one run. ``others_cpu_percent``: of all cores, what other programs used meanwhile."""

    quick: bool
    measured_at: str
    seconds: float
    machine: Computer
    others_cpu_percent: float
    agreements: tuple[Agreement, ...]
    latencies: tuple[Latency, ...]
    ratios: tuple[Ratio, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and show; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing_exact", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a minute, and too rough to publish")
    asked = parser.parse_args(arguments)
    told = alone.console()
    figures = measure(told.print, quick=asked.quick)
    show(figures, told)
    if asked.json is not None:
        alone.keep(figures, asked.json, told)
    return 0 if good(figures) else 1


def measure(tell: Tell, *, quick: bool) -> Figures:
    """Both, one after the other."""
    began, at = time.monotonic(), datetime.now(UTC)
    with using.Others() as others:
        agreements = exactness(
            QUICK_INSTANCES if quick else INSTANCES, SEED, tell, processes=os.cpu_count() or 1
        )
        latencies = latency(tell, quick=quick)
    return Figures(
        quick=quick,
        measured_at=f"{at:%Y-%m-%d %H:%M} UTC",
        seconds=round(time.monotonic() - began, 1),
        machine=using.computer(),
        others_cpu_percent=others.percent,
        agreements=agreements,
        latencies=latencies,
        ratios=tuple(ratios(latencies)),
    )


def good(figures: Figures) -> bool:
    """Whether no two methods disagreed."""
    return not any(agreement.mismatches for agreement in figures.agreements)


def aims(figures: Figures) -> Iterator[Aim]:
    """Each aim beside what was measured."""
    by_size = {(one.method, one.lines, one.nodes, one.services): one for one in figures.latencies}
    yield at_most("mismatches", sum(one.mismatches for one in figures.agreements), 0)
    yield at_most("dp on numpy, 10 × 50, p99", by_size["dp, numpy", 10, 50, 1].p99_ms, DP_P99_BELOW_MS, " ms")
    largest = by_size[LARGEST].p99_ms
    yield at_most("optimiser, 500 × 6 × 5, made up, p99", largest, LARGEST_P99_BELOW_MS, " ms")
    for ratio in figures.ratios:
        if (ratio.lines, ratio.nodes) < (5, 25):
            continue
        times = f"× quicker than CP-SAT tuned, {ratio.lines} × {ratio.nodes}"
        yield at_least(f"dp on numpy, {times}", ratio.on_numpy, TIMES_QUICKER_ON_NUMPY)
        if ratio.compiled is not None:
            yield at_least(f"dp on numba, {times}", ratio.compiled, TIMES_QUICKER_COMPILED)


def show(figures: Figures, told: Console) -> None:
    """Print every table."""
    print_tables(listings(figures), told)


def listings(figures: Figures) -> Iterator[Listing]:
    """Every table."""
    yield aims_table(aims(figures))
    yield Listing(
        "routing-exactness",
        "Same answer",
        ("orders", "method", "against", "compared", "mismatches", "no plan", "left", "undecided"),
        [(one.orders, one.method, one.reference, *map(str, _counts(one))) for one in figures.agreements],
    )
    yield Listing(
        "routing-latency",
        "One order, milliseconds",
        (
            "method",
            "lines × nodes × services",
            "orders",
            "proven",
            "largest gap",
            "p50",
            "p99",
            "longest",
            "CPU p50",
            "CPU p99",
        ),
        [
            (
                one.method,
                f"{one.lines} × {one.nodes} × {one.services}",
                str(one.orders),
                str(one.proven),
                f"{one.largest_gap_percent:.2f} %" if one.proven < one.orders else "",
                f"{one.p50_ms:.2f}",
                f"{one.p99_ms:.2f}",
                f"{one.longest_ms:.2f}",
                f"{one.cpu_p50_ms:.2f}",
                f"{one.cpu_p99_ms:.2f}",
            )
            for one in figures.latencies
        ],
    )
    yield Listing(
        "routing-ratios",
        "Times quicker than CP-SAT tuned, by medians of the processor's time",
        ("lines × nodes", "dp on numpy", "dp on numba"),
        [
            (
                f"{one.lines} × {one.nodes}",
                f"{one.on_numpy:.0f} ×",
                "not installed" if one.compiled is None else f"{one.compiled:.0f} ×",
            )
            for one in figures.ratios
        ],
    )


def _counts(one: Agreement) -> tuple[int, ...]:
    return one.compared, one.mismatches, one.without_plan, one.left, one.undecided


def exactness(
    instances: int = INSTANCES, seed: int = SEED, tell: Tell = print, *, processes: int = 1
) -> tuple[Agreement, ...]:
    """Each comparison on so many made-up orders; nothing is timed, so that several processes may share the work."""
    parts = [
        (name, instances // processes + (part < instances % processes), f"{seed}:{part}" if part else seed)
        for name in _COMPARISONS
        for part in range(processes)
    ]
    found: dict[str, list[tuple[Agreement, ...]]] = {}
    if processes == 1:
        for name, count, drawn_by in parts:
            tell(f"same answer, {name}: {count:,} orders …")
            found[name] = [_compared(name, count, drawn_by)]
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = [(name, pool.submit(_compared, name, count, by)) for name, count, by in parts]
            for name, future in waiting:
                found.setdefault(name, []).append(future.result())
                if len(found[name]) == processes:
                    tell(f"same answer, {name}: {instances:,} orders compared")
    return tuple(_added(same) for of_name in found.values() for same in zip(*of_name, strict=True))


def _added(parts: Sequence[Agreement]) -> Agreement:
    """One comparison from those of its parts."""
    counts = ("compared", "mismatches", "without_plan", "left", "undecided")
    return parts[0].model_copy(update={name: sum(getattr(one, name) for one in parts) for name in counts})


def _compared(name: str, count: int, seed: int | str) -> tuple[Agreement, ...]:
    draw, reference, methods = _COMPARISONS[name]
    orders = list(draw(count, seed))
    answers = [reference(order) for order in orders]
    against = "every plan" if reference is _oracle else "cp-sat"
    return tuple(
        _agreement(method, solve, against, name, orders, answers) for method, solve in methods.items()
    )


# A proven cost, or ``None`` for no plan; with the bound where there is neither.
_Answer = tuple[str, int | None]


def _agreement(  # noqa: PLR0917 - what is compared with what
    method: str,
    solve: Method,
    reference: str,
    name: str,
    orders: Sequence[Instance],
    answers: Sequence[_Answer],
) -> Agreement:
    counts = dict.fromkeys(("compared", "mismatches", "without_plan", "left", "undecided"), 0)
    for order, (kind, right) in zip(orders, answers, strict=True):
        outcome = solve(order)
        answer = _answer(outcome)
        if kind == "undecided":
            counts["undecided"] += 1
        elif answer[0] == "undecided":
            counts["left"] += 1
            counts["mismatches"] += right is not None and answer[1] is not None and answer[1] > right
        else:
            counts["compared"] += 1
            counts["without_plan"] += right is None
            counts["mismatches"] += answer[1] != right or _broken(order, outcome)
    return Agreement(method=method, reference=reference, orders=name, **counts)


def _answer(outcome: Outcome | Unfillable) -> _Answer:
    if isinstance(outcome, Solution):
        return ("proven", outcome.cost_mills) if outcome.proven else ("undecided", outcome.lower_bound_mills)
    if isinstance(outcome, OnlyBound):
        return "undecided", outcome.lower_bound_mills
    proven = isinstance(outcome, NoPlan) or outcome.proven
    return ("none" if proven else "undecided"), None


def _broken(order: Instance, outcome: Outcome | Unfillable) -> bool:
    """Whether a plan breaks a rule, or costs something else than it says."""
    if not isinstance(outcome, Solution):
        return False
    parts = oracle.parts_of(outcome.assignments)
    return bool(oracle.broken_rules(order, parts)) or oracle.cost_of(order, parts) != outcome.cost_mills


def by_dp(order: Instance) -> Outcome:
    """The dynamic program on numpy."""
    return dp.solve(order, compiled=False)


def by_dp_compiled(order: Instance) -> Outcome:
    """The dynamic program on numba."""
    return dp.solve(order, compiled=True)


def _compiled() -> dict[str, Method]:
    return {"dp, numba": by_dp_compiled} if importlib.util.find_spec("numba") else {}


def _sets(order: Instance) -> Outcome:
    return sets.solve(order, budget_s=_REFERENCE_S)


def _parcels(order: Instance) -> Outcome:
    return parcels.solve(order, budget_s=_REFERENCE_S)


def _sets_soon(order: Instance) -> Outcome:
    return sets.solve(order, budget_s=_WHOLESALE_REFERENCE_S)


def by_cp_sat(order: Instance) -> Outcome:
    """CP-SAT as it is tuned for orders, with time enough; the making of its model is part of it."""
    return exact_general.solve(order, budget_s=_REFERENCE_S)


def _plain(order: Instance) -> Outcome:
    return exact_general.solve(order, budget_s=_REFERENCE_S, tuned=False)


def _with_hint(order: Instance) -> Outcome:
    quick = greedy.solve(order)
    hint = None if quick is None else quick.assignments
    return exact_general.solve(order, budget_s=_WHOLESALE_REFERENCE_S, hint=hint)


def _optimiser(order: Instance) -> Solution | Unfillable:
    return optimiser.solve(order, budget_s=_REFERENCE_S)


def as_set(order: Instance) -> Solution | Unfillable:
    """The optimiser as it stands: the method that it picks, in the time that it gives itself."""
    return optimiser.solve(order)


def _right_by_cp_sat(order: Instance) -> _Answer:
    return _answer(by_cp_sat(order))


def _oracle(order: Instance) -> _Answer:
    best = oracle.cheapest(order)
    return ("none" if best is None else "proven"), best


def _few_lines(count: int, seed: int | str) -> Iterator[Instance]:
    chance = random.Random(f"few:{seed}")
    for _ in range(count):
        services = chance.choice((1, 1, 2))
        kind = Kind(
            lines=chance.randint(1, 10),
            nodes=chance.randint(5, 50) // services,
            services=services,
            optional=chance.choice((0, 0.3)),
            none=chance.choice((0.3, 0.6)),
            stepped=chance.choice((0, 0, 1)),
            weight_limits=chance.choice((0, 0, 0.3)),
            max_shipments=chance.choice((None, None, 2, 3)),
        )
        yield instance(kind, chance.randrange(10**9))


def _many_lines(count: int, seed: int | str) -> Iterator[Instance]:
    chance = random.Random(f"many:{seed}")
    for _ in range(count):
        kind = Kind(
            lines=chance.randint(1, 60),
            nodes=chance.randint(1, 8),
            services=chance.randint(1, 3),
            most_units=chance.choice((3, 40)),
            splittable=chance.choice((0, 0.5, 1)),
            optional=chance.choice((0, 0.3)),
            partly=chance.choice((0, 0.3)),
            max_shipments=chance.choice((None, None, 3)),
        )
        yield instance(kind, chance.randrange(10**9))


def _small(count: int, seed: int | str) -> Iterator[Instance]:
    chance = random.Random(f"small:{seed}")
    made = 0
    while made < count:
        kind = Kind(
            lines=chance.randint(1, 6),
            nodes=chance.randint(1, 2),
            services=chance.randint(1, 2),
            most_units=chance.randint(1, 3),
            splittable=chance.choice((0, 0.3, 1)),
            optional=chance.choice((0, 0.3, 1)),
            partly=chance.choice((0, 0.3)),
            none=chance.choice((0.1, 0.4)),
            stepped=chance.choice((0, 0.5, 1)),
            brackets=chance.choice((0, 0.4)),
            weight_limits=chance.choice((0, 0.5)),
            capacities=chance.choice((0, 0.6)),
            shared_skus=chance.random() < 0.3,
            max_shipments=chance.choice((None, 1, 2)),
            min_split_value_minor=chance.choice((0, 3_000)),
            ship_complete=chance.random() < 0.15,
            served=chance.random() < 0.8,
        )
        order = instance(kind, chance.randrange(10**9))
        if oracle.count_of_plans(order) <= _MOST_PLANS:
            made += 1
            yield order


def _alike(count: int, seed: int | str) -> Iterator[Instance]:
    chance = random.Random(f"alike:{seed}")
    for _ in range(count):
        kind = Kind(
            lines=chance.randint(1, 20),
            nodes=chance.randint(1, 6),
            services=chance.randint(1, 3),
            most_units=chance.choice((1, 4, 40)),
            splittable=1,
            partly=chance.choice((0, 0.5)),
            weight_limits=chance.choice((0, 0.5, 1)),
            capacities=chance.choice((0, 0, 0.5)),
            shared_skus=chance.random() < 0.3,
            max_shipments=chance.choice((None, None, 2, 3)),
            served=chance.random() < 0.9,
            alike=True,
        )
        yield instance(kind, chance.randrange(10**9))


_Draw = Callable[[int, int | str], Iterator[Instance]]
# By the orders that are drawn: how, what is right, and what is held against it.
_COMPARISONS: dict[str, tuple[_Draw, Callable[[Instance], _Answer], dict[str, Method]]] = {
    "1–10 lines × 5–50 options": (_few_lines, _right_by_cp_sat, {"dp, numpy": by_dp, **_compiled()}),
    "1–60 lines × 1–8 nodes × 1–3 services": (_many_lines, _right_by_cp_sat, {"sets": _sets}),
    "units alike, 1–20 lines × 1–6 nodes × 1–3 services": (_alike, _right_by_cp_sat, {"parcels": _parcels}),
    "all kinds, ≤ 6 lines × 4 options": (
        _small,
        _oracle,
        {"cp-sat": by_cp_sat, "optimiser": _optimiser},
    ),
}

_SMALL_SIZES = ((1, 5), (3, 10), (5, 25), (10, 25), (10, 50))
_WHOLESALE_SIZES = ((60, 8, 3), (100, 6, 5), (500, 6, 1), (500, 6, 5))
_ALIKE_SIZES = ((60, 8, 3), (100, 6, 5), (500, 6, 5))


def latency(tell: Tell = print, *, quick: bool = False) -> tuple[Latency, ...]:
    """Each method at each size. Wholesale lines may be split, and nodes hold a part of every fifth."""
    kernels.warm_up()
    found: list[Latency] = []
    for lines, nodes in _SMALL_SIZES:
        tell(f"{lines} lines × {nodes} nodes")
        orders = [instance(Kind(lines=lines, nodes=nodes), seed) for seed in range(8 if quick else 200)]
        methods: dict[str, Method] = {
            "dp, numpy": by_dp,
            **_compiled(),
            "optimiser": as_set,
            "cp-sat": _plain,
            "cp-sat, tuned": by_cp_sat,
        }
        found += in_turns(methods, (lines, nodes, 1), orders)
    for size in _WHOLESALE_SIZES:
        lines, nodes, services = size
        tell(f"{lines} lines × {nodes} nodes × {services} services")
        wholesale = Kind(
            lines=lines,
            nodes=nodes,
            services=services,
            most_units=60,
            splittable=0.8,
            optional=0.1,
            partly=0.2,
            spread_mills=1_000,
        )
        orders = [instance(wholesale, seed) for seed in range(4 if quick else 100)]
        apart = [
            instance(replace(wholesale, spread_mills=20_000), seed) for seed in range(2 if quick else 20)
        ]
        found += [
            timed("sets", _sets_soon, size, orders[: 1 if quick else 20]),
            timed("optimiser", as_set, size, orders),
            timed("optimiser, services far apart", as_set, size, apart),
        ]
        if not quick:
            found.append(timed("cp-sat, tuned, 2 s", _with_hint, size, orders[:6]))
    for size in _ALIKE_SIZES:
        lines, nodes, services = size
        tell(f"{lines} lines × {nodes} nodes × {services} services, units alike, weight limits")
        alike = Kind(
            lines=lines,
            nodes=nodes,
            services=services,
            most_units=60,
            splittable=1,
            partly=0.2,
            weight_limits=0.5,
            alike=True,
        )
        orders = [instance(alike, seed) for seed in range(6 if quick else 100)]
        found.append(timed("optimiser, units alike", as_set, size, orders))
        if not quick:
            found.append(timed("cp-sat, tuned, 2 s, units alike", _with_hint, size, orders[:6]))
    return tuple(found)


def timed(method: str, solve: Method, size: tuple[int, int, int], orders: Sequence[Instance]) -> Latency:
    """How long a method takes, an order at a time."""
    return next(in_turns({method: solve}, size, orders))


def in_turns(
    methods: Mapping[str, Method], size: tuple[int, int, int], orders: Sequence[Instance]
) -> Iterator[Latency]:
    """The same for several methods, a few orders each in turn, so that what else the machine does hits all alike.

    Each begins its turn with an order that does not count: what is loaded and cached then is not the order's time.
    """
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    cpu_seconds: dict[str, list[float]] = {method: [] for method in methods}
    gaps = dict.fromkeys(methods, 0.0)
    proven = dict.fromkeys(methods, 0)
    for start in range(0, len(orders), _A_TURN):
        for method, solve in methods.items():
            solve(orders[0])
            for order in orders[start : start + _A_TURN]:
                cpu, began = time.process_time(), time.perf_counter()
                outcome = solve(order)
                seconds[method].append(time.perf_counter() - began)
                cpu_seconds[method].append(time.process_time() - cpu)
                proven[method] += _answer(outcome)[0] != "undecided"
                if isinstance(outcome, Solution):
                    gaps[method] = max(gaps[method], 100 * outcome.gap)
    lines, nodes, services = size
    for method in methods:
        yield Latency(
            method=method,
            lines=lines,
            nodes=nodes,
            services=services,
            orders=len(orders),
            proven=proven[method],
            p50_ms=_ms(seconds[method], 50),
            p99_ms=_ms(seconds[method], 99),
            longest_ms=_ms(seconds[method], 100),
            cpu_p50_ms=_ms(cpu_seconds[method], 50),
            cpu_p99_ms=_ms(cpu_seconds[method], 99),
            largest_gap_percent=round(gaps[method], 3),
        )


def _ms(seconds: Sequence[float], percent: float) -> float:
    """In milliseconds, to the microsecond: the quick methods take tenths of one."""
    return round(percentile(seconds, percent) * 1000, 3)


def ratios(latencies: Sequence[Latency]) -> Iterator[Ratio]:
    """At each size that both solve."""
    p50 = {(one.method, one.lines, one.nodes): one.cpu_p50_ms for one in latencies if one.services == 1}
    for lines, nodes in _SMALL_SIZES:
        tuned = p50["cp-sat, tuned", lines, nodes]
        compiled = p50.get(("dp, numba", lines, nodes))
        yield Ratio(
            lines=lines,
            nodes=nodes,
            on_numpy=round(tuned / p50["dp, numpy", lines, nodes], 1),
            compiled=None if compiled is None else round(tuned / compiled, 1),
        )


if __name__ == "__main__":
    process_exit.run(main)
