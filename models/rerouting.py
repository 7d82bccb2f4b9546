"""What keeps orders from being sent as they are planned, and plans that a person sets by hand."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from models.base import Contract, Document, SentMoment
from models.identifiers import NodeId
from models.messages import Actor, Reason, RequestId
from models.money import Money
from models.order import CarrierServiceName, Country, Text
from models.plan import Plan
from models.routing import CostTerm

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
_Prefix = Annotated[str, StringConstraints(min_length=1, max_length=20)]
_Days = Annotated[int, Field(strict=True, ge=1, le=60)]
_Units = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class NoticeKind(StrEnum):
    """NODE: it is closed. CARRIER: one or all of its services are out. REGION: nothing goes there, or is late."""

    NODE = "node"
    CARRIER = "carrier"
    REGION = "region"


class NoticePost(Document):
    """What nothing is to be planned with until ``ends_at``, or until it is lifted. Sent twice, it is posted once.

    Say either ``node``, or ``carrier`` (with a ``service``, else all of them), or ``country`` (with the ``prefix`` of
    postcodes, else all of it). ``delay_days``: parcels to the region go all the same, and arrive so many days later.
    """

    request_id: RequestId
    actor: Actor
    reason: Reason
    node: NodeId | None = None
    carrier: _Name | None = None
    service: _Name | None = None
    country: Country | None = None
    prefix: _Prefix | None = None
    delay_days: _Days | None = None
    ends_at: SentMoment | None = None

    @model_validator(mode="after")
    def _says_of_what(self) -> Self:
        if sum(name is not None for name in (self.node, self.carrier, self.country)) != 1:
            raise PydanticCustomError("notice", "say one of node, carrier and country: what it is about")
        for name, needs in (("service", "carrier"), ("prefix", "country"), ("delay_days", "country")):
            if getattr(self, name) is not None and getattr(self, needs) is None:
                raise PydanticCustomError("notice", f"{name} is said of a {needs}: say which")
        return self

    @property
    def kind(self) -> NoticeKind:
        """What it is about."""
        if self.node is not None:
            return NoticeKind.NODE
        return NoticeKind.REGION if self.carrier is None else NoticeKind.CARRIER


class Notice(Contract):
    """A notice. ``orders``: how many are planned anew for it, all once ``spread_at`` is there. It is over when it was
    lifted, or is past its end.

    Its times are wall time: whoever posts one means the world outside.
    """

    notice_id: int
    kind: NoticeKind
    node: str | None = None
    carrier: str | None = None
    service: str | None = None
    country: str | None = None
    prefix: str | None = None
    delay_days: int | None = None
    reason: str
    actor: str
    posted_at: AwareDatetime
    ends_at: AwareDatetime | None = None
    lifted_at: AwareDatetime | None = None
    lifted_by: str | None = None
    orders: int = 0
    spread_at: AwareDatetime | None = None

    @property
    def about(self) -> str:
        """In words, without the reason."""
        if self.node is not None:
            return f"{self.node} is closed"
        if self.carrier is not None:
            return f"{self.carrier}/{self.service} is out" if self.service else f"{self.carrier} is out"
        where = f"{self.country} {self.prefix}" if self.prefix else self.country
        if self.delay_days is None:
            return f"nothing goes to {where}"
        return f"parcels to {where} are {self.delay_days} days late"


class NoticeLift(Document):
    """It is over before its time."""

    actor: Actor
    reason: Reason


class UnitsFrom(Document):
    """Units of an order line that are to come from a node; all that is left of it, without a ``quantity``."""

    line_id: Text
    node: NodeId
    quantity: _Units | None = None


class SetPlan(Document):
    """Where a person wants what is left of an order to come from. Sent twice, it is set once.

    ``units`` names lines; what they do not name comes from ``node``. ``carrier_service``: by that one alone.
    """

    request_id: RequestId
    actor: Actor
    reason: Reason
    node: NodeId | None = None
    units: tuple[UnitsFrom, ...] = Field(default=(), max_length=1_000)
    carrier_service: CarrierServiceName | None = None

    @model_validator(mode="after")
    def _says_from_where(self) -> Self:
        if self.node is None and not self.units:
            raise PydanticCustomError("set_plan", "say node or units: where the goods are to come from")
        return self


class SetPlanAnswer(Contract):
    """What a plan by hand costs, and how much more than the router's own. ``set_plan_id``: it was handed to the order.

    No ``plan``: there is none of this kind, for these ``reasons``, and nothing was handed over.
    """

    order_id: str
    set_plan_id: str | None = None
    plan: Plan | None = None
    difference: Money | None = None
    terms: tuple[CostTerm, ...] = ()
    reasons: tuple[str, ...] = ()
