"""What the ledger costs as it grows: ``python -m benchmarks.ledger --json FILE``.

It starts a PostgreSQL of its own, fills the ledger with the captures of many orders from 10,000 to 1,000,000 entries,
and measures at each size, one at a time and each with its commit: to append a transaction under all constraints, to
confirm a capture (which posts itself), to add up an order's money, and to read its whole ledger. Once per size it adds
up everything. Exit code 1 when the books do not balance, 0 also when an aim is missed, which the tables say.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count

from rich.console import Console
from sqlalchemy import text

from activities.store import ledger, operations, reads
from activities.store.intake import accept_draft
from activities.store.ledger import NewEntry, NewTransaction
from activities.store.migrate import migrate
from activities.store.operations import PaymentOperation
from activities.store.store import Store
from benchmarks import alone
from benchmarks.alone import Tell, ms
from benchmarks.figures import Aim, at_most
from benchmarks.tables import Listing, aims_table, print_tables
from models.base import Contract
from models.ledger import CLEARING, HELD, HELD_CONTRA, TransactionKind
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import OrderDraft
from workers import exit as process_exit
from workers.embedded.postgres import EmbeddedPostgres

CURRENCY = "GBP"
AIM_P99_MS = 10.0
APPEND, CAPTURE = "append", "confirm a capture"
BALANCE, LEDGER = "balance of an order", "ledger of an order"
# A hold and two captures of it: what an order of two shipments has.
ENTRIES_OF_ORDER = 12
_BATCH = 10_000


class Plan(Contract):
    """How large the ledger gets, and how often each thing is done at each size."""

    entries: tuple[int, ...] = (10_000, 30_000, 100_000, 300_000, 1_000_000)
    times: int = 1_000


QUICK = Plan(entries=(10_000,), times=100)


class Took(Contract):
    """How long one thing took, in ms."""

    what: str
    p50_ms: float
    p99_ms: float


class Size(Contract):
    """Everything measured of a ledger that was ``filled`` with so many entries; ``entries`` were in it at the end.

    ``trial_balance_ms``: adding all of them up, once.
    """

    filled: int
    entries: int
    took: tuple[Took, ...]
    trial_balance_ms: float
    in_balance: bool


class Figures(Contract):
    """Everything of one run. ``…_p99_ms`` are those of the largest ledger."""

    quick: bool
    append_p99_ms: float
    balance_p99_ms: float
    in_balance: bool
    sizes: tuple[Size, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; answers the exit code."""
    return alone.run(
        "ledger",
        __doc__,
        "some seconds",
        measure=lambda server, tell, quick: measure(server, QUICK if quick else Plan(), tell, quick=quick),
        show=show,
        good=good,
        arguments=arguments,
    )


def good(figures: Figures) -> bool:
    """Whether the books balance."""
    return figures.in_balance


async def measure(server: EmbeddedPostgres, plan: Plan, tell: Tell, *, quick: bool) -> Figures:
    """Measure everything on ``server``, in a database of its own."""
    url = server.url("ledger")
    await asyncio.to_thread(migrate, url)
    store = Store.at(url)
    try:
        sizes = []
        orders = 0
        for entries in plan.entries:
            tell(f"filling the ledger up to {entries:,} entries …")
            orders += await _fill(store, orders, entries)
            tell(f"measuring at {entries:,} entries …")
            sizes.append(await _measure_at(store, orders, entries, plan.times))
    finally:
        await store.close()
    took = {one.what: one.p99_ms for one in sizes[-1].took}
    return Figures(
        quick=quick,
        append_p99_ms=max(took[APPEND], took[CAPTURE]),
        balance_p99_ms=took[BALANCE],
        in_balance=all(size.in_balance for size in sizes),
        sizes=tuple(sizes),
    )


async def _measure_at(store: Store, orders: int, filled: int, times: int) -> Size:
    # The same orders every time, all over the ledger.
    dice = random.Random(orders)
    chosen = [f"bench:{dice.randrange(orders)}" for _ in range(times)]
    await _vacuum(store)
    took = [
        await _took(APPEND, chosen, lambda order_id: _append(store, order_id)),
        await _took(CAPTURE, await _orders_that_wait(store, times), _confirming(store)),
        await _took(BALANCE, chosen, lambda order_id: _balance(store, order_id)),
        await _took(LEDGER, chosen, lambda order_id: _read(store, order_id)),
    ]
    began = time.perf_counter()
    async with store.transaction() as session:
        trial = await ledger.trial_balance(session)
        found = await session.scalar(text("SELECT count(*) FROM ledger_entries"))
    return Size(
        filled=filled,
        entries=int(found or 0),
        took=tuple(took),
        trial_balance_ms=(time.perf_counter() - began) * 1_000,
        in_balance=trial.in_balance,
    )


async def _took(what: str, on: Sequence[str], do: Callable[[str], Awaitable[None]]) -> Took:
    took = []
    for one in on:
        began = time.perf_counter()
        await do(one)
        took.append(time.perf_counter() - began)
    return Took(what=what, p50_ms=ms(took, 50), p99_ms=ms(took, 99))


_appended = count(1)


async def _append(store: Store, order_id: str) -> None:
    """A fee of the provider's for the order."""
    fee = Money(minor=25, currency=CURRENCY)
    transaction = NewTransaction(
        id=f"fee:{next(_appended)}",
        kind=TransactionKind.FEE,
        source="bench",
        at=datetime.now(UTC),
        order_id=order_id,
        entries=(
            NewEntry(account="expense.provider_fees", amount=fee),
            NewEntry(account=CLEARING, amount=-fee),
        ),
    )
    async with store.transaction() as session:
        await ledger.post(session, transaction)


async def _balance(store: Store, order_id: str) -> None:
    async with store.transaction() as session:
        await reads.money(session, order_id, CURRENCY)


async def _read(store: Store, order_id: str) -> None:
    async with store.transaction() as session:
        await ledger.of_order(session, order_id)


_waiting = count(1)


async def _orders_that_wait(store: Store, times: int) -> list[str]:
    """Orders whose money is held, and whose capture is intended."""
    orders = []
    for number in (next(_waiting) for _ in range(times)):
        draft = _draft(f"wait-{number}")
        async with store.transaction() as session:
            order_id = (await accept_draft(session, draft, source="bench")).order_id
            hold = _movement(order_id, PaymentKind.AUTHORISE)
            await operations.intend(session, hold)
            await operations.answer(
                session, hold, state=OperationState.CONFIRMED, content={}, provider_ref=f"a-{order_id}"
            )
            await operations.intend(session, _movement(order_id, PaymentKind.CAPTURE))
        orders.append(order_id)
    return orders


def _confirming(store: Store) -> Callable[[str], Awaitable[None]]:
    async def confirm(order_id: str) -> None:
        async with store.transaction() as session:
            await operations.answer(
                session,
                _movement(order_id, PaymentKind.CAPTURE),
                state=OperationState.CONFIRMED,
                content={},
                provider_ref=f"c-{order_id}",
            )

    return confirm


def _movement(order_id: str, kind: PaymentKind) -> PaymentOperation:
    capture = kind is PaymentKind.CAPTURE
    return PaymentOperation(
        key=f"{order_id}:{kind}",
        order_id=order_id,
        kind=kind,
        amount=Money(minor=1395, currency=CURRENCY),
        shipment_id=f"{order_id}:1" if capture else None,
        parent=f"a-{order_id}" if capture else None,
    )


def _draft(external_id: str) -> OrderDraft:
    return OrderDraft.model_validate(
        {
            "channel": "bench",
            "external_id": external_id,
            "placed_at": "2026-03-02T09:30:00Z",
            "currency": CURRENCY,
            "customer": {"name": "Bench"},
            "ship_to": {"lines": ["1 Bench Lane"], "city": "Leeds", "country": "GB"},
            "lines": [{"line_id": "1", "sku": "B1", "quantity": 2, "unit_price_minor": 500}],
            "charges": [{"code": "POST", "kind": "shipping", "amount_minor": 395}],
            "tenders": [{"token": "tok_bench", "amount_minor": 1395}],
            "totals": {"lines_minor": 1000, "charges_minor": 395, "total_minor": 1395},
        }
    )


async def _fill(store: Store, begun: int, entries: int) -> int:
    """Fill the ledger up to so many entries with new orders after ``begun``; answers how many orders those are.

    Many at once and without its triggers, which take far longer. That they balance all the same is seen at the end.
    """
    async with store.transaction() as session:
        there = await session.scalar(text("SELECT count(*) FROM ledger_entries"))
    orders = max((entries - int(there or 0)) // ENTRIES_OF_ORDER, 0)
    for first in range(begun, begun + orders, _BATCH):
        numbers = {"first": first, "last": min(first + _BATCH, begun + orders) - 1}
        async with store.transaction() as session:
            await session.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in _FILL:
                await session.execute(text(statement), numbers)
    return orders


_OF_EACH = "FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n"
_FILL = (
    "INSERT INTO ledger_transactions (id, order_id, shipment_id, kind, source, at, recorded_at, written_in) "
    "SELECT 'bench:' || n || ':' || step, 'bench:' || n, CASE WHEN step > 0 THEN 'bench:' || n || ':' || step END, "
    "CASE WHEN step = 0 THEN 'authorise' ELSE 'capture' END, 'bench', now(), now(), 0 "
    f"{_OF_EACH}, generate_series(0, 2) AS step ORDER BY n, step",
    "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, tender) "
    "SELECT 'bench:' || n || ':' || step, number, account, amount, "
    f"'{CURRENCY}', CASE WHEN tender THEN 'bench:' || n END {_OF_EACH}, (VALUES "
    f"(0, 1, '{HELD}', 2000, true), (0, 2, '{HELD_CONTRA}', -2000, false), "
    f"(1, 1, '{HELD_CONTRA}', 1000, false), (1, 2, '{HELD}', -1000, true), (1, 3, '{CLEARING}', 1000, true), "
    "(1, 4, 'sales.goods', -800, false), (1, 5, 'tax.payable', -200, false), "
    f"(2, 1, '{HELD_CONTRA}', 1000, false), (2, 2, '{HELD}', -1000, true), (2, 3, '{CLEARING}', 1000, true), "
    "(2, 4, 'sales.goods', -800, false), (2, 5, 'tax.payable', -200, false)"
    ") AS entry (step, number, account, amount, tender) ORDER BY n, step, number",
)


async def _vacuum(store: Store) -> None:
    """As autovacuum would have, by the time that a ledger has grown so large."""
    async with store.transaction() as session:
        await session.execute(text("ANALYZE ledger_transactions, ledger_entries, payment_operations"))


def aims(figures: Figures) -> Iterator[Aim]:
    """Each aim beside what was measured, of the largest ledger."""
    entries = f"{figures.sizes[-1].filled:,} entries"
    yield at_most(
        f"ledger, the slower of append and capture, p99, {entries}", figures.append_p99_ms, AIM_P99_MS, " ms"
    )
    yield at_most(f"ledger, balance of an order, p99, {entries}", figures.balance_p99_ms, AIM_P99_MS, " ms")


def listings(figures: Figures) -> Iterator[Listing]:
    """The one table."""
    kinds = [one.what for one in figures.sizes[0].took]
    yield Listing(
        "ledger",
        "The ledger as it grows: p50 · p99, ms",
        ("entries", *kinds, "trial balance, once"),
        [
            (
                f"{size.filled:,}",
                *(f"{one.p50_ms:.2f} · {one.p99_ms:.2f}" for one in size.took),
                f"{size.trial_balance_ms:,.0f}",
            )
            for size in figures.sizes
        ],
    )


def show(figures: Figures, told: Console) -> None:
    """Print the table, and each aim."""
    print_tables([*listings(figures), aims_table(aims(figures))], told)
    told.print("the books balance" if good(figures) else "the books do NOT balance")


if __name__ == "__main__":
    process_exit.run(main)
