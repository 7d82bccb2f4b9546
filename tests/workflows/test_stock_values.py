"""The workflow that has values of stock worked out, on the real engine: what it asks for, and how it ends."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from models import values as v
from tests.replay.recording import commands, keep_runs
from tests.workflows.scripted import PLACED, Script
from workflows import steps


@pytest.fixture
async def a_run(
    client: Client, scripts: dict[str, Script], request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[], tuple[str, Script]]]:
    runs: dict[str, str] = {}

    def make() -> tuple[str, Script]:
        run_id, script = f"stock-values:{uuid4().hex[:12]}", Script()
        scripts[run_id] = script
        runs[f"values-{len(runs)}"] = run_id
        return run_id, script

    yield make
    if request.config.getoption("--record-histories"):
        await keep_runs(client, runs, request.node.originalname)


async def result(client: Client, run_id: str, given: Any) -> v.ValuesWorkedOut:
    found: v.ValuesWorkedOut = await client.execute_workflow(
        "StockValuesWorkflow",
        given,
        id=run_id,
        task_queue=steps.WORKFLOWS,
        result_type=v.ValuesWorkedOut,
        execution_timeout=timedelta(minutes=5),
    )
    return found


async def test_working_values_out_is_one_step_under_the_runs_own_id(
    client: Client, a_run: Callable[[], tuple[str, Script]]
) -> None:
    run_id, script = a_run()
    answer = v.ValuesWorkedOut(run_id=run_id, worked_out_at=PLACED, skus=7, priced=3)
    script.answers["work_out_stock_values"] = lambda _: answer
    assert await result(client, run_id, v.StockValuesRun(forced=True)) == answer
    (asked,) = script.requests("work_out_stock_values", run_id)
    assert (asked.run_id, asked.forced) == (run_id, True)
    assert await commands(client, run_id) == ["activity work_out_stock_values", "complete"]


async def test_what_is_no_input_is_refused_with_what_would_be_one(client: Client) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await result(client, f"stock-values:{uuid4().hex[:12]}", {"forced": "perhaps"})
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "refused"
    assert '{"forced": true}' in str(failed.value.cause)
