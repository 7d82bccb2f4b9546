"""What runs by itself: made once, brought up to date by every preparation, and left alone where somebody paused it."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow

from models.reconciliation import Area
from workers.client import connect
from workers.embedded.temporal import EmbeddedTemporal
from workers.schedules import STOCK_VALUES, schedule_id, schedule_reconciliation, schedule_stock_values
from workflows import steps

HOURLY, NEVER = timedelta(hours=1), timedelta(0)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedTemporal(tmp_path_factory.mktemp("engine"), in_memory=True) as server:
        yield server.address


@pytest.fixture(scope="module")
async def client(address: str) -> Client:
    return await connect(address, "default", from_environment=False)


async def test_each_area_has_its_schedule_however_often_it_is_prepared(client: Client) -> None:
    for _ in range(2):
        await schedule_reconciliation(client, HOURLY)
    found = [schedule.id async for schedule in await client.list_schedules()]
    assert sorted(found) == sorted(schedule_id(area) for area in Area)
    for area in Area:
        schedule = (await client.get_schedule_handle(schedule_id(area)).describe()).schedule
        action = schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        assert (action.workflow, action.task_queue) == ("ReconciliationWorkflow", steps.WORKFLOWS)
        assert [interval.every for interval in schedule.spec.intervals] == [HOURLY]
        assert not schedule.state.paused


async def test_another_interval_takes_effect_and_zero_switches_off_and_on_again(client: Client) -> None:
    handle = client.get_schedule_handle(schedule_id(Area.MONEY))
    await schedule_reconciliation(client, HOURLY / 2)
    assert (await handle.describe()).schedule.spec.intervals[0].every == HOURLY / 2
    await schedule_reconciliation(client, NEVER)
    assert (await handle.describe()).schedule.state.paused
    await schedule_reconciliation(client, HOURLY)
    assert not (await handle.describe()).schedule.state.paused


async def test_a_pause_that_somebody_made_stays(client: Client) -> None:
    await schedule_reconciliation(client, HOURLY)
    handle = client.get_schedule_handle(schedule_id(Area.STOCK))
    await handle.pause(note="the carrier changes its statement")
    await schedule_reconciliation(client, HOURLY / 3)
    state = (await handle.describe()).schedule.state
    assert (state.paused, state.note) == (True, "the carrier changes its statement")


async def test_a_schedule_starts_the_workflow_of_its_area(client: Client) -> None:
    await schedule_reconciliation(client, HOURLY)
    handle = client.get_schedule_handle(schedule_id(Area.LABELS))
    await handle.trigger()
    description = await handle.describe()
    while not description.info.recent_actions:
        description = await handle.describe()
    (started,) = description.info.recent_actions
    action = started.action
    assert action.workflow_id.startswith("reconciliation:labels-")  # type: ignore[attr-defined]
    run = client.get_workflow_handle(action.workflow_id)  # type: ignore[attr-defined]
    assert (await run.describe()).workflow_type == "ReconciliationWorkflow"
    await run.terminate("the test has seen it")


async def test_values_of_stock_have_a_schedule_of_their_own_that_zero_switches_off(client: Client) -> None:
    handle = client.get_schedule_handle(STOCK_VALUES)
    await schedule_stock_values(client, HOURLY)
    schedule = (await handle.describe()).schedule
    assert isinstance(schedule.action, ScheduleActionStartWorkflow)
    assert (schedule.action.workflow, schedule.action.task_queue) == ("StockValuesWorkflow", steps.WORKFLOWS)
    assert [interval.every for interval in schedule.spec.intervals] == [HOURLY] and not schedule.state.paused
    await schedule_stock_values(client, NEVER)
    assert (await handle.describe()).schedule.state.paused
    await schedule_stock_values(client, HOURLY)
    assert not (await handle.describe()).schedule.state.paused
    await handle.pause(note="a migration")
    await schedule_stock_values(client, HOURLY / 2)
    assert (await handle.describe()).schedule.state.note == "a migration"
