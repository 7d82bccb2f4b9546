"""What customers and warehouses do while everything breaks: over the API, as they would.

Whoever hears no answer asks again: the same request under the same id, however often it takes. One that was answered is
sent once more, as by somebody who lost the answer, and must be answered as what was done already.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import httpx

from activities.channels.online_retail import ImportedInvoice
from activities.store import accounts
from activities.store.store import Store
from apps.cli.replay import Tally
from benchmarks.chaos.evidence import Issued, Place, Told, amendable_orders, places_to_tell_of
from benchmarks.chaos.plan import AMENDMENTS, Deed, DeedKind, FaultPlan, Paying
from benchmarks.chaos.strikes import ACTOR, REASON, drawn, rested
from models.amendment import AmendmentState
from models.base import Contract
from models.errors import NotReachable, OrderwrightError
from models.order import OrderDraft, Tender, TenderKind

_POLL_SECONDS = 0.2
_BETWEEN_TRIES = 0.5
# Of those that refuse, or have nothing that could be changed, so many others are asked.
_OTHERS = 12
_MOST_UNITS = 6


_Found = TypeVar("_Found")
_PATHS = {
    DeedKind.COUNT: "/v1/stock/count",
    DeedKind.DAMAGE: "/v1/stock/damage",
    DeedKind.RECEIPT: "/v1/stock/receive",
}


class Done(Contract):
    """A deed that was carried out, or came to nothing. ``at``: seconds since the start.

    Attributes:
        subject: the order, or the node and SKU.
        request_id: of the amendment, or the document's id.
        sent: how often it was sent until it was answered.
        outcome: what the last answer said.
    """

    deed: Deed
    at: float
    subject: str | None = None
    request_id: str | None = None
    sent: int = 0
    outcome: str | None = None
    came_to_nothing: str | None = None


class _Gone(Exception):
    """There is nothing left that it could be done to."""


class _Answer(NamedTuple):
    """What the API said, and how often it had to be asked."""

    status: int
    body: dict[str, Any]
    sent: int

    @property
    def codes(self) -> str:
        """The codes of a refusal."""
        problems = self.body.get("problems") or [self.body]
        return ", ".join(str(problem.get("code")) for problem in problems)


def otherwise_paid(invoices: Iterator[ImportedInvoice], plan: FaultPlan) -> Iterator[ImportedInvoice]:
    """The same invoices, those of ``plan.paid_otherwise`` with other tenders."""
    ways = {one.order: one.how for one in plan.paid_otherwise}
    order = 0
    for invoice in invoices:
        order += invoice.draft is not None
        how = ways.get(order)
        if invoice.draft is None or how is None:
            yield invoice
        else:
            tenders = _tenders(invoice.draft, how, plan.seed)
            draft = OrderDraft.model_validate(invoice.draft.model_dump() | {"tenders": tenders})
            yield invoice.model_copy(update={"draft": draft})


def _tenders(draft: OrderDraft, how: Paying, seed: int) -> list[dict[str, Any]]:
    total = draft.totals.total_minor
    kind = TenderKind.GIFT_CARD if how is Paying.GIFT_CARD_AND_CARD else TenderKind.STORE_CREDIT
    part = total if how is Paying.STORE_CREDIT else total * 2 // 5
    ours = {"kind": kind, "token": f"chaos-{seed}-{draft.external_id}", "amount_minor": part}
    if not 0 < part < total:
        return [ours | {"amount_minor": total}]
    return [ours, draft.tenders[0].model_dump() | {"amount_minor": total - part}]


class People:
    """Customers and warehouses of a plan. ``told`` fills while they are at work."""

    def __init__(self, plan: FaultPlan, store: Store, api: httpx.AsyncClient, *, patience: float) -> None:
        self._plan = plan
        self._store = store
        self._api = api
        self._patience = patience
        self._began = time.monotonic()
        self._ended: Callable[[], bool] = lambda: False
        self.told = Told()
        self.done: list[Done] = []

    async def run(self, tally: Tally, *, ended: Callable[[], bool]) -> None:
        """Do what the plan says, each at its moment and beside each other; what is begun is brought to its end."""
        self._began, self._ended = time.monotonic(), ended
        begun: list[asyncio.Task[None]] = []
        try:
            for deed in self._plan.deeds:
                while rested(tally) < deed.rested and not ended():  # noqa: ASYNC110 - the tally tells nobody
                    await asyncio.sleep(_POLL_SECONDS)
                if ended():
                    break
                begun.append(asyncio.create_task(self._carry_out(deed), name=f"deed {deed.number}"))
            await asyncio.gather(*begun)
        finally:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    async def buy(self, draft: OrderDraft) -> None:
        """Have value put on the gift cards and credits that ``draft`` is paid by."""
        for tender in draft.tenders:
            if tender.kind in (TenderKind.GIFT_CARD, TenderKind.STORE_CREDIT):
                try:
                    await self._issue(draft, tender)
                except NotReachable as error:
                    self.told.wrong_value.append((None, f"for {draft.external_id}: {error.message}"))

    async def _issue(self, draft: OrderDraft, tender: Tender) -> None:
        instrument = accounts.instrument_of(tender.kind, tender.token)
        issued = Issued(f"chaos-{draft.external_id}", instrument, tender.amount_minor)
        self.told.issued.append(issued)
        body = {
            "kind": tender.kind,
            "code": tender.token,
            "amount_minor": issued.amount_minor,
            "currency": draft.currency,
            "actor": ACTOR,
            "request_id": issued.request_id,
        }
        # And once more, as by somebody who does not trust the first answer.
        for answer in (
            await self._sent("/v1/ledger/issues", body),
            await self._sent("/v1/ledger/issues", body),
        ):
            left = answer.body.get("left", {}).get("minor")
            if answer.status != 200 or left != issued.amount_minor:
                self.told.wrong_value.append((None, f"{issued.request_id} was answered {answer}"))

    async def _carry_out(self, deed: Deed) -> None:
        amends = deed.kind in AMENDMENTS
        try:
            done = await (self._amend(deed) if amends else self._tell(deed))
        except _Gone as gone:
            done = Done(deed=deed, at=self._now(), came_to_nothing=str(gone))
        except NotReachable as error:
            done = Done(deed=deed, at=self._now(), came_to_nothing=error.message)
            wrong = self.told.wrong_amendments if amends else self.told.wrong_documents
            wrong.append((None, f"deed {deed.number}: {error.message}"))
        self.done.append(done)

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 1)

    # --- amendments ---
    async def _amend(self, deed: Deed) -> Done:
        """Amend an order that can be; of one that it is too late for, another one."""
        refused = "no order could be amended"
        for turn in range(_OTHERS):
            order_id = drawn(await self._looked(amendable_orders), (deed.draw + turn / _OTHERS) % 1.0)
            body = None if order_id is None else await self._amendment(deed, turn, order_id)
            if order_id is None or body is None:
                await asyncio.sleep(_BETWEEN_TRIES)
                continue
            request_id = body["request_id"]
            answer = await self._sent(f"/v1/orders/{order_id}/amendments", body)
            if answer.status in (409, 422):
                refused = f"refused: {answer.codes}"
                continue
            if not 200 <= answer.status < 300:
                self.told.wrong_amendments.append((order_id, f"{request_id} was answered {answer}"))
            self.told.amended[request_id] = order_id
            outcome = await self._decided(order_id, body)
            return Done(
                deed=deed,
                at=self._now(),
                subject=order_id,
                request_id=request_id,
                sent=answer.sent,
                outcome=outcome,
            )
        raise _Gone(refused)

    async def _amendment(self, deed: Deed, turn: int, order_id: str) -> dict[str, Any] | None:
        """What to ask for, from what the API says of the order; None where there is nothing to be changed so."""
        shown = await self._got(f"/v1/orders/{order_id}")
        lines = [line for line in shown.body.get("lines", ()) if line["quantity"] > 0]
        body: dict[str, Any] = {
            "request_id": f"chaos-{deed.number}-{turn}",
            "actor": ACTOR,
            "reason": REASON,
        }
        if deed.kind is DeedKind.ADDRESS:
            lane = {"lines": [f"{deed.number} Chaos Lane"], "city": "Elsewhere"}
            return body | {"ship_to": lane | {"country": shown.body["ship_country"]}} if lines else None
        if deed.kind is DeedKind.FEWER:
            lines = [line for line in lines if line["quantity"] > 1]
        line = drawn(lines, deed.size)
        if line is None:
            return None
        units = line["quantity"]
        if deed.kind is DeedKind.FEWER:
            wanted = units - 1 - int(deed.size * min(units - 1, _MOST_UNITS))
        else:
            wanted = units + 1 + int(deed.size * _MOST_UNITS)
        return body | {"lines": [{"line_id": line["line_id"], "quantity": wanted}]}

    async def _decided(self, order_id: str, body: Mapping[str, Any]) -> str:
        """What became of an amendment: asked again and again, as a client would, while there are orders under way."""
        while True:
            answer = await self._sent(f"/v1/orders/{order_id}/amendments", body)
            if answer.body.get("outcome") == AmendmentState.APPLIED:
                return str(AmendmentState.APPLIED)
            if answer.status in (409, 422):
                return f"refused: {answer.codes}"
            if self._ended():
                return "under way"
            await asyncio.sleep(_BETWEEN_TRIES)

    # --- documents ---
    async def _tell(self, deed: Deed) -> Done:
        """Send a document of a warehouse about a row that orders hold units of, or about any while they hold none."""
        refused = "no stock was found"
        for turn in range(_OTHERS):
            place = drawn(await self._looked(places_to_tell_of), (deed.draw + turn / _OTHERS) % 1.0)
            body = None if place is None else await self._document(deed, turn, place)
            if place is None or body is None:
                await asyncio.sleep(_BETWEEN_TRIES)
                continue
            document_id, path = body["document_id"], _PATHS[deed.kind]
            answer = await self._sent(path, body)
            if answer.status == 422 and deed.kind is DeedKind.DAMAGE:
                # Somebody took the last ones first: nothing is left that could have broken.
                refused = f"refused: {answer.codes}"
                continue
            if answer.status != 200:
                self.told.wrong_documents.append((None, f"{document_id} was answered {answer}"))
                return Done(deed=deed, at=self._now(), subject=_named(place), request_id=document_id)
            self.told.documents[document_id] = _without_repeated(answer.body)
            again = await self._sent(path, body)
            if again.status != 200 or not again.body.get("repeated"):
                self.told.wrong_documents.append((None, f"{document_id}, sent again, was answered {again}"))
            elif _without_repeated(again.body) != self.told.documents[document_id]:
                self.told.wrong_documents.append((None, f"{document_id} had another answer when sent again"))
            return Done(
                deed=deed,
                at=self._now(),
                subject=_named(place),
                request_id=document_id,
                sent=answer.sent,
                outcome=f"{len(answer.body.get('released', ()))} promises broken",
            )
        raise _Gone(refused)

    async def _document(self, deed: Deed, turn: int, place: Place) -> dict[str, Any] | None:
        node, sku = place
        body: dict[str, Any] = {
            "document_id": f"chaos-{deed.number}-{turn}",
            "actor": ACTOR,
            "reason": REASON,
            "node": node,
        }
        units = 1 + int(deed.size * _MOST_UNITS)
        if deed.kind is DeedKind.RECEIPT:
            return body | {"lines": [{"sku": sku, "quantity": units}]}
        shown = await self._got(f"/v1/stock/{sku}", movements=0)
        row = next((one for one in shown.body.get("nodes", ()) if one["node"] == node), None)
        if row is None:
            return None
        if deed.kind is DeedKind.COUNT:
            # Every other count finds less than was promised.
            short = int(deed.size * 100) % 2 == 0
            found = row["reserved"] // 2 if short else row["on_hand"] + units
            return body | {"lines": [{"sku": sku, "quantity": found}]}
        broken = min(units, row["on_hand"])
        return body | {"lines": [{"sku": sku, "quantity": broken}]} if broken else None

    # --- asking ---
    async def _looked(self, look: Callable[[Store], Awaitable[Sequence[_Found]]]) -> Sequence[_Found]:
        """What ``look`` finds. While the database is being killed it is waited for, or a deed would come to nothing."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return await look(self._store)
            except OrderwrightError:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(_BETWEEN_TRIES)

    async def _got(self, path: str, **query: Any) -> "_Answer":
        return await self._answered(lambda: self._api.get(path, params=query))

    async def _sent(self, path: str, body: Mapping[str, Any]) -> "_Answer":
        return await self._answered(lambda: self._api.post(path, json=body))

    async def _answered(self, ask: Callable[[], Awaitable[httpx.Response]]) -> "_Answer":
        """The answer, however often it has to be asked for. Raises ``NotReachable`` when patience ends."""
        until = time.monotonic() + self._patience
        sent = 0
        while time.monotonic() < until:
            sent += 1
            try:
                response = await ask()
            except httpx.HTTPError:
                response = None
            if response is not None and response.status_code < 500 and response.status_code != 429:
                return _Answer(response.status_code, response.json(), sent)
            await asyncio.sleep(_BETWEEN_TRIES)
        raise NotReachable(f"the API did not answer for {self._patience:.0f} s")


def _without_repeated(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "repeated"}


def _named(place: Place) -> str:
    return "/".join(place)
