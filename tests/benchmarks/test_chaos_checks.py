"""A check that cannot fail is worth nothing: each violation is planted, and found by its own invariant and no other."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from activities.store.store import Store
from apps.simulators.faults import HARSH, FaultKind
from apps.simulators.ledger import REFUSED, WAITING
from benchmarks.chaos.checks import Invariant, ambiguous_messages
from benchmarks.chaos.evidence import Issued, oversold_now, working_orders, working_shipments
from models.outbox import OutboxEvent, Topic
from tests.benchmarks.chaos_world import (
    CAPTURE,
    CAPTURED,
    CARD_CODE,
    CARD_VALUE,
    CONFIRMED_MESSAGE,
    NODE,
    ORDER,
    SHIPMENT,
    SKU,
    STOCKED,
    TOTAL,
    UNITS,
    World,
    a_document,
    a_shipment,
    a_sound_world,
    an_amendment,
    an_effect,
    an_event,
    an_order,
    asked,
    happened,
    hear,
    issued,
    lost,
    message,
    money,
    moved,
    posted,
    units,
)

I = Invariant  # noqa: E741


@pytest.fixture
async def world(store: Store, tmp_path: Path) -> World:
    return await a_sound_world(store, tmp_path)


async def test_a_sound_world_breaks_nothing_and_every_invariant_has_looked_at_something(world: World) -> None:
    judged = await world.judged()
    assert await world.broken_of_all() == {}
    assert [invariant for invariant, result in judged.items() if result.checked == 0] == [I.REFUNDED_ONCE]


# --- orders ---
async def test_an_accepted_order_that_is_not_there_is_found(world: World) -> None:
    world.acknowledged |= {"web:2002"}
    assert await world.broken() == {I.ORDERS_KEPT: ["web:2002: was accepted, and is not there"]}


async def test_an_accepted_order_that_never_started_is_found(world: World) -> None:
    await an_order(world, "web:2002", state="received")
    world.acknowledged |= {"web:2002"}
    await world.sql("UPDATE intake SET state = 'accepted', started_at = NULL WHERE order_id = 'web:2002'")
    assert await world.broken() == {I.ORDERS_KEPT: ["web:2002: was accepted, and never started"]}


async def test_a_document_of_which_no_order_became_is_found(world: World) -> None:
    await world.sql("DELETE FROM orders")
    assert (await world.broken())[I.ORDERS_KEPT] == [f"{ORDER}: was accepted, and no order became of it"]


# --- amendments ---
async def test_an_amendment_that_was_taken_and_is_not_there_is_found(world: World) -> None:
    world.told.amended["amend-9"] = ORDER
    assert await world.broken() == {
        I.AMENDED_ONCE: [f"{ORDER}: amendment amend-9 was taken, and is not there"]
    }


async def test_an_amendment_that_waits_though_its_order_has_ended_is_found(world: World) -> None:
    await an_amendment(world, number=3, base_version=2, state="proposed")
    assert await world.broken() == {
        I.AMENDED_ONCE: [f"{ORDER}: amendment amend-3 was never decided, and the order has ended"]
    }
    await world.sql("UPDATE orders SET state = 'in_review'")
    assert I.AMENDED_ONCE not in await world.broken()


async def test_an_amendment_of_a_version_that_was_not_in_force_is_found(world: World) -> None:
    await an_amendment(world, number=4, base_version=3)
    assert await world.broken() == {
        I.AMENDED_ONCE: [f"{ORDER}: version 4 was made of version 3, and 2 was in force"]
    }


async def test_a_refused_amendment_changes_nothing_and_is_no_fault(world: World) -> None:
    await an_amendment(world, number=3, base_version=2, state="refused", total=1, quantity=1)
    assert await world.broken() == {}


@pytest.mark.parametrize(
    ("total", "quantity", "wrong"),
    [
        (TOTAL - 1, UNITS, f"it costs {TOTAL}, by version 3 of its document {TOTAL - 1}"),
        (TOTAL, UNITS + 1, "its lines are not those of version 3 of its document"),
    ],
)
async def test_an_order_that_is_not_what_its_last_amendment_makes_of_it_is_found(
    world: World, total: int, quantity: int, wrong: str
) -> None:
    await an_amendment(world, number=3, base_version=2, total=total, quantity=quantity)
    assert await world.broken() == {I.AMENDED_ONCE: [f"{ORDER}: {wrong}"]}


async def test_a_wrong_answer_to_an_amendment_is_found(world: World) -> None:
    world.told.wrong_amendments.append((ORDER, "was answered 404"))
    assert await world.broken() == {I.AMENDED_ONCE: [f"{ORDER}: was answered 404"]}


# --- goods ---
async def test_more_promised_than_is_there_is_found_now_and_under_way(
    fresh_store: Store, tmp_path: Path
) -> None:
    world = await a_sound_world(fresh_store, tmp_path)
    await world.without_constraint("stock", "ck_stock_reserved_within_on_hand")
    await world.sql("UPDATE stock SET reserved = on_hand + 1")
    assert I.NEVER_OVERSOLD in await world.broken()
    assert [(row.node, row.sku) for row in await oversold_now(world.store)] == [(NODE, SKU)]


async def test_more_promised_than_was_there_for_one_moment_is_found_though_it_is_right_now(
    world: World,
) -> None:
    left = STOCKED - UNITS
    await moved(world, "reserve", 0, left + 1, to=(left, left + 1), source="order:web:2002:reserve:1")
    await moved(world, "release", 0, -left - 1, to=(left, 0), source="order:web:2002:reserve:1")
    assert await world.broken() == {
        I.NEVER_OVERSOLD: [
            f"web:2002: {SKU} at {NODE}: 8 reserved of 7 on hand after movement {await last(world) - 1} (reserve)"
        ]
    }


async def test_more_given_away_than_there_ever_was_is_found_though_each_row_looks_right(world: World) -> None:
    await an_order(world, "web:2002", state="in_review")
    held = STOCKED - UNITS + 1
    await units(world, "order:web:2002:reserve:1", "web:2002:1", "held", quantity=held, order_id="web:2002")
    await moved(world, "seed", 1, held, to=(held, held))
    await world.sql("UPDATE stock SET on_hand = :held, reserved = :held", held=held)
    assert await world.broken() == {
        I.NEVER_OVERSOLD: [f"None: {SKU} at {NODE}: 11 given away of 10 that were ever there"]
    }


async def test_what_a_receipt_brought_may_be_given_away(world: World) -> None:
    await an_order(world, "web:2002", state="in_review")
    held = STOCKED - UNITS + 1
    await units(world, "order:web:2002:reserve:1", "web:2002:1", "held", quantity=held, order_id="web:2002")
    await moved(world, "receipt", 1, 0, to=(held, 0))
    await moved(world, "reserve", 0, held, to=(held, held), source="order:web:2002:reserve:1")
    await world.sql("UPDATE stock SET on_hand = :held, reserved = :held", held=held)
    assert await world.broken() == {}


@pytest.mark.parametrize("change", [-1, +1])
async def test_a_unit_lost_or_won_without_a_movement_is_found(world: World, change: int) -> None:
    await world.sql("UPDATE stock SET on_hand = on_hand + :change", change=change)
    assert await world.broken() == {
        I.STOCK_ADDS_UP: [
            f"None: {SKU} at {NODE}: {7 + change} on hand and 0 reserved, its movements come to 7 and 0"
        ]
    }


async def test_a_movement_that_nobody_explains_is_found(world: World) -> None:
    await moved(world, "unexplained", -1, 0, to=(6, 0))
    await world.sql("UPDATE stock SET on_hand = 6")
    assert list(await world.broken()) == [I.STOCK_ADDS_UP]


async def test_a_movement_that_does_not_follow_from_the_one_before_is_found(world: World) -> None:
    await moved(world, "receipt", 1, 0, to=(9, 0))
    await world.sql("UPDATE stock SET on_hand = 8")
    assert list(await world.broken()) == [I.STOCK_ADDS_UP]


async def test_units_reserved_for_nobody_are_found(world: World) -> None:
    await moved(world, "reserve", 0, 2, to=(7, 2), source="order:web:2002:reserve:1")
    await world.sql("UPDATE stock SET reserved = 2")
    assert await world.broken() == {
        I.MOVEMENTS_ARE_ORDERS: [f"None: {SKU} at {NODE}: movements reserve 2, open orders hold 0"]
    }


async def test_units_that_an_ended_order_still_holds_are_found(world: World) -> None:
    await units(world, "order:web:1001:reserve:2", "web:1001:2", "held", quantity=2)
    await moved(world, "reserve", 0, 2, to=(7, 2), source="order:web:1001:reserve:2")
    await world.sql("UPDATE stock SET reserved = 2")
    assert await world.broken() == {
        I.MOVEMENTS_ARE_ORDERS: [f"{ORDER}: 2 of {SKU} are held for it, and it is closed"]
    }


@pytest.mark.parametrize("out", [UNITS - 1, UNITS + 1])
async def test_a_shipment_that_took_out_more_or_less_than_left_with_it_is_found(
    world: World, out: int
) -> None:
    await world.sql("DELETE FROM stock_movements WHERE kind = 'ship'")
    await moved(world, "ship", -out, -UNITS, to=(STOCKED - out, 0), source=SHIPMENT)
    await world.sql("UPDATE stock SET on_hand = :rest", rest=STOCKED - out)
    assert await world.broken() == {
        I.MOVEMENTS_ARE_ORDERS: [
            f"{ORDER}: {SKU} at {NODE}: movements took out {out} for shipment {SHIPMENT}, 3 left with it"
        ]
    }


async def test_units_shipped_for_an_order_that_is_not_there_are_found(world: World) -> None:
    await moved(world, "ship", -1, 0, to=(6, 0), source="web:2002:1")
    await world.sql("UPDATE stock SET on_hand = 6")
    assert await world.broken() == {
        I.MOVEMENTS_ARE_ORDERS: [
            f"web:2002: {SKU} at {NODE}: movements took out 1 for shipment web:2002:1, 0 left with it"
        ]
    }


async def test_a_stock_row_that_is_gone_is_found(world: World) -> None:
    await world.sql("DELETE FROM stock")
    assert await world.broken() == {I.STOCK_ADDS_UP: [f"None: {SKU} at {NODE} is gone"]}


# --- documents of warehouses ---
async def received(world: World, *moves: int, kind: str = "receipt", said: int = 2) -> None:
    """A document of so many units, and the movements under its id."""
    await a_document(world, "doc-1", kind, said)
    on_hand = STOCKED - UNITS
    for number, by in enumerate(moves):
        on_hand += by
        # A second one under the same source the database refuses.
        await moved(world, kind, by, 0, to=(on_hand, 0), source=str(number or ""), document_id="doc-1")
    await world.sql("UPDATE stock SET on_hand = :on_hand", on_hand=on_hand)


async def test_documents_that_moved_what_they_say_are_no_fault(world: World) -> None:
    await received(world, 2)
    assert await world.broken() == {}


@pytest.mark.parametrize(
    ("kind", "moves", "wrong"),
    [
        ("receipt", (), "was moved by 0 in 0 movements, 2 due in one"),
        ("receipt", (2, 2), "was moved by 4 in 2 movements, 2 due in one"),
        ("receipt", (1,), "was moved by 1 in 1 movements, 2 due in one"),
        ("damage", (2,), "was moved by 2 in 1 movements, -2 due in one"),
        ("damage", (-2, -2), "was moved by -4 in 2 movements, -2 due in one"),
        ("count", (-6,), "was moved to 1, and 2 were counted"),
        ("count", (-3, -2), "was moved to 4, 2, and 2 were counted"),
    ],
)
async def test_a_document_that_moved_something_else_is_found(
    world: World, kind: str, moves: tuple[int, ...], wrong: str
) -> None:
    await received(world, *moves, kind=kind)
    assert await world.broken() == {
        I.DOCUMENTS_APPLIED_ONCE: [f"None: {kind} doc-1: {SKU} at {NODE} {wrong}"]
    }


async def test_a_document_that_was_answered_and_is_not_there_is_found(world: World) -> None:
    world.told.documents["doc-9"] = {"document_id": "doc-9", "stock": []}
    assert await world.broken() == {
        I.DOCUMENTS_APPLIED_ONCE: ["None: document doc-9 was answered, and is not there"]
    }


async def test_a_document_that_was_answered_otherwise_is_found(world: World) -> None:
    world.told.documents["count-1"] = {"document_id": "count-1", "stock": [1]}
    assert await world.broken() == {
        I.DOCUMENTS_APPLIED_ONCE: ["None: document count-1 was answered otherwise than our books say"]
    }


async def test_a_movement_by_a_document_that_is_not_there_is_found(world: World) -> None:
    await moved(world, "receipt", 1, 0, to=(8, 0), document_id="nowhere")
    await world.sql("UPDATE stock SET on_hand = 8")
    assert await world.broken() == {
        I.DOCUMENTS_APPLIED_ONCE: [f"None: {SKU} at {NODE} was moved by document nowhere, which is not there"]
    }


@pytest.mark.parametrize(("state", "told"), [("in_review", False), ("closed", True)])
async def test_an_order_that_was_never_told_of_units_it_lost_is_found(
    world: World, state: str, *, told: bool
) -> None:
    await lost(world, 1, heard=False)
    await world.sql("UPDATE orders SET state = :state", state=state)
    found = [f"{ORDER}: document count-1 took 1 of {SKU} from {SHIPMENT}, and its order was never told"]
    assert (await world.broken()).get(I.DOCUMENTS_APPLIED_ONCE, []) == ([] if told else found)


@pytest.mark.parametrize(("gone", "fault"), [(1, False), (2, True)])
async def test_what_a_count_took_from_a_parcel_is_not_expected_to_leave_with_it(
    world: World, gone: int, *, fault: bool
) -> None:
    await lost(world, gone)
    await world.sql("UPDATE reserved_units SET quantity = quantity - 1")
    assert (I.GOODS_LEFT_ONCE in await world.broken()) == fault


async def test_a_wrong_answer_to_a_document_is_found(world: World) -> None:
    world.told.wrong_documents.append((None, "was answered 500"))
    assert await world.broken() == {I.DOCUMENTS_APPLIED_ONCE: ["None: was answered 500"]}


async def last(world: World) -> int:
    return (await world.evidence()).movements[-1].number


async def test_a_shipment_that_was_paid_and_took_nothing_out_of_the_stock_is_found(world: World) -> None:
    await world.sql("UPDATE reserved_units SET state = 'released'")
    assert (await world.broken())[I.GOODS_LEFT_ONCE] == [
        f"{ORDER}: shipment {SHIPMENT} (delivered): 0 units taken out of the stock, 3 due"
    ]


async def test_a_shipment_whose_units_left_twice_is_found(world: World) -> None:
    await units(world, "order:web:1001:reserve:2", SHIPMENT, "consumed")
    assert (await world.broken())[I.GOODS_LEFT_ONCE] == [
        f"{ORDER}: shipment {SHIPMENT} (delivered): 6 units taken out of the stock, 3 due",
        f"{ORDER}: shipment {SHIPMENT} left by several reservations",
    ]


# --- money ---
async def test_a_transaction_that_does_not_add_up_is_found(world: World) -> None:
    await world.sql("UPDATE ledger_entries SET amount_minor = amount_minor - 1 WHERE account = 'sales.goods'")
    assert await world.broken() == {I.LEDGER_MATCHES_STATEMENT: [f"{ORDER}: {CAPTURE} is out by -1 GBP"]}


@pytest.mark.parametrize("account", ["held.authorised", "provider.clearing"])
async def test_a_penny_between_ledger_and_statement_is_found(world: World, account: str) -> None:
    await posted(world, f"order:{ORDER}:adjust:1", "adjustment", {account: 1, "suspense": -1})
    assert list(await world.broken()) == [I.LEDGER_MATCHES_STATEMENT]


async def test_a_charge_that_was_not_posted_is_found(world: World) -> None:
    await world.sql("DELETE FROM ledger_entries WHERE transaction_id = :key", key=CAPTURE)
    assert list(await world.broken()) == [I.LEDGER_MATCHES_STATEMENT]


async def test_a_charge_that_our_books_do_not_know_is_found(world: World) -> None:
    await world.sql("DELETE FROM payment_operations WHERE kind = 'capture'")
    broken = await world.broken()
    assert broken[I.BOOKS_MATCH_STATEMENT] == [
        f"{ORDER}: the provider has a capture under {CAPTURE}, our books have none"
    ]


async def test_a_charge_that_the_provider_does_not_know_is_found(world: World) -> None:
    await money(world, f"shipment:{SHIPMENT}:capture:2", "capture", 1, "cap-2", parent="auth-1")
    assert (await world.broken())[I.BOOKS_MATCH_STATEMENT] == [
        f"{ORDER}: our books have capture shipment:{SHIPMENT}:capture:2 of 1, the provider has none"
    ]


async def test_a_penny_of_difference_is_found(world: World) -> None:
    await world.sql("UPDATE payment_operations SET amount_minor = amount_minor - 1 WHERE kind = 'capture'")
    assert list(await world.broken()) == [I.BOOKS_MATCH_STATEMENT]


async def test_a_hold_that_is_called_off_here_and_open_there_is_found(world: World) -> None:
    await world.sql("UPDATE payment_operations SET state = 'called_off' WHERE kind = 'authorise'")
    assert await world.broken() == {}, "it was used up, and then voided to see that nothing is left"
    world.now_is("payment", "auth-1", "open")
    assert list(await world.broken()) == [I.BOOKS_MATCH_STATEMENT]


async def test_a_movement_without_an_answer_that_the_provider_has_made_is_found(world: World) -> None:
    await world.sql(
        "UPDATE payment_operations SET state = 'intended', provider_ref = NULL WHERE kind = 'authorise'"
    )
    assert list(await world.broken()) == [I.BOOKS_MATCH_STATEMENT]


async def test_money_kept_for_what_was_not_delivered_is_found(world: World) -> None:
    await world.sql("UPDATE shipments SET state = 'lost'")
    assert await world.broken() == {
        I.PAID_FOR_WHAT_WAS_DELIVERED: [f"{ORDER}: it is closed, 0 were delivered of it, and {TOTAL} charged"]
    }


async def test_goods_delivered_and_paid_back_are_found(world: World) -> None:
    key = f"shipment:{SHIPMENT}:refund:1"
    await money(world, key, "refund", TOTAL, "ref-1", parent="cap-1")
    world.did(
        "payment", an_effect("refund", key, "refunded", parent_id="cap-1", amount_minor=TOTAL, currency="GBP")
    )
    await posted(world, key, "refund", {"refunds.lost_parcel": TOTAL, "provider.clearing": -TOTAL})
    assert list(await world.broken()) == [I.PAID_FOR_WHAT_WAS_DELIVERED]


async def test_an_order_charged_less_than_its_total_though_all_arrived_is_found(world: World) -> None:
    await world.sql("UPDATE orders SET total_minor = total_minor + 1")
    assert list(await world.broken()) == [I.AMENDED_ONCE, I.PAID_FOR_WHAT_WAS_DELIVERED]


async def test_units_that_were_added_and_given_up_again_are_not_to_be_paid_but_others_are(
    world: World,
) -> None:
    await world.sql("UPDATE orders SET total_minor = total_minor + 500, unit_count = unit_count + 2")
    assert I.PAID_FOR_WHAT_WAS_DELIVERED in await world.broken(), "nobody said that they will not come"
    await world.sql(
        "INSERT INTO timeline (entry_id, order_id, at, business_at, actor, kind, what, details, recorded_at) "
        f"SELECT 'dropped', '{ORDER}', now(), now(), 'orderwright', 'order.rest_dropped', 'the rest', '{{}}', now()"
    )
    assert I.PAID_FOR_WHAT_WAS_DELIVERED not in await world.broken()
    await world.sql("UPDATE orders SET unit_count = unit_count - 2")
    assert I.PAID_FOR_WHAT_WAS_DELIVERED in await world.broken(), "all of it arrived"


async def test_a_hold_that_is_left_on_an_ended_order_is_found(world: World) -> None:
    key = f"order:{ORDER}:authorise:2"
    await money(world, key, "authorise", 500, "auth-2")
    world.did(
        "payment",
        an_effect("authorisation", key, "open", effect_id="auth-2", amount_minor=500, currency="GBP"),
    )
    await posted(world, key, "authorise", {"held.authorised": 500, "held.contra": -500})
    assert await world.broken() == {
        I.PAID_FOR_WHAT_WAS_DELIVERED: [f"{ORDER}: it is closed, and the provider still holds 500"]
    }


async def test_a_second_charge_for_a_shipment_is_found_though_both_are_in_the_books(world: World) -> None:
    key = f"shipment:{SHIPMENT}:capture:2"
    await money(world, key, "capture", TOTAL, "cap-2", parent="auth-1")
    world.did(
        "payment",
        an_effect("capture", key, "captured", parent_id="auth-1", amount_minor=TOTAL, currency="GBP"),
    )
    assert (await world.broken())[I.CHARGED_ONCE] == [
        f"{ORDER}: {SHIPMENT} (hold auth-1) was charged 2 times: {CAPTURE}, {key}",
        f"{ORDER}: {2 * TOTAL} charged for shipment {SHIPMENT}, {TOTAL} due",
    ]


async def test_the_part_of_a_second_tender_is_a_charge_for_its_shipment(world: World) -> None:
    of_second = f"{CAPTURE}/2"
    await world.sql("UPDATE payment_operations SET key = :new WHERE key = :key", key=CAPTURE, new=of_second)
    with world.neighbour("payment") as ledger:
        ledger._db.execute("update effects set key = ? where effect_id = 'cap-1'", (of_second,))
    assert await world.broken() == {}


async def test_a_charge_for_a_shipment_that_is_not_there_is_found(world: World) -> None:
    key = "shipment:web:1001:9:capture:1"
    await money(world, key, "capture", 5, "cap-9", parent="auth-1")
    world.did(
        "payment", an_effect("capture", key, "captured", parent_id="auth-1", amount_minor=5, currency="GBP")
    )
    assert (await world.broken())[I.CHARGED_ONCE] == [f"{ORDER}: 5 charged for shipment web:1001:9, None due"]


@pytest.mark.parametrize("from_card", [0, 500, 501])
async def test_what_a_gift_card_paid_of_a_shipment_is_not_expected_of_the_provider(
    world: World, from_card: int
) -> None:
    key = f"shipment:{SHIPMENT}:capture:2"
    await money(world, key, "capture", 500, "gift-1", parent="auth-1")
    await world.sql("UPDATE payment_operations SET tender = 'gift_card' WHERE key = :key", key=key)
    with world.neighbour("payment") as ledger:
        ledger._db.execute(
            "update effects set amount_minor = ? where effect_id = 'cap-1'", (TOTAL - from_card,)
        )
    broken = await world.broken()
    assert (I.CHARGED_ONCE in broken) == (I.PAID_FOR_WHAT_WAS_DELIVERED in broken) == (from_card != 500)


# --- gift cards and credits ---
async def test_value_that_was_put_on_a_card_twice_is_found(world: World) -> None:
    await issued(world, "issue:card-1-again", CARD_VALUE)
    assert await world.broken() == {
        I.VALUE_SPENT_ONCE: [f"None: {2 * CARD_VALUE} were put on {CARD_CODE}, {CARD_VALUE} due"]
    }


async def test_value_that_never_came_on_a_card_is_found(world: World) -> None:
    world.told.issued.append(Issued("card-2", "gift_card:8", 300))
    assert await world.broken() == {I.VALUE_SPENT_ONCE: ["None: 0 were put on gift_card:8, 300 due"]}


async def test_more_taken_from_a_card_than_was_on_it_is_found(world: World) -> None:
    taken = CARD_VALUE + 1
    await posted(
        world, "taken", "capture", {"liability.gift_cards": taken, "sales.goods": -taken}, of_card=True
    )
    assert (await world.broken())[I.VALUE_SPENT_ONCE] == [
        f"None: 1 more were taken from {CARD_CODE} than were on it",
        f"{ORDER}: {taken} were taken for it by the ledger, 0 by our books of payments",
    ]


async def test_value_that_is_still_held_for_an_ended_order_is_found(world: World) -> None:
    await posted(world, "held", "authorise", {"held.authorised": 9, "held.contra": -9}, of_card=True)
    assert await world.broken() == {
        I.VALUE_SPENT_ONCE: [f"{ORDER}: 9 of gift cards or credits are still held for it, and it has ended"]
    }


async def test_a_wrong_answer_about_a_card_is_found(world: World) -> None:
    world.told.wrong_value.append((None, "was answered 409"))
    assert await world.broken() == {I.VALUE_SPENT_ONCE: ["None: was answered 409"]}


async def test_a_second_refund_for_the_same_cause_is_found(world: World) -> None:
    for number in (1, 2):
        key = f"shipment:{SHIPMENT}:refund:{number}"
        await money(world, key, "refund", 100, f"ref-{number}", parent="cap-1")
        world.did(
            "payment",
            an_effect(
                "refund",
                key,
                "refunded",
                parent_id="cap-1",
                amount_minor=100,
                currency="GBP",
                details={"cause": "lost_parcel"},
            ),
        )
    assert [sentence for sentence in (await world.broken())[I.REFUNDED_ONCE] if "2 times" in sentence]


async def test_more_refunded_than_was_charged_is_found(world: World) -> None:
    key = f"shipment:{SHIPMENT}:refund:1"
    await money(world, key, "refund", TOTAL + 1, "ref-1", parent="cap-1")
    world.did(
        "payment",
        an_effect("refund", key, "refunded", parent_id="cap-1", amount_minor=TOTAL + 1, currency="GBP"),
    )
    assert (await world.broken())[I.REFUNDED_ONCE] == [
        f"{ORDER}: {TOTAL + 1} refunded of a charge of {CAPTURED.amount_minor}"
    ]


# --- labels and picks ---
@pytest.mark.parametrize(
    ("kind", "simulator", "state", "invariant"),
    [("label", "carrier", "bought", I.LABELLED_ONCE), ("pick", "warehouse", "accepted", I.PICKED_ONCE)],
)
class TestLabelsAndPicks:
    async def test_a_second_one_in_force_is_found(
        self, world: World, kind: str, simulator: str, state: str, invariant: Invariant
    ) -> None:
        key = f"shipment:{SHIPMENT}:{kind}:2"
        await asked(world, key, kind)
        world.did(simulator, an_effect(kind, key, state, reference=SHIPMENT))
        assert await world.broken() == {
            invariant: [
                f"{ORDER}: {SHIPMENT} was given a {kind} 2 times: shipment:{SHIPMENT}:{kind}:1, {key}"
            ]
        }

    async def test_one_that_our_books_do_not_know_is_found(
        self, world: World, kind: str, simulator: str, state: str, invariant: Invariant
    ) -> None:
        await world.sql("DELETE FROM shipping_operations WHERE kind = :kind", kind=kind)
        assert await world.broken() == {
            invariant: [f"{ORDER}: {kind} shipment:{SHIPMENT}:{kind}:1 is in force, our books do not know it"]
        }

    async def test_one_in_force_for_a_cancelled_shipment_is_found(
        self, world: World, kind: str, simulator: str, state: str, invariant: Invariant
    ) -> None:
        await a_shipment(world, "web:1001:2", "cancelled")
        await asked(world, f"shipment:web:1001:2:{kind}:1", kind, "web:1001:2")
        key = f"shipment:web:1001:2:{kind}:1"
        world.did(simulator, an_effect(kind, key, state, effect_id="other", reference="web:1001:2"))
        assert await world.broken() == {
            invariant: [f"{ORDER}: {kind} {key} is in force, its shipment is cancelled"]
        }

    async def test_an_arrived_shipment_without_one_is_found(
        self, world: World, kind: str, simulator: str, state: str, invariant: Invariant
    ) -> None:
        world.now_is(simulator, {"label": "lab-1", "pick": "pick-1"}[kind], "voided")
        assert await world.broken() == {
            invariant: [f"{ORDER}: shipment {SHIPMENT} is delivered, and no {kind} of it is in force"]
        }


# --- messages and news ---
async def test_a_message_said_twice_under_two_keys_is_found(world: World) -> None:
    key = f"order:{ORDER}:notify-order_confirmed:2"
    await message(world, key, "order_confirmed", "sent", "msg-2")
    world.did("messages", an_effect("message", key, "sent", effect_id="msg-2", reference="order_confirmed"))
    assert await world.broken() == {I.TOLD_ONCE: [f"{ORDER}: order_confirmed was said 2 times about {ORDER}"]}


@pytest.mark.parametrize("parcels", [("1", "2"), ("2", "2")])
async def test_each_parcel_is_told_of_once(world: World, parcels: tuple[str, str]) -> None:
    for number, parcel in enumerate(parcels, start=1):
        key = f"order:{ORDER}:notify-shipped:{number}"
        await message(world, key, "shipped", "sent", f"shipped-{number}")
        told = an_effect("message", key, "sent", effect_id=f"shipped-{number}", reference="shipped")
        world.did("messages", replace(told, details={"facts": {"shipment": parcel}}))
    twice = {I.TOLD_ONCE: [f"{ORDER}: shipped was said 2 times about {ORDER}, shipment 2"]}
    assert await world.broken() == (twice if parcels[0] == parcels[1] else {})


@pytest.mark.parametrize("days", [("2026-03-05", "2026-03-06"), ("2026-03-05", "2026-03-05")])
async def test_each_day_that_is_promised_is_confirmed_once(world: World, days: tuple[str, str]) -> None:
    for number, day in enumerate(days, start=2):
        key = f"order:{ORDER}:notify-order_confirmed:{number}"
        await message(world, key, "order_confirmed", "sent", f"msg-{number}")
        told = an_effect("message", key, "sent", effect_id=f"msg-{number}", reference="order_confirmed")
        world.did("messages", replace(told, details={"facts": {"promised": day}}))
    twice = {I.TOLD_ONCE: [f"{ORDER}: order_confirmed was said 2 times about {ORDER}, promised 2026-03-05"]}
    assert await world.broken() == (twice if days[0] == days[1] else {})


@pytest.mark.parametrize("times", [1, 2])
async def test_each_amendment_is_told_of_once(world: World, times: int) -> None:
    for number in range(1, times + 1):
        key = f"order:{ORDER}:notify-order_amended:{number}"
        await message(world, key, "order_amended", "sent", f"amended-{number}")
        world.did(
            "messages",
            an_effect("message", key, "sent", effect_id=f"amended-{number}", reference="order_amended"),
        )
    twice = {I.TOLD_ONCE: [f"{ORDER}: order_amended was said 2 times about {ORDER}"]}
    assert await world.broken() == (twice if times > 1 else {})


async def test_a_message_that_we_call_sent_and_nobody_sent_is_found(world: World) -> None:
    await message(world, f"order:{ORDER}:notify-shipped:1", "shipped", "sent", "msg-9")
    assert await world.broken() == {
        I.TOLD_ONCE: [f"{ORDER}: message order:{ORDER}:notify-shipped:1 is sent in our books, and never was"]
    }


async def test_a_message_that_our_books_do_not_know_is_found(world: World) -> None:
    await world.sql("DELETE FROM notifications")
    assert await world.broken() == {
        I.TOLD_ONCE: [f"{ORDER}: message {CONFIRMED_MESSAGE} was sent, our books do not know it"]
    }


async def test_a_message_of_another_sending_than_we_know_is_found(world: World) -> None:
    await world.sql("UPDATE notifications SET message_id = 'msg-other'")
    assert list(await world.broken()) == [I.TOLD_ONCE]


async def test_messages_whose_first_sending_had_no_answer_are_counted(world: World) -> None:
    assert ambiguous_messages(await world.evidence()) == 0
    lost = next(n for n, fault in enumerate(HARSH.fault) if fault.do is FaultKind.RESET_AFTER)
    harmless = next(n for n, fault in enumerate(HARSH.fault) if fault.do is FaultKind.LATENCY)
    with world.neighbour("messages") as ledger:
        ledger.count_fault(HARSH.digest(), harmless, CONFIRMED_MESSAGE)
    assert ambiguous_messages(await world.evidence()) == 0
    with world.neighbour("messages") as ledger:
        ledger.count_fault(HARSH.digest(), lost, CONFIRMED_MESSAGE)
    assert ambiguous_messages(await world.evidence()) == 1


async def test_news_that_were_refused_for_good_are_found(world: World) -> None:
    world.owes("carrier", "lab-1:collected", state=REFUSED)
    assert list(await world.broken()) == [I.NEWS_HEARD]


@pytest.mark.parametrize(
    ("error", "state", "fault"),
    [
        ("HTTP 409", "closed", False),
        ("HTTP 410", "rejected", False),
        ("HTTP 409", "awaiting_customer", True),
        ("HTTP 404", "closed", True),
    ],
)
async def test_a_customer_who_pays_is_only_refused_by_an_order_that_does_not_wait_for_it(
    world: World, error: str, state: str, *, fault: bool
) -> None:
    world.owes("messages", "msg-1:pays", state=REFUSED, error=error)
    await world.sql("UPDATE orders SET state = :state", state=state)
    assert (I.NEWS_HEARD in await world.broken()) == fault


async def test_news_that_wait_long_after_they_were_due_are_found_and_those_that_are_not_due_are_not(
    world: World,
) -> None:
    world.owes("carrier", "lab-1:later", state=WAITING, due_at=time.time() + 3_600)
    assert await world.broken() == {}
    world.owes("carrier", "lab-1:collected", state=WAITING, due_at=time.time() - 3_600)
    assert await world.broken() == {I.NEWS_HEARD: ["None: carrier still waits to tell lab-1:collected: None"]}


# --- events ---
async def test_an_event_that_never_came_is_found(world: World) -> None:
    await happened(world, an_event(5, "pick.confirmed", Topic.FULFILMENT), told=False)
    assert await world.broken_of_all() == {
        I.EVENTS_DELIVERED: [f"{ORDER}: event event-5 (pick.confirmed) never came"]
    }


async def test_an_event_that_never_reached_the_feed_is_found(world: World) -> None:
    await world.sql(
        "INSERT INTO outbox_staged (transaction_id, topic, key, type, payload, created_at)"
        " VALUES (1, 'orders', 'k', 'order.changed', '{}', now())"
    )
    assert list(await world.broken_of_all()) == [I.EVENTS_DELIVERED]


async def test_an_event_that_came_before_an_earlier_one_of_its_key_is_found(world: World) -> None:
    await happened(world, an_event(6, "label.confirmed", Topic.FULFILMENT))
    await happened(world, an_event(5, "pick.confirmed", Topic.FULFILMENT))
    assert await world.broken_of_all() == {
        I.EVENTS_DELIVERED: [f"{ORDER}: event event-5 came after position 6 of {ORDER}"]
    }


async def test_an_event_that_came_twice_is_applied_once_and_counted(world: World) -> None:
    hear(world, an_event(2, "ledger.capture", Topic.FINANCE, amount_minor=TOTAL))
    assert await world.broken_of_all() == {}
    assert world.heard.repeated == 1


async def test_an_event_that_came_again_with_other_content_is_found(world: World) -> None:
    hear(world, an_event(2, "ledger.capture", Topic.FINANCE, amount_minor=TOTAL + 1))
    assert await world.broken_of_all() == {
        I.EVENTS_DELIVERED: [f"{ORDER}: event event-2 came again with other content"]
    }


async def test_an_event_that_nobody_wrote_is_found(world: World) -> None:
    hear(world, an_event(9, "pick.confirmed", Topic.FULFILMENT))
    assert await world.broken_of_all() == {
        I.EVENTS_DELIVERED: ["None: event event-9 came, and is not in the feed"]
    }


@pytest.mark.parametrize(
    "event",
    [
        an_event(5, "order.changed", state="routing"),
        an_event(5, "ledger.capture", Topic.FINANCE, amount_minor=1),
        an_event(
            5,
            "availability.changed",
            Topic.AVAILABILITY,
            f"{NODE}/{SKU}",
            node=NODE,
            sku=SKU,
            available=STOCKED,
        ),
    ],
    ids=lambda event: event.type,
)
async def test_events_that_say_something_else_than_our_books_are_found(
    world: World, event: OutboxEvent
) -> None:
    await happened(world, event)
    assert list(await world.broken_of_all()) == [I.EVENTS_TELL_THE_TRUTH]


# --- whom a strike can meet ---
async def test_only_what_the_machinery_works_on_is_ended_or_called_off(world: World) -> None:
    for order_id, state in (("web:3", "routing"), ("web:4", "in_review"), ("web:5", "closed")):
        await an_order(world, order_id, state=state)
    await an_order(world, "web:6", state="shipped")
    await world.sql("UPDATE orders SET needs_review = true WHERE order_id = 'web:6'")
    await a_shipment(world, "web:3:1", "labelled")
    assert await working_orders(world.store) == ["web:3"]
    assert await working_shipments(world.store) == ["web:3:1"]
