"""The figures as tables, once for the terminal and once as Markdown."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.capacity import ONE_CORE_EACH, RATES, need
from benchmarks.figures import Aim, Cell, Figures, Spread, aims

# Up to here a p99 lies between the slowest and the one before it.
_ENOUGH_FOR_A_P99 = 101


@dataclass(frozen=True)
class Listing:
    """A table: its name on the page, a title, and rows as text. All columns but the first hold numbers."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(figures: Figures, told: Console) -> None:
    """Print every table."""
    print_tables(listings(figures), told)


def print_tables(tables: Iterable[Listing], told: Console) -> None:
    """Print these tables."""
    for listing in tables:
        table = Table(title=listing.title, title_justify="left", title_style="bold", box=None)
        for number, column in enumerate(listing.columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in listing.rows:
            table.add_row(*row)
        told.print()
        told.print(table)
    told.print()


def markdown(listing: Listing) -> str:
    """The same as a Markdown table."""
    lines = [
        _line(listing.columns),
        "|---|" + "---:|" * (len(listing.columns) - 1),
        *(_line(row) for row in listing.rows),
    ]
    return "\n".join(lines)


def listings(figures: Figures) -> Iterator[Listing]:
    """Every table, in the order of the page."""
    yield aims_table(aims(figures))
    yield _rounds(figures)
    yield _per_order(figures)
    yield _cells("in-flight", "By orders in flight, one process per worker group", figures.by_in_flight)
    yield _cells("processes", "By processes per worker group", figures.by_processes)
    yield _cpu(figures)
    yield _needs(figures)


def aims_table(reached: Iterable[Aim]) -> Listing:
    """What was aimed at beside what was measured."""
    return Listing(
        "aims",
        "Aims",
        ("figure", "aim", "measured", "met"),
        [(aim.what, aim.aim, aim.measured, "yes" if aim.met else "no") for aim in reached],
    )


def _rounds(figures: Figures) -> Listing:
    rows: list[Sequence[str]] = []
    for place, what in enumerate(("orders", "bare workflows", "skeletons")):
        cells = [cells[place] for cells in figures.rounds]
        rows.append(
            (
                what,
                _each([cell.runs_per_second for cell in cells], "{:.2f}"),
                _each([cell.events_per_second for cell in cells], "{:,.0f}"),
                f"{cells[0].events_per_run:.0f}",
                _each([cell.activities_in_window / cell.seconds for cell in cells], "{:.0f}"),
                _each([cell.workflow_tasks_in_window / cell.seconds for cell in cells], "{:.0f}"),
                _each([_cores_used(cell) for cell in cells], "{:.1f}"),
                "" if place == 0 else _ratio((figures.engine_ratio_spread, figures.skeleton_ratio_spread)[place - 1]),
            )
        )  # fmt: skip
    return Listing(
        "rounds",
        f"Orders against the engine, {figures.rounds[0][0].in_flight} in flight, round by round",
        ("load", "runs/s", "events/s", "events/run", "activities/s", "workflow tasks/s", "cores used",
         "orders ÷ these"),
        rows,
    )  # fmt: skip


def _cores_used(cell: Cell) -> float:
    """Cores that all processes of the benchmark together used for the load, beyond what they use when idle."""
    return sum(used.cpu_ms_per_run for used in cell.processes.values()) * cell.runs_per_second / 1000


def _per_order(figures: Figures) -> Listing:
    one = figures.per_order
    return Listing(
        "per-order",
        "One happy single-shipment order, its shipment included",
        ("of the engine and the database", "per order"),
        [
            ("activities", f"{one.activities:.2f}"),
            ("workflow tasks", f"{one.workflow_tasks:.1f}"),
            ("signals received", f"{one.signals:.1f}"),
            ("search attribute upserts", f"{one.search_attribute_upserts:.1f}"),
            ("timers started", f"{one.timers:.1f}"),
            ("history events, order's run", f"{one.events_order:.1f}"),
            ("history events, shipment's run", f"{one.events_shipment:.1f}"),
            ("history, kB", f"{one.history_kb:.1f}"),
            ("state transitions of the engine", f"{one.state_transitions:.1f}"),
            ("PostgreSQL: transactions committed", f"{one.database_commits:.1f}"),
            ("PostgreSQL: rows written", f"{one.database_rows_written:.1f}"),
            ("PostgreSQL: write-ahead log, kB", f"{one.database_wal_kb:.1f}"),
        ],
    )


def _cells(name: str, title: str, cells: Sequence[Cell]) -> Listing:
    return Listing(
        name,
        title,
        ("in flight", "processes", "closed", "orders/s", "events/s", "sample", "reserved p50, ms", "reserved p99, ms",
         "closed p50, ms", "CPU of others"),
        [
            (
                str(cell.in_flight),
                str(cell.worker_processes),
                str(cell.closed_in_window),
                f"{cell.runs_per_second:.2f}",
                f"{cell.events_per_second:,.0f}",
                f"{cell.runs:,}",
                f"{cell.reserved_p50_ms or 0:,.0f}",
                _p99(cell),
                f"{cell.closed_p50_ms:,.0f}",
                f"{cell.others_cpu_percent:.0f} %",
            )
            for cell in cells
        ],
    )  # fmt: skip


def _p99(cell: Cell) -> str:
    """The p99 of so few that it lies beside the slowest of them is called what it is."""
    told = f"{cell.reserved_p99_ms or 0:,.0f}"
    return told if cell.runs > _ENOUGH_FOR_A_P99 else f"≈ slowest: {told}"


def _cpu(figures: Figures) -> Listing:
    orders, bare, skeletons = ([cells[place] for cells in figures.rounds] for place in range(3))
    names = [*figures.rss_mb, *(name for name in bare[0].processes if name not in figures.rss_mb)]
    return Listing(
        "cpu",
        "CPU time per run, milliseconds, and memory",
        ("process", "an order", "a bare workflow", "a skeleton", "idle, % of a core", "memory, MB"),
        [
            (
                name,
                *(_median_cpu(name, cells) for cells in (orders, bare, skeletons)),
                f"{figures.idle_cpu_percent[name]:.1f}" if name in figures.idle_cpu_percent else "",
                f"{figures.rss_mb[name]:,.0f}" if name in figures.rss_mb else "",
            )
            for name in names
        ],
    )


def _median_cpu(name: str, cells: Sequence[Cell]) -> str:
    spent = [cell.processes[name].cpu_ms_per_run for cell in cells if name in cell.processes]
    return f"{statistics.median(spent):,.0f}" if spent else ""


def _needs(figures: Figures) -> Listing:
    needs = [need(figures, rate) for rate in RATES]
    rows: list[Sequence[str]] = [
        ("activities/s", *(f"{one.activities:,.0f}" for one in needs)),
        ("workflow tasks/s", *(f"{one.workflow_tasks:,.0f}" for one in needs)),
        ("history events/s", *(f"{one.events:,.0f}" for one in needs)),
        ("state transitions/s", *(f"{one.state_transitions:,.0f}" for one in needs)),
        ("rows written by Temporal/s", *(f"{one.temporal_rows_written:,.0f}" for one in needs)),
        ("visibility writes/s", *(f"{one.visibility_writes:,.0f}" for one in needs)),
        ("history shards", *(f"{one.history_shards:,}" for one in needs)),
        ("open runs", *(f"{one.open_runs:,.0f}" for one in needs)),
        ("history kept, GB", *(f"{one.history_gb_kept:,.0f}" for one in needs)),
        *((f"{part}, processes", *(f"{one.processes[part]:,}" for one in needs)) for part in ONE_CORE_EACH),
        ("Temporal server, cores", *(f"{one.temporal_cores:,}" for one in needs)),
        ("store: cores", *(f"{one.store_cores:,}" for one in needs)),
        ("store: transactions/s", *(f"{one.store_commits:,.0f}" for one in needs)),
        ("store: rows written/s", *(f"{one.store_rows_written:,.0f}" for one in needs)),
        ("store: write-ahead log, MB/s", *(f"{one.store_wal_mb:,.1f}" for one in needs)),
    ]
    return Listing("needs", "On paper", ("orders per second", *(f"{rate:,}" for rate in RATES)), rows)


def _each(values: Sequence[float], form: str) -> str:
    return " · ".join(form.format(value) for value in values)


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.lowest:.2f} to {spread.highest:.2f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
