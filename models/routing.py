"""What people ask about the route of an order: why this way, what if, and would it be decided so again."""

from typing import Self

from pydantic import AwareDatetime, Field, model_validator
from pydantic_core import PydanticCustomError

from models.base import Contract, Document
from models.identifiers import NodeId
from models.money import Money
from models.plan import Plan, PlannedLine


class CostTerm(Contract):
    """One term of what the router made as small as possible; ``amount`` of a term that is no money weighs as much."""

    term: str
    amount: Money


class RouteExplanation(Contract):
    """A stored plan with its terms. ``pinned``: all that the router looked at was kept, so it can be asked what if."""

    order_id: str
    plan_id: str
    attempt: int
    made_at: AwareDatetime
    pinned: bool
    terms: tuple[CostTerm, ...]
    plan: Plan


class RouteQuestion(Document):
    """What if everything came from ``force``, nothing from ``without``, or other ``weights`` were used.

    ``plan_id`` None: of the last plan.
    """

    plan_id: str | None = None
    force: NodeId | None = None
    without: NodeId | None = None
    split_penalty_minor: int | None = Field(default=None, strict=True, ge=0, le=1_000_000_000)
    late_day_minor: int | None = Field(default=None, strict=True, ge=0, le=1_000_000_000)

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.model_fields_set - {"plan_id"}:
            raise PydanticCustomError(
                "question",
                "say force, without, split_penalty_minor or late_day_minor: what is to be different",
            )
        return self


class RouteAnswer(Contract):
    """The plan that would have been made of what was known then, and what it costs more than the one that was made.

    No ``plan``: there is none, for these ``reasons``; with ``missing`` units more there would be.
    """

    order_id: str
    plan_id: str
    plan: Plan | None = None
    difference: Money | None = None
    terms: tuple[CostTerm, ...] = ()
    reasons: tuple[str, ...] = ()
    missing: tuple[PlannedLine, ...] = ()


class RouteReplay(Contract):
    """Whether the same router decides the same of the same; ``differences`` are in words."""

    order_id: str
    plan_id: str
    router: str
    identical: bool
    differences: tuple[str, ...] = ()
