"""The benchmark of the outbox, as it is run but for moments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_every_change_is_heard_of_once_in_order_and_soon(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.outbox", "--quick", "--json", str(file)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["wrong"] == 0
    steady, hot = found["loads"]
    assert (steady["kind"], steady["changes"], hot["kind"]) == ("steady", 40, "hot")
    assert hot["changes"] > 5
    # How quick it is says something about the machine; far off is a fault on any.
    assert steady["p50_ms"] < 3000
