"""The whole stack as its user starts it: every component a real process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.workers.conftest import processes_of
from workers.embedded.ports import LOOPBACK, answers_ok
from workers.embedded.published import PublishedStack, read_stack
from workers.settings import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

COMPONENTS = {"postgres", "temporal", "payment", "warehouse", "carrier", "messages", "api"}
WORKERS = {"worker-workflows", "worker-effects", "worker-decisions"}


def command(data_dir: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "apps.cli", "up", "--data-dir", str(data_dir), *more]


def environment() -> dict[str, str]:
    own = ("ORDERWRIGHT_", "TEMPORAL_", "DATABASE_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


@contextmanager
def running(data_dir: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], PublishedStack]]:
    """``orderwright up`` until it serves; whatever is left of the command itself is killed at the end."""
    process = subprocess.Popen(
        command(data_dir, "--json", *more),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith('{"pid"'):
            pytest.fail(f"the stack did not start: {line}{process.stdout.read()}")
        yield process, PublishedStack.model_validate_json(line)
    finally:
        process.kill()
        process.communicate()


def pids(data_dir: Path) -> dict[str, int]:
    records = json.loads((data_dir / "children.json").read_text())
    return {record["name"]: record["identity"]["pid"] for record in records}


def wait_until_pid_changes(data_dir: Path, name: str, old: int) -> None:
    deadline = time.monotonic() + 30
    while pids(data_dir)[name] == old:
        assert time.monotonic() < deadline, f"{name} was not started again"
        time.sleep(0.05)


def wait_until_ready(stack: PublishedStack) -> None:
    deadline = time.monotonic() + 60
    while not answers_ok(f"{stack.api_url}/readyz", saying=b'"status":"ok"'):
        assert time.monotonic() < deadline, "the API did not become ready again"
        time.sleep(0.1)


def assert_a_second_up_is_refused(
    data_dir: Path, process: subprocess.Popen[str], stack: PublishedStack
) -> None:
    second = subprocess.run(
        command(data_dir, "--json"),
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    refusal = json.loads(second.stdout)["error"]
    assert refusal["code"] == "data_directory_held"
    assert f"pid {process.pid}" in refusal["message"]
    assert stack.api_url in refusal["message"]


# One long story instead of five tests: every start of the whole stack costs the machine ten seconds and more.
def test_up_serves_refuses_a_second_survives_kills_of_any_part_and_of_itself_and_stops_clean(
    data_dir: Path,
) -> None:
    with socket.create_server((LOOPBACK, 0)) as somebody:
        taken = somebody.getsockname()[1]
        with running(data_dir, "--port", str(taken), "--speed", "60") as (process, stack):
            first = stack
            assert set(pids(data_dir)) == COMPONENTS | WORKERS
            assert stack.api_url != f"http://{LOOPBACK}:{taken}"
            assert answers_ok(f"{stack.api_url}/healthz")
            assert read_stack(data_dir) == stack
            assert (data_dir / "stack.json").stat().st_mode & 0o777 == 0o600
            assert_a_second_up_is_refused(data_dir, process, stack)

            for name in ("postgres", "temporal", "worker-workflows", "carrier"):
                old = pids(data_dir)[name]
                os.kill(old, signal.SIGKILL)
                wait_until_pid_changes(data_dir, name, old)
            wait_until_ready(stack)
            orphans = pids(data_dir)

    assert any(psutil.pid_exists(pid) for pid in orphans.values()), "the supervisor was killed, not asked"
    assert read_stack(data_dir) is None

    with running(data_dir, "--port", str(taken)) as (process, again):
        assert set(orphans.values()).isdisjoint(pids(data_dir).values())
        assert again.api_token == first.api_token
        assert again.speed == first.speed == 60
        assert again.database_url == first.database_url
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    assert processes_of(data_dir) == []
    assert read_stack(data_dir) is None
