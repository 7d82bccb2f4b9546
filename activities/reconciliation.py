"""The reconciliation's steps: read a neighbour's statement, compare, mend what a rule allows, ask for the rest.

Each step takes a piece that ends well within one attempt, and says where the next one goes on. What differs at the
first look is looked at again, with the neighbour's newest word: what was under way has mostly arrived by then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import psycopg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.exactly_once import Effect, Meaning, carry_out
from activities.failures import speaks_temporal
from activities.implements import implements
from activities.payments import PaymentActivities, approved, refuse_while_unpaid
from activities.ports import Carrier, PaymentProvider
from activities.store import operations
from activities.store import reconciliation as books
from activities.store.departing import leave
from activities.store.operations import PaymentOperation, ShippingOperation
from activities.store.store import Store
from models.effects import Authorisation, Captured, Label, Refunded, Undone
from models.errors import NeighbourRefused, Refused
from models.journal import SYSTEM, Carried
from models.operations import OperationState, PaymentKind, ShippingKind
from models.reconciliation import (
    BeginReconciliation,
    Begun,
    Compare,
    Compared,
    Comparison,
    Difference,
    DifferenceKind,
    DifferenceState,
    Finished,
    FinishReconciliation,
    PieceCompared,
    ReadStatement,
    Rule,
    StatementPage,
    StatementRead,
    Tally,
)
from policies.reconciliation import (
    HealingPolicy,
    StockStanding,
    compare_allocation,
    compare_labels,
    compare_ledger,
    compare_money,
    compare_reservations,
    compare_stock,
    remedy,
    rule_for,
)
from workflows import steps

# Subjects of one piece, and the time after which it ends where it is: an attempt has 18 seconds.
_PIECE, _STOCK_ROWS = 200, 2_000
# All movements of so many rows are added up by one statement.
_STOCK_ROWS_AT_ONCE = 200
_LONG_ENOUGH = 5.0
# What two transactions of ours write one after the other is written by then.
_BETWEEN_LOOKS = 1.0

# From a function of the database it comes as the driver says it.
_NOT_ALLOWED = (exc.IntegrityError, exc.InternalError, psycopg.IntegrityError, psycopg.InternalError)

Look = Callable[[Sequence[str]], Awaitable[Mapping[str, Compared]]]
Mend = Callable[[Rule, Difference], Awaitable[None]]
Read = Callable[[str | None], Awaitable[StatementPage]]


class Terms(HealingPolicy):
    """The rules' limits, and how long an effect may wait for its answer before the reconciliation looks it up."""

    grace: timedelta = timedelta(minutes=5)


class ReconciliationActivities:
    """Begin and end a run, on ``oms-orders``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @implements(steps.BEGIN_RECONCILIATION)
    @speaks_temporal
    async def begin_reconciliation(self, asked: BeginReconciliation) -> Begun:
        """From when on this run has to look."""
        async with self._store.transaction() as session:
            since = await books.begin(
                session, run_id=asked.run_id, area=asked.area, everything=asked.everything
            )
        return Begun(since=since)

    @implements(steps.FINISH_RECONCILIATION)
    @speaks_temporal
    async def finish_reconciliation(self, asked: FinishReconciliation) -> Finished:
        """How many differences are left for people."""
        async with self._store.transaction() as session:
            left = await books.finish(
                session, run_id=asked.run_id, area=asked.area, tally=asked.tally, failure=asked.failure
            )
        return Finished(open=left)


class MoneyReconciliation:
    """Our money against the payment provider's statement, on ``oms-payments``."""

    def __init__(self, store: Store, payments: PaymentProvider, terms: Terms) -> None:
        self._store = store
        self._payments = payments
        self._terms = terms

    @implements(steps.READ_PAYMENT_STATEMENT)
    @speaks_temporal
    async def read_payment_statement(self, asked: ReadStatement) -> StatementRead:
        """Copy some pages of the statement."""
        return await _copy(
            self._store,
            books.PAYMENT,
            asked,
            lambda cursor: self._payments.statement(since=asked.since, cursor=cursor),
        )

    @implements(steps.COMPARE_MONEY)
    @speaks_temporal
    async def compare_money(self, asked: Compare) -> PieceCompared:
        """Compare some orders."""
        async with self._store.transaction() as session:
            subjects = await books.money_subjects(session, asked.since, asked.cursor, _PIECE)
        comparing = _Comparison(self._store, self._terms, Comparison.MONEY, self._look, self._ask, self._mend)
        return await comparing.piece(subjects)

    async def _look(self, subjects: Sequence[str]) -> Mapping[str, Compared]:
        async with self._store.transaction() as session:
            sides = await books.money_sides(session, subjects)
        return {subject: self._compared(subject, side) for subject, side in sides.items()}

    def _compared(self, subject: str, side: books.MoneySides) -> Compared:
        compared = compare_money(
            subject,
            side.ours,
            side.theirs,
            order_state=side.order_state,
            now=datetime.now(UTC),
            grace=self._terms.grace,
        )
        in_ledger = compare_ledger(
            subject, side.ours + side.own, side.postings, side.theirs, order_state=side.order_state
        )
        return compared.model_copy(update={"differences": compared.differences + in_ledger})

    async def _ask(self, subject: str) -> None:
        await _copy_one(
            self._store,
            books.PAYMENT,
            lambda cursor: self._payments.statement(reference=subject, cursor=cursor),
        )

    async def _mend(self, _rule: Rule, difference: Difference) -> None:
        async with self._store.transaction() as session:
            movement = await books.payment_operation(session, difference.about)
        if movement.kind is PaymentKind.AUTHORISE and difference.kind is not DifferenceKind.ANSWER_LOST:
            # Of one that holds nothing any more the provider says so, under a key of ours.
            await self._void(movement)
        else:
            await self._write_down(movement)

    async def _void(self, authorisation: PaymentOperation) -> None:
        async with self._store.transaction() as session:
            held = await operations.payment(session, authorisation.order_id, authorisation.key)
            if held is None:
                raise Refused(f"our books have no authorisation {authorisation.key} any more")
            await refuse_while_unpaid(session, authorisation.order_id)
        await PaymentActivities(self._store, self._payments).void(
            authorisation, held, f"reconcile:{authorisation.key}"
        )

    async def _write_down(self, lost: PaymentOperation) -> None:
        """As the movement's own step would have: found by its key, and with all that follows from it."""
        key = lost.key

        async def nothing(_session: AsyncSession, _answer: Captured) -> None:
            """Only a capture has more to it than the money."""

        if lost.kind is PaymentKind.AUTHORISE:
            await carry_out(
                self._store,
                Effect(
                    operation=lost,
                    carried=Carried(),
                    gives=Authorisation,
                    ask=_gone,
                    look_up=lambda: self._payments.find_authorisation(key=key),
                    means=approved,
                ),
            )
        elif lost.kind is PaymentKind.CAPTURE:
            shipment_id = lost.shipment_id

            async def taken(session: AsyncSession, _answer: Captured) -> None:
                await leave(session, shipment_id or "")

            await carry_out(
                self._store,
                Effect(
                    operation=lost,
                    carried=Carried(),
                    gives=Captured,
                    ask=_gone,
                    look_up=lambda: self._payments.find_capture(key=key),
                    means=lambda captured: Meaning(provider_ref=captured.capture_id),
                    follows=nothing if shipment_id is None else taken,
                ),
            )
        else:
            await carry_out(
                self._store,
                Effect(
                    operation=lost,
                    carried=Carried(),
                    gives=Refunded,
                    ask=_gone,
                    look_up=lambda: self._payments.find_refund(key=key),
                    means=lambda refunded: Meaning(provider_ref=refunded.refund_id),
                ),
            )


class LabelReconciliation:
    """Labels and shipments against the carrier's statement, on ``oms-shipping``."""

    def __init__(self, store: Store, carrier: Carrier, terms: Terms) -> None:
        self._store = store
        self._carrier = carrier
        self._terms = terms

    @implements(steps.READ_CARRIER_STATEMENT)
    @speaks_temporal
    async def read_carrier_statement(self, asked: ReadStatement) -> StatementRead:
        """Copy some pages of the statement."""
        return await _copy(
            self._store,
            books.CARRIER,
            asked,
            lambda cursor: self._carrier.statement(since=asked.since, cursor=cursor),
        )

    @implements(steps.COMPARE_LABELS)
    @speaks_temporal
    async def compare_labels(self, asked: Compare) -> PieceCompared:
        """Compare some shipments."""
        async with self._store.transaction() as session:
            subjects = await books.label_subjects(session, asked.since, asked.cursor, _PIECE)
        comparing = _Comparison(
            self._store, self._terms, Comparison.LABELS, self._look, self._ask, self._mend
        )
        return await comparing.piece(subjects)

    async def _look(self, subjects: Sequence[str]) -> Mapping[str, Compared]:
        async with self._store.transaction() as session:
            sides = await books.label_sides(session, subjects)
        now = datetime.now(UTC)
        return {
            subject: compare_labels(
                subject,
                side.ours,
                side.theirs,
                shipment=side.shipment,
                order_id=side.order_id,
                now=now,
                grace=self._terms.grace,
            )
            for subject, side in sides.items()
        }

    async def _ask(self, subject: str) -> None:
        await _copy_one(
            self._store,
            books.CARRIER,
            lambda cursor: self._carrier.statement(reference=subject, cursor=cursor),
        )

    async def _mend(self, rule: Rule, difference: Difference) -> None:
        async with self._store.transaction() as session:
            label = await books.shipping_operation(session, difference.about)
        if rule is Rule.VOID_LABEL:
            await self._void(label)
        else:
            await self._write_down(label)

    async def _void(self, label: ShippingOperation) -> None:
        key = f"reconcile:{label.key}"
        undone = await carry_out(
            self._store,
            Effect(
                operation=label.model_copy(
                    update={"key": key, "kind": ShippingKind.VOID_LABEL, "parent": label.key}
                ),
                carried=Carried(),
                gives=Undone,
                ask=lambda: self._carrier.void_label(key=key, label_key=label.key),
                means=lambda answer: Meaning(
                    OperationState.CONFIRMED if answer.undone else OperationState.DECLINED
                ),
            ),
        )
        if not undone.undone:
            raise Refused(f"the carrier does not take the label back: {undone.reason}")
        async with self._store.transaction() as session:
            await operations.call_off(session, label)

    async def _write_down(self, label: ShippingOperation) -> None:
        await carry_out(
            self._store,
            Effect(
                operation=label,
                carried=Carried(),
                gives=Label,
                ask=_gone,
                look_up=lambda: self._carrier.find_label(key=label.key),
                means=lambda answer: Meaning(
                    OperationState.CONFIRMED if answer.accepted else OperationState.DECLINED, answer.label_id
                ),
            ),
        )


class StockReconciliation:
    """Reservations against orders, and the counts of stock rows against reservations, on ``oms-inventory``."""

    def __init__(self, store: Store, terms: Terms) -> None:
        self._store = store
        self._terms = terms

    @implements(steps.COMPARE_RESERVATIONS)
    @speaks_temporal
    async def compare_reservations(self, asked: Compare) -> PieceCompared:
        """Compare some orders."""
        async with self._store.transaction() as session:
            subjects = await books.reservation_subjects(session, asked.since, asked.cursor, _PIECE)
        comparing = _Comparison(
            self._store, self._terms, Comparison.RESERVATIONS, self._look, _wait, self._mend
        )
        return await comparing.piece(subjects)

    @implements(steps.COMPARE_STOCK)
    @speaks_temporal
    async def compare_stock(self, asked: Compare) -> PieceCompared:
        """Compare some stock rows; with the last of them, the counters of what belongs to whom."""
        found, more = await self._rows(asked.cursor)
        async with self._store.transaction() as session:
            before = await books.known(session, Comparison.STOCK, list(found))
        differing = {name: row for name, row in found.items() if not row.agrees or name in before}
        comparing = self._comparing(
            lambda subjects: self._look_at_rows({name: differing[name] for name in subjects})
        )
        piece = await comparing.piece(list(differing))
        tally = piece.tally + Tally(checked=len(found) - len(differing))
        cursor = piece.cursor or more
        if cursor is None:
            tally += await self._counters()
        return PieceCompared(tally=tally, cursor=cursor)

    async def _rows(self, cursor: str) -> tuple[dict[str, StockStanding], str | None]:
        """Rows that follow, as many as their movements are added up in a while, and where the next ones begin."""
        begun, found = time.monotonic(), dict[str, StockStanding]()
        more: str | None = cursor
        while more is not None and len(found) < _STOCK_ROWS and time.monotonic() - begun < _LONG_ENOUGH:
            node, _, sku = more.partition("/")
            async with self._store.transaction() as session:
                rows = await books.stock_rows(session, (node, sku), _STOCK_ROWS_AT_ONCE)
            found |= {f"{row.node}/{row.sku}": row for row in rows}
            more = f"{rows[-1].node}/{rows[-1].sku}" if len(rows) == _STOCK_ROWS_AT_ONCE else None
            activity.heartbeat()
        return found, more

    async def _counters(self) -> Tally:
        """All of them that differ, up to a piece; what is left is found by the next run."""
        async with self._store.transaction() as session:
            subjects = {one.subject for one in await books.allocation_counters(session, _PIECE)}
            subjects.update(await books.open_allocation_differences(session))
        return (await self._comparing(self._look_at_counters).piece(sorted(subjects))).tally

    def _comparing(self, look: Look) -> "_Comparison":
        return _Comparison(self._store, self._terms, Comparison.STOCK, look, _wait, self._mend)

    async def _look_at_counters(self, subjects: Sequence[str]) -> Mapping[str, Compared]:
        async with self._store.transaction() as session:
            differing = {one.subject: one for one in await books.allocation_counters(session, _PIECE)}
        return {
            subject: compare_allocation(differing[subject]) if subject in differing else Compared(checked=1)
            for subject in subjects
        }

    async def _look(self, subjects: Sequence[str]) -> Mapping[str, Compared]:
        async with self._store.transaction() as session:
            orders = await books.order_stock(session, subjects)
        return {order_id: compare_reservations(order) for order_id, order in orders.items()}

    async def _look_at_rows(self, rows: Mapping[str, StockStanding]) -> Mapping[str, Compared]:
        looked = dict[str, Compared]()
        for name, row in rows.items():
            async with self._store.transaction() as session:
                now = await books.stock_row(session, row.node, row.sku)
            looked[name] = Compared() if now is None else compare_stock(now)
        return looked

    async def _mend(self, rule: Rule, difference: Difference) -> None:
        if rule is not Rule.RELEASE_UNITS:
            raise Refused(f"{rule} mends nothing in our stock")
        shipments = {str(units["shipment_id"]) for units in difference.ours.found}
        async with self._store.transaction() as session:
            await books.free_units(session, difference.subject, difference.about, shipments)


async def _wait(_subject: str) -> None:
    """Both sides are our own: a moment is all that the second look needs."""
    await asyncio.sleep(_BETWEEN_LOOKS)


async def _gone() -> NoReturn:
    """Nothing is asked for anew here: an answer is written down, or it is not there."""
    raise Refused("the neighbour does not know it any more")


async def _copy(store: Store, source: str, asked: ReadStatement, read: Read) -> StatementRead:
    """Some pages of a statement, from where an attempt before this one had come to."""
    begun = time.monotonic()
    reached = activity.info().heartbeat_details
    cursor: str | None = str(reached[0]) if reached else (asked.cursor or None)
    lines = 0
    while True:
        page = await read(cursor)
        async with store.transaction() as session:
            await books.keep_lines(session, source, page.lines)
        lines, cursor = lines + len(page.lines), page.next_cursor
        if cursor is None or time.monotonic() - begun > _LONG_ENOUGH:
            return StatementRead(lines=lines, cursor=cursor)
        activity.heartbeat(cursor)


async def _copy_one(store: Store, source: str, read: Read) -> None:
    cursor: str | None = None
    while True:
        page = await read(cursor)
        async with store.transaction() as session:
            await books.keep_lines(session, source, page.lines)
        cursor = page.next_cursor
        if cursor is None:
            return


@dataclass(frozen=True)
class _Comparison:
    """One comparison: how to look at both sides, how to get the neighbour's newest word, how to mend."""

    store: Store
    terms: Terms
    comparison: Comparison
    look: Look
    ask: Callable[[str], Awaitable[None]]
    mend: Mend

    async def piece(self, subjects: Sequence[str]) -> PieceCompared:
        """Compare ``subjects`` in their order, settle what is found, and say where the next piece goes on."""
        begun, tally = time.monotonic(), Tally()
        if not subjects:
            return PieceCompared()
        async with self.store.transaction() as session:
            known = await books.known(session, self.comparison, subjects)
        first = await self.look(subjects)
        for subject in subjects:
            tally += await self._subject(subject, first[subject], known.get(subject, {}))
            if time.monotonic() - begun > _LONG_ENOUGH and subject != subjects[-1]:
                return PieceCompared(tally=tally, cursor=subject)
        return PieceCompared(tally=tally, cursor=subjects[-1] if len(subjects) >= _PIECE else None)

    async def _subject(self, subject: str, compared: Compared, known: Mapping[str, books.Known]) -> Tally:
        """Mend what a rule, or a person's word, allows to mend; ask for the rest; take off the list what has gone."""
        looked_at = datetime.now(UTC)
        if any(not _is_accepted(known, difference) for difference in compared.differences):
            activity.heartbeat()
            await self.ask(subject)
            looked_at = datetime.now(UTC)
            seen = {difference.key for difference in compared.differences}
            again = (await self.look([subject]))[subject]
            twice = tuple(one for one in again.differences if one.key in seen)
            compared = again.model_copy(update={"differences": twice})
        tally = Tally(checked=compared.checked, under_way=compared.under_way)
        for difference in compared.differences:
            if not _is_accepted(known, difference):
                tally += await self._settle(difference, known.get(difference.key), looked_at)
        found = {difference.key for difference in compared.differences}
        for key, one in known.items():
            if key not in found and one.state is DifferenceState.OPEN:
                async with self.store.transaction() as session:
                    tally += Tally(gone=await books.gone(session, key))
        return tally

    async def _settle(self, difference: Difference, before: books.Known | None, looked_at: datetime) -> Tally:
        activity.heartbeat()
        by, why = (before.wished_by, before.wished_why) if before else (None, None)
        rule, refused = remedy(difference.kind) if by else rule_for(difference, self.terms), ""
        if rule is not None:
            try:
                await self.mend(rule, difference)
            except (Refused, NeighbourRefused) as error:
                refused = error.message
            except _NOT_ALLOWED as error:
                # The database has the last word on what may be written, also on what we would mend.
                said = getattr(error, "orig", None) or error
                refused = f"our database refuses it: {str(said).splitlines()[0]}"
        async with self.store.transaction() as session:
            if rule is not None and not refused:
                healing = books.Healing(
                    rule=rule,
                    actor=by or SYSTEM,
                    why=why or f"rule {rule} of {self.terms.version}",
                    policy_version=self.terms.version,
                )
                await books.healed(session, difference, healing, looked_at=looked_at)
                return Tally(differing=1, healed=1)
            opened = await books.open_difference(
                session, difference, self.terms.version, looked_at=looked_at, refused=refused
            )
        return Tally(differing=1, opened=opened)


def _is_accepted(known: Mapping[str, books.Known], difference: Difference) -> bool:
    before = known.get(difference.key)
    return before is not None and before.accepted(difference)
