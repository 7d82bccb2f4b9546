"""The one command that measures routing: a real, quick run, what it says, and what may stand on its page."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import routing, routing_growth, routing_streams
from benchmarks.routing import Figures
from models.errors import Refused
from tests.architecture.sources import REPOSITORY

PAGE = REPOSITORY / "docs" / "routing-figures.md"


def published() -> Figures:
    return Figures.model_validate_json(PAGE.with_suffix(".json").read_bytes())


def changed(**changes: Any) -> Figures:
    return published().model_copy(update=changes)


@pytest.mark.timeout(600)
def test_one_command_measures_all_that_needs_no_data_and_names_what_it_skips(tmp_path: Path) -> None:
    copy, file, missing = tmp_path / PAGE.name, tmp_path / "out.json", tmp_path / "nowhere"
    copy.write_text(PAGE.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.routing", "--quick", "--data", str(missing),
         "--json", str(file), "--page", str(copy)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f"skipped: wholesale orders of online_retail: there is no folder online_retail in {missing}"
        in done.stdout
    )
    assert f"skipped: stream on the Olist network: there is no folder olist in {missing}" in done.stdout
    assert "is left as it is: they are of a quick run" in done.stdout
    assert copy.read_text() == PAGE.read_text()

    raw = json.loads(file.read_text())
    assert raw["mismatches"] == 0
    assert raw["dp_p99_ms_10x50"] > 0
    assert raw["wave_10000_seconds"] is raw["wave_gap_to_lp"] is raw["wave_fill_percent"] is None
    assert raw["wholesale_p99_ms"] is raw["wholesale_proven_percent"] is None
    figures = Figures.model_validate(raw)
    assert [one.part for one in figures.skipped] == [
        "wholesale orders of online_retail",
        "stream on the Olist network",
        "wave of 10,000",
    ]
    assert figures.skipped[-1].why == "a quick run: its largest is 250"
    assert set(figures.saving_vs_nearest) == set(figures.lookahead_gap_closed) == {"synthetic", "example"}
    made_up = figures.saving_vs_nearest["synthetic"]
    assert 0 < made_up.first_come_percent < made_up.at_most_percent
    assert 50 < made_up.nearest_fill_percent <= 100
    assert all(row.feasible for one in figures.streams.streams for row in one.rows)
    assert all(one.compared for one in figures.exact.agreements)
    assert figures.times_quicker_than_cp_sat["10x50"].on_numpy > 1


def test_without_data_every_part_that_needs_it_says_so() -> None:
    assert routing._folder(None, "olist") == (
        "--data names no folder with olist; it is not part of this repository"
    )


def test_the_page_shows_the_figures_that_lie_beside_it() -> None:
    assert routing.with_tables(PAGE.read_text(), published()) == PAGE.read_text()


def test_the_page_shows_the_figures_of_a_whole_run_on_all_networks() -> None:
    figures = published()
    assert routing.unfit(figures) == ""
    assert set(figures.saving_vs_nearest) == {"synthetic", "example", "olist"}
    assert {one.orders for one in figures.streams.growth} >= {routing_streams.WAVE_ORDERS}


def test_the_plots_on_the_page_show_the_figures_that_lie_beside_it() -> None:
    for picture in routing.pictures(PAGE).values():
        assert f"({picture.name})" in PAGE.read_text()
        assert routing.digest(published()).encode() in picture.read_bytes()


def test_the_plots_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    figures = published()
    for what in routing_growth.PICTURES:
        drawn = [tmp_path / f"{what}.{number}.png" for number in (1, 2)]
        for file in drawn:
            routing_growth.plot(what, figures.growth, figures.streams.growth, file, "digest")
        assert drawn[0].read_bytes().startswith(b"\x89PNG")
        assert drawn[0].read_bytes() == drawn[1].read_bytes()


def disagreeing() -> dict[str, Any]:
    exact = published().exact
    wrong = exact.agreements[0].model_copy(update={"mismatches": 1})
    return {"exact": exact.model_copy(update={"agreements": (wrong,)})}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (lambda: {"quick": True}, "they are of a quick run"),
        (lambda: {"skipped": (routing.Skipped(part="a part", why="it is gone"),)}, "a part was skipped"),
        (disagreeing, "something went wrong"),
    ],
)
def test_figures_of_less_than_a_whole_run_are_not_published(
    changes: Callable[[], dict[str, Any]], why: str, tmp_path: Path
) -> None:
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text())
    with pytest.raises(Refused, match=why):
        routing.rewrite(copy, changed(**changes()))
    assert list(tmp_path.iterdir()) == [copy]
