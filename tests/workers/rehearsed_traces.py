"""The smallest run with everything that carries a trace on: steps, a child, and continuing as new."""

from datetime import timedelta

from temporalio import activity, workflow

QUEUE = "traces"
_SOON = timedelta(seconds=60)


@activity.defn
async def take_a_step() -> None:
    """Do nothing."""


@workflow.defn
class TracedParcel:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(take_a_step, start_to_close_timeout=_SOON)


@workflow.defn
class TracedOrder:
    @workflow.run
    async def run(self, renewals: int) -> None:
        for _ in range(2):
            await workflow.execute_activity(take_a_step, start_to_close_timeout=_SOON)
        parcel = f"{workflow.info().workflow_id}:parcel:{renewals}"
        await workflow.execute_child_workflow(TracedParcel.run, id=parcel)
        if renewals:
            workflow.continue_as_new(renewals - 1)
