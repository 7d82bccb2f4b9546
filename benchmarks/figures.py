"""The figures of a run of the benchmark: their shape as JSON, and the arithmetic that makes them. Pure.

Every figure of a cell comes from histories (events with their times) or from the operating system's account of CPU time
and memory, none from a counter of our own.
"""

import statistics
from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import Field

from models.base import Contract

# What the issue asks of the figures. Memory in MB per worker process.
ENGINE_RATIO_AT_LEAST = 0.7
ACTIVITIES_AT_MOST = 12
EVENTS_PER_ORDER_AT_MOST = 90
EVENTS_PER_SHIPMENT_AT_MOST = 60
RESERVED_P50_BELOW_MS = 1000
WORKER_RSS_BELOW_MB = 150
DECISIONS_RSS_BELOW_MB = 320

DECISIONS = "worker-decisions"

# The points of the two curves that the page shows.
IN_FLIGHT = (1, 4, 16, 50, 200)
PROCESSES = (1, 2, 4)


class Load(StrEnum):
    """What is being run: see ``benchmarks.bare`` for the two that are not orders."""

    ORDERS = "orders"
    BARE = "bare"
    SKELETON = "skeleton"


class ProcessUse(Contract):
    """What one process used while a cell ran: CPU milliseconds per run of the load beyond what it uses when idle, and
    resident MB at its end.
    """

    cpu_ms_per_run: float
    rss_mb: float


class Cell(Contract):
    """One closed loop with ``in_flight`` runs under way, measured over ``seconds``: see ``benchmarks.loop.Shape``.

    ``runs`` counts all that were started, warm-up and drain included; all of them ended well. Rates are taken from the
    events whose time lies in the window: ``runs_per_second`` is events per second ÷ events per run, so that a run that
    lies partly within it counts in part. ``closed_in_window`` counts those that ended within it, for comparison.
    ``reserved_…`` and ``closed_p50_ms`` are taken over all ``runs``.
    """

    load: Load
    in_flight: int
    worker_processes: int
    seconds: float
    runs: int
    closed_in_window: int
    events_in_window: int
    activities_in_window: int
    workflow_tasks_in_window: int
    events_per_run: float
    activities_per_run: float
    runs_per_second: float
    events_per_second: float
    reserved_p50_ms: float | None = None
    reserved_p99_ms: float | None = None
    closed_p50_ms: float
    others_cpu_percent: float = Field(description="of all cores, used by programs that are not part of this")
    processes: dict[str, ProcessUse]


class PerOrder(Contract):
    """What one happy single-shipment order takes of the engine and of the database, on average."""

    activities: float
    events_order: float
    events_shipment: float
    events_by_kind: dict[str, float]
    workflow_tasks: float
    signals: float
    search_attribute_upserts: float
    timers: float
    state_transitions: float
    history_kb: float
    database_commits: float
    database_rows_written: float
    database_wal_kb: float


class Spread(Contract):
    """The median of repeated measurements, and how far apart they lay."""

    median: float
    lowest: float
    highest: float


class Computer(Contract):
    """Where it was measured."""

    cores: int
    memory_gb: float
    processor: str
    system: str
    python: str


class Machine(Computer):
    """And on which engine."""

    temporal: str
    sdk: str


class Figures(Contract):
    """Everything that was measured in one run, the headline figures first.

    ``engine_ratio``: our history events per second ÷ those of the bare workflows, median over rounds in which both ran
    one after the other with as many runs in flight. ``skeleton_ratio``: the same against workflows that command what an
    order commands, and do nothing. ``orders_per_second``: median of the same rounds.
    """

    engine_ratio: float
    engine_ratio_spread: Spread
    skeleton_ratio: float
    skeleton_ratio_spread: Spread
    orders_per_second: float
    orders_per_second_spread: Spread
    activities_per_order: float
    history_events_per_order: float
    history_events_per_shipment: float
    reserved_p50_ms: float
    reserved_p99_ms: float
    reserved_sample: int
    rss_mb: dict[str, float]
    quick: bool
    measured_at: str
    seconds: float
    machine: Machine
    idle_cpu_percent: dict[str, float] = Field(description="of one core, with nothing to do")
    per_order: PerOrder
    rounds: tuple[tuple[Cell, Cell, Cell], ...]
    by_in_flight: tuple[Cell, ...]
    by_processes: tuple[Cell, ...]


class Aim(Contract):
    """One aim and what came of it."""

    what: str
    aim: str
    measured: str
    met: bool


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of all lie, interpolated between neighbours. ``values`` must not be empty."""
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of at least one value."""
    return Spread(
        median=round(statistics.median(values), 3),
        lowest=round(min(values), 3),
        highest=round(max(values), 3),
    )


def ratios(
    rounds: Sequence[tuple[Cell, Cell, Cell]], against: Load, ours: Load = Load.ORDERS
) -> tuple[float, ...]:
    """Events per second of ``ours`` ÷ those of ``against``, round by round: a slow minute slows both."""
    return tuple(
        _of(cells, ours).events_per_second / _of(cells, against).events_per_second for cells in rounds
    )


def _of(cells: Sequence[Cell], load: Load) -> Cell:
    return next(cell for cell in cells if cell.load is load)


def highest_rss(cells: Sequence[Cell]) -> dict[str, float]:
    """The most memory that each process was seen with, in MB; that of the bare workers is no process of ours."""
    highest: dict[str, float] = {}
    for cell in cells:
        for name, use in cell.processes.items():
            if not name.startswith("bare-"):
                highest[name] = max(highest.get(name, 0.0), use.rss_mb)
    return highest


def aims(figures: Figures) -> tuple[Aim, ...]:
    """Each aim beside what was measured."""
    workers = {name: mb for name, mb in figures.rss_mb.items() if name.startswith("worker-")}
    small = max((mb for name, mb in workers.items() if not name.startswith(DECISIONS)), default=0.0)
    deciding = max((mb for name, mb in workers.items() if name.startswith(DECISIONS)), default=0.0)
    one_at_a_time = f"submit to reserved, p50 of {figures.reserved_sample} orders one at a time"
    return (
        at_least("engine ratio", figures.engine_ratio, ENGINE_RATIO_AT_LEAST),
        at_most("activities per order", figures.activities_per_order, ACTIVITIES_AT_MOST),
        at_most("events per order run", figures.history_events_per_order, EVENTS_PER_ORDER_AT_MOST),
        at_most("events per shipment run", figures.history_events_per_shipment, EVENTS_PER_SHIPMENT_AT_MOST),
        at_most(one_at_a_time, figures.reserved_p50_ms, RESERVED_P50_BELOW_MS, " ms"),
        at_most("largest worker", small, WORKER_RSS_BELOW_MB, " MB"),
        at_most("largest routing and classification worker", deciding, DECISIONS_RSS_BELOW_MB, " MB"),
    )


def at_most(what: str, value: float, aim: float, unit: str = "") -> Aim:
    """An aim that is met by what is no more."""
    return Aim(what=what, aim=f"≤ {aim:g}{unit}", measured=_told(value, unit), met=value <= aim)


def at_least(what: str, value: float, aim: float, unit: str = "") -> Aim:
    """An aim that is met by what is no less."""
    return Aim(what=what, aim=f"≥ {aim:g}{unit}", measured=_told(value, unit), met=value >= aim)


def _told(value: float, unit: str) -> str:
    return f"{value:,.4g}{unit}" if value < 1000 else f"{value:,.0f}{unit}"


def mean_by_kind(kinds: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """How many events of each kind a run has on average, the most frequent first."""
    totals: dict[str, int] = {}
    for counted in kinds:
        for kind, count in counted.items():
            totals[kind] = totals.get(kind, 0) + count
    return {
        kind: round(count / len(kinds), 2)
        for kind, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    }
