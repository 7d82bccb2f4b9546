"""What the doctor sees of runs that should be going on."""

from uuid import uuid4

from temporalio.client import Client

from apps.cli.accounts import ailing_runs
from tests.workflows.engine import Case, eventually
from workflows import steps


async def test_a_run_that_hangs_was_ended_or_never_was_is_seen_and_a_healthy_one_is_not(case: Case) -> None:
    client: Client = case.client
    await case.start()
    await case.until_shipment("pick_requested")
    hanging, gone = f"order:web:{uuid4().hex}", f"order:web:{uuid4().hex}"
    for workflow_id in (hanging, gone):
        await client.start_workflow("NobodyKnowsThisType", id=workflow_id, task_queue=steps.WORKFLOWS)
    await client.get_workflow_handle(gone).terminate()
    healthy = [case.workflow_id, f"shipment:{case.order_id}:1"]

    async def noticed() -> bool:
        return hanging in await ailing_runs(client, [hanging])

    await eventually(noticed, "the workflow task to have failed more often than by chance")
    found = await ailing_runs(client, [*healthy, hanging, gone, "order:web:never"])
    assert set(found) == {hanging, gone, "order:web:never"}
    assert "hangs" in found[hanging]
    assert (found[gone], found["order:web:never"]) == ("its run is terminated", "no run")
    await client.get_workflow_handle(hanging).terminate()
    await case.delivered()
