"""The order's workflow as a later build might have it: one step more, behind a patch."""

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from models.runs import OrderResult
    from workflows.case import NO_INPUT
    from workflows.order import OrderWorkflow

SECOND_LOOK = "order.second_look"


@workflow.defn(name="OrderWorkflow")
class NextOrderWorkflow(OrderWorkflow):
    """Writes the timeline once more after the risk rules: old runs that are past it must not notice."""

    @workflow.init
    def __init__(self, start: RawValue = NO_INPUT) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, _start: RawValue = NO_INPUT) -> OrderResult:
        """As before."""
        return await super().run(_start)

    async def _assess(self) -> None:
        first_time = self.memory.assessment is None
        await super()._assess()
        if first_time and workflow.patched("second-look"):
            self.note(SECOND_LOOK, "the later build was here")
            await self.record()
