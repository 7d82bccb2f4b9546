"""docs/money.md: the example is what the books and the command make of that order."""

import re
from typing import Any

from rich.console import Console

from activities.store import ledger, operations
from activities.store.operations import PaymentOperation
from activities.store.store import Store
from apps.cli.ledger import _entries, _print_balances
from models.operations import OperationState, PaymentKind
from models.order import OrderDraft
from policies.money import by_shipment
from tests.apps.cli.conftest import REPOSITORY
from tests.builders import a_draft, accepted, gbp
from tests.policies.test_money import plan_of

PAGE = (REPOSITORY / "docs" / "money.md").read_text(encoding="utf-8")


def two_pairs_of_socks() -> OrderDraft:
    charges = [
        {"code": "POST", "kind": "shipping", "amount_minor": 395},
        {"code": "VAT", "kind": "tax", "amount_minor": 400},
        {"code": "OFF", "kind": "discount", "amount_minor": -100},
    ]
    totals = {"lines_minor": 2000, "charges_minor": 695, "total_minor": 2695}
    changes = {"charges": charges, "totals": totals, "tenders": [{"token": "tok", "amount_minor": 2695}]}
    return OrderDraft.model_validate(a_draft(quantity=2, price=1000).model_dump() | changes)


async def test_the_example_is_what_the_command_shows(fresh_store: Store) -> None:
    draft = two_pairs_of_socks()
    order_id = await accepted(fresh_store, draft)
    first = by_shipment(draft, plan_of({"1": 1}, {"1": 1}))[1].parts
    hold = PaymentOperation(key="hold", order_id=order_id, kind=PaymentKind.AUTHORISE, amount=gbp(2695))
    moves: list[tuple[PaymentOperation, dict[str, Any]]] = [
        (hold, {}),
        (moved("take", order_id, PaymentKind.CAPTURE, first.total, "hold", split=first.model_dump()), {}),
        (moved("back", order_id, PaymentKind.REFUND, first.total, "take", cause="lost_parcel"), {}),
        (moved("void", order_id, PaymentKind.VOID, 0, "hold", shipment_id=None), {"amount_minor": 1347}),
    ]
    for operation, answer in moves:
        async with fresh_store.transaction() as session:
            await operations.intend(session, operation)
            await operations.answer(
                session,
                operation,
                state=OperationState.CONFIRMED,
                content={},
                provider_ref=f"ref-{operation.key}",
                **answer,
            )
    async with fresh_store.transaction() as session:
        await operations.call_off(session, hold)
        books = await ledger.of_order(session, order_id)
    console = Console(width=160, highlight=False, record=True)
    console.print(_entries(books.transactions))
    console.print()
    _print_balances(console, books.balances)
    shown = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "2026-03-02 09:30", console.export_text())
    assert example() == [line.rstrip() for line in shown.rstrip().splitlines()]


def moved(
    key: str, order_id: str, kind: PaymentKind, minor: int, parent: str, **changes: Any
) -> PaymentOperation:
    operation = PaymentOperation(
        key=key,
        order_id=order_id,
        shipment_id=f"{order_id}:1",
        kind=kind,
        parent=f"ref-{parent}",
        amount=gbp(minor),
    )
    return operation.model_copy(update=changes)


def example() -> list[str]:
    [block] = [block for block in PAGE.split("```")[1::2] if block.startswith("\ndate (UTC)")]
    return [line.rstrip() for line in block.strip().splitlines()]
