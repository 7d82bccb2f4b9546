"""The books over HTTP."""

from typing import Any

import httpx

from activities.store import operations
from activities.store.operations import PaymentOperation
from activities.store.store import Store
from models.money import Money
from models.operations import OperationState, PaymentKind
from tests.apps.api.builders import a_draft


async def submitted(api: httpx.AsyncClient) -> str:
    answer = await api.post("/v1/orders", json=a_draft())
    order_id: str = answer.json()["order_id"]
    return order_id


async def held(store: Store, order_id: str) -> None:
    operation = PaymentOperation(
        key=f"{order_id}:authorise:1",
        order_id=order_id,
        kind=PaymentKind.AUTHORISE,
        amount=Money(minor=905, currency="GBP"),
    )
    async with store.transaction() as session:
        await operations.intend(session, operation)
        await operations.answer(
            session, operation, state=OperationState.CONFIRMED, content={}, provider_ref=f"auth-{order_id}"
        )


async def test_an_orders_ledger_shows_each_transaction_with_its_entries_and_balances(
    api: httpx.AsyncClient, store: Store
) -> None:
    order_id = await submitted(api)
    assert (await api.get(f"/v1/orders/{order_id}/ledger")).json() == {
        "order_id": order_id,
        "transactions": [],
        "balances": [],
    }
    await held(store, order_id)
    books: dict[str, Any] = (await api.get(f"/v1/orders/{order_id}/ledger")).json()
    [wrote] = books["transactions"]
    assert (wrote["kind"], wrote["source"]) == ("authorise", "payment_operations")
    assert [(entry["account"], entry["amount"]["minor"]) for entry in wrote["entries"]] == [
        ("held.authorised", 905),
        ("held.contra", -905),
    ]
    assert [one["balance"]["minor"] for one in books["balances"]] == [905, -905]


async def test_the_trial_balance_adds_up(api: httpx.AsyncClient, store: Store) -> None:
    await held(store, await submitted(api))
    trial = (await api.get("/v1/ledger/balances")).json()
    assert trial["in_balance"] is True
    assert sum(one["balance"]["minor"] for one in trial["balances"]) == 0


async def test_the_ledger_of_an_order_that_does_not_exist_is_not_found(api: httpx.AsyncClient) -> None:
    for unknown in ("web:none", "no-order"):
        answer = await api.get(f"/v1/orders/{unknown}/ledger")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_parameter_that_does_not_exist_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/ledger/balances?currency=GBP")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
