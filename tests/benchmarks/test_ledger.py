"""The benchmark of the ledger, on a PostgreSQL of its own, as it is run but for moments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TINY = """
from benchmarks import ledger
from workers import exit as process_exit

ledger.QUICK = ledger.Plan(entries=(1_200, 2_400), times=10)
process_exit.run(ledger.main)
"""


def test_the_ledger_is_measured_at_each_size_and_balances(tmp_path: Path) -> None:
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
    assert found["in_balance"] is True
    # Two entries of each fee, two of each hold that waits and five of each capture, beside those it was filled with.
    # Orders of twelve entries do not fill it up to the last one.
    assert [(size["filled"], size["entries"]) for size in found["sizes"]] == [
        (1_200, 1_200 + 90),
        (2_400, 2_394 + 90),
    ]
    for size in found["sizes"]:
        assert [one["what"] for one in size["took"]] == [
            "append",
            "confirm a capture",
            "balance of an order",
            "ledger of an order",
        ]
        assert all(0 < one["p50_ms"] <= one["p99_ms"] for one in size["took"])
    assert found["append_p99_ms"] > 0
    assert found["balance_p99_ms"] > 0
