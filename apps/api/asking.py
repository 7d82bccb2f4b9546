"""Asking a run and waiting for its answer; or, when nobody answers, leaving the same message for later."""

import uuid
from typing import TypeVar

from apps.api.contracts import Queued
from apps.api.runs import NoRun, Runs, Told
from models.base import Contract

Answer = TypeVar("Answer", bound=Contract)


def new_request_id() -> str:
    """An id for a message whose sender gave none: good for one try, as nobody can repeat it."""
    return f"api-{uuid.uuid4()}"


async def ask_or_leave(
    runs: Runs,
    workflow_id: str,
    *,
    update: str,
    question: Contract,
    gives: type[Answer],
    signal: str,
    message: Contract,
    request_id: str,
    afresh: bool = False,
) -> Answer | Queued:
    """The run's answer to ``update``; without one in time, ``signal`` is left under the same ``request_id``.

    Should the update arrive after all, the run knows the request id and acts once. ``afresh``: see ``Runs.ask``.

    Raises ``Refused`` when the run says no, ``NoRun`` when there is none, ``NotReachable`` when Temporal
    does not answer.
    """
    answer = await runs.ask(workflow_id, update, question, gives, afresh=afresh)
    if answer is not None:
        return answer
    if await runs.tell(workflow_id, signal, message) is Told.NO_RUN:
        raise NoRun("its run has already ended: look at its state")
    return Queued(request_id=request_id)
