"""A closed loop: real invoices in time order, never more than so many orders in flight, until all have come to rest."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import httpx
from sqlalchemy import and_, exists, select
from sqlmodel import col

from activities.channels.online_retail import ImportedInvoice, RefusalKind
from activities.store.store import Store
from apps.api.contracts import OrderAccepted
from apps.cli.remote import error_of
from models.errors import Conflict, InvalidDocument, NotReachable, OrderwrightError
from models.order import OrderDraft
from models.states import ORDER_TERMINAL, OrderState
from models.tables.journal import TimelineRow
from models.tables.orders import OrderRow
from models.tables.tenders import TenderRow
from models.tender import TenderState

POLL_SECONDS = 0.5
LAST_EVENTS = 6
# Waiting here for our customer or for one of us: nothing that a machine does moves the order on.
PARKED = frozenset({OrderState.IN_REVIEW, OrderState.AWAITING_CUSTOMER, OrderState.NEEDS_OPERATOR})


@dataclass(frozen=True)
class Standing:
    """Where an order stands, as of the last look."""

    state: OrderState = OrderState.RECEIVED
    needs_review: bool = False
    version: int = -1
    # Its customer has just given another means of payment: its run is about to go on.
    paid: bool = False

    @property
    def finished(self) -> bool:
        """Nothing more will happen."""
        return self.state in ORDER_TERMINAL

    @property
    def parked(self) -> bool:
        """A person has to act before it goes on, or before all of it does."""
        return not self.finished and not self.paid and (self.needs_review or self.state in PARKED)

    @property
    def in_flight(self) -> bool:
        """The machinery works on it."""
        return not self.finished and not self.parked


@dataclass
class Tally:
    """What has been read, sent and seen so far. Times are seconds on the monotonic clock."""

    wanted: int
    read: int = 0
    refused: Counter[RefusalKind] = field(default_factory=Counter)
    not_accepted: dict[str, str] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    repeated: int = 0
    noted: int = 0
    standings: dict[str, Standing] = field(default_factory=dict)
    last_events: tuple[str, ...] = ()
    trouble: str = ""
    gave_up: str = ""
    read_all: bool = False
    about_to_pay: int = 0
    first_sent: float | None = None
    first_delivered: float | None = None
    ended: float | None = None

    @property
    def submitted(self) -> int:
        """Orders that the API accepted, now or in an earlier run."""
        return len(self.standings)

    @property
    def in_flight(self) -> int:
        """Orders that the machinery works on."""
        return sum(standing.in_flight for standing in self.standings.values())

    @property
    def parked(self) -> int:
        """Orders that wait for a person."""
        return sum(standing.parked for standing in self.standings.values())

    @property
    def seconds(self) -> float:
        """From the first order sent until now, or until the end."""
        if self.first_sent is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.first_sent

    @property
    def first_delivered_seconds(self) -> float | None:
        """From the first order sent until the first delivery was seen."""
        if self.first_sent is None or self.first_delivered is None:
            return None
        return round(self.first_delivered - self.first_sent, 1)

    @property
    def orders_per_second(self) -> float:
        """New orders brought to rest per second."""
        rested = self.submitted - self.repeated - self.in_flight
        return max(rested, 0) / self.seconds if self.seconds else 0.0


async def _nobody() -> int:
    return 0


async def _nothing(_draft: OrderDraft) -> None:
    return None


class Replay:
    """One run of the loop over ``invoices``.

    Args:
        client: speaks to the API, with its token.
        store: read for where the orders stand.
        limit: how many orders to send; 0 sends all.
        in_flight: how many may be under way at once; those that wait for a person do not count.
        customers: how many customers are about to give another means of payment.
        before: awaited before an order is sent first, e.g. until its gift card was bought.
        patience: seconds without any order moving, or without an answer, after which it gives up and says so.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        store: Store,
        *,
        limit: int,
        in_flight: int,
        patience: float,
        on_change: Callable[[Tally], None] = lambda _: None,
        customers: Callable[[], Awaitable[int]] = _nobody,
        before: Callable[[OrderDraft], Awaitable[None]] = _nothing,
    ) -> None:
        self._client = client
        self._store = store
        self._limit = limit
        self._in_flight = in_flight
        self._patience = patience
        self._on_change = on_change
        self._customers = customers
        self._before = before
        self._last_movement = time.monotonic()
        self.tally = Tally(wanted=limit)

    async def run(self, invoices: Iterator[ImportedInvoice]) -> Tally:
        """Send, watch, and wait until nothing is in flight any more or patience ends."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._send_all(invoices)
            await self._until(self._all_rest)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self.tally.ended = time.monotonic()
        return self.tally

    def _all_rest(self) -> bool:
        if self.tally.in_flight:
            return False
        # On a slow clock a customer takes hours: then the order rests with a person, like those in review.
        return not self.tally.about_to_pay or self._still() > self._patience

    def _still(self) -> float:
        """Seconds without a movement."""
        return time.monotonic() - self._last_movement

    async def _send_all(self, invoices: Iterator[ImportedInvoice]) -> None:
        tally = self.tally
        while not tally.gave_up and not (self._limit and tally.submitted >= self._limit):
            invoice = await asyncio.to_thread(next, invoices, None)
            if invoice is None:
                tally.read_all = True
                return
            tally.read += 1
            if invoice.draft is None:
                tally.refused[invoice.refusal.kind if invoice.refusal else RefusalKind.UNREADABLE] += 1
                continue
            tally.noted += bool(invoice.notes)
            await self._until(lambda: tally.in_flight < self._in_flight)
            if not tally.gave_up:
                await self._before(invoice.draft)
                await self._send(invoice.invoice, invoice.draft)

    async def _send(self, invoice: str, draft: OrderDraft) -> None:
        """Send one order; while the API is away, again until it answers: the same document twice is one order."""
        tally = self.tally
        if tally.first_sent is None:
            tally.first_sent = time.monotonic()
        asked_since = time.monotonic()
        while True:
            try:
                order_id, is_new = await post_order(self._client, draft)
            except NotReachable as error:
                tally.trouble = error.message
                if time.monotonic() - asked_since > self._patience:
                    tally.gave_up = f"the API did not answer for {self._patience:.0f} s: {error.message}"
                    tally.not_accepted[invoice] = error.message
                    return
                await asyncio.sleep(1)
                continue
            except Conflict:
                tally.conflicts.append(invoice)
                return
            except InvalidDocument as error:
                tally.not_accepted[invoice] = error.message
                return
            break
        tally.trouble = ""
        tally.repeated += not is_new
        tally.standings.setdefault(order_id, Standing())
        self._last_movement = time.monotonic()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached() and not self.tally.gave_up:
            if self._still() > self._patience:
                self.tally.gave_up = (
                    f"no order moved for {self._patience:.0f} s, {self.tally.in_flight} are still under way"
                )
            await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        while True:
            await self._look()
            self._on_change(self.tally)
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        tally = self.tally
        unfinished = [order for order, standing in tally.standings.items() if not standing.finished]
        try:
            # Before the orders: who has paid by now shows there.
            asked = _awaiting(tally.standings)
            about_to_pay = await self._customers() if asked else 0
            found = await standings(self._store, unfinished)
            tally.last_events = await _last_events(self._store)
        except OrderwrightError as error:
            tally.trouble = error.message
            return
        for order_id, standing in found.items():
            if standing != tally.standings[order_id]:
                self._last_movement = time.monotonic()
                tally.standings[order_id] = standing
        # Of those that began to wait just now it is known at the next look.
        tally.about_to_pay = about_to_pay or len(_awaiting(found) - asked)
        if tally.first_delivered is None and any(
            s.state in (OrderState.DELIVERED, OrderState.CLOSED) for s in found.values()
        ):
            tally.first_delivered = time.monotonic()


async def post_order(client: httpx.AsyncClient, draft: OrderDraft) -> tuple[str, bool]:
    """Send one order: its id, and whether it is new. The same document twice is one order.

    Raises ``NotReachable`` when no answer comes, and the API's own refusals.
    """
    try:
        response = await client.post(
            "/v1/orders",
            content=draft.model_dump_json().encode(),
            headers={
                "Content-Type": "application/json",
                # The order's carriers and promises live in the year of its invoice.
                "Orderwright-Business-Start": draft.placed_at.isoformat(),
            },
        )
    except httpx.HTTPError as error:
        raise NotReachable(f"the API does not answer ({str(error) or type(error).__name__})") from error
    if response.status_code == 500:
        # Ours to find in the log; for the loop it is an answer that did not come.
        raise NotReachable("the API answered with an internal error")
    if not response.is_success:
        raise error_of(response)
    accepted = OrderAccepted.model_validate_json(response.content)
    return accepted.order_id, response.status_code == 202


def _awaiting(orders: Mapping[str, Standing]) -> set[str]:
    return {order_id for order_id, one in orders.items() if one.state is OrderState.AWAITING_CUSTOMER}


async def standings(store: Store, order_ids: Collection[str]) -> dict[str, Standing]:
    """Where the orders stand; an id that is not stored is left out. Raises ``NotReachable``."""
    if not order_ids:
        return {}
    async with store.transaction() as session:
        rows = await session.execute(
            select(
                col(OrderRow.order_id),
                col(OrderRow.state),
                col(OrderRow.needs_review),
                col(OrderRow.version),
                _HAS_PAID,
            ).where(col(OrderRow.order_id).in_(order_ids))
        )
        return {
            order_id: Standing(OrderState(state), needs_review, version, paid)
            for order_id, state, needs_review, version, paid in rows
        }


# A tender came, and the run has written nothing down since.
_HAS_PAID = and_(
    col(OrderRow.state) == OrderState.AWAITING_CUSTOMER,
    exists()
    .where(
        col(TenderRow.order_id) == col(OrderRow.order_id),
        col(TenderRow.state) != TenderState.REFUSED,
        col(TenderRow.offered_at) > col(OrderRow.updated_at),
    )
    .correlate(OrderRow),
)


async def _last_events(store: Store) -> tuple[str, ...]:
    async with store.transaction() as session:
        rows = await session.execute(
            select(col(TimelineRow.business_at), col(TimelineRow.order_id), col(TimelineRow.what))
            .order_by(col(TimelineRow.position).desc())
            .limit(LAST_EVENTS)
        )
        return tuple(
            f"{at:%Y-%m-%d %H:%M}  {order_id}  {what}" for at, order_id, what in reversed(rows.all())
        )
