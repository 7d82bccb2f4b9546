"""When a person must agree, how long each may take, and what happens if nobody does. Cheap enough for workflows."""

from datetime import timedelta

from models.base import Contract
from models.effects import OrderFacts, Patience
from models.money import Money
from models.plan import PlanSummary
from models.review import Flag, ReviewKind, ReviewTask, Verdict


class ReviewTerms(Contract):
    """A review's patience, on the wall clock: people do not work faster in a demo.

    Every review has a deadline, so that none waits for ever. At it ``on_deadline`` is done, or where that is None what
    was recommended: for a step without an answer that is to try again, which asks anew if it is still in vain.
    """

    remind_after: timedelta = timedelta(hours=4)
    escalate_after: timedelta = timedelta(hours=12)
    deadline: timedelta
    on_deadline: Verdict | None = None


class ApprovalPolicy(Contract):
    """Gate B's limits and the terms of every kind of review."""

    version: str = "approval-2026-11-3"
    max_shipments: int = 3
    max_cost_percent: int = 60
    cost_floor_minor: int = 2_000
    gate_a: ReviewTerms = ReviewTerms(deadline=timedelta(hours=48), on_deadline=Verdict.REJECT)
    # Held money and stock wait during gate B, so its patience ends well before the holds do.
    gate_b: ReviewTerms = ReviewTerms(deadline=timedelta(hours=24), on_deadline=Verdict.REJECT)
    backorder: ReviewTerms = ReviewTerms(deadline=timedelta(hours=48), on_deadline=Verdict.REJECT)
    # A shipment in trouble: asking again or waiting on costs nothing, and a lost parcel is paid back in the end.
    shipment: ReviewTerms = ReviewTerms(deadline=timedelta(hours=72))
    # Goods on their way back from a customer: a person says when they are in, and nothing is paid back before.
    returns: ReviewTerms = ReviewTerms(
        remind_after=timedelta(days=7),
        escalate_after=timedelta(days=14),
        deadline=timedelta(days=30),
        on_deadline=Verdict.REJECT,
    )
    mend: ReviewTerms = ReviewTerms(
        remind_after=timedelta(hours=1), escalate_after=timedelta(hours=4), deadline=timedelta(hours=24)
    )

    def terms(self, kind: ReviewKind) -> ReviewTerms:
        """The terms for a kind of review."""
        return {
            ReviewKind.RISK: self.gate_a,
            ReviewKind.PLAN: self.gate_b,
            ReviewKind.BACKORDER: self.backorder,
            ReviewKind.SHIPMENT_EXCEPTION: self.shipment,
            ReviewKind.SHIPMENT_LOST: self.shipment,
            ReviewKind.RETURN: self.returns,
        }.get(kind, self.mend)


def pinned(task: ReviewTask) -> Patience | None:
    """How long a review was let wait when it was written down; None: as built in."""
    if task.remind_every is None or task.escalate_at is None:
        return None
    return Patience(
        task_id=task.task_id,
        remind_after=task.remind_every,
        escalate_after=task.escalate_at - task.opened_at,
    )


def as_patient_as(task: ReviewTask, patience: Patience) -> ReviewTask:
    """A review that nobody was reminded of yet, with how long the policy lets it wait."""
    if task.reminders or task.escalated:
        return task
    return task.model_copy(
        update={
            "remind_every": patience.remind_after,
            "remind_at": task.opened_at + patience.remind_after,
            "escalate_at": task.opened_at + patience.escalate_after,
        }
    )


def gate_b(facts: OrderFacts, plan: PlanSummary, policy: ApprovalPolicy) -> tuple[Flag, ...]:
    """Why a person must see this plan before anything is released; empty when nobody needs to.

    The limits that the plan was made under hold, where it carries any.
    """
    limits = plan.limits or policy
    flags = [Flag(code="cold_start", reason=why) for why in (plan.limits.newcomers if plan.limits else ())]
    if len(plan.shipments) > limits.max_shipments:
        flags.append(
            Flag(
                code="many_shipments",
                reason=f"{len(plan.shipments)} shipments, policy allows {limits.max_shipments}",
            )
        )
    allowed = Money(
        minor=max(facts.total.minor * limits.max_cost_percent // 100, limits.cost_floor_minor),
        currency=facts.total.currency,
    )
    if plan.cost.currency != facts.total.currency:
        flags.append(
            Flag(
                code="foreign_cost",
                reason=f"the plan costs {plan.cost}, the order pays in {facts.total.currency}",
            )
        )
    elif allowed < plan.cost:
        flags.append(
            Flag(
                code="thin_margin",
                reason=f"fulfilment costs {plan.cost} of a total of {facts.total}, limit {allowed}",
            )
        )
    if facts.promise_by is not None and plan.promised_at > facts.promise_by:
        flags.append(
            Flag(
                code="late_promise",
                reason=f"earliest delivery {plan.promised_at:%Y-%m-%d}, asked for by {facts.promise_by:%Y-%m-%d}",
            )
        )
    return tuple(flags)
