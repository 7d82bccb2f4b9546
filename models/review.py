"""Review tasks: a decision prepared for a person, never an investigation."""

from datetime import timedelta
from enum import StrEnum

from pydantic import AwareDatetime, Field

from models.base import Contract, StorableText
from models.reconciliation import Side
from models.states import ReviewState


class ReviewKind(StrEnum):
    """Why a person is asked.

    RUN_BROKEN: not a run asks, but the invariant job, about one that ended from outside, hangs, or never was, or about
    a parcel that no run follows any more; or the reconciliation, about two sides that do not agree.
    """

    RISK = "risk"
    PLAN = "plan"
    BACKORDER = "backorder"
    STEP_FAILED = "step_failed"
    COMPENSATION_FAILED = "compensation_failed"
    SHIPMENT_EXCEPTION = "shipment_exception"
    SHIPMENT_LOST = "shipment_lost"
    RETURN = "return"
    SETTLEMENT = "settlement"
    RUN_BROKEN = "run_broken"


class Verdict(StrEnum):
    """What a person can answer. What each means for a task stands in the task's ``options``.

    FINISH: what a step could not do was done by hand, and the decision carries what came of it.
    """

    APPROVE = "approve"
    REJECT = "reject"
    FINISH = "finish"


class Flag(Contract):
    """One reason for a review: a stable code and a sentence with the figures."""

    code: str
    reason: StorableText


class ReviewTask(Contract):
    """A question to a person, with everything needed to answer it."""

    task_id: str
    order_id: str
    workflow_id: str
    kind: ReviewKind
    state: ReviewState = ReviewState.OPEN
    what_happened: StorableText
    why_flagged: tuple[Flag, ...]
    recommended: Verdict
    recommendation: str
    options: dict[Verdict, str]
    opened_at: AwareDatetime
    remind_at: AwareDatetime | None = None
    escalate_at: AwareDatetime | None = None
    deadline_at: AwareDatetime | None = Field(
        default=None, description="None: it stays open until a person answers"
    )
    on_deadline: Verdict | None = None
    reminders: int = 0
    escalated: bool = False
    policy_version: str
    remind_every: timedelta | None = Field(
        default=None,
        description="as the policy in force had it when the question was asked; None: as built in",
    )
    decided_at: AwareDatetime | None = None
    decided_by: StorableText | None = None
    verdict: Verdict | None = None
    reason: StorableText | None = None
    sides: tuple[Side, ...] = Field(
        default=(),
        description="of a difference that the reconciliation found: both sides, as they were found",
    )
