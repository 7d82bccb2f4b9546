"""The speed of the data: the default of the next start, and not to be changed under open orders."""

from pathlib import Path

import pytest
from temporalio.client import Client

from models.runs import OrderRun
from tests.workflows.engine import eventually
from workers.client import connect
from workers.embedded.speed import (
    OrdersRunAtAnotherSpeed,
    keep_speed,
    kept_speed,
    refuse_another_speed_for_open_orders,
)
from workers.embedded.stack import Stack, StackOptions
from workers.embedded.temporal import EmbeddedTemporal
from workflows import steps


def planned_speed(data_dir: Path, speed: float | None = None) -> float:
    """The speed at which a stack would start."""
    return Stack(StackOptions(data_dir=data_dir, speed=speed, usual_speed=1.0))._plan().speed


async def counted(client: Client, running: int) -> None:
    """Temporal's index follows the runs a moment later."""

    async def there() -> bool:
        return (await client.count_workflows("ExecutionStatus = 'Running'")).count == running

    await eventually(there, f"{running} running workflows")


def test_new_data_run_at_the_usual_speed(data_dir: Path) -> None:
    assert kept_speed(data_dir) is None
    assert planned_speed(data_dir) == 1.0


def test_data_keep_their_speed_unless_another_is_asked_for(data_dir: Path) -> None:
    keep_speed(data_dir, 86_400.0)
    assert planned_speed(data_dir) == 86_400.0
    assert planned_speed(data_dir, 60.0) == 60.0


def test_a_file_that_is_no_clock_counts_as_none(data_dir: Path) -> None:
    (data_dir / "clock.json").write_text("{}")
    assert kept_speed(data_dir) is None


async def test_another_speed_is_refused_while_orders_are_open_and_taken_when_none_is(data_dir: Path) -> None:
    async with EmbeddedTemporal(data_dir, in_memory=True) as temporal:
        client = await connect(temporal.address, from_environment=False)
        await refuse_another_speed_for_open_orders(client, kept=86_400.0, asked=1.0)

        order = await client.start_workflow(
            "OrderWorkflow", OrderRun(draft={}), id="order:web:1", task_queue=steps.WORKFLOWS
        )
        await counted(client, 1)
        with pytest.raises(OrdersRunAtAnotherSpeed) as refused:
            await refuse_another_speed_for_open_orders(client, kept=86_400.0, asked=1.0)

        await order.terminate()
        await counted(client, 0)
        await refuse_another_speed_for_open_orders(client, kept=86_400.0, asked=1.0)
    assert "'orderwright up --speed 86400'" in refused.value.message
    assert "--data-dir" in refused.value.message
