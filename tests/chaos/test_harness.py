"""A short run of the harness, as anybody may start it; the long one is ``python -m benchmarks.chaos``."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.checks import Invariant
from benchmarks.chaos.plan import DOCUMENTS, Kind, plan_for
from tests.workers.conftest import processes_of
from workers.settings import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

ORDERS, KILLS, SEED = 20, 6, 11
# Few orders meet no refund now and then, and that is no fault.
MAY_LOOK_AT_NOTHING = {Invariant.REFUNDED_ONCE}


@pytest.fixture
def kept_in(data_dir: Path) -> Iterator[Path]:
    """Where the harness puts the directories that it makes; whatever it leaves there is found."""
    yield data_dir
    assert processes_of(data_dir) == []


def harness(kept_in: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.chaos", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(kept_in)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_nothing_is_lost_and_nothing_done_twice_whatever_is_killed(kept_in: Path, tmp_path: Path) -> None:
    figures = tmp_path / "chaos.json"
    options = ("--orders", str(ORDERS), "--kills", str(KILLS), "--seed", str(SEED), "--json", str(figures))
    with harness(kept_in, *options) as run:
        said, _ = run.communicate()
    assert run.returncode == 0, said

    report: dict[str, Any] = json.loads(figures.read_text())
    assert report["violations"] == 0 and report["gave_up"] == "" and report["not_carried_out"] == 0, said
    assert sum(report["orders_by_state"].values()) == ORDERS
    assert report["plan"] == plan_for(SEED, orders=ORDERS, kills=KILLS).model_dump(mode="json")
    assert sum(report["kills_by_kind"].values()) == KILLS
    assert set(report["kills_by_kind"]) == set(Kind) and min(report["kills_by_kind"].values()) >= 1
    assert [one for one in report["struck"] if one["came_to_nothing"]] == [], said
    # An amendment that no order could be found for came to nothing, and that is no fault: few wait long enough here.
    met = [one for one in report["deeds"] if one["came_to_nothing"] is None]
    assert len(report["deeds"]) == len(report["plan"]["deeds"]), said
    assert {one["deed"]["kind"] for one in met} >= set(DOCUMENTS), said
    assert set(report["invariants"]) == set(Invariant)
    for invariant, looked in report["invariants"].items():
        assert looked["checked"] > 0 or invariant in MAY_LOOK_AT_NOTHING, f"{invariant} looked at nothing"
    assert list(kept_in.iterdir()) == []


def test_ctrl_c_leaves_no_process_and_no_directory(kept_in: Path) -> None:
    with harness(kept_in, "--orders", "20", "--kills", "0") as run:
        until_something_runs(kept_in, run)
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=300)
    assert run.returncode == 130, said
    assert processes_of(kept_in) == []
    assert list(kept_in.iterdir()) == []


def until_something_runs(kept_in: Path, run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(processes_of(kept_in)) < 3:
        assert run.poll() is None and time.monotonic() < deadline, "the harness started nothing"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("--orders", "0"), "must be at least 1"),
        (("--kills", "many"), "invalid count value"),
        (("--json", "/no/such/file"), "cannot write /no/such/file"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    kept_in: Path, options: tuple[str, ...], wrong: str
) -> None:
    with harness(kept_in, *options) as run:
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 2
    assert wrong in said
    assert list(kept_in.iterdir()) == []


def test_the_plan_is_shown_without_carrying_it_out(kept_in: Path) -> None:
    with harness(kept_in, "--orders", "300", "--kills", "30", "--seed", "7", "--plan") as run:
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert said.splitlines() == str(plan_for(7, orders=300, kills=30)).splitlines()
    assert list(kept_in.iterdir()) == []
