"""A new build takes over while orders are in flight: real workers of two builds, one after the other."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from models.identifiers import order_workflow_id
from models.order import OrderDraft
from models.states import OrderState
from tests.builders import a_draft, order_id_of, skus_of, stocked
from tests.workflows.next_order import SECOND_LOOK
from tests.workflows.saboteur import Trouble, mark
from tests.workflows.stage import Stage, set_up
from workers.embedded.namespace import make_current

SABOTEUR = "tests.workflows.saboteur"
NEXT = ("tests.workflows.next_order:NextOrderWorkflow", "workflows.shipment:ShipmentWorkflow")

pytestmark = pytest.mark.timeout(900)


def an_order(name: str, city: str = "Leeds", price: int = 500) -> OrderDraft:
    draft = a_draft(price=price)
    there = draft.ship_to.model_copy(update={"city": city})
    return draft.model_copy(update={"external_id": f"{name}-{draft.external_id}", "ship_to": there})


async def until(there: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + 300
    while not await there():
        assert time.monotonic() < deadline, f"waited for {what}"
        await asyncio.sleep(0.2)


class Counter:
    """What a test asks of the orders on a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def state(self, draft: OrderDraft, *states: str, table: str = "orders") -> None:
        order_id = order_id_of(draft)

        async def there() -> bool:
            found = await self._stage.rows(f"SELECT state FROM {table} WHERE order_id = :id", id=order_id)
            return len(found) == 1 and found[0]["state"] in states

        await until(there, f"{order_id} to be {' or '.join(states)} in {table}")

    async def kinds(self, draft: OrderDraft) -> set[str]:
        found = await self._stage.rows(
            "SELECT kind FROM timeline WHERE order_id = :id", id=order_id_of(draft)
        )
        return {row["kind"] for row in found}

    async def call_off(self, draft: OrderDraft) -> None:
        wish = {"actor": "ana", "reason": "not wanted", "request_id": "off"}
        answer = await self._stage.api.post(f"/v1/orders/{order_id_of(draft)}/cancel", json=wish)
        assert answer.status_code in (200, 202), answer.text

    async def build(self, draft: OrderDraft) -> str:
        """The build that worked on an order's run last."""
        run = await self._stage.client.get_workflow_handle(order_workflow_id(order_id_of(draft))).describe()
        info: Any = run.raw_description.workflow_execution_info.versioning_info
        return str(info.deployment_version.build_id)


async def test_a_new_build_takes_over_orders_in_flight(
    tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> None:
    early, new = an_order("early"), an_order("new")
    reviewed = an_order("reviewed", price=150_000)
    waiting, travelling = an_order("waiting", "IDLEVILLE"), an_order("travelling", "SILENTVILLE")
    everybody = (early, new, reviewed, waiting, travelling)
    folder = tmp_path_factory.mktemp("stage")
    async with set_up(folder, database_url) as stage:
        ask = Counter(stage)
        await stocked(stage.store, north={sku: 10 for draft in everybody for sku in skus_of(draft)})
        (folder / "plan.json").write_text(
            json.dumps({order_id_of(early): {"order.validate_order": Trouble.HOLD_BEFORE}})
        )
        async with stage.worker(SABOTEUR) as old:
            for draft in (early, reviewed, waiting, travelling):
                await stage.submit(draft)
            await ask.state(reviewed, "in_review")
            # On a slow machine the parcel is already missed, and a person asked about it.
            await ask.state(waiting, "labelled", "in_review", table="shipments")
            await ask.state(travelling, "handed_over", "in_review", table="shipments")
            async with stage.worker(SABOTEUR, *NEXT, build="second"):
                await make_current(stage.client, "second")
                # Workflow code of the new build, and still an old process that holds an attempt: it may die any time.
                await stage.submit(new)
                old.kill()
                mark(folder, "let_go", order_id_of(early), "order.validate_order").touch()
                await stage.client.get_workflow_handle(order_workflow_id(order_id_of(reviewed))).signal(
                    "approve", {"actor": "ana", "reason": "known"}
                )
                await ask.call_off(waiting)
                await ask.call_off(travelling)
                for draft in (early, new, reviewed):
                    await ask.state(draft, OrderState.CLOSED)
                await ask.state(waiting, OrderState.CANCELLED)
                await ask.state(travelling, OrderState.COMPENSATED)
                looked_twice = {d.external_id for d in everybody if SECOND_LOOK in await ask.kinds(d)}
                assert looked_twice == {early.external_id, new.external_id}, "others were past it already"
                assert {await ask.build(draft) for draft in everybody} == {"second"}
