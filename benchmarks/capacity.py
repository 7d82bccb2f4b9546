"""What a production cluster needs for so many orders a second, on paper, from the measured figures. Pure.

What is measured: CPU time per order of each process, state transitions, events, database commits. What is assumed
stands in ``Assumptions``, each with its reason: whoever knows better changes it there.
"""

import math
from collections.abc import Mapping

from benchmarks.figures import Figures, ProcessUse
from models.base import Contract

RATES = (10, 100, 1_000)

# Whose CPU time belongs to which part of a deployment. The simulators stand for somebody else's systems.
PARTS: Mapping[str, str] = {
    "worker-workflows": "workflow workers",
    "worker-effects": "effect workers",
    "worker-decisions": "decision workers",
    "api": "API",
    "postgres": "PostgreSQL",
    "temporal": "Temporal server",
}
# Python processes: one core each, whatever the machine has.
ONE_CORE_EACH = ("workflow workers", "effect workers", "decision workers", "API")


class Assumptions(Contract):
    """What the paper takes for granted.

    Attributes:
        target_use: how busy a process, a core or a shard may be on average; the rest is for peaks and restarts.
        peak_factor: peak rate ÷ the rate asked for. 1: the rate is the peak.
        shard_write_ms: what one state transition takes a history shard, which writes one after the other. A transaction
            with a replicated database in the same region.
        rows_per_transition: rows that Temporal writes to its database per state transition: the run itself, its current
            execution or tasks, the history node.
        order_lives_days: how long an order is open in real life; it sets how many runs are open at once.
        retention_days: how long closed histories are kept.
        visibility_writes_per_run: start and close of a run; upserts are counted beside.
    """

    target_use: float = 0.6
    peak_factor: float = 1.0
    shard_write_ms: float = 10.0
    rows_per_transition: float = 4.0
    order_lives_days: float = 4.0
    retention_days: float = 30.0
    visibility_writes_per_run: float = 2.0


class Need(Contract):
    """What ``orders_per_second`` take. Rates are per second; ``processes`` have a core each."""

    orders_per_second: float
    activities: float
    workflow_tasks: float
    events: float
    state_transitions: float
    temporal_rows_written: float
    visibility_writes: float
    store_commits: float
    store_rows_written: float
    store_wal_mb: float
    processes: dict[str, int]
    temporal_cores: int
    store_cores: int
    history_shards: int
    open_runs: float
    history_gb_per_day: float
    history_gb_kept: float


def need(figures: Figures, orders_per_second: float, assumed: Assumptions | None = None) -> Need:
    """What a cluster needs for so many orders a second."""
    assumed = assumed or Assumptions()
    rate = orders_per_second * assumed.peak_factor
    per_order, cpu_ms = figures.per_order, cpu_ms_per_order(figures)
    transitions = rate * per_order.state_transitions

    def cores(part: str) -> int:
        return max(math.ceil(rate * cpu_ms[part] / 1000 / assumed.target_use), 1)

    history_gb_per_day = orders_per_second * 86_400 * per_order.history_kb / 1e6
    return Need(
        orders_per_second=orders_per_second,
        activities=rate * per_order.activities,
        workflow_tasks=rate * per_order.workflow_tasks,
        events=rate * (per_order.events_order + per_order.events_shipment),
        state_transitions=transitions,
        temporal_rows_written=transitions * assumed.rows_per_transition,
        visibility_writes=rate * (2 * assumed.visibility_writes_per_run + per_order.search_attribute_upserts),
        store_commits=rate * per_order.database_commits,
        store_rows_written=rate * per_order.database_rows_written,
        store_wal_mb=rate * per_order.database_wal_kb / 1000,
        processes={part: cores(part) for part in ONE_CORE_EACH},
        temporal_cores=cores("Temporal server"),
        store_cores=cores("PostgreSQL"),
        history_shards=_shards(transitions, assumed),
        # The shipment's run is open for most of its order's.
        open_runs=2 * orders_per_second * 86_400 * assumed.order_lives_days,
        history_gb_per_day=history_gb_per_day,
        history_gb_kept=history_gb_per_day * assumed.retention_days,
    )


def cpu_ms_per_order(figures: Figures) -> dict[str, float]:
    """CPU milliseconds per order of each part, the median over the rounds."""
    cells = [orders for orders, _, _ in figures.rounds]
    found: dict[str, float] = {}
    for name, part in PARTS.items():
        spent = sorted(_cpu_of(name, cell.processes) for cell in cells)
        found[part] = spent[(len(spent) - 1) // 2]
    return found


def _cpu_of(name: str, processes: Mapping[str, ProcessUse]) -> float:
    return sum(use.cpu_ms_per_run for process, use in processes.items() if process.partition("#")[0] == name)


def _shards(transitions: float, assumed: Assumptions) -> int:
    """A power of two, at least 512: it is fixed when a cluster is made, and the spare ones cost next to nothing."""
    busy = transitions * assumed.shard_write_ms / 1000 / assumed.target_use
    shards = 512
    while shards < busy:
        shards *= 2
    return shards
