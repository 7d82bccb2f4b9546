"""How soon a subscriber hears of a change: ``python -m benchmarks.outbox --json FILE``.

It starts a PostgreSQL of its own, changes stock and takes the time from each commit to the arrival at a subscriber over
a real connection: of a row among many at a steady rate, and of one that everybody changes at once. Exit code 1 when an
event was lost, came twice or out of order; 0 also when the aim is missed, which the table says. Dispatcher, writers and
receiver share one process here, so it measures them together.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

from rich.console import Console
from sqlalchemy import text

from activities.store import subscribers
from activities.store.migrate import migrate
from activities.store.store import Store
from apps.api.metrics import Metrics
from apps.api.outbox import Outbox
from benchmarks import alone
from benchmarks.alone import Tell, ms
from benchmarks.figures import Aim, at_most
from benchmarks.tables import Listing, aims_table, print_tables
from models.base import Contract
from models.outbox import OutboxEnvelope, Topic
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, verify
from workers import exit as process_exit
from workers.embedded.postgres import EmbeddedPostgres

AIM_P99_MS = 1000.0
SKUS = 1_000
CLIENTS = 8
_SECRET = "kept by the benchmark and its subscriber"
_LAST_SECONDS = 60.0


class Plan(Contract):
    """How long to measure, and how many changes a second the steady load makes: more than the engine's orders do."""

    seconds: float = 10.0
    per_second: float = 25.0


QUICK = Plan(seconds=2.0, per_second=20.0)


class Load(Contract):
    """One load: how many changes it made, and how long each took from its commit to the subscriber."""

    kind: str
    changes: int
    per_second: float
    p50_ms: float
    p99_ms: float
    longest_ms: float


class Figures(Contract):
    """Everything of one run. ``wrong``: events that were lost, came twice or out of order."""

    quick: bool
    p99_ms: float
    wrong: int
    loads: tuple[Load, ...]


class _Listener:
    """When each state of each stock row arrived first, and what came out of order."""

    def __init__(self) -> None:
        self.at: dict[tuple[str, int], float] = {}
        self.last: dict[str, int] = {}
        self.wrong = 0
        self._came = asyncio.Event()

    def take(self, envelope: OutboxEnvelope) -> None:
        now = time.perf_counter()
        for event in envelope.events:
            reserved = event.data["reserved"]
            self.wrong += self.last.get(event.key, 0) + 1 != reserved
            self.last[event.key] = reserved
            self.at.setdefault((event.key, reserved), now)
        self._came.set()

    async def heard(self, committed: dict[tuple[str, int], float]) -> None:
        """Wait until all that was committed has come."""
        while not committed.keys() <= self.at.keys():
            self._came.clear()
            await self._came.wait()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The address at which it listens."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")[1:]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                signature, timestamp = (headers[n.lower()] for n in (SIGNATURE_HEADER, TIMESTAMP_HEADER))
                verify((_SECRET,), signature, timestamp, body, time.time())
                self.take(OutboxEnvelope.model_validate_json(body))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; answers the exit code."""
    return alone.run(
        "outbox",
        __doc__,
        "some seconds",
        measure=lambda server, tell, quick: measure(server, QUICK if quick else Plan(), tell, quick=quick),
        show=show,
        good=good,
        arguments=arguments,
    )


def good(figures: Figures) -> bool:
    """Whether every event was heard of once and in order."""
    return not figures.wrong


async def measure(server: EmbeddedPostgres, plan: Plan, tell: Tell, *, quick: bool) -> Figures:
    """Both loads, one after the other, in a database of its own on ``server``."""
    url = server.url("outbox")
    await asyncio.to_thread(migrate, url)
    store, listener = Store.at(url, pool_size=CLIENTS, max_overflow=CLIENTS), _Listener()
    async with listener.listening() as address:
        await _prepare(store, address)
        working = asyncio.create_task(Outbox(url, Metrics()).run())
        try:
            committed: dict[tuple[str, int], float] = {}
            tell("changes at a steady rate …")
            steady = await _load("steady", _steadily(store, plan, committed), committed, listener)
            committed = {}
            tell("changes of one row by everybody …")
            hot = await _load("hot", _at_once(store, plan, committed), committed, listener)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await store.close()
    loads, lost = (steady[0], hot[0]), steady[1] + hot[1]
    return Figures(
        quick=quick, p99_ms=max(load.p99_ms for load in loads), wrong=listener.wrong + lost, loads=loads
    )


async def _prepare(store: Store, address: str) -> None:
    async with store.transaction() as session:
        await session.execute(
            text("INSERT INTO nodes VALUES ('north', 'north', 'GB', 'Europe/London', 0, true)")
        )
        await session.execute(
            text(
                "INSERT INTO stock (node, sku, on_hand, reserved) "
                "SELECT 'north', 'S' || n, 1000000000, 0 FROM generate_series(0, :last) AS n"
            ),
            {"last": SKUS},
        )
        await subscribers.add(
            session,
            subscriber_id="listener",
            name="The benchmark",
            url=address,
            topics=[Topic.AVAILABILITY],
            secret=_SECRET,
        )


async def _load(
    kind: str, work: Awaitable[None], committed: dict[tuple[str, int], float], listener: _Listener
) -> tuple[Load, int]:
    began = time.perf_counter()
    await work
    took = time.perf_counter() - began
    with suppress(TimeoutError):
        await asyncio.wait_for(listener.heard(committed), _LAST_SECONDS)
    lost = len(committed.keys() - listener.at.keys())
    # It may arrive before the commit has been reported to us.
    delays = [max(listener.at[one] - at, 0.0) for one, at in committed.items() if one in listener.at]
    load = Load(
        kind=kind,
        changes=len(committed),
        per_second=len(committed) / took,
        p50_ms=ms(delays, 50),
        p99_ms=ms(delays, 99),
        longest_ms=ms(delays, 100),
    )
    return load, lost


async def _steadily(store: Store, plan: Plan, committed: dict[tuple[str, int], float]) -> None:
    """One row after the other, at a steady rate."""
    began, changes = time.perf_counter(), set[asyncio.Task[None]]()
    for number in range(int(plan.seconds * plan.per_second)):
        await asyncio.sleep(max(began + number / plan.per_second - time.perf_counter(), 0))
        changes.add(asyncio.create_task(_change(store, number % SKUS, committed)))
    await asyncio.gather(*changes)


async def _at_once(store: Store, plan: Plan, committed: dict[tuple[str, int], float]) -> None:
    """One row, by all clients, as fast as they can."""
    ends = time.perf_counter() + plan.seconds

    async def client() -> None:
        while time.perf_counter() < ends:
            await _change(store, SKUS, committed)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def _change(store: Store, sku: int, committed: dict[tuple[str, int], float]) -> None:
    async with store.transaction() as session:
        reserved = await session.scalar(
            text(
                "UPDATE stock SET reserved = reserved + 1 WHERE node = 'north' AND sku = :sku RETURNING reserved"
            ),
            {"sku": f"S{sku}"},
        )
    committed[(f"north/S{sku}", reserved or 0)] = time.perf_counter()


def aims(figures: Figures) -> Iterator[Aim]:
    """Each aim beside what was measured."""
    for load in figures.loads:
        yield at_most(f"commit to subscriber, p99, {load.kind}", load.p99_ms, AIM_P99_MS, " ms")
    yield at_most("events lost, twice or out of order", figures.wrong, 0)


def listings(figures: Figures) -> Iterator[Listing]:
    """The one table."""
    yield Listing(
        "outbox",
        "From the commit to the subscriber",
        ("load", "changes", "per second", "p50, ms", "p99, ms", "longest, ms"),
        [
            (
                load.kind,
                f"{load.changes:,}",
                f"{load.per_second:,.0f}",
                f"{load.p50_ms:,.0f}",
                f"{load.p99_ms:,.0f}",
                f"{load.longest_ms:,.0f}",
            )
            for load in figures.loads
        ],
    )


def show(figures: Figures, told: Console) -> None:
    """Print the table, and each aim."""
    print_tables([*listings(figures), aims_table(aims(figures))], told)
    told.print(
        f"{figures.wrong} events were lost, came twice or out of order",
        style="green" if good(figures) else "red",
    )


if __name__ == "__main__":
    process_exit.run(main)
