"""The benchmark of reservations, on a PostgreSQL of its own, as it is run but for moments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TINY = """
from benchmarks import reservations
from workers import exit as process_exit

reservations.QUICK = reservations.Plan(rounds=1, seconds=0.2, look_ups=40, stock_rows=(10_000,))
process_exit.run(reservations.main)
"""


def test_two_hundred_clients_get_exactly_the_five_hundred_units_there_are(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-c", TINY, "--quick", "--json", str(file)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert (found["sold"], found["oversold"], found["differences"]) == (500, 0, 0)
    assert [(cell["kind"], cell["clients"]) for cell in found["cells"]] == [
        (kind, clients) for clients in (1, 8, 64) for kind in ("hot", "spread")
    ]
    # How quick it is says something about the machine; a ratio of two loads on one machine far off is a fault.
    assert found["hot_ratio"] > 0.05
    assert found["spread_ratio"] > 0.05
    assert found["p99_ms"] > 0
    assert [one["rows"] for one in found["look_ups"]] == [10_000]
