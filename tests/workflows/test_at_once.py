"""What comes while no worker is up is heard all at once, in one workflow task: neither may be lost for the other."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from temporalio.client import Client

from models.messages import CancelOrder, CarrierEventKind, Recall
from models.states import OrderState
from tests.workflows.engine import Case, serving, told_by
from tests.workflows.scripted import Script
from workers.client import connect
from workers.embedded.namespace import reconcile_search_attributes
from workers.embedded.temporal import EmbeddedTemporal
from workflows.shipment import ShipmentWorkflow


@pytest.fixture(scope="module")
def engine_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own, which no other test's workers serve."""
    with EmbeddedTemporal(
        tmp_path_factory.mktemp("at-once"),
        in_memory=True,
        dynamic_config={"frontend.WorkflowTimeSkippingEnabled": "true"},
    ) as server:
        yield server.address


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(engine_address: str) -> Client:
    client = await connect(engine_address, "default", from_environment=False)
    await reconcile_search_attributes(client)
    return client


async def assert_it_comes_back(order: Case) -> None:
    """The parcel is asked for once, and its amount paid back once it is back."""
    await order.until_recalled()
    memory = await told_by(order.shipment(), ShipmentWorkflow.snapshot)
    assert memory.recall is Recall.INTERCEPTED
    assert memory.collected is not None and memory.collected.event_id != "assumed", (
        "the carrier's own scan stays"
    )
    await order.scanned(CarrierEventKind.RETURNED)
    assert (await order.order.result()).state is OrderState.COMPENSATED
    names = order.script.names(order.order_id)
    assert names.count("intercept_parcel") == names.count("refund_payment") == 1
    assert "void_label" not in names


async def test_a_cancellation_and_a_collection(client: Client) -> None:
    order = Case(client, Script())
    async with serving(client, {order.order_id: order.script}):
        await order.start()
        await order.labelled()
        await order.until(OrderState.RELEASED)
    wish = CancelOrder(request_id="c", actor="ana", reason="not wanted")
    await order.shipment().signal("cancel_shipment", wish)
    await order.scanned(CarrierEventKind.COLLECTED)
    await order.order.signal("cancel_order", wish)
    async with serving(client, {order.order_id: order.script}):
        await assert_it_comes_back(order)


async def test_a_person_who_calls_a_shipment_off_and_its_collection(client: Client) -> None:
    order = Case(client, Script())
    async with serving(client, {order.order_id: order.script}):
        await order.start()
        await order.labelled()
        await order.skip(timedelta(days=2, hours=1), number=1)
        task = await order.review(1)
    answer = {"actor": "ana", "reason": "not wanted", "task_id": task.task_id}
    await order.shipment().signal("reject", answer)
    await order.scanned(CarrierEventKind.COLLECTED, at=datetime.now(UTC) - timedelta(hours=3))
    async with serving(client, {order.order_id: order.script}):
        await assert_it_comes_back(order)
