"""The whole benchmark, on a stack of its own, as ``make bench`` runs it but for a few seconds."""

import subprocess
import sys

import pytest

from benchmarks import figures
from benchmarks.figures import Figures, Load
from tests.architecture.sources import REPOSITORY
from tests.benchmarks.test_figures import ASKED_FOR

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# One round of everything: both curves have a point of their own, and every load and every kind of cell is driven.
TINY = """
from benchmarks import throughput
from benchmarks.bench import Plan
from workers import exit as process_exit

throughput.QUICK = Plan(
    rounds=1,
    in_flight=2,
    by_in_flight=(1, 2),
    by_processes=(1, 2),
    seconds=1.0,
    warm_seconds=1.0,
    one_at_a_time_seconds=1.0,
    idle_seconds=1.0,
)
process_exit.run(throughput.main)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """What a tiny run wrote down. A process of its own: it sets up logging and signals as only a program may."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            TINY,
            "--quick",
            "--json",
            str(file),
            "--page",
            str(file.with_name("page.md")),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "page.md is left as it is: they are of a quick run" in done.stdout
    return Figures.model_validate_json(file.read_bytes())


def test_the_benchmark_measures_every_figure_that_was_asked_for(measured: Figures) -> None:
    found = measured.model_dump()
    assert found.keys() >= ASKED_FOR | {"reserved_sample"}
    assert [name for name in ASKED_FOR - {"rss_mb"} if found[name] <= 0] == []
    assert measured.quick
    assert measured.reserved_sample == measured.by_in_flight[0].runs > 0
    assert measured.reserved_p50_ms <= measured.reserved_p99_ms
    # A ratio of two loads on one machine: far off is a fault of the bench.
    assert 0.05 < measured.engine_ratio < 5


def test_the_bare_load_is_what_the_engine_writes_for_so_many_activities_and_nothing_else(
    measured: Figures,
) -> None:
    ((_orders, bare, skeleton),) = measured.rounds
    activities = figures.ACTIVITIES_AT_MOST
    assert (bare.load, skeleton.load) == (Load.BARE, Load.SKELETON)
    assert bare.activities_per_run == skeleton.activities_per_run == activities
    # Three events for each activity and each of the workflow tasks between them; the start and the end.
    assert bare.events_per_run == 2 + 3 * activities + 3 * (activities + 1)


def test_an_order_of_the_benchmark_is_a_happy_one_with_one_shipment(measured: Figures) -> None:
    one = measured.per_order
    assert one.events_by_kind["StartChildWorkflowExecutionInitiated"] == 1
    assert one.events_by_kind["WorkflowExecutionCompleted"] == 2
    assert one.events_by_kind["ActivityTaskScheduled"] == measured.activities_per_order
    assert figures.ACTIVITIES_AT_MOST - 2 <= measured.activities_per_order <= figures.ACTIVITIES_AT_MOST + 2
    assert 40 < measured.history_events_per_order < 150
    assert 30 < measured.history_events_per_shipment < 100
    assert min(one.state_transitions, one.history_kb, one.database_commits, one.database_rows_written) > 0


def test_both_curves_have_every_point_of_the_plan_and_every_process_its_share(measured: Figures) -> None:
    assert [cell.in_flight for cell in measured.by_in_flight] == [1, 2]
    assert [cell.worker_processes for cell in measured.by_processes] == [1, 2]
    for cell in (*measured.by_in_flight, *measured.by_processes):
        assert cell.load is Load.ORDERS
        assert cell.closed_in_window >= cell.in_flight
        assert cell.seconds >= 1
        assert sum(use.cpu_ms_per_run for use in cell.processes.values()) > 0
    assert {"temporal", "postgres", "api", "worker-workflows", "worker-workflows#2"} <= measured.rss_mb.keys()
    assert min(measured.rss_mb.values()) > 5
    assert not any(name.startswith("bare-") for name in measured.rss_mb)
    assert measured.idle_cpu_percent.keys() >= {"temporal", "bare-workflows", "bare-activities"}
