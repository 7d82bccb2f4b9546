import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.workers.processes import FAILS_AT_ONCE, IGNORES_SIGTERM, SERVES_FOR_EVER, a_child, until
from workers.embedded.children import ChildFailed
from workers.embedded.supervisor import Supervisor


async def test_a_killed_child_is_started_again(data_dir: Path) -> None:
    supervisor = Supervisor()
    await supervisor.start(a_child(data_dir, "one", SERVES_FOR_EVER))
    first = supervisor.pids()["one"]

    os.kill(first, signal.SIGKILL)

    await until(lambda: supervisor.pids()["one"] != first)
    assert psutil.pid_exists(supervisor.pids()["one"])
    await supervisor.stop_all()


async def test_a_child_that_keeps_dying_is_retried_with_growing_pauses_and_leaves_the_others_alone(
    data_dir: Path,
) -> None:
    marker = data_dir / "served-once"
    dies_after_the_first_time = (
        f"import pathlib, sys, time; m = pathlib.Path({str(marker)!r})\n"
        "if m.exists(): sys.exit(1)\n"
        "m.touch(); time.sleep(600)"
    )
    supervisor = Supervisor()
    await supervisor.start(a_child(data_dir, "steady", SERVES_FOR_EVER))
    await supervisor.start(a_child(data_dir, "fragile", dies_after_the_first_time, ready=marker.exists))
    steady = supervisor.pids()["steady"]

    killed = time.monotonic()
    os.kill(supervisor.pids()["fragile"], signal.SIGKILL)
    try:
        await until(lambda: supervisor.restarts()["fragile"] >= 3)

        assert time.monotonic() - killed >= 0.2 + 0.4 + 0.8  # the pauses before each start: not a busy loop
        assert supervisor.pids()["steady"] == steady
    finally:
        await supervisor.stop_all()


async def test_a_child_that_ends_while_starting_is_reported_with_the_end_of_its_log(data_dir: Path) -> None:
    supervisor = Supervisor()

    with pytest.raises(
        ChildFailed, match=r"(?s)broken ended while starting \(exit code 3\).*the port is taken"
    ):
        await supervisor.start(a_child(data_dir, "broken", FAILS_AT_ONCE, ready=lambda: False))

    assert supervisor.pids() == {}


async def test_a_child_that_is_not_ready_in_time_is_reported_and_ended(data_dir: Path) -> None:
    supervisor = Supervisor()

    with pytest.raises(ChildFailed, match="slow was not ready after 1 s"):
        await supervisor.start(
            a_child(data_dir, "slow", SERVES_FOR_EVER, ready=lambda: False, ready_within=1.0)
        )

    assert supervisor.pids() == {}


async def test_a_child_that_ignores_being_asked_is_killed_after_its_grace(data_dir: Path) -> None:
    supervisor = Supervisor()
    child = a_child(data_dir, "stubborn", IGNORES_SIGTERM, grace=0.5)
    await supervisor.start(child)
    await until(lambda: "set" in child.log.read_text())
    pid = supervisor.pids()["stubborn"]

    await asyncio.wait_for(supervisor.stop(["stubborn"]), timeout=5)

    assert not psutil.pid_exists(pid)


async def test_hurrying_kills_without_waiting_for_the_grace(data_dir: Path) -> None:
    supervisor = Supervisor()
    child = a_child(data_dir, "stubborn", IGNORES_SIGTERM, grace=120)
    await supervisor.start(child)
    await until(lambda: "set" in child.log.read_text())

    stopping = asyncio.create_task(supervisor.stop_all())
    await asyncio.sleep(0.2)
    assert not stopping.done()
    supervisor.hurry()

    await asyncio.wait_for(stopping, timeout=5)


async def test_children_run_in_sessions_of_their_own_so_that_ctrl_c_reaches_only_us(data_dir: Path) -> None:
    supervisor = Supervisor()
    await supervisor.start(a_child(data_dir, "one", SERVES_FOR_EVER))
    pid = supervisor.pids()["one"]

    assert os.getsid(pid) == pid != os.getsid(0)
    await supervisor.stop_all()
