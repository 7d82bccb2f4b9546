"""Real orders on the whole stack: with everything killed under them, and with neighbours at their worst.

Both in one file, so that they run one after the other: each wants the machine to itself.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import httpx
import psutil
import pytest

from activities.channels.online_retail import read_invoices
from activities.store.store import Store
from apps.cli import accounts
from apps.cli.demo import EXAMPLE
from apps.cli.replay import Replay
from models.states import OrderState
from tests.workers.conftest import processes_of
from tests.workers.test_embedded_stack import pids, running
from workers.client import connect
from workers.embedded.ports import any_port
from workers.embedded.published import PublishedStack
from workers.settings import REPOSITORY

ORDERS = 60

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]


async def test_sixty_orders_end_right_though_everything_is_killed_under_them(data_dir: Path) -> None:
    up = ("--port", str(any_port()), "--speed", "86400")
    with running(data_dir, *up) as (supervisor, stack):
        async with replaying(stack) as replay:
            loop = asyncio.create_task(replay.run(iter(islice(read_invoices(EXAMPLE), ORDERS * 3))))
            for closed, name in (
                (5, "worker-workflows"),
                (12, "temporal"),
                (20, "postgres"),
                (28, "worker-effects"),
            ):
                await until_closed(replay, closed, loop)
                os.kill(pids(data_dir)[name], signal.SIGKILL)
            await until_closed(replay, 36, loop)
            kill_everything(data_dir, supervisor.pid)
            with running(data_dir, *up) as (again, restarted):
                tally = await loop
                assert not tally.gave_up and tally.submitted == ORDERS
                await assert_all_is_well(replay, restarted)
                again.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(again.wait, 180) == 0
    assert processes_of(data_dir) == []


def test_orders_end_right_with_neighbours_at_their_worst(data_dir: Path, tmp_path: Path) -> None:
    """As in ``orderwright demo --faults harsh``: nothing is lost and nothing is done twice."""
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


async def assert_all_is_well(replay: Replay, stack: PublishedStack) -> None:
    store = Store.at(stack.database_url, pool_size=2)
    try:
        temporal = await connect(stack.temporal_address, stack.temporal_namespace, from_environment=False)
        became = await accounts.outcomes(replay.tally, store, temporal)
        assert became.adds_up and became.submitted == ORDERS
        assert became.failed == became.orphaned == became.still_open == became.needs_operator == 0, became
        assert became.closed >= ORDERS * 0.9, became
        books = await accounts.books(store, stack.simulators["payment"])
        assert books is not None and books.agree, books
        assert sum(books.statement_captured.values()) > 0
        assert await accounts.done_twice(stack.simulators) == ()
    finally:
        await store.close()


@asynccontextmanager
async def replaying(stack: PublishedStack) -> AsyncIterator[Replay]:
    store = Store.at(stack.database_url, pool_size=2)
    headers = {"Authorization": f"Bearer {stack.api_token}"}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=30) as client:
        yield Replay(client, store, limit=ORDERS, in_flight=12, patience=1200)
    await store.close()


async def until_closed(replay: Replay, count: int, loop: "asyncio.Task[object]") -> None:
    while sum(s.state is OrderState.CLOSED for s in replay.tally.standings.values()) < count:
        assert not loop.done(), f"the loop ended before {count} orders were closed: {replay.tally}"
        await asyncio.sleep(0.1)


def kill_everything(data_dir: Path, supervisor: int) -> None:
    """What a power cut does: the supervisor first, so that it cannot mend anything, then every child."""
    os.kill(supervisor, signal.SIGKILL)
    for process in processes_of(data_dir):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    for pid in pids(data_dir).values():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
