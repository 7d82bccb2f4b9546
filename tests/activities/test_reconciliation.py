"""Each way in which two sides can differ: planted, found, mended or put before a person, once. And nothing else."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text

from activities.adapters.carrier import HttpCarrier
from activities.adapters.payment import HttpPaymentProvider
from activities.ports import PaymentProvider
from activities.reconciliation import (
    MoneyReconciliation,
    ReconciliationActivities,
    Terms,
)
from activities.store import accounts, broken, reads, stock
from activities.store import reconciliation as books
from activities.store.allocating import allocate
from activities.store.store import Store
from apps.simulators.serving import Settings
from models.allocation import AllocationPolicy
from models.effects import AuthorisePayment, RefundPayment, VoidAuthorisation
from models.errors import NeighbourUnavailable, OutcomeUnknown, Refused
from models.order import TenderKind
from models.reconciliation import (
    Area,
    BeginReconciliation,
    Compare,
    DifferenceKind,
    DifferenceState,
    FinishReconciliation,
    ReadStatement,
    Rule,
    RunState,
    StatementPage,
    Tally,
)
from models.review import Verdict
from models.states import OrderState, ReviewState, ShipmentState
from models.tables.schema import metadata
from tests.activities.running import run
from tests.activities.shop import TOTAL, Shop
from tests.apps.simulators.running import NEIGHBOUR_TOKEN, inside
from tests.builders import NOON, a_draft, accepted, gbp


@pytest.fixture
async def shop(store: Store, tmp_path: Path) -> AsyncIterator[Shop]:
    # Everything in the database is compared: what another test has left would differ, too.
    async with store.transaction() as session:
        await session.execute(text("SET LOCAL session_replication_role = replica"))
        tables = ", ".join(metadata.tables.keys() - {"ledger_accounts"})
        await session.execute(text(f"TRUNCATE {tables} CASCADE"))
    # Nothing is collected while a test looks.
    slow = Settings(seed=0, speed=1.0, token=NEIGHBOUR_TOKEN)
    async with (
        inside("payment", tmp_path / "p", slow) as payment,
        inside("carrier", tmp_path / "c", slow) as carrier,
    ):
        yield Shop(
            store,
            HttpPaymentProvider("http://simulator", payment, NEIGHBOUR_TOKEN),
            HttpCarrier("http://simulator", carrier, NEIGHBOUR_TOKEN),
        )


class Broken:
    """A neighbour whose named methods raise, the first ``times`` calls."""

    def __init__(self, port: object, failure: Exception, *methods: str, times: int = 10**9) -> None:
        self._port, self._failure, self._methods, self._left = port, failure, methods, times

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name not in self._methods:
            return method

        async def call(**arguments: Any) -> Any:
            if self._left > 0:
                self._left -= 1
                raise self._failure
            return await method(**arguments)

        return call


# --- healthy books ---
async def test_books_that_agree_have_no_difference(shop: Shop) -> None:
    order_id, held = await shop.authorised()
    capture = await shop.captured(order_id, held, amount=gbp(1000))
    await run(
        shop.money.refund_payment,
        RefundPayment(
            order_id=order_id,
            shipment_id=f"{order_id}:1",
            capture_id=capture,
            amount=gbp(400),
            cause="lost",
            key=f"shipment:{order_id}:1:refund:1",
        ),
    )
    await run(
        shop.money.void_authorisation,
        VoidAuthorisation(
            order_id=order_id,
            authorisation_key=f"order:{order_id}:authorise:1",
            key=f"order:{order_id}:void:1",
        ),
    )
    await shop.is_now(order_id, OrderState.CANCELLED)
    view = await shop.reconcile(Area.MONEY)
    assert (view.state, view.checked, view.differing, view.left_open) == (RunState.DONE, 4, 0, 0)
    assert await shop.differences() == ()


async def test_an_authorisation_that_was_declined_is_no_difference(shop: Shop) -> None:
    draft = a_draft(tenders=[{"token": "tok_declined_1", "amount_minor": 1395}])
    order_id = await accepted(shop.store, draft)
    await run(
        shop.money.authorise_payment,
        AuthorisePayment(order_id=order_id, amount=TOTAL, key=f"order:{order_id}:authorise:1"),
    )
    assert (await shop.reconcile(Area.MONEY)).differing == 0


async def test_free_samples_move_no_money_and_are_no_difference(shop: Shop) -> None:
    order_id, held = await shop.authorised()
    await shop.captured(order_id, held, amount=gbp(0))
    assert (await shop.reconcile(Area.MONEY)).differing == 0


# --- money ---
async def test_a_capture_that_the_provider_does_not_know_is_put_before_a_person_with_both_sides(
    shop: Shop,
) -> None:
    order_id, held = await shop.authorised()
    await shop.captured(
        order_id, held, by_hand={"capture_id": "never-was", "amount": {"minor": 1395, "currency": "GBP"}}
    )
    view = await shop.reconcile(Area.MONEY)
    assert (view.differing, view.healed, view.opened, view.left_open) == (1, 0, 1, 1)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id) == (DifferenceKind.OURS_ONLY, order_id)
    assert difference.ours.found[0]["provider_ref"] == "never-was"
    assert difference.theirs.found == ()
    task = await shop.task()
    assert task.state is ReviewState.OPEN
    assert task.order_id == order_id
    assert task.sides == (difference.ours, difference.theirs)
    assert set(task.options) == {Verdict.REJECT, Verdict.FINISH}


async def test_a_capture_that_our_books_do_not_have_is_put_before_a_person(shop: Shop) -> None:
    order_id, held = await shop.authorised()
    taken = await shop.payments.capture(key="somebody", authorisation_id=held, amount=gbp(300))
    await shop.reconcile(Area.MONEY)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id) == (DifferenceKind.THEIRS_ONLY, order_id)
    assert difference.theirs.found[0]["line_id"] == taken.capture_id


async def test_money_that_moved_for_no_order_of_ours_is_put_before_a_person(shop: Shop) -> None:
    await shop.payments.authorise(key="k", reference="web:nobody", token="tok_visa", amount=gbp(500))
    await shop.reconcile(Area.MONEY)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id, difference.subject) == (
        DifferenceKind.THEIRS_ONLY,
        None,
        "web:nobody",
    )
    assert (await shop.task()).order_id == "web:nobody"


async def test_another_amount_is_put_before_a_person(shop: Shop) -> None:
    order_id, held = await shop.authorised()
    await shop.captured(order_id, held, amount=gbp(1000))
    await shop.past_every_trigger("UPDATE payment_operations SET amount_minor = 900 WHERE kind = 'capture'")
    await shop.reconcile(Area.MONEY)
    difference = await shop.only_difference()
    assert difference.kind is DifferenceKind.AMOUNT_DIFFERS
    assert difference.ours.found[0]["amount"]["minor"] == 900
    assert difference.theirs.found[0]["amount"]["minor"] == 1000


async def test_a_movement_that_the_ledger_has_with_another_amount_is_put_before_a_person(shop: Shop) -> None:
    order_id, held = await shop.authorised()
    await shop.captured(order_id, held, amount=gbp(1000))
    await shop.past_every_trigger(
        "UPDATE ledger_entries SET amount_minor = amount_minor + 1 WHERE account = 'provider.clearing'"
    )
    await shop.reconcile(Area.MONEY)
    difference = await shop.only_difference()
    assert difference.kind is DifferenceKind.LEDGER_DIFFERS
    assert difference.ours.found[0]["posted"]["minor"] == 1001


async def by_hand(
    shop: Shop, transaction: str, order_id: str, minor: int, *, kind: str = "capture", account: str = ""
) -> None:
    """A transaction under the order's first hold, as somebody with SQL writes it."""
    money = account or "provider.clearing"
    async with shop.store.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO ledger_transactions (id, order_id, kind, source, at)"
                " VALUES (:id, :order_id, :kind, 'by hand', now() - interval '3 days')"
            ),
            {"id": transaction, "order_id": order_id, "kind": kind},
        )
        await session.execute(
            text(
                "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, tender) VALUES"
                " (:id, 1, :money, :minor, 'GBP', :tender), (:id, 2, 'sales.goods', -:minor, 'GBP', NULL)"
            ),
            {
                "id": transaction,
                "money": money,
                "minor": minor,
                "tender": f"order:{order_id}:authorise:1",
            },
        )


async def test_captures_that_were_written_into_the_ledger_by_hand_are_put_before_a_person(shop: Shop) -> None:
    order_id, _ = await shop.authorised()
    # Only what moved since then is compared: what was written by hand is found all the same.
    await shop.reconcile(Area.MONEY)
    await shop.sql(
        "UPDATE payment_operations SET intended_at = now() - interval '9 days', answered_at = intended_at"
    )
    await shop.sql("UPDATE statement_lines SET changed_at = now() - interval '9 days', held_minor = 0")
    await by_hand(shop, "hand-1", order_id, 500)
    await by_hand(shop, "hand-2", order_id, 500)
    view = await shop.reconcile(Area.MONEY)
    assert (view.differing, view.opened, view.left_open) == (1, 1, 1)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id) == (DifferenceKind.LEDGER_DIFFERS, order_id)
    assert "it has 10.00 GBP taken, the movements of money come to 0.00 GBP" in difference.what
    assert "no movement stands behind its capture hand-1, capture hand-2" in difference.what
    assert [one["transaction"] for one in difference.theirs.found] == [
        f"order:{order_id}:authorise:1",
        "hand-1",
        "hand-2",
    ]
    assert [one["kind"] for one in difference.ours.found] == ["authorise"]
    assert (await shop.task()).sides == (difference.ours, difference.theirs)


async def test_an_adjustment_takes_what_was_written_by_hand_off_the_list(shop: Shop) -> None:
    order_id, _ = await shop.authorised()
    await by_hand(shop, "hand-1", order_id, 500)
    assert (await shop.reconcile(Area.MONEY)).left_open == 1
    await by_hand(shop, "mended", order_id, -500, kind="adjustment")
    view = await shop.reconcile(Area.MONEY)
    assert (view.gone, view.left_open) == (1, 0)


async def test_the_ledger_of_a_gift_card_is_compared_too(shop: Shop) -> None:
    async with shop.store.transaction() as session:
        await accounts.issue(session, TenderKind.GIFT_CARD, "GIFT-RECONCILED", gbp(800), key="issue:1")
    tenders = [
        {"kind": "gift_card", "token": "GIFT-RECONCILED", "amount_minor": 800},
        {"kind": "card", "token": "tok_visa", "amount_minor": 595},
    ]
    order_id = await accepted(shop.store, a_draft(tenders=tenders))
    held = await run(
        shop.money.authorise_payment,
        AuthorisePayment(order_id=order_id, amount=TOTAL, key=f"order:{order_id}:authorise:1"),
    )
    await shop.captured(order_id, str(held.authorisation_id), amount=gbp(1000))
    assert (await shop.reconcile(Area.MONEY)).differing == 0
    await shop.past_every_trigger(
        "UPDATE ledger_entries SET amount_minor = amount_minor - 1"
        " WHERE account = 'liability.gift_cards' AND tender IS NOT NULL"
    )
    await shop.reconcile(Area.MONEY)
    difference = await shop.only_difference()
    assert difference.kind is DifferenceKind.LEDGER_DIFFERS
    assert "it has 7.99 GBP taken, the movements of money come to 8.00 GBP" in difference.what


async def test_a_second_charge_of_the_same_amount_is_told_as_such(shop: Shop) -> None:
    order_id, held = await shop.authorised(gbp(2790))
    await shop.captured(order_id, held)
    await shop.payments.capture(key="again", authorisation_id=held, amount=TOTAL)
    await shop.reconcile(Area.MONEY)
    difference = await shop.only_difference()
    assert difference.kind is DifferenceKind.TWICE_THEIRS
    assert len(difference.theirs.found) == 2


async def test_what_the_provider_still_holds_for_an_ended_order_is_given_back(shop: Shop) -> None:
    order_id, held = await shop.authorised()
    await shop.is_now(order_id, OrderState.CANCELLED)
    view = await shop.reconcile(Area.MONEY)
    assert (view.differing, view.healed, view.left_open) == (1, 1, 0)
    difference = await shop.only_difference()
    assert (difference.kind, difference.state, difference.rule) == (
        DifferenceKind.HELD_AFTER_END,
        DifferenceState.HEALED,
        Rule.VOID_HOLD,
    )
    lines = (await shop.payments.statement(reference=order_id)).lines
    assert next(line for line in lines if line.line_id == held).held == gbp(0)
    async with shop.store.transaction() as session:
        money = await reads.money(session, order_id, "GBP")
    assert (money.held, money.voided) == (gbp(0), TOTAL)
    (entry,) = await shop.timeline(order_id)
    assert entry.actor == "orderwright"
    assert "void_hold" in (entry.why or "")
    again = await shop.reconcile(Area.MONEY)
    assert (again.differing, again.healed, again.left_open) == (0, 0, 0)


async def test_a_hold_above_the_limit_waits_for_a_person_whose_word_gives_it_back(shop: Shop) -> None:
    shop.terms = Terms(grace=timedelta(0), void_hold_up_to_minor=1_000)
    order_id, _ = await shop.authorised()
    await shop.is_now(order_id, OrderState.CANCELLED)
    assert (await shop.reconcile(Area.MONEY)).left_open == 1
    assert set((await shop.task()).options) == {Verdict.APPROVE, Verdict.REJECT, Verdict.FINISH}
    await shop.answers(Verdict.APPROVE)
    view = await shop.reconcile(Area.MONEY)
    assert (view.healed, view.left_open) == (1, 0)
    difference = await shop.only_difference()
    assert (difference.state, difference.settled_by, difference.settled_why) == (
        DifferenceState.HEALED,
        "dana",
        "talked to them",
    )
    (entry,) = await shop.timeline(order_id)
    assert entry.actor == "dana"


async def test_a_hold_that_goods_have_to_be_paid_from_is_not_given_back(shop: Shop) -> None:
    order_id, _ = await shop.authorised()
    await shop.ship(order_id, ShipmentState.DELIVERED, handed_over_at=NOON, delivered_at=NOON)
    await shop.is_now(order_id, OrderState.CLOSED)
    view = await shop.reconcile(Area.MONEY)
    assert (view.healed, view.left_open) == (0, 1)
    assert "has left with the carrier" in (await shop.task()).why_flagged[1].reason


async def test_an_answer_that_got_lost_is_written_down_with_all_that_follows(shop: Shop) -> None:
    order_id = await shop.reserved()
    answer = await run(
        shop.money.authorise_payment,
        AuthorisePayment(order_id=order_id, amount=TOTAL, key=f"order:{order_id}:authorise:1"),
    )
    lost = shop.payments
    shop.payments = cast(PaymentProvider, Broken(_Deaf(lost), OutcomeUnknown("lost"), "find_capture"))
    with pytest.raises(Exception, match="lost"):
        await shop.captured(order_id, str(answer.authorisation_id))
    shop.payments = lost
    view = await shop.reconcile(Area.MONEY)
    assert (view.differing, view.healed, view.left_open) == (1, 1, 0)
    (capture,) = await shop.sql("SELECT state, provider_ref FROM payment_operations WHERE kind = 'capture'")
    assert capture["state"] == "confirmed"
    (units,) = await shop.sql("SELECT state FROM reserved_units")
    assert units["state"] == "consumed", "the goods that were paid for are gone"
    assert (await shop.captured(order_id, str(answer.authorisation_id))) == capture["provider_ref"], (
        "the step of the order finds the answer"
    )


class _Deaf:
    """A provider that captures, and whose answer never comes."""

    def __init__(self, port: PaymentProvider) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        if name != "capture":
            return getattr(self._port, name)

        async def call(**arguments: Any) -> Any:
            await self._port.capture(**arguments)
            raise OutcomeUnknown("lost")

        return call


async def test_a_hold_that_was_given_back_by_hand_is_closed_in_our_books_too(shop: Shop) -> None:
    order_id, _ = await shop.authorised()
    await shop.payments.void_by_key(key="dashboard", authorisation_key=f"order:{order_id}:authorise:1")
    assert (await shop.reconcile(Area.MONEY)).opened == 1, "its order still counts on it"
    await shop.is_now(order_id, OrderState.CANCELLED)
    view = await shop.reconcile(Area.MONEY)
    assert (view.healed, view.left_open) == (1, 0)
    async with shop.store.transaction() as session:
        assert (await reads.money(session, order_id, "GBP")).held == gbp(0)


async def test_an_answer_that_may_still_come_is_left_alone(shop: Shop) -> None:
    shop.terms = Terms(grace=timedelta(minutes=5))
    order_id, held = await shop.authorised()
    await shop.captured(order_id, held)
    await shop.past_every_trigger(
        "UPDATE payment_operations SET state = 'intended', provider_ref = NULL, answer = NULL, answered_at = NULL"
        " WHERE kind = 'capture'"
    )
    view = await shop.reconcile(Area.MONEY)
    assert (view.differing, view.under_way, view.left_open) == (0, 1, 0)


async def test_what_was_only_intended_and_never_done_is_no_difference(shop: Shop) -> None:
    order_id, held = await shop.authorised()
    await shop.sql(
        "INSERT INTO payment_operations (key, order_id, kind, state, parent, amount_minor, currency, intended_at)"
        " VALUES ('k', :order_id, 'capture', 'intended', :held, 100, 'GBP', now() - interval '2 hours')",
        order_id=order_id,
        held=held,
    )
    assert (await shop.reconcile(Area.MONEY)).differing == 0


# --- labels ---
async def test_labels_that_agree_have_no_difference(shop: Shop) -> None:
    order_id = await shop.order()
    shipment = await shop.ship(order_id, ShipmentState.LABELLED)
    await shop.know_label(shipment, await shop.label(shipment, "l1"), "l1")
    view = await shop.reconcile(Area.LABELS)
    assert (view.checked, view.differing) == (1, 0)


async def test_the_label_of_a_cancelled_shipment_is_given_back(shop: Shop) -> None:
    order_id = await shop.order()
    shipment = await shop.ship(order_id, ShipmentState.CANCELLED)
    await shop.know_label(shipment, await shop.label(shipment, "l1"), "l1")
    view = await shop.reconcile(Area.LABELS)
    assert (view.healed, view.left_open) == (1, 0)
    assert (await shop.carrier.statement(reference=shipment)).lines[0].state == "undone"
    (row,) = await shop.sql("SELECT state FROM shipping_operations WHERE kind = 'label'")
    assert row["state"] == "called_off"
    assert len(await shop.timeline(order_id)) == 1
    assert (await shop.reconcile(Area.LABELS)).differing == 0


async def test_a_label_that_nobody_of_ours_bought_is_put_before_a_person(shop: Shop) -> None:
    order_id = await shop.order()
    shipment = await shop.ship(order_id, ShipmentState.LABELLED)
    await shop.know_label(shipment, await shop.label(shipment, "l1"), "l1")
    stranger = await shop.label(shipment)
    await shop.reconcile(Area.LABELS)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id) == (DifferenceKind.LABEL_UNKNOWN, order_id)
    assert difference.theirs.found[0]["line_id"] == stranger


async def test_a_parcel_that_left_without_a_label_is_put_before_a_person(shop: Shop) -> None:
    order_id = await shop.order()
    await shop.ship(order_id, ShipmentState.IN_TRANSIT, handed_over_at=NOON)
    await shop.reconcile(Area.LABELS)
    assert (await shop.only_difference()).kind is DifferenceKind.LEFT_WITHOUT_LABEL


async def test_a_label_of_another_price_is_put_before_a_person(shop: Shop) -> None:
    order_id = await shop.order()
    shipment = await shop.ship(order_id, ShipmentState.LABELLED)
    await shop.know_label(shipment, await shop.label(shipment, "l1", price=450), "l1")
    await shop.reconcile(Area.LABELS)
    assert (await shop.only_difference()).kind is DifferenceKind.LABEL_COST_DIFFERS


async def test_a_label_whose_answer_got_lost_is_written_down(shop: Shop) -> None:
    order_id = await shop.order()
    shipment = await shop.ship(order_id, ShipmentState.PICKED)
    label = await shop.label(shipment, "l1")
    await shop.know_label(shipment, None, "l1", state="intended")
    assert (await shop.reconcile(Area.LABELS)).healed == 1
    (row,) = await shop.sql("SELECT state, provider_ref FROM shipping_operations")
    assert (row["state"], row["provider_ref"]) == ("confirmed", label)


# --- reservations and stock ---
async def test_units_that_an_open_order_holds_are_no_difference(shop: Shop) -> None:
    order_id = await shop.reserved()
    await shop.ship(order_id, ShipmentState.PICKED)
    await shop.is_now(order_id, OrderState.RELEASED)
    view = await shop.reconcile(Area.STOCK)
    assert (view.differing, view.left_open) == (0, 0)
    assert view.checked == 2, "the order, and the stock row"


async def test_units_that_an_ended_order_holds_are_freed(shop: Shop) -> None:
    order_id = await shop.reserved(units=3)
    await shop.is_now(order_id, OrderState.CANCELLED)
    view = await shop.reconcile(Area.STOCK)
    assert (view.healed, view.left_open) == (1, 0)
    assert (await shop.sql("SELECT sum(reserved) AS reserved FROM stock"))[0]["reserved"] == 0
    assert len(await shop.timeline(order_id)) == 1
    assert (await shop.reconcile(Area.STOCK)).differing == 0


async def test_more_units_than_the_limit_wait_for_a_person(shop: Shop) -> None:
    shop.terms = Terms(grace=timedelta(0), release_up_to_units=2)
    order_id = await shop.reserved(units=3)
    await shop.is_now(order_id, OrderState.CANCELLED)
    assert (await shop.reconcile(Area.STOCK)).left_open == 1
    assert (await shop.sql("SELECT sum(reserved) AS reserved FROM stock"))[0]["reserved"] == 3
    await shop.answers(Verdict.APPROVE)
    assert (await shop.reconcile(Area.STOCK)).healed == 1
    assert (await shop.sql("SELECT sum(reserved) AS reserved FROM stock"))[0]["reserved"] == 0


async def test_a_mend_that_the_database_refuses_is_put_before_a_person(shop: Shop) -> None:
    order_id = await shop.reserved(units=3)
    await shop.is_now(order_id, OrderState.CANCELLED)
    await shop.sql("UPDATE stock SET reserved = 1")
    view = await shop.reconcile(Area.STOCK)
    assert (view.healed, view.left_open) == (0, 2)
    kinds = {one.kind: one for one in await shop.differences()}
    assert set(kinds) == {DifferenceKind.HELD_FOR_ENDED, DifferenceKind.RESERVED_DIFFERS}
    async with shop.store.transaction() as session:
        task = await reads.review(session, str(kinds[DifferenceKind.HELD_FOR_ENDED].task_id))
    assert task is not None
    assert task.why_flagged[1].code == "not_mended"


async def test_units_that_a_parcel_of_an_ended_order_still_needs_are_left(shop: Shop) -> None:
    order_id = await shop.reserved()
    await shop.ship(order_id, ShipmentState.PICKED)
    await shop.is_now(order_id, OrderState.CANCELLED)
    assert (await shop.reconcile(Area.STOCK)).differing == 0


async def test_a_released_order_without_a_reservation_is_put_before_a_person(shop: Shop) -> None:
    order_id = await shop.reserved()
    await shop.ship(order_id, ShipmentState.PICKED)
    await shop.is_now(order_id, OrderState.RELEASED)
    async with shop.store.transaction() as session:
        await stock.release(session, key=f"order:{order_id}:reserve:1", order_id=order_id)
    await shop.reconcile(Area.STOCK)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id) == (DifferenceKind.OPEN_WITHOUT_RESERVATION, order_id)


async def test_a_paid_order_without_stock_is_put_before_a_person(shop: Shop) -> None:
    order_id, _ = await shop.authorised()
    await shop.is_now(order_id, OrderState.RELEASED)
    await shop.reconcile(Area.STOCK)
    assert (await shop.only_difference()).kind is DifferenceKind.PAID_WITHOUT_STOCK


async def test_units_held_for_an_order_that_never_was_are_put_before_a_person(shop: Shop) -> None:
    await shop.reserved()
    await shop.sql("UPDATE reservations SET order_id = 'web:never-was'")
    await shop.reconcile(Area.STOCK)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id) == (DifferenceKind.HELD_FOR_UNKNOWN, None)
    await shop.answers(Verdict.APPROVE)
    assert (await shop.reconcile(Area.STOCK)).healed == 1


async def test_a_reserved_count_that_no_reservation_explains_is_put_before_a_person(shop: Shop) -> None:
    await shop.reserved(units=2)
    await shop.sql("UPDATE stock SET reserved = 5")
    await shop.reconcile(Area.STOCK)
    difference = await shop.only_difference()
    assert difference.kind is DifferenceKind.RESERVED_DIFFERS
    assert (difference.ours.found[0]["reserved"], difference.theirs.found[0]["held"]) == (5, 2)


async def test_a_row_that_is_not_the_sum_of_its_movements_is_put_before_a_person(shop: Shop) -> None:
    await shop.reserved(units=2)
    assert (await shop.reconcile(Area.STOCK)).differing == 0
    await shop.past_every_trigger("UPDATE stock SET on_hand = on_hand + 7")
    await shop.reconcile(Area.STOCK)
    difference = await shop.only_difference()
    assert (difference.kind, difference.order_id) == (DifferenceKind.MOVEMENTS_DIFFER, None)
    assert difference.ours.found[0]["on_hand"] - difference.theirs.found[0]["on_hand"] == 7
    assert (await shop.task()).sides == (difference.ours, difference.theirs)
    await shop.past_every_trigger("UPDATE stock SET on_hand = on_hand - 7")
    assert (await shop.reconcile(Area.STOCK)).left_open == 0


async def test_a_counter_that_counted_other_units_is_put_before_a_person(shop: Shop) -> None:
    await shop.reserved(units=2)
    (row,) = await shop.sql("SELECT sku FROM stock")
    async with shop.store.transaction() as session:
        rule = {"rule_id": "cap", "kind": "cap", "sku": row["sku"], "units": 5}
        await allocate(
            session,
            AllocationPolicy.model_validate({"document_id": "rules-1", "actor": "jo", "rules": [rule]}),
        )
    assert (await shop.reconcile(Area.STOCK)).differing == 0
    await shop.past_every_trigger("UPDATE stock_allocation_use SET used = used + 3")
    await shop.reconcile(Area.STOCK)
    difference = await shop.only_difference()
    assert difference.kind is DifferenceKind.ALLOCATION_DIFFERS
    assert difference.ours.found[0]["counted"] - difference.theirs.found[0]["units"] == 3
    assert (await shop.task()).sides == (difference.ours, difference.theirs)
    await shop.past_every_trigger("UPDATE stock_allocation_use SET used = used - 3")
    view = await shop.reconcile(Area.STOCK)
    assert (view.gone, view.left_open) == (1, 0)


async def test_every_row_is_compared_however_many_there_are(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.reconciliation._STOCK_ROWS_AT_ONCE", 2)
    monkeypatch.setattr("activities.reconciliation._STOCK_ROWS", 4)
    await shop.reserved(units=1)
    for number in range(10):
        await shop.sql(
            "INSERT INTO stock (node, sku, on_hand, reserved) SELECT node_id, :sku, 5, 0 FROM nodes LIMIT 1",
            sku=f"MANY-{number}",
        )
    await shop.past_every_trigger("UPDATE stock SET on_hand = 6 WHERE sku LIKE 'MANY-%'")
    view = await shop.reconcile(Area.STOCK)
    assert view.opened == 10


# --- what becomes of differences ---
async def test_a_difference_is_asked_once_and_taken_off_the_list_when_it_has_gone(shop: Shop) -> None:
    await shop.reserved(units=2)
    await shop.sql("UPDATE stock SET reserved = 5")
    assert (await shop.reconcile(Area.STOCK)).opened == 1
    task = await shop.task()
    assert (await shop.reconcile(Area.STOCK)).opened == 0
    assert (await shop.task()).task_id == task.task_id
    await shop.sql("UPDATE stock SET reserved = 2")
    view = await shop.reconcile(Area.STOCK)
    assert (view.gone, view.left_open) == (1, 0)
    difference = await shop.only_difference()
    assert (difference.state, difference.rule) == (DifferenceState.HEALED, Rule.GONE)
    assert (await shop.task()).state is ReviewState.WITHDRAWN
    await shop.sql("UPDATE stock SET reserved = 5")
    assert (await shop.reconcile(Area.STOCK)).opened == 1
    assert (await shop.only_difference()).times == 2
    assert (await shop.task()).task_id != task.task_id


async def test_an_accepted_difference_is_asked_again_only_when_a_side_changes(shop: Shop) -> None:
    await shop.reserved(units=2)
    await shop.sql("UPDATE stock SET reserved = 5")
    await shop.reconcile(Area.STOCK)
    await shop.answers(Verdict.REJECT)
    view = await shop.reconcile(Area.STOCK)
    assert (view.differing, view.left_open) == (0, 0)
    accepted_one = await shop.only_difference()
    assert (accepted_one.state, accepted_one.settled_by) == (DifferenceState.ACCEPTED, "dana")
    await shop.sql("UPDATE stock SET reserved = 6")
    assert (await shop.reconcile(Area.STOCK)).left_open == 1


async def test_what_was_looked_after_is_compared_again(shop: Shop) -> None:
    await shop.reserved(units=2)
    await shop.sql("UPDATE stock SET reserved = 5")
    await shop.reconcile(Area.STOCK)
    await shop.answers(Verdict.FINISH)
    assert (await shop.only_difference()).state is DifferenceState.RESOLVED
    assert (await shop.reconcile(Area.STOCK)).opened == 1, "it is still there"


async def test_an_answer_to_a_difference_that_has_gone_is_refused(shop: Shop) -> None:
    await shop.reserved(units=2)
    await shop.sql("UPDATE stock SET reserved = 5")
    await shop.reconcile(Area.STOCK)
    task = await shop.task()
    await shop.sql("UPDATE stock SET reserved = 2")
    await shop.reconcile(Area.STOCK)
    with pytest.raises(Refused, match="gone"):
        async with shop.store.transaction() as session:
            await books.decide(session, task.task_id, Verdict.REJECT, actor="dana", reason="late")


async def test_the_invariant_job_takes_no_difference_for_a_broken_run(shop: Shop) -> None:
    await shop.reserved(units=2)
    await shop.sql("UPDATE stock SET reserved = 5")
    await shop.reconcile(Area.STOCK)
    async with shop.store.transaction() as session:
        assert await broken.open_tasks(session) == []


async def test_two_runs_at_once_mend_and_ask_once(shop: Shop) -> None:
    ended, _ = await shop.authorised()
    await shop.is_now(ended, OrderState.CANCELLED)
    _, held = await shop.authorised()
    await shop.payments.capture(key="somebody", authorisation_id=held, amount=gbp(300))
    await asyncio.gather(*(shop.reconcile(Area.MONEY) for _ in range(4)))
    assert len(await shop.timeline(ended)) == 1
    voids = [line for line in (await shop.payments.statement(reference=ended)).lines if line.kind == "void"]
    assert [line.amount for line in voids] == [TOTAL]
    tasks = await shop.sql("SELECT task_id, state FROM review_tasks")
    assert [task["state"] for task in tasks] == ["open"]
    assert {one.key: one.times for one in await shop.differences()} == {
        one.key: 1 for one in await shop.differences()
    }


async def test_a_mend_whose_answer_got_lost_is_found_and_not_repeated(shop: Shop) -> None:
    order_id, _ = await shop.authorised()
    await shop.is_now(order_id, OrderState.CANCELLED)
    whole = shop.payments

    class LosesTheVoid:
        def __getattr__(self, name: str) -> Any:
            method = getattr(whole, name)

            async def call(**arguments: Any) -> Any:
                answer = await method(**arguments)
                if name == "void_by_key":
                    raise OutcomeUnknown("the answer to the void was lost")
                return answer

            return call

    shop.payments = cast(PaymentProvider, LosesTheVoid())
    with pytest.raises(Exception, match="lost"):
        await shop.reconcile(Area.MONEY)
    shop.payments = whole
    await shop.reconcile(Area.MONEY)
    voids = [line for line in (await whole.statement(reference=order_id)).lines if line.kind == "void"]
    assert [line.amount for line in voids] == [TOTAL]
    async with shop.store.transaction() as session:
        assert (await reads.money(session, order_id, "GBP")).held == gbp(0)


# --- reading statements ---
async def test_a_statement_that_breaks_off_is_read_on_from_where_it_broke(shop: Shop) -> None:
    for _ in range(5):
        await shop.authorised()
    whole = await shop.payments.statement()
    pages = [
        StatementPage(lines=(line,), next_cursor=str(number)) for number, line in enumerate(whole.lines, 1)
    ]
    pages[-1] = pages[-1].model_copy(update={"next_cursor": None})
    asked: list[str | None] = []

    class InPieces:
        failing = True

        async def statement(
            self, *, since: Any = None, reference: Any = None, cursor: str | None = None
        ) -> Any:
            asked.append(cursor)
            if cursor == "3" and self.failing:
                raise NeighbourUnavailable("away")
            return pages[int(cursor or 0)]

    provider = InPieces()
    money = MoneyReconciliation(shop.store, cast(PaymentProvider, provider), shop.terms)
    read = ReadStatement(run_id="r", since=NOON)
    with pytest.raises(Exception, match="away"):
        await run(money.read_payment_statement, read)
    assert len(await shop.sql("SELECT line_id FROM statement_lines")) == 3
    provider.failing = False
    answer = await run(money.read_payment_statement, read.model_copy(update={"cursor": "3"}))
    assert (answer.lines, answer.cursor) == (2, None)
    assert len(await shop.sql("SELECT line_id FROM statement_lines")) == 5


async def test_a_run_looks_back_a_day_beyond_the_one_before_it_and_a_failed_one_does_not_count(
    shop: Shop,
) -> None:
    first = await shop.reconcile(Area.STOCK)
    steps = ReconciliationActivities(shop.store)
    failed = BeginReconciliation(run_id="failed", area=Area.STOCK)
    await run(steps.begin_reconciliation, failed)
    await run(
        steps.finish_reconciliation,
        FinishReconciliation(run_id="failed", area=Area.STOCK, tally=Tally(), failure="away"),
    )
    second = await shop.reconcile(Area.STOCK)
    assert first.since.year == 1970
    assert second.since == first.started_at - timedelta(days=1)
    assert (await shop.reconcile(Area.STOCK, everything=True)).since.year == 1970


async def test_a_piece_ends_within_its_time_and_says_where_the_next_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        order_id, _ = await shop.authorised()
        await shop.is_now(order_id, OrderState.CANCELLED)
    monkeypatch.setattr("activities.reconciliation._LONG_ENOUGH", -1.0)
    money = MoneyReconciliation(shop.store, shop.payments, shop.terms)
    await run(money.read_payment_statement, ReadStatement(run_id="r", since=NOON))
    cursor: str | None = ""
    pieces = 0
    while cursor is not None:
        answer = await run(money.compare_money, Compare(run_id="r", since=NOON, cursor=cursor))
        cursor, pieces = answer.cursor, pieces + 1
        assert answer.tally.healed == 1
    assert pieces == 3
