"""How long a review waits: as the policy in force has it when the question is written down, and ever after."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import policies
from models.effects import Patience
from models.journal import Carried
from models.review import ReviewTask
from models.states import ReviewState
from models.tables.journal import ReviewTaskRow
from policies.approval import as_patient_as, pinned


async def with_patience(session: AsyncSession, carried: Carried) -> tuple[Carried, Patience | None]:
    """``carried`` with the review that is opened by it waiting as long as the policy says; and how long, if it does."""
    asked = [one for one in carried.reviews if not one.reminders and not one.escalated]
    if not asked or asked[-1].state is not ReviewState.OPEN:
        return carried, None
    patience = await _patience(session, asked[-1])
    if patience is None:
        return carried, None
    tasks = (
        as_patient_as(task, patience) if task.task_id == patience.task_id else task
        for task in carried.reviews
    )
    return carried.model_copy(update={"reviews": tuple(tasks)}), patience


async def _patience(session: AsyncSession, task: ReviewTask) -> Patience | None:
    known = await session.scalar(
        select(col(ReviewTaskRow.task)).where(
            col(ReviewTaskRow.task_id) == task.task_id, col(ReviewTaskRow.opened_at) == task.opened_at
        )
    )
    if known is not None:
        # The answer was lost: as it was written the first time, whatever is in force by now.
        return pinned(ReviewTask.model_validate(known))
    return (await policies.active(session)).patience(task)
