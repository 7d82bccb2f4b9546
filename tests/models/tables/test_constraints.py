"""What the database itself refuses, whoever writes."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from activities.store.stock_books import StockTrouble, reconcile
from activities.store.store import Store
from models.operations import OperationState, PaymentKind
from models.states import OrderState
from models.tables.operations import PaymentOperationRow
from tests.builders import a_draft, accepted, carrying, stocked, write_down


async def run(store: Store, statement: str, **values: Any) -> None:
    async with store.transaction() as session:
        await session.execute(text(statement), values)


async def moved(store: Store, order_id: str, kind: PaymentKind, minor: int, **changes: Any) -> None:
    async with store.transaction() as session:
        row = PaymentOperationRow(
            key=f"{order_id}:{kind}:{minor}",
            order_id=order_id,
            kind=kind,
            amount_minor=minor,
            currency="GBP",
            intended_at=datetime.now(UTC),
        )
        for name, value in changes.items():
            setattr(row, name, value)
        session.add(row)


@pytest.mark.parametrize(
    "statement", ["UPDATE timeline SET what = 'x'", "DELETE FROM timeline", "TRUNCATE timeline"]
)
async def test_the_timeline_cannot_be_changed(store: Store, statement: str) -> None:
    order_id = await accepted(store, a_draft())
    await write_down(store, order_id, carrying(order_id, OrderState.VALIDATING, 1))
    with pytest.raises(DBAPIError, match="append-only"):
        await run(store, statement)


@pytest.mark.parametrize("change", ["reserved = 11", "reserved = -1", "on_hand = -1"])
async def test_no_more_can_be_reserved_than_is_there(store: Store, change: str) -> None:
    await stocked(store, north={"SKU-1": 10})
    with pytest.raises(IntegrityError, match="reserved_within_on_hand"):
        await run(store, f"UPDATE stock SET {change}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock_movements SET on_hand = 1",
        "DELETE FROM stock_movements",
        "TRUNCATE stock_movements",
        "TRUNCATE stock CASCADE",
        "INSERT INTO stock_movements (node, sku, kind, on_hand, reserved, on_hand_after, reserved_after, actor) "
        "VALUES ('north', 'SKU-1', 'receipt', 5, 0, 15, 0, 'somebody')",
    ],
)
async def test_movements_come_with_a_change_of_stock_and_stay(store: Store, statement: str) -> None:
    await stocked(store, north={"SKU-1": 10})
    with pytest.raises(DBAPIError, match=r"append-only|not by itself"):
        await run(store, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock SET on_hand = on_hand + 3, reserved = 1 WHERE sku LIKE 'SKU-M%'",
        "DELETE FROM stock WHERE sku = 'SKU-M1'",
        "UPDATE stock SET sku = 'SKU-M3' WHERE sku = 'SKU-M2'",
        "UPDATE stock SET safety_stock = 2 WHERE sku LIKE 'SKU-M%'",
        "INSERT INTO stock (node, sku, on_hand, reserved) VALUES ('north', 'SKU-M1', 0, 0), ('north', 'SKU-M4', 4, 1) "
        "ON CONFLICT (node, sku) DO UPDATE SET on_hand = stock.on_hand + 7",
        "MERGE INTO stock USING (VALUES ('north', 'SKU-M2', 9), ('north', 'SKU-M5', 1)) AS level (node, sku, units) "
        "ON stock.node = level.node AND stock.sku = level.sku "
        "WHEN MATCHED THEN UPDATE SET on_hand = units "
        "WHEN NOT MATCHED THEN INSERT (node, sku, on_hand, reserved) VALUES (level.node, level.sku, units, 0)",
    ],
)
async def test_stock_is_the_sum_of_its_movements_whatever_is_done_to_it_by_hand(
    store: Store, statement: str
) -> None:
    await stocked(store, north={"SKU-M1": 10, "SKU-M2": 5})
    await run(store, statement)
    async with store.transaction() as session:
        account = await reconcile(session)
    assert [found for found in account.differences if found.trouble is StockTrouble.MOVEMENTS_DIFFER] == []
    assert account.movements > 0


async def test_captures_stay_within_their_authorisation(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    done = {"state": OperationState.CONFIRMED}
    await moved(store, order_id, PaymentKind.AUTHORISE, 1000, provider_ref=f"auth-{order_id}", **done)
    await moved(store, order_id, PaymentKind.CAPTURE, 600, parent=f"auth-{order_id}")
    with pytest.raises(IntegrityError, match="beyond bounds"):
        await moved(store, order_id, PaymentKind.CAPTURE, 401, parent=f"auth-{order_id}")
    await moved(store, order_id, PaymentKind.CAPTURE, 400, parent=f"auth-{order_id}")


async def test_what_was_voided_can_no_longer_be_captured(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    done = {"state": OperationState.CONFIRMED}
    await moved(store, order_id, PaymentKind.AUTHORISE, 1000, provider_ref=f"auth-{order_id}", **done)
    await moved(store, order_id, PaymentKind.VOID, 1000, parent=f"auth-{order_id}", **done)
    with pytest.raises(IntegrityError, match="beyond bounds"):
        await moved(store, order_id, PaymentKind.CAPTURE, 1, parent=f"auth-{order_id}")


async def test_refunds_stay_within_their_capture_and_name_a_cause(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    done = {"state": OperationState.CONFIRMED}
    await moved(store, order_id, PaymentKind.AUTHORISE, 1000, provider_ref=f"auth-{order_id}", **done)
    await moved(
        store,
        order_id,
        PaymentKind.CAPTURE,
        600,
        parent=f"auth-{order_id}",
        provider_ref=f"cap-{order_id}",
        **done,
    )
    with pytest.raises(IntegrityError, match="beyond bounds"):
        await moved(store, order_id, PaymentKind.REFUND, 601, parent=f"cap-{order_id}", cause="lost")
    with pytest.raises(IntegrityError, match="refund_cause"):
        await moved(store, order_id, PaymentKind.REFUND, 600, parent=f"cap-{order_id}")
    await moved(store, order_id, PaymentKind.REFUND, 600, parent=f"cap-{order_id}", cause="lost")


async def test_another_currency_than_the_authorised_one_cannot_be_captured(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    done = {"state": OperationState.CONFIRMED}
    await moved(store, order_id, PaymentKind.AUTHORISE, 1000, provider_ref=f"auth-{order_id}", **done)
    with pytest.raises(IntegrityError, match="beyond bounds"):
        await moved(store, order_id, PaymentKind.CAPTURE, 10, parent=f"auth-{order_id}", currency="EUR")
