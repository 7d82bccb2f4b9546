"""The arithmetic of the benchmark, the shape of its JSON, the paper cluster, and the page that shows them."""

import asyncio
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from benchmarks import page, using
from benchmarks.capacity import Assumptions, cpu_ms_per_order, need
from benchmarks.figures import Figures, Load, aims, highest_rss, mean_by_kind, percentile, ratios, spread
from benchmarks.histories import summary_of, within
from benchmarks.loop import Shape, Started, drive
from benchmarks.tables import listings
from models.errors import Refused
from tests.architecture.sources import REPOSITORY
from tests.benchmarks.builders import PROCESSES, a_cell, a_round, some_figures

PAGE = REPOSITORY / "docs" / "performance.md"
ASKED_FOR = {
    "engine_ratio",
    "orders_per_second",
    "activities_per_order",
    "history_events_per_order",
    "history_events_per_shipment",
    "reserved_p50_ms",
    "reserved_p99_ms",
    "rss_mb",
}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([7], 99, 7), ([1, 3], 50, 2), ([4, 1, 3, 2], 50, 2.5), (range(101), 99, 99), ([1, 2], 100, 2)],
)
def test_a_percentile_lies_between_its_neighbours(
    values: Sequence[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == pytest.approx(expected)


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1), st.floats(min_value=0, max_value=100))
def test_a_percentile_lies_within_what_was_measured(values: list[float], percent: float) -> None:
    assert min(values) <= percentile(values, percent) <= max(values) * (1 + 1e-9)


def test_the_ratio_of_a_round_is_ours_divided_by_the_engines() -> None:
    rounds = [a_round(orders=300, bare=400, skeleton=600), a_round(orders=100, bare=100, skeleton=50)]
    assert ratios(rounds, Load.BARE) == (0.75, 1.0)
    assert ratios(rounds, Load.SKELETON) == (0.5, 2.0)


def test_a_spread_has_the_median_in_its_middle() -> None:
    found = spread((3, 1, 2))
    assert (found.lowest, found.median, found.highest) == (1, 2, 3)


def test_every_aim_is_met_or_missed_by_its_own_figure() -> None:
    assert all(aim.met for aim in aims(some_figures()))
    missed = {
        "engine ratio": some_figures(engine_ratio=0.69),
        "activities per order": some_figures(activities_per_order=12.1),
        "events per order run": some_figures(history_events_per_order=90.5),
        "events per shipment run": some_figures(history_events_per_shipment=61),
        "submit to reserved, p50 of 40 orders one at a time": some_figures(reserved_p50_ms=1001),
        "largest worker": some_figures(rss_mb={"worker-effects#2": 151}),
        "largest routing and classification worker": some_figures(rss_mb={"worker-decisions": 321}),
    }
    for what, figures in missed.items():
        assert [aim.what for aim in aims(figures) if not aim.met] == [what]


def test_the_memory_told_is_the_most_that_was_seen_and_that_of_the_bare_workers_is_none_of_ours() -> None:
    small, large = PROCESSES["api"], PROCESSES["temporal"]
    cells = [a_cell(processes={"api": small}), a_cell(processes={"api": large, "bare-workflows": large})]
    assert highest_rss(cells) == {"api": large.rss_mb}


def test_events_are_averaged_by_kind() -> None:
    assert mean_by_kind([{"a": 1, "b": 4}, {"b": 2}]) == {"b": 3, "a": 0.5}


def test_the_json_has_every_figure_that_was_asked_for_and_reads_back_the_same() -> None:
    figures = some_figures()
    assert set(Figures.model_json_schema()["required"]) >= ASKED_FOR
    assert Figures.model_validate_json(figures.model_dump_json()) == figures


def test_a_history_is_counted_by_its_own_events() -> None:
    kinds = (
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED,
        EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
    )
    events = [HistoryEvent(event_id=number, event_type=kind) for number, kind in enumerate(kinds, 1)]
    for event in events:
        event.event_time.FromMilliseconds(event.event_id * 500)
    events[1].activity_task_scheduled_event_attributes.activity_type.name = "reserve_stock"
    events[2].activity_task_completed_event_attributes.scheduled_event_id = 2
    found = summary_of("order:x", events)
    assert (found.events, found.activities) == (4, 1)
    assert found.done == {"reserve_stock": 1.5}
    assert within(found.times, 0.5, 2.0) == 3


class SomeRuns:
    """Runs that take a moment each, and how many of them were under way at once."""

    def __init__(self) -> None:
        self.under_way: set[int] = set()
        self.most: list[int] = []

    async def start(self) -> Started:
        number = len(self.most)
        self.under_way.add(number)
        self.most.append(len(self.under_way))

        async def end() -> None:
            await asyncio.sleep(0.01)
            self.under_way.remove(number)

        return Started((f"run-{number}",), end())


async def test_a_loop_keeps_so_many_in_flight_and_waits_for_all_of_them() -> None:
    load = SomeRuns()
    driven = await drive(load.start, in_flight=3, warm_seconds=0, seconds=0.05)
    assert max(load.most) == 3
    assert not load.under_way
    assert driven.closed.keys() == driven.submitted.keys()
    assert len(driven.closed) == len(load.most)


async def test_a_steady_window_opens_when_all_places_have_turned_over_and_sees_as_many_runs_end() -> None:
    marks: list[int] = []
    load = SomeRuns()

    def mark() -> None:
        marks.append(len(load.most) - len(load.under_way))

    driven = await drive(load.start, in_flight=3, warm_seconds=0, seconds=0, opened=mark, shut=mark)
    assert marks[0] >= 3
    assert marks[1] - marks[0] >= 3
    assert within(driven.closed.values(), driven.begin, driven.end) >= 3


async def test_a_whole_window_holds_one_run_per_place_and_nothing_else() -> None:
    load = SomeRuns()
    driven = await drive(load.start, in_flight=3, warm_seconds=9, seconds=9, shape=Shape.WHOLE)
    assert len(load.most) == 3
    assert driven.begin <= min(driven.submitted.values())
    assert max(driven.closed.values()) <= driven.end


def test_what_a_process_uses_when_idle_is_no_runs_cost() -> None:
    begin = using.Account(at=0, processes={"idler": 1.0, "worker": 1.0}, myself=0, machine=0)
    end = using.Account(at=10, processes={"idler": 1.5, "worker": 3.5}, myself=0, machine=20)
    uses, others = using.used_between(
        begin, end, {"idler": os.getpid(), "worker": os.getpid()}, 4.0, {"idler": 5.0, "worker": 5.0}
    )
    assert uses["idler"].cpu_ms_per_run == 0
    assert uses["worker"].cpu_ms_per_run == pytest.approx(500)
    assert others == pytest.approx(100 * 17 / (10 * (psutil.cpu_count() or 1)), abs=0.1)


def test_the_paper_cluster_grows_with_the_rate() -> None:
    figures = some_figures()
    ten, thousand = need(figures, 10), need(figures, 1_000)
    assert ten.activities == pytest.approx(120)
    assert ten.state_transitions == pytest.approx(900)
    assert thousand.store_commits == pytest.approx(100 * ten.store_commits)
    assert thousand.history_gb_kept == pytest.approx(38e3 * 1_000 * 86_400 * 30 / 1e9)


def test_a_process_is_planned_for_what_its_group_used_and_not_to_be_full() -> None:
    figures = some_figures()
    # 100 ms in one process of the group, 20 ms in the other.
    assert cpu_ms_per_order(figures)["effect workers"] == pytest.approx(120)
    assert need(figures, 10).processes["effect workers"] == 2  # 1.2 cores at 60 %
    assert need(figures, 10, Assumptions(target_use=1.0)).processes["workflow workers"] == 1


@pytest.mark.parametrize(("rate", "shards"), [(10, 512), (100, 512), (1_000, 2_048)])
def test_shards_are_a_power_of_two_that_the_transitions_fit_in(rate: float, shards: int) -> None:
    # 90 transitions an order, 10 ms each, 60 % busy: 1.5 shards an order a second.
    assert need(some_figures(), rate).history_shards == shards


def test_every_table_has_a_place_on_the_page_and_a_cell_for_each_column() -> None:
    for listing in listings(some_figures()):
        assert f"<!-- {listing.name} -->" in PAGE.read_text()
        assert {len(row) for row in listing.rows} == {len(listing.columns)}


@pytest.mark.parametrize(("runs", "told"), [(101, "≈ slowest: 900"), (102, "900")])
def test_a_p99_shows_of_how_many_it_is_and_of_few_is_called_what_it_is(runs: int, told: str) -> None:
    figures = some_figures(by_in_flight=(a_cell(runs=runs),))
    (table,) = (listing for listing in listings(figures) if listing.name == "in-flight")
    shown = dict(zip(table.columns, table.rows[0], strict=True))
    assert (shown["sample"], shown["reserved p99, ms"]) == (str(runs), told)


@pytest.mark.parametrize(("runs", "beside_the_slowest"), [(101, True), (102, False)])
def test_the_p99_of_few_lies_between_the_two_slowest(runs: int, *, beside_the_slowest: bool) -> None:
    assert (percentile(range(runs), 99) >= runs - 2) is beside_the_slowest


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(Refused, match="<!-- aims -->"):
        page.with_tables("# nothing here", some_figures())


def test_the_page_shows_the_figures_that_lie_beside_it() -> None:
    figures = Figures.model_validate_json(PAGE.with_suffix(".json").read_bytes())
    assert page.with_tables(PAGE.read_text(), figures) == PAGE.read_text()


def test_the_page_shows_the_figures_of_a_whole_run() -> None:
    assert page.unfit(Figures.model_validate_json(PAGE.with_suffix(".json").read_bytes())) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quick": True}, "quick run"),
        ({"by_in_flight": (a_cell(in_flight=1), a_cell(in_flight=8))}, r"\(1, 8\) orders in flight"),
        ({"by_processes": (a_cell(), a_cell(worker_processes=2))}, r"\(1, 2\) processes"),
    ],
)
def test_figures_of_less_than_a_whole_run_are_not_published(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    copy = tmp_path / "performance.md"
    copy.write_text(PAGE.read_text())
    with pytest.raises(Refused, match=why):
        page.rewrite(copy, some_figures(**changes))
    assert copy.read_text() == PAGE.read_text()
    assert not copy.with_suffix(".json").exists()


def test_the_plot_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    drawn = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in drawn:
        page.plot(some_figures(), file)
    assert ET.parse(drawn[0]).getroot().tag.endswith("svg")
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
