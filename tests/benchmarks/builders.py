"""Small builders of figures: round numbers that are easy to reckon with."""

from typing import Any

from benchmarks.figures import IN_FLIGHT, Cell, Figures, Load, Machine, PerOrder, ProcessUse, spread


def a_cell(load: Load = Load.ORDERS, events_per_second: float = 400.0, **changes: Any) -> Cell:
    per_run = 78 if load is Load.BARE else 150
    cell = Cell(
        load=load,
        in_flight=16,
        worker_processes=1,
        seconds=20,
        runs=100,
        closed_in_window=70,
        events_in_window=round(events_per_second * 20),
        activities_in_window=800,
        workflow_tasks_in_window=1_600,
        events_per_run=per_run,
        activities_per_run=12,
        runs_per_second=events_per_second / per_run,
        events_per_second=events_per_second,
        reserved_p50_ms=500,
        reserved_p99_ms=900,
        closed_p50_ms=4_000,
        others_cpu_percent=1.5,
        processes={"temporal": ProcessUse(cpu_ms_per_run=300, rss_mb=250)},
    )
    return cell.model_copy(update=changes)


def a_round(orders: float, bare: float, skeleton: float) -> tuple[Cell, Cell, Cell]:
    """Events per second of each load."""
    return (
        a_cell(Load.ORDERS, orders, processes=PROCESSES),
        a_cell(Load.BARE, bare),
        a_cell(Load.SKELETON, skeleton),
    )


PROCESSES = {
    "temporal": ProcessUse(cpu_ms_per_run=300, rss_mb=250),
    "postgres": ProcessUse(cpu_ms_per_run=60, rss_mb=100),
    "api": ProcessUse(cpu_ms_per_run=90, rss_mb=130),
    "worker-workflows": ProcessUse(cpu_ms_per_run=60, rss_mb=95),
    "worker-effects": ProcessUse(cpu_ms_per_run=100, rss_mb=130),
    "worker-effects#2": ProcessUse(cpu_ms_per_run=20, rss_mb=131),
    "worker-decisions": ProcessUse(cpu_ms_per_run=30, rss_mb=140),
    "carrier": ProcessUse(cpu_ms_per_run=30, rss_mb=55),
}


def some_figures(**changes: Any) -> Figures:
    """Figures that meet every aim."""
    rounds = (a_round(400, 500, 450), a_round(300, 400, 350), a_round(420, 500, 420))
    figures = Figures(
        engine_ratio=0.8,
        engine_ratio_spread=spread((0.75, 0.8, 0.84)),
        skeleton_ratio=0.9,
        skeleton_ratio_spread=spread((0.86, 0.89, 1.0)),
        orders_per_second=2.7,
        orders_per_second_spread=spread((2.0, 2.7, 2.8)),
        activities_per_order=12,
        history_events_per_order=88,
        history_events_per_shipment=58.5,
        reserved_p50_ms=420,
        reserved_p99_ms=800,
        reserved_sample=40,
        rss_mb={name: use.rss_mb for name, use in PROCESSES.items()},
        quick=False,
        measured_at="2026-01-31 12:00 UTC",
        seconds=600,
        machine=Machine(
            cores=2,
            memory_gb=16,
            processor="a processor",
            system="Linux x86_64",
            python="3.13.1",
            temporal="1.32.0",
            sdk="1.35.0",
        ),
        idle_cpu_percent={"temporal": 5.0},
        per_order=PerOrder(
            activities=12,
            events_order=88,
            events_shipment=58.5,
            events_by_kind={"WorkflowTaskCompleted": 24},
            workflow_tasks=24,
            signals=9,
            search_attribute_upserts=16,
            timers=4,
            state_transitions=90,
            history_kb=38,
            database_commits=50,
            database_rows_written=70,
            database_wal_kb=56,
        ),
        rounds=rounds,
        by_in_flight=tuple(a_cell(in_flight=in_flight) for in_flight in IN_FLIGHT),
        by_processes=(a_cell(), a_cell(worker_processes=2), a_cell(worker_processes=4)),
    )
    return figures.model_copy(update=changes)
