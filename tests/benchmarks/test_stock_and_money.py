"""The page of what stock and money cost: its tables, its plots, and which figures may stand there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ledger, outbox, page, reservations, stock_and_money
from benchmarks.stock_and_money import Figures
from models.errors import Refused
from tests.architecture.sources import REPOSITORY

PAGE = REPOSITORY / "docs" / "speed-of-stock-and-money.md"


def published() -> Figures:
    return Figures.model_validate_json(PAGE.with_suffix(".json").read_bytes())


def with_reservations(**changes: Any) -> Figures:
    figures = published()
    return figures.model_copy(update={"reservations": figures.reservations.model_copy(update=changes)})


def with_ledger(**changes: Any) -> Figures:
    figures = published()
    return figures.model_copy(update={"ledger": figures.ledger.model_copy(update=changes)})


def with_outbox(**changes: Any) -> Figures:
    figures = published()
    return figures.model_copy(update={"outbox": figures.outbox.model_copy(update=changes)})


def test_the_page_shows_the_figures_that_lie_beside_it() -> None:
    assert stock_and_money.with_tables(PAGE.read_text(), published()) == PAGE.read_text()


def test_the_page_shows_the_figures_of_a_whole_run() -> None:
    assert stock_and_money.unfit(published()) == ""


def test_the_plots_on_the_page_show_the_figures_that_lie_beside_it() -> None:
    for picture in stock_and_money.pictures(PAGE).values():
        assert f"({picture.name})" in PAGE.read_text()
        assert stock_and_money.digest(published()).encode() in picture.read_bytes()


def test_the_plots_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    for what in stock_and_money.PICTURES:
        drawn = [tmp_path / f"{what}.{number}.png" for number in (1, 2)]
        for file in drawn:
            stock_and_money.plot(what, published(), file)
        assert drawn[0].read_bytes().startswith(b"\x89PNG")
        assert drawn[0].read_bytes() == drawn[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (lambda: published().model_copy(update={"quick": True}), "quick run"),
        (lambda: with_reservations(quick=True), "quick run"),
        (lambda: with_ledger(quick=True), "quick run"),
        (lambda: with_outbox(quick=True), "quick run"),
        (
            lambda: with_reservations(cells=published().reservations.cells[:2]),
            r"\(1,\) clients, not \(1, 8, 64\)",
        ),
        (
            lambda: with_reservations(look_ups=published().reservations.look_ups[:1]),
            r"\(10000,\) rows of stock",
        ),
        (lambda: with_ledger(sizes=published().ledger.sizes[:1]), r"\(10000,\) entries in the ledger"),
        (lambda: with_reservations(sold=499), "something went wrong"),
        (lambda: with_reservations(oversold=1), "something went wrong"),
        (lambda: with_ledger(in_balance=False), "something went wrong"),
        (lambda: with_outbox(wrong=1), "something went wrong"),
    ],
)
def test_figures_of_less_than_a_whole_run_are_not_published(changes: Any, why: str, tmp_path: Path) -> None:
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text())
    with pytest.raises(Refused, match=why):
        stock_and_money.rewrite(copy, changes())
    assert copy.read_text() == PAGE.read_text()
    assert list(tmp_path.iterdir()) == [copy]


def test_figures_of_a_whole_run_are_published_with_their_plots(tmp_path: Path) -> None:
    copy = tmp_path / PAGE.name
    copy.write_text(PAGE.read_text())
    stock_and_money.rewrite(copy, with_reservations(hot_ratio=0.77))
    assert json.loads(copy.with_suffix(".json").read_text())["reservations"]["hot_ratio"] == 0.77
    assert all(picture.exists() for picture in stock_and_money.pictures(copy).values())


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(Refused, match="<!-- aims -->"):
        stock_and_money.with_tables("# nothing here", published())


def test_every_aim_is_met_or_missed_by_its_own_figure() -> None:
    good = with_reservations(
        hot_p99_ms=1.0,
        spread_p99_ms=1.0,
        look_up_p99_ms=1.0,
        cells=tuple(
            cell.model_copy(update={"ratio": reservations.AIMS[cell.kind]})
            for cell in published().reservations.cells
        ),
    ).reservations
    assert all(aim.met for aim in reservations.aims(good))
    missed: dict[str, dict[str, Any]] = {
        "units sold twice, 200 clients for 500": {"oversold": 1},
        "reservations ÷ bare UPDATEs, hot, 1 client": {
            "cells": (good.cells[0].model_copy(update={"ratio": 0.49}), *good.cells[1:])
        },
        "reservations ÷ bare UPDATEs, spread, 64 clients": {
            "cells": (*good.cells[:-1], good.cells[-1].model_copy(update={"ratio": 0.39}))
        },
        "reservation, p99, hot, 64 clients": {"hot_p99_ms": 50.1},
        "reservation, p99, spread, 64 clients": {"spread_p99_ms": 50.1},
        "availability look-up, p99, 1,000,000 rows": {"look_up_p99_ms": 20.1},
    }
    for what, changes in missed.items():
        assert [aim.what for aim in reservations.aims(good.model_copy(update=changes)) if not aim.met] == [
            what
        ]
    money = with_ledger(append_p99_ms=10.1, balance_p99_ms=9.9).ledger
    assert [aim.met for aim in ledger.aims(money)] == [False, True]
    news = with_outbox(wrong=1).outbox
    assert [aim.met for aim in outbox.aims(news)][-1] is False


TINY = """
from benchmarks import ledger, outbox, reservations, stock_and_money
from workers import exit as process_exit

reservations.QUICK = reservations.Plan(rounds=1, seconds=0.2, look_ups=20, stock_rows=(1_000, 2_000))
ledger.QUICK = ledger.Plan(entries=(1_200, 2_400), times=10)
outbox.QUICK = outbox.Plan(seconds=1.0, per_second=10.0)
process_exit.run(stock_and_money.main)
"""


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_one_command_measures_everything_and_leaves_the_page_alone_when_quick(tmp_path: Path) -> None:
    copy, file = tmp_path / PAGE.name, tmp_path / "out.json"
    copy.write_text(PAGE.read_text())
    done = subprocess.run(
        [sys.executable, "-c", TINY, "--quick", "--json", str(file), "--page", str(copy)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{PAGE.name} is left as it is: they are of a quick run" in done.stdout
    assert copy.read_text() == PAGE.read_text()
    figures = Figures.model_validate_json(file.read_bytes())
    assert figures.reservations.sold == 500
    assert [one.rows for one in figures.reservations.look_ups] == [1_000, 2_000]
    assert [size.filled for size in figures.ledger.sizes] == [1_200, 2_400]
    assert figures.outbox.wrong == 0
    assert figures.server.settings["fsync"] == "on"
    assert page.on(figures.machine) in done.stdout
