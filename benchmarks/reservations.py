"""What a reservation costs, against the bare UPDATE: ``python -m benchmarks.reservations --json FILE``.

It starts a PostgreSQL of its own and measures, in one run: reservations through our code beside the same UPDATEs by
psycopg, of one SKU that everybody wants and spread over 10,000, by 1, 8 and 64 clients; 200 clients that fight for 500
units; and what a look at the availability of a SKU takes as the table grows. Exit code 1 when a unit was sold twice or
not at all, or the books differ; 0 also when an aim is missed, which the tables say.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import median

from rich.console import Console
from sqlalchemy import text

from activities.store import stock
from activities.store.availability import availability
from activities.store.migrate import migrate
from activities.store.reserving import Reserver
from activities.store.stock import Claim, Wanted
from activities.store.stock_books import StockTrouble, reconcile
from activities.store.store import Store
from benchmarks import alone
from benchmarks.alone import Tell, connect, ms
from benchmarks.figures import Aim, at_least, at_most
from benchmarks.tables import Listing, aims_table, print_tables
from models.base import Contract
from workers import exit as process_exit
from workers.embedded.postgres import EmbeddedPostgres

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
    stock_rows: tuple[int, ...] = (10_000, 30_000, 100_000, 300_000, 1_000_000)


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
    """Everything of one run. Of their cells, ``…_ratio`` are the lowest, ``p99_ms`` the highest with 64 clients."""

    quick: bool
    buyers: int
    units: int
    sold: int
    oversold: int
    differences: int
    hot_ratio: float
    spread_ratio: float
    hot_p99_ms: float
    spread_p99_ms: float
    p99_ms: float
    look_up_p99_ms: float
    cells: tuple[Cell, ...]
    look_ups: tuple[LookUps, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; answers the exit code."""
    return alone.run(
        "reservations",
        __doc__,
        "half a minute",
        measure=lambda server, tell, quick: measure(server, QUICK if quick else Plan(), tell, quick=quick),
        show=show,
        good=good,
        arguments=arguments,
    )


def good(figures: Figures) -> bool:
    """Whether every unit was sold, none twice, and the books say the same."""
    return figures.sold == figures.units and not figures.oversold and not figures.differences


async def measure(server: EmbeddedPostgres, plan: Plan, tell: Tell, *, quick: bool) -> Figures:
    """Measure everything on ``server``, in databases of its own."""
    url = server.url("reservations")
    await asyncio.to_thread(migrate, url)
    await _stock(url, nodes=1, skus=range(SKUS), each=_PLENTY)
    cells = []
    for clients in CLIENTS:
        for kind in (HOT, SPREAD):
            tell(f"{clients} clients, {kind} …")
            cells.append(await _cell(url, kind, clients, plan))
    tell(f"{BUYERS} clients fight for {UNITS} units …")
    sold = await _fight(url)
    oversold, differences = await _oversold(url, sold)
    look_ups = await _look_ups(server.url("look_ups"), plan, tell)
    p99_ms = {cell.kind: cell.p99_ms for cell in cells if cell.clients == max(CLIENTS)}
    return Figures(
        quick=quick,
        buyers=BUYERS,
        units=UNITS,
        sold=sold,
        oversold=oversold,
        differences=differences,
        hot_ratio=min(cell.ratio for cell in cells if cell.kind == HOT),
        spread_ratio=min(cell.ratio for cell in cells if cell.kind == SPREAD),
        hot_p99_ms=p99_ms[HOT],
        spread_p99_ms=p99_ms[SPREAD],
        p99_ms=max(p99_ms.values()),
        look_up_p99_ms=look_ups[-1].p99_ms,
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
        connections = [await stack.enter_async_context(await connect(url)) for _ in range(clients)]
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
    return _Round(per_second=len(took) / lasted, p99_ms=ms(took, 99))


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
    async with await connect(url) as connection:
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
async def _look_ups(url: str, plan: Plan, tell: Tell) -> list[LookUps]:
    """One table that grows; of each SKU there is a row at every node."""
    await asyncio.to_thread(migrate, url)
    store = Store.at(url, pool_size=1)
    found, skus = [], 0
    try:
        for rows in plan.stock_rows:
            tell(f"look-ups with {rows:,} rows …")
            skus, had = rows // _NODES, skus
            await _stock(url, nodes=_NODES, skus=range(had, skus), each=100)
            took = await _looked(store, skus, plan.look_ups)
            found.append(LookUps(rows=rows, p50_ms=ms(took, 50), p99_ms=ms(took, 99)))
    finally:
        await store.close()
    return found


async def _looked(store: Store, skus: int, times: int) -> list[float]:
    """Seconds of each look; the first few are not counted."""
    chance, today = random.Random(7), datetime.now(UTC).date()
    took = []
    for _ in range(times + 20):
        sku = f"S{chance.randrange(skus)}"
        started = time.perf_counter()
        (found,) = (await availability(store, [sku], "GB", today)).skus
        took.append(time.perf_counter() - started)
        if len(found.nodes) != _NODES:
            raise AssertionError(f"{sku} lies at {len(found.nodes)} nodes")
    return took[20:]


async def _stock(url: str, *, nodes: int, skus: range, each: int) -> None:
    """More SKUs at every node, each node's after the other's, as they come when a node sends its list."""
    async with await connect(url) as connection:
        await connection.execute(
            "INSERT INTO nodes SELECT 'n' || n, 'n' || n, 'GB', 'UTC', 0, true FROM generate_series(0, %s) AS n "
            "ON CONFLICT DO NOTHING",
            (nodes - 1,),
        )
        await connection.execute(
            "INSERT INTO stock (node, sku, on_hand, reserved) SELECT 'n' || n, 'S' || s, %s, 0 "
            "FROM generate_series(0, %s) AS n, generate_series(%s::int, %s::int) AS s ORDER BY n, s",
            (each, nodes - 1, skus.start, skus.stop - 1),
        )
        await connection.execute(
            "INSERT INTO carrier_services (carrier, service, max_weight_g, zones, active) VALUES ('post', '48', 1, "
            """'[{"origin": "GB", "destinations": ["GB"]}]', true) ON CONFLICT DO NOTHING"""
        )
        # As autovacuum would have, by the time that a table has grown so large.
        await connection.execute("VACUUM ANALYZE stock, stock_movements")


# --- telling ---
def aims(figures: Figures) -> Iterator[Aim]:
    """Each aim beside what was measured."""
    yield at_most(f"units sold twice, {figures.buyers} clients for {figures.units}", figures.oversold, 0)
    for cell in figures.cells:
        yield at_least(f"reservations ÷ bare UPDATEs, {_load(cell)}", cell.ratio, AIMS[cell.kind])
    for kind, p99_ms in ((HOT, figures.hot_p99_ms), (SPREAD, figures.spread_p99_ms)):
        yield at_most(f"reservation, p99, {kind}, {max(CLIENTS)} clients", p99_ms, AIM_P99_MS, " ms")
    rows = figures.look_ups[-1].rows
    yield at_most(
        f"availability look-up, p99, {rows:,} rows", figures.look_up_p99_ms, AIM_LOOK_UP_P99_MS, " ms"
    )


def listings(figures: Figures) -> Iterator[Listing]:
    """Every table, in the order of the page."""
    yield Listing(
        "reservations",
        "Reservations against bare UPDATEs of the same rows",
        ("load", "UPDATEs/s", "reservations/s", "ratio", "UPDATE p99, ms", "reservation p99, ms"),
        [
            (
                _load(cell),
                f"{cell.raw_per_second:,.0f}",
                f"{cell.ours_per_second:,.0f}",
                f"{cell.ratio:.2f}",
                f"{cell.raw_p99_ms:.1f}",
                f"{cell.p99_ms:.1f}",
            )
            for cell in figures.cells
        ],
    )
    yield Listing(
        "fight",
        "The last units",
        ("clients", "units", "sold", "sold twice", "differences in the books"),
        [
            tuple(
                str(number)
                for number in (
                    figures.buyers, figures.units, figures.sold, figures.oversold, figures.differences,
                )
            )
        ],
    )  # fmt: skip
    yield Listing(
        "look-ups",
        "A look at the availability of a SKU",
        ("rows of stock", "p50, ms", "p99, ms"),
        [(f"{one.rows:,}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}") for one in figures.look_ups],
    )


def _load(cell: Cell) -> str:
    return f"{cell.kind}, {cell.clients} client{'s' if cell.clients > 1 else ''}"


def show(figures: Figures, told: Console) -> None:
    """Print every table, and each aim."""
    print_tables([*listings(figures), aims_table(aims(figures))], told)
    told.print(
        f"{figures.buyers} clients fought for {figures.units} units: {figures.sold} sold, {figures.oversold} oversold, "
        f"{figures.differences} differences in the books",
        style="green" if good(figures) else "red",
    )


if __name__ == "__main__":
    process_exit.run(main)
