"""Neighbours at their worst, as in ``orderwright demo --faults harsh``: nothing is lost and nothing is done twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.conftest import processes_of
from workers.settings import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]


def test_orders_end_right_with_neighbours_at_their_worst(data_dir: Path, tmp_path: Path) -> None:
    summary = tmp_path / "out.json"
    command = (
        "demo --orders 20 --faults harsh --speed 86400 --exit --patience 900"
        f" --json {summary} --data-dir {data_dir}"
    )
    played = subprocess.run(
        [sys.executable, "-m", "apps.cli", *command.split()],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert played.returncode == 0, played.stdout + played.stderr
    became = json.loads(summary.read_text())
    assert became["submitted"] == 20
    assert became["failed"] == became["orphaned"] == became["still_open"] == 0, became
    assert became["money"]["agree"] and became["money"]["statement_captured"], became
    assert became["closed"] >= 10, became
    assert processes_of(data_dir) == []
