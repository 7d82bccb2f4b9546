"""What a reservation costs, against the bare UPDATE: ``python -m benchmarks.reservations --json FILE``.

It starts a PostgreSQL of its own and measures, in one run: reservations through our code beside the same UPDATEs by
psycopg, of one SKU that everybody wants and spread over 10,000, by 1, 8 and 64 clients; 200 clients that fight for 500
units; and what a look at the availability of a SKU takes as the table grows. Exit code 1 when a unit was sold twice, 0
also when an aim is missed, which the table says.
"""

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median

import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from activities.store import stock
from activities.store.availability import availability
from activities.store.migrate import migrate
from activities.store.reserving import Reserver
from activities.store.stock import Claim, Wanted
from activities.store.stock_books import StockTrouble, reconcile
from activities.store.store import Store
from models.base import Contract
from workers import exit as process_exit
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.signals import run_until_interrupted
from workers.logging import configure_logging

SKUS = 10_000
CLIENTS = (1, 8, 64)
BUYERS, UNITS = 200, 500
HOT, SPREAD = "hot", "spread"
AIMS = {HOT: 0.5, SPREAD: 0.4}
AIM_P99_MS = 50.0
AIM_LOOK_UP_P99_MS = 20.0
_PLENTY = 1_000_000_000
_NODES = 20


class Plan(Contract):
    """How long to measure what."""

    rounds: int = 3
    seconds: float = 4.0
    look_ups: int = 2_000
    stock_rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)


QUICK = Plan(rounds=1, seconds=0.7, look_ups=200, stock_rows=(10_000,))


class Cell(Contract):
    """One load by so many clients; per second and ms, the median of the rounds."""

    kind: str
    clients: int
    raw_per_second: float
    ours_per_second: float
    ratio: float
    raw_p99_ms: float
    p99_ms: float


class LookUps(Contract):
    """How long one look at a SKU at every node takes with so many rows of stock."""

    rows: int
    p50_ms: float
    p99_ms: float


class Figures(Contract):
    """Everything of one run. ``…_ratio`` and ``p99_ms`` are the worst of their cells, the latter of 64 clients."""

    quick: bool
    buyers: int
    units: int
    sold: int
    oversold: int
    differences: int
    hot_ratio: float
    spread_ratio: float
    p99_ms: float
    cells: tuple[Cell, ...]
    look_ups: tuple[LookUps, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reservations", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="half a minute, and too rough to publish")
    asked = parser.parse_args(arguments)
    configure_logging("WARNING")
    return run_until_interrupted(_run(asked, Console()))


def _temporary_directory() -> Path:
    # Short, because socket paths are limited; searchable, because PostgreSQL may run as another user.
    directory = Path(tempfile.mkdtemp(prefix="ow-"))
    directory.chmod(0o711)
    return directory


async def _run(asked: argparse.Namespace, told: Console) -> int:
    directory = _temporary_directory()
    try:
        async with EmbeddedPostgres(directory) as server:
            figures = await measure(server, QUICK if asked.quick else Plan(), told.print, quick=asked.quick)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _show(figures, told)
    _keep(figures, asked.json, told)
    return 1 if figures.oversold else 0


async def measure(
    server: EmbeddedPostgres, plan: Plan, tell: Callable[[str], None], *, quick: bool
) -> Figures:
    """Measure everything on ``server``, in databases of its own."""
    url = server.url("reservations")
    await asyncio.to_thread(migrate, url)
    await _stocked(url, nodes=1, rows=SKUS, each=_PLENTY)
    cells = []
    for clients in CLIENTS:
        for kind in (HOT, SPREAD):
            tell(f"{clients} clients, {kind} …")
            cells.append(await _cell(url, kind, clients, plan))
    tell(f"{BUYERS} clients fight for {UNITS} units …")
    sold = await _fight(url)
    oversold, differences = await _oversold(url, sold)
    look_ups = []
    for rows in plan.stock_rows:
        tell(f"look-ups with {rows:,} rows …")
        look_ups.append(await _look_ups(server, rows, plan))
    return Figures(
        quick=quick,
        buyers=BUYERS,
        units=UNITS,
        sold=sold,
        oversold=oversold,
        differences=differences,
        hot_ratio=min(cell.ratio for cell in cells if cell.kind == HOT),
        spread_ratio=min(cell.ratio for cell in cells if cell.kind == SPREAD),
        p99_ms=max(cell.p99_ms for cell in cells if cell.clients == max(CLIENTS)),
        cells=tuple(cells),
        look_ups=tuple(look_ups),
    )


# --- the load ---
class _Round(Contract):
    per_second: float
    p99_ms: float


_numbers = count(1)
# The least that a shop could do: one statement, one transaction, no unit below zero; nobody knows for whom.
_RAW = "UPDATE stock SET reserved = reserved + 1 WHERE node = %s AND sku = %s AND on_hand - reserved >= 1"


async def _cell(url: str, kind: str, clients: int, plan: Plan) -> Cell:
    """Raw and ours in turns, so that a machine that gets slower is slower for both."""
    choose = _skus(kind)
    raw_rounds, our_rounds = [], []
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(await _connect(url)) for _ in range(clients)]
        store = Store.at(url, pool_size=min(clients, 8), max_overflow=0)
        stack.push_async_callback(store.close)
        reserver = Reserver(store)

        async def raw(client: int) -> None:
            done = await connections[client].execute(_RAW, ("n0", next(choose)), prepare=True)
            if done.rowcount != 1:
                raise AssertionError("there is enough for everybody")

        async def ours(_client: int) -> None:
            if not (await reserver.reserve(_claim(next(choose)))).reserved:
                raise AssertionError("there is enough for everybody")

        for _ in range(plan.rounds):
            raw_rounds.append(await _loaded(raw, clients, plan.seconds))
            our_rounds.append(await _loaded(ours, clients, plan.seconds))
    return Cell(
        kind=kind,
        clients=clients,
        raw_per_second=round(median(one.per_second for one in raw_rounds), 1),
        ours_per_second=round(median(one.per_second for one in our_rounds), 1),
        ratio=round(
            median(
                ours.per_second / raw.per_second for raw, ours in zip(raw_rounds, our_rounds, strict=True)
            ),
            3,
        ),
        raw_p99_ms=round(median(one.p99_ms for one in raw_rounds), 2),
        p99_ms=round(median(one.p99_ms for one in our_rounds), 2),
    )


async def _loaded(work: Callable[[int], Awaitable[None]], clients: int, seconds: float) -> _Round:
    """Every client does one after the other for so long; the first few of each are not counted."""
    took: list[float] = []
    for _ in range(3):
        await asyncio.gather(*(work(client) for client in range(clients)))
    begin = time.perf_counter()

    async def client(number: int) -> None:
        while (started := time.perf_counter()) < begin + seconds:
            await work(number)
            took.append(time.perf_counter() - started)

    await asyncio.gather(*(client(number) for number in range(clients)))
    lasted = time.perf_counter() - begin
    return _Round(per_second=len(took) / lasted, p99_ms=_percentile(took, 99))


def _skus(kind: str) -> Iterator[str]:
    chance = random.Random(7)
    while True:
        yield "S0" if kind == HOT else f"S{chance.randrange(SKUS)}"


def _claim(sku: str, units: int = 1) -> Claim:
    order = f"web:{next(_numbers)}"
    return Claim(
        key=f"order:{order}:reserve:1",
        order_id=order,
        plan_id=f"{order}:p1",
        expires_at=datetime.now(UTC) + timedelta(days=7),
        wanted=(Wanted(shipment_id=f"{order}:1", node="n0", sku=sku, quantity=units),),
    )


# --- the fight ---
async def _fight(url: str) -> int:
    """How many units 200 clients got of 500, each buying one after the other until there is nothing left.

    Half of them share ten processes' ways of reserving, the others have a connection each.
    """
    async with await _connect(url) as connection:
        await connection.execute(
            "INSERT INTO stock (node, sku, on_hand, reserved) VALUES ('n0', 'LAST', %s, 0)", (UNITS,)
        )
    shared = [Store.at(url, pool_size=2, max_overflow=0) for _ in range(10)]
    own = Store.at(url, pool_size=BUYERS // 2, max_overflow=0)
    reservers = [Reserver(store) for store in shared]

    async def together(number: int) -> bool:
        return (await reservers[number % len(reservers)].reserve(_claim("LAST"))).reserved

    async def alone(_number: int) -> bool:
        claim = _claim("LAST")
        async with own.transaction() as session:
            answer = await stock.reserve(
                session,
                key=claim.key,
                order_id=claim.order_id,
                plan_id=claim.plan_id,
                wanted=claim.wanted,
                expires_at=claim.expires_at,
            )
        return answer.reserved

    async def buyer(number: int) -> int:
        bought = 0
        while await (together if number % 2 else alone)(number):
            bought += 1
        return bought

    try:
        return sum(await asyncio.gather(*(buyer(number) for number in range(BUYERS))))
    finally:
        for store in (*shared, own):
            await store.close()


async def _oversold(url: str, sold: int) -> tuple[int, int]:
    """Units promised beyond what there is, by what buyers were told, by the rows, and by who holds them."""
    store = Store.at(url, pool_size=1)
    try:
        async with store.transaction() as session:
            account = await reconcile(session)
        async with store.transaction() as session:
            beyond = await session.scalar(
                text("SELECT coalesce(sum(greatest(reserved - on_hand, 0)), 0)::bigint FROM stock")
            )
            held = await session.scalar(
                text("SELECT coalesce(sum(quantity), 0)::bigint FROM reserved_units WHERE sku = 'LAST'")
            )
    finally:
        await store.close()
    differences = [
        one
        for one in account.differences
        # These orders exist nowhere else, and the raw UPDATEs hold nothing for anybody.
        if one.trouble is StockTrouble.MOVEMENTS_DIFFER or (one.sku == "LAST" and one.source == "")
    ]
    return max(sold - UNITS, int(held or 0) - UNITS, int(beyond or 0), 0), len(differences)


# --- looking ---
async def _look_ups(server: EmbeddedPostgres, rows: int, plan: Plan) -> LookUps:
    url = server.url(f"looked_at_{rows}")
    await asyncio.to_thread(migrate, url)
    await _stocked(url, nodes=_NODES, rows=rows, each=100)
    store = Store.at(url, pool_size=1)
    chance = random.Random(7)
    took = []
    today = datetime.now(UTC).date()
    try:
        for number in range(plan.look_ups + 20):
            sku = f"S{chance.randrange(rows // _NODES)}"
            started = time.perf_counter()
            (found,) = (await availability(store, [sku], "GB", today)).skus
            if number >= 20:
                took.append(time.perf_counter() - started)
            if len(found.nodes) != _NODES:
                raise AssertionError(f"{sku} lies at {len(found.nodes)} nodes")
    finally:
        await store.close()
    return LookUps(rows=rows, p50_ms=_percentile(took, 50), p99_ms=_percentile(took, 99))


async def _stocked(url: str, *, nodes: int, rows: int, each: int) -> None:
    async with await _connect(url) as connection:
        await connection.execute(
            "INSERT INTO nodes SELECT 'n' || n, 'n' || n, 'GB', 'UTC', 0, true FROM generate_series(0, %s) AS n",
            (nodes - 1,),
        )
        await connection.execute(
            "INSERT INTO stock (node, sku, on_hand, reserved) SELECT 'n' || n, 'S' || s, %s, 0 "
            "FROM generate_series(0, %s) AS s, generate_series(0, %s) AS n",
            (each, rows // nodes - 1, nodes - 1),
        )
        await connection.execute(
            "INSERT INTO carrier_services (carrier, service, max_weight_g, zones, active) VALUES ('post', '48', 1, "
            """'[{"origin": "GB", "destinations": ["GB"]}]', true)"""
        )
        await connection.execute("VACUUM ANALYZE stock")


async def _connect(url: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(url.replace("+psycopg", ""), autocommit=True)


def _percentile(took: Sequence[float], percent: int) -> float:
    """In ms: what so many percent of ``took`` seconds stay below."""
    ordered = sorted(took)
    return round(ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] * 1000, 2)


# --- telling ---
def _keep(figures: Figures, file: Path | None, told: Console) -> None:
    if file is not None:
        file.write_text(figures.model_dump_json(indent=1) + "\n")
        told.print(f"figures: {file}", soft_wrap=True)


def _show(figures: Figures, told: Console) -> None:
    table = Table("clients", "load", "raw/s", "ours/s", "ratio", "raw p99 ms", "p99 ms", box=None)
    for cell in figures.cells:
        table.add_row(
            str(cell.clients),
            cell.kind,
            f"{cell.raw_per_second:,.0f}",
            f"{cell.ours_per_second:,.0f}",
            f"{cell.ratio:.2f}",
            f"{cell.raw_p99_ms:.1f}",
            f"{cell.p99_ms:.1f}",
        )
    told.print(table)
    for one in figures.look_ups:
        told.print(
            f"look-up with {one.rows:,} rows: p50 {one.p50_ms} ms, p99 {one.p99_ms} ms (aim {AIM_LOOK_UP_P99_MS:.0f})"
        )
    for name, found in ((HOT, figures.hot_ratio), (SPREAD, figures.spread_ratio)):
        told.print(
            f"{name}: worst ratio {found:.2f} (aim {AIMS[name]}){'' if found >= AIMS[name] else ': missed'}"
        )
    missed = "" if figures.p99_ms < AIM_P99_MS else ": missed"
    told.print(f"p99 at {max(CLIENTS)} clients: {figures.p99_ms:.1f} ms (aim {AIM_P99_MS:.0f}){missed}")
    told.print(
        f"{figures.buyers} clients fought for {figures.units} units: {figures.sold} sold, {figures.oversold} oversold, "
        f"{figures.differences} differences in the books",
        style="red" if figures.oversold or figures.sold != figures.units else "green",
    )


if __name__ == "__main__":
    process_exit.run(main)
