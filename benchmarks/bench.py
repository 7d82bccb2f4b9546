"""The measuring itself: a stack of our own, the bare workers beside it on the same server, one cell after another."""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text
from temporalio import __version__ as sdk_version
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.store.store import Store
from apps.api.contracts import OrderAccepted
from benchmarks import bare, figures, using
from benchmarks.figures import Cell, Figures, Load, Machine, PerOrder, percentile
from benchmarks.histories import RunHistory, Written, read_histories, read_written, within
from benchmarks.loop import Driven, RunWentWrong, Shape, Started, drive
from benchmarks.orders import drafts, stock_up
from models.clock import FASTEST
from models.identifiers import shipment_id, shipment_workflow_id
from models.order import OrderDraft
from models.states import OrderState
from workers.client import connect
from workers.embedded.children import Child, end, start_and_wait
from workers.embedded.published import PublishedStack
from workers.embedded.stack import WORKER_GROUPS, Stack, StackOptions
from workers.settings import REPOSITORY

Say = Callable[[str], None]

RESERVED = "reserve_stock"
_SAMPLE = 60
_MANY_IN_FLIGHT = 100
_STARTED_WITHIN = 120.0


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long.

    Attributes:
        rounds: how often orders, bare workflows and skeletons run one after the other.
        in_flight: of the rounds, and of the cells by worker processes.
        by_in_flight, by_processes: the two curves; each point is a cell of its own.
        seconds, warm_seconds: of a cell's window and of what runs before it, at the least: see ``Shape``.
        one_at_a_time_seconds: the window in which the time from submission to reservation is measured.
    """

    rounds: int = 3
    in_flight: int = 16
    by_in_flight: tuple[int, ...] = figures.IN_FLIGHT
    by_processes: tuple[int, ...] = figures.PROCESSES
    seconds: float = 20.0
    warm_seconds: float = 6.0
    one_at_a_time_seconds: float = 45.0
    idle_seconds: float = 6.0


QUICK = Plan(
    rounds=1,
    in_flight=8,
    by_in_flight=(1, 8),
    by_processes=(1, 2),
    seconds=8.0,
    warm_seconds=3.0,
    one_at_a_time_seconds=8.0,
    idle_seconds=3.0,
)


async def measure(plan: Plan, data_dir: Path, say: Say, *, quick: bool) -> Figures:
    """Start a stack on ``data_dir``, run the whole plan against it, stop it, and give the figures.

    Raises ``RunWentWrong`` when a run did not end well, and what starting a stack raises.
    """
    began = time.monotonic()
    async with _stack(data_dir, say) as stack, _bench(stack) as bench:
        await stock_up(bench.store)
        machine = await _machine(bench.client)
        await bench.warm_up(say)
        await bench.idle(plan.idle_seconds, say)
        curve = [await bench.orders(1, plan.one_at_a_time_seconds, plan.warm_seconds, say)]
        rounds = [await bench.round(plan, number, say) for number in range(1, plan.rounds + 1)]
        for in_flight in plan.by_in_flight:
            if in_flight == plan.in_flight:
                curve.append(_middle([cells[0] for cells in rounds]))
            elif in_flight > 1:
                curve.append(await bench.orders(in_flight, plan.seconds, plan.warm_seconds, say))
        by_processes = [_middle([cells[0] for cells in rounds])]
        for processes in plan.by_processes:
            if processes > 1:
                await bench.scale(processes)
                by_processes.append(await bench.orders(plan.in_flight, plan.seconds, plan.warm_seconds, say))
        await bench.scale(1)
        measured = _Measured(machine, tuple(rounds), tuple(curve), tuple(by_processes))
        return _figures(bench, measured, quick=quick, seconds=time.monotonic() - began)


def _shape(in_flight: int) -> Shape:
    return Shape.WHOLE if in_flight >= _MANY_IN_FLIGHT else Shape.STEADY


def _middle(cells: list[Cell]) -> Cell:
    """The one with the median rate."""
    return sorted(cells, key=lambda cell: cell.runs_per_second)[(len(cells) - 1) // 2]


@dataclass(frozen=True)
class _Measured:
    machine: Machine
    rounds: tuple[tuple[Cell, Cell, Cell], ...]
    curve: tuple[Cell, ...]
    by_processes: tuple[Cell, ...]


@dataclass
class _Database:
    commits: int = 0
    rows: int = 0
    wal_bytes: int = 0


@dataclass
class Bench:
    """One bench on a running stack; remembers what all of its order cells together took."""

    stack: Stack
    client: Client
    api: httpx.AsyncClient
    store: Store
    bare_pids: dict[str, int]
    order_histories: list[RunHistory] = field(default_factory=list)
    shipment_histories: list[RunHistory] = field(default_factory=list)
    written: list[tuple[Written, Written]] = field(default_factory=list)
    database: _Database = field(default_factory=_Database)
    reserved_ms: list[float] = field(default_factory=list)
    idle_percent: dict[str, float] = field(default_factory=dict)
    processes: int = 1
    _series: int = 0

    async def warm_up(self, say: Say) -> None:
        """Every process has imported, connected and cached what it needs."""
        say("warming up")
        for load in Load:
            await drive(self._starter(load), in_flight=4, warm_seconds=0, seconds=4)

    async def idle(self, seconds: float, say: Say) -> None:
        """Measure what each process uses while nothing is to be done, in percent of a core."""
        say("idle")
        await asyncio.sleep(2)
        begin = using.account(self._pids())
        await asyncio.sleep(seconds)
        self.idle_percent = using.percent_of_a_core(begin, using.account(self._pids()))

    async def scale(self, processes: int) -> None:
        """Run so many processes of each worker group."""
        for group in WORKER_GROUPS:
            await self.stack.scale(group, processes)
        self.processes = processes

    async def round(self, plan: Plan, number: int, say: Say) -> tuple[Cell, Cell, Cell]:
        """Orders, bare workflows and skeletons, one after the other on the same server; each is first in its turn."""
        say(f"round {number} of {plan.rounds}")
        loads = list(Load)
        done: dict[Load, Cell] = {}
        for load in loads[number % len(loads) :] + loads[: number % len(loads)]:
            run = self.orders if load is Load.ORDERS else partial(self.cell, load)
            done[load] = await run(plan.in_flight, plan.seconds, plan.warm_seconds, say)
        return done[Load.ORDERS], done[Load.BARE], done[Load.SKELETON]

    async def orders(self, in_flight: int, seconds: float, warm_seconds: float, say: Say) -> Cell:
        """A cell of orders, with what it took of the database."""
        before = await self._database()
        cell = await self.cell(Load.ORDERS, in_flight, seconds, warm_seconds, say)
        after = await self._database()
        self.database.commits += after.commits - before.commits
        self.database.rows += after.rows - before.rows
        self.database.wal_bytes += after.wal_bytes - before.wal_bytes
        return cell

    async def cell(self, load: Load, in_flight: int, seconds: float, warm_seconds: float, say: Say) -> Cell:
        """Drive ``load``, read every history that it made, and condense them."""
        accounts: list[using.Account] = []

        def keep_account() -> None:
            accounts.append(using.account(self._pids()))

        driven = await drive(
            self._starter(load),
            in_flight=in_flight,
            warm_seconds=warm_seconds,
            seconds=seconds,
            shape=_shape(in_flight),
            opened=keep_account,
            shut=keep_account,
        )
        histories = [
            await read_histories(self.client, ids) for ids in zip(*driven.closed, strict=True)
        ]  # per place in the tuples: all orders, then all their shipments
        cell = self._cell(load, in_flight, driven, histories)
        runs = cell.runs_per_second * cell.seconds
        begin, end = accounts
        uses, others = using.used_between(begin, end, self._pids(), runs, self.idle_percent)
        cell = cell.model_copy(update={"processes": uses, "others_cpu_percent": others})
        if load is Load.ORDERS:
            await self._remember(in_flight, driven, histories)
        say(
            f"{load:>8} {in_flight:>4} in flight, {self.processes} process{'es' if self.processes > 1 else ''}"
            f" per group: {cell.runs_per_second:6.2f}/s {cell.events_per_second:7.0f} events/s"
            f"   ({cell.closed_in_window} ended in {cell.seconds:.0f} s,"
            f" {cell.others_cpu_percent:.0f} % of the CPU was somebody else's)"
        )
        return cell

    def _cell(self, load: Load, in_flight: int, driven: Driven, histories: list[list[RunHistory]]) -> Cell:
        begin, finish = driven.begin, driven.end
        every = [history for place in histories for history in place]
        runs = len(driven.closed)
        events = sum(within(history.times, begin, finish) for history in every)
        events_per_run = sum(history.events for history in every) / runs
        reserved = _reserved_ms(driven, histories[0]) if load is Load.ORDERS else []
        return Cell(
            load=load,
            in_flight=in_flight,
            worker_processes=self.processes,
            seconds=round(finish - begin, 2),
            runs=runs,
            closed_in_window=within(driven.closed.values(), begin, finish),
            events_in_window=events,
            activities_in_window=sum(within(history.activities_at, begin, finish) for history in every),
            workflow_tasks_in_window=sum(within(history.tasks_at, begin, finish) for history in every),
            events_per_run=round(events_per_run, 2),
            activities_per_run=round(sum(history.activities for history in every) / runs, 2),
            runs_per_second=round(events / events_per_run / (finish - begin), 3),
            events_per_second=round(events / (finish - begin), 1),
            reserved_p50_ms=round(percentile(reserved, 50), 1) if reserved else None,
            reserved_p99_ms=round(percentile(reserved, 99), 1) if reserved else None,
            closed_p50_ms=round(
                percentile([1000 * (at - driven.submitted[ids]) for ids, at in driven.closed.items()], 50), 1
            ),
            others_cpu_percent=0.0,
            processes={},
        )

    async def _remember(self, in_flight: int, driven: Driven, histories: list[list[RunHistory]]) -> None:
        orders, shipments = histories
        self.order_histories += orders
        self.shipment_histories += shipments
        if in_flight == 1:
            self.reserved_ms += _reserved_ms(driven, orders)
        sample = list(driven.closed)[:: max(len(driven.closed) // _SAMPLE, 1)]
        places = [await read_written(self.client, ids) for ids in zip(*sample, strict=True)]
        self.written += list(zip(*places, strict=True))

    def _starter(self, load: Load) -> Callable[[], Awaitable[Started]]:
        self._series += 1
        series = f"{load}-{self._series}"
        if load is Load.ORDERS:
            documents = drafts(series)
            return lambda: self._start_order(documents)
        numbers = iter(range(1_000_000))
        return lambda: self._start_bare(load, f"{series}-{next(numbers)}")

    async def _start_order(self, documents: Iterator[OrderDraft]) -> Started:
        response = await self.api.post(
            "/v1/orders",
            content=next(documents).model_dump_json().encode(),
            headers={"Content-Type": "application/json"},
        )
        if response.status_code != 202:
            raise RunWentWrong(f"the API answered {response.status_code} to an order: {response.text[:300]}")
        accepted = OrderAccepted.model_validate_json(response.content)
        shipment = shipment_workflow_id(shipment_id(accepted.order_id, 1))
        return Started((accepted.workflow_id, shipment), self._closed(accepted.workflow_id))

    async def _closed(self, workflow_id: str) -> None:
        result = await self._result(workflow_id)
        if (result["state"], result["shipments"]) != (OrderState.CLOSED, 1):
            raise RunWentWrong(
                f"{workflow_id} ended {result['state']} with {result['shipments']} shipments, not closed with one"
            )

    async def _result(self, workflow_id: str) -> dict[str, Any]:
        """How an accepted order ended. When Temporal is too busy to start its run at once, the API starts it later."""
        give_up_at = time.monotonic() + _STARTED_WITHIN
        while True:
            try:
                result: dict[str, Any] = await self.client.get_workflow_handle(workflow_id).result()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND or time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(1)
            else:
                return result

    async def _start_bare(self, load: Load, workflow_id: str) -> Started:
        # As many activities, and as many signals from outside, as a happy order and its shipment have.
        workflow, argument, ids = (
            ("Bare", bare.BareRun(activities=figures.ACTIVITIES_AT_MOST), (workflow_id,))
            if load is Load.BARE
            else (
                "Skeleton",
                bare.SkeletonRun(shipment_signals=5),
                (workflow_id, f"{workflow_id}/1"),
            )
        )
        handle = await self.client.start_workflow(
            workflow, argument, id=workflow_id, task_queue=bare.WORKFLOW_QUEUE
        )
        return Started(ids, handle.result())

    def _pids(self) -> dict[str, int]:
        return {**self.stack.pids, **self.bare_pids}

    async def _database(self) -> _Database:
        async with self.store.transaction() as session:
            row = (
                await session.execute(
                    text(
                        "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted,"
                        " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
                        " FROM pg_stat_database WHERE datname = current_database()"
                    )
                )
            ).one()
        return _Database(commits=int(row[0]), rows=int(row[1]), wal_bytes=int(row[2]))


def _reserved_ms(driven: Driven, orders: list[RunHistory]) -> list[float]:
    """From the moment before the order is posted to the event that says its stock is reserved."""
    submitted = {ids[0]: at for ids, at in driven.submitted.items()}
    return [1000 * (order.done[RESERVED] - submitted[order.workflow_id]) for order in orders]


def _figures(bench: Bench, measured: _Measured, *, quick: bool, seconds: float) -> Figures:
    rounds, curve, by_processes = measured.rounds, measured.curve, measured.by_processes
    engine = figures.spread(figures.ratios(rounds, Load.BARE))
    skeleton = figures.spread(figures.ratios(rounds, Load.SKELETON))
    rate = figures.spread([cells[0].runs_per_second for cells in rounds])
    orders, shipments = bench.order_histories, bench.shipment_histories
    per_order = _per_order(bench)
    return Figures(
        engine_ratio=engine.median,
        engine_ratio_spread=engine,
        skeleton_ratio=skeleton.median,
        skeleton_ratio_spread=skeleton,
        orders_per_second=rate.median,
        orders_per_second_spread=rate,
        activities_per_order=per_order.activities,
        history_events_per_order=round(statistics.fmean(order.events for order in orders), 2),
        history_events_per_shipment=round(statistics.fmean(one.events for one in shipments), 2),
        reserved_p50_ms=round(percentile(bench.reserved_ms, 50), 1),
        reserved_p99_ms=round(percentile(bench.reserved_ms, 99), 1),
        reserved_sample=len(bench.reserved_ms),
        rss_mb=figures.highest_rss([*curve, *by_processes, *(cell for cells in rounds for cell in cells)]),
        quick=quick,
        measured_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        seconds=round(seconds, 1),
        machine=measured.machine,
        idle_cpu_percent=bench.idle_percent,
        per_order=per_order,
        rounds=rounds,
        by_in_flight=curve,
        by_processes=by_processes,
    )


def _per_order(bench: Bench) -> PerOrder:
    orders, shipments, database = bench.order_histories, bench.shipment_histories, bench.database
    kinds = figures.mean_by_kind([
        {kind: one.kinds.get(kind, 0) + two.kinds.get(kind, 0) for kind in {*one.kinds, *two.kinds}}
        for one, two in zip(orders, shipments, strict=True)
    ])  # fmt: skip
    written = [
        (one.transitions + two.transitions, one.history_bytes + two.history_bytes)
        for one, two in bench.written
    ]
    count = len(orders)
    return PerOrder(
        activities=kinds["ActivityTaskScheduled"],
        events_order=round(statistics.fmean(order.events for order in orders), 2),
        events_shipment=round(statistics.fmean(one.events for one in shipments), 2),
        events_by_kind=kinds,
        workflow_tasks=kinds["WorkflowTaskCompleted"],
        signals=kinds.get("WorkflowExecutionSignaled", 0.0),
        search_attribute_upserts=kinds.get("UpsertWorkflowSearchAttributes", 0.0),
        timers=kinds.get("TimerStarted", 0.0),
        state_transitions=round(statistics.fmean(transitions for transitions, _ in written), 1),
        history_kb=round(statistics.fmean(size for _, size in written) / 1000, 1),
        database_commits=round(database.commits / count, 1),
        database_rows_written=round(database.rows / count, 1),
        database_wal_kb=round(database.wal_bytes / count / 1000, 1),
    )


@asynccontextmanager
async def _stack(data_dir: Path, say: Say) -> AsyncIterator[Stack]:
    # At the fastest clock there is, a day passes in 9 ms: picking, carrying and delivering take no time that counts.
    stack = Stack(StackOptions(data_dir=data_dir, speed=FASTEST))
    await stack.start(say)
    try:
        yield stack
    finally:
        await stack.stop(say)


@asynccontextmanager
async def _bench(stack: Stack) -> AsyncIterator[Bench]:
    live = stack.published
    if live is None:
        raise AssertionError("a stack that started has published where it is")
    client = await connect(
        live.temporal_address, live.temporal_namespace, from_environment=live.temporal_ui_url is None
    )
    store = Store.at(live.database_url, pool_size=2)
    api = httpx.AsyncClient(
        base_url=live.api_url,
        headers={"Authorization": f"Bearer {live.api_token}"},
        timeout=60,
        limits=httpx.Limits(max_connections=300),
    )
    began: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for what in ("workflows", "activities"):
            child = _bare_worker(what, live)
            began[child.name] = await asyncio.to_thread(start_and_wait, child)
        pids = {name: process.pid for name, process in began.items()}
        yield Bench(stack=stack, client=client, api=api, store=store, bare_pids=pids)
    finally:
        for process in began.values():
            await asyncio.to_thread(end, process, signal.SIGTERM, 15.0)
        await api.aclose()
        await store.close()


def _bare_worker(what: str, live: PublishedStack) -> Child:
    data_dir = live.data_dir
    name = f"bare-{what}"
    ready_file = data_dir / "run" / f"{name}.ready"
    arguments = ["--address", live.temporal_address, "--namespace", live.temporal_namespace, "--serve", what]
    return Child(
        name=name,
        argv=(sys.executable, "-m", "benchmarks.bare", *arguments, "--ready-file", str(ready_file)),
        log=data_dir / "logs" / f"{name}.log",
        env=_environment(live),
        cwd=REPOSITORY,
        ready=ready_file.exists,
        prepare=lambda: ready_file.unlink(missing_ok=True),
    )


def _environment(live: PublishedStack) -> dict[str, str]:
    """As for the processes of the stack: nothing of the user's own Temporal settings reaches an embedded server."""
    if live.temporal_ui_url is None:
        return dict(os.environ)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    return ours | {"TEMPORAL_CONFIG_FILE": os.devnull}


async def _machine(client: Client) -> Machine:
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    return Machine(**dict(using.computer()), temporal=info.server_version, sdk=sdk_version)
