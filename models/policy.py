"""The policy document: what people decide once for all orders. What it does not say stays as it is built in."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from models.base import Contract, Document, SentMoment
from models.errors import Problem
from models.identifiers import Channel, NodeId, Sku
from models.messages import Actor, Reason, RequestId
from models.money import MAX_MINOR, Currency
from models.order import Country, CustomerTier, CustomerType
from models.stock import YesOrNo

MAX_POLICY_BYTES = 1024 * 1024
BUILT_IN = "built-in"
_MANY = 1_000

_Amount = Annotated[int, Field(strict=True, ge=0, le=MAX_MINOR)]
_Percent = Annotated[int, Field(strict=True, ge=0, le=100)]
_Days = Annotated[int, Field(strict=True, ge=1, le=365)]
_Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
# A node, or a group of them.
NodeName = NodeId


class Group(Document):
    """Whom a rule is for: orders by one of ``channels``, of one of ``tiers``, ``customer_types`` and ``countries``.

    An empty list is anybody.
    """

    channels: tuple[Channel, ...] = Field(default=(), max_length=100)
    tiers: tuple[CustomerTier, ...] = Field(default=(), max_length=100)
    customer_types: tuple[CustomerType, ...] = Field(default=(), max_length=2)
    countries: tuple[Country, ...] = Field(default=(), max_length=300)


class RoutingTerms(Document):
    """What the optimiser weighs, and what it may not do.

    ``split_penalty_minor``: for each parcel beyond the first; left out, the network's. ``late_day_minor``: for each
    day begun after the asked date, of each parcel. ``max_parcels``: no order has more. ``budget_ms``: how long it may
    look for a better plan. ``max_reroutes``: how often an order is planned anew without a person where a warehouse or
    a carrier refuses it; 0 asks a person at once.
    """

    split_penalty_minor: _Amount | None = None
    late_day_minor: _Amount | None = None
    max_parcels: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    budget_ms: Annotated[int, Field(strict=True, ge=10, le=1_000)] | None = None
    max_reroutes: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None


class LookAheadTerms(Document):
    """How much orders spare stock for those that are still to come. What is left out is as built in.

    ``percent`` of the prices counts, 0: none; half of it after ``half_life_days``. They are worked out from the orders
    of the last ``window_days``, for the time until more comes, at most ``horizon_days``.
    """

    percent: _Percent | None = None
    half_life_days: _Days | None = None
    window_days: _Days | None = None
    horizon_days: _Days | None = None


class MarkdownRule(Document):
    """Each unit from ``at``, a node or a group, weighs ``credit_minor`` less where there is more than
    ``weeks_of_supply`` of its SKU.
    """

    at: NodeName
    weeks_of_supply: Annotated[int, Field(strict=True, ge=1, le=520)]
    credit_minor: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class RoutingRule(Group):
    """Where orders of a group may come from; of the rules that an order is of, the first counts.

    ``only`` and ``without`` name nodes or groups of nodes. ``sequence``: first these nodes alone; where they cannot
    fill the order, or not by the date that it asks for, these and the next ones; and so on.
    """

    rule_id: RuleName
    only: tuple[NodeName, ...] = Field(default=(), max_length=_MANY)
    without: tuple[NodeName, ...] = Field(default=(), max_length=_MANY)
    sequence: tuple[tuple[NodeName, ...], ...] = Field(default=(), max_length=20)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.only or self.without or self.sequence):
            raise PydanticCustomError(
                "routing_rule", "say only, without or sequence: which nodes it is about"
            )
        return self


class Substitution(StrEnum):
    """Whether goods that are short are replaced by substitutes: never, where the order's document agrees, or unless it
    refuses.
    """

    NEVER = "never"
    IF_AGREED = "if_agreed"
    UNLESS_REFUSED = "unless_refused"


class ShortageTerms(Document):
    """What becomes of an order that cannot be filled as a whole."""

    part_at_least_percent: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    substitute: Substitution | None = None


class Substitute(Document):
    """What may be sent instead of ``sku``, the best first. The customer pays no more than for what was ordered."""

    sku: Sku
    by: tuple[Sku, ...] = Field(min_length=1, max_length=20)


class PriorityRule(Group):
    """Who is served first when goods arrive that several wait for: the lowest ``rank``; others come after all of them.

    Of the rules that an order is of, the first counts. Among equals the order that was placed first comes first.
    """

    rule_id: RuleName
    rank: Annotated[int, Field(strict=True, ge=1, le=1_000)]


class PlanReview(Document):
    """When a plan is put before a person before anything is released (gate B)."""

    max_shipments: Annotated[int, Field(strict=True, ge=1, le=1_000)] | None = None
    max_cost_percent: Annotated[int, Field(strict=True, ge=0, le=10_000)] | None = None
    cost_floor_minor: _Amount | None = None


class RiskReview(Document):
    """When an order is put before a person, or refused, before anything is held (gate A). Amounts by currency."""

    review_value_minor: Mapping[CustomerType, Mapping[Currency, _Amount]] | None = None
    review_line_quantity: _Count | None = None
    review_discount_percent: _Percent | None = None
    guest_abroad_value_minor: Mapping[Currency, _Amount] | None = None
    refused_countries: tuple[Country, ...] | None = Field(default=None, max_length=300)


class PriceReview(Document):
    """How much a business's price may differ from its price list before a person is asked."""

    tolerance_basis_points: Annotated[int, Field(strict=True, ge=0, le=10_000)] | None = None
    tolerance_minor: _Amount | None = None
    review_unlisted: YesOrNo | None = None


_Hours = Annotated[int, Field(strict=True, ge=1, le=24 * 90)]


class ReviewPatience(Document):
    """After how many hours people are reminded of a review, again and again, and after how many it is escalated."""

    remind_after_hours: _Hours | None = None
    escalate_after_hours: _Hours | None = None


class AskedBy(StrEnum):
    """Reviews that a run asks, by what they are about. See ``models.review.ReviewKind``."""

    RISK = "risk"
    PLAN = "plan"
    BACKORDER = "backorder"
    STEP_FAILED = "step_failed"
    COMPENSATION_FAILED = "compensation_failed"
    SHIPMENT_EXCEPTION = "shipment_exception"
    SHIPMENT_LOST = "shipment_lost"
    RETURN = "return"
    SETTLEMENT = "settlement"


# No further is it counted how often something was seen.
MOST_SEEN = 50
_Seen = Annotated[int, Field(strict=True, ge=0, le=MOST_SEEN)]


class Newcomers(StrEnum):
    """What may have little history."""

    NODES = "nodes"
    SKUS = "skus"
    CHANNELS = "channels"


class ColdStart(Document):
    """What goes by explicit rules until enough history exists; plans say what is new in them.

    New is a node of which fewer than ``node_parcels`` parcels were delivered within a year, a SKU that fewer than
    ``sku_orders`` other orders had, and a channel that fewer than ``channel_orders`` other orders came by; with 0
    nothing is. ``nodes_last``: new nodes are planned with only where others cannot fill the order, or not by the date
    that it asks for. ``review``: plans with what new things a person sees before anything is released.
    """

    node_parcels: _Seen | None = None
    sku_orders: _Seen | None = None
    channel_orders: _Seen | None = None
    nodes_last: YesOrNo | None = None
    review: tuple[Newcomers, ...] | None = Field(default=None, max_length=3)


class KeptBack(Document):
    """Units of a SKU that are promised to nobody new, at a node or at each node of a group that stocks it."""

    sku: Sku
    at: NodeName
    units: Annotated[int, Field(strict=True, ge=0, le=1_000_000_000)]


class PolicyDocument(Document):
    """A shop's policy as a whole: what an earlier version said and this one does not is built in again.

    ``node_groups``: names for several nodes. ``safety_stock`` is set when the policy is approved. ``reviews``: how long
    each kind waits before people are reminded and it is escalated; what was asked before waits as it did.
    """

    schema_version: int = Field(default=1, ge=1, le=1)
    node_groups: Mapping[NodeName, tuple[NodeId, ...]] = Field(default_factory=dict, max_length=_MANY)
    routing: RoutingTerms = RoutingTerms()
    look_ahead: LookAheadTerms = LookAheadTerms()
    markdown: tuple[MarkdownRule, ...] = Field(default=(), max_length=_MANY)
    routing_rules: tuple[RoutingRule, ...] = Field(default=(), max_length=_MANY)
    shortage: ShortageTerms = ShortageTerms()
    substitutes: tuple[Substitute, ...] = Field(default=(), max_length=_MANY)
    priorities: tuple[PriorityRule, ...] = Field(default=(), max_length=_MANY)
    plan_review: PlanReview = PlanReview()
    risk_review: RiskReview = RiskReview()
    price_review: PriceReview = PriceReview()
    cold_start: ColdStart = ColdStart()
    reviews: Mapping[AskedBy, ReviewPatience] = Field(default_factory=dict)
    safety_stock: tuple[KeptBack, ...] = Field(default=(), max_length=_MANY)


class PolicyState(StrEnum):
    """PROPOSED: waits for somebody else's word. ACTIVE: the one in force. REPLACED: it was. REFUSED: it never was."""

    PROPOSED = "proposed"
    ACTIVE = "active"
    REPLACED = "replaced"
    REFUSED = "refused"


class PolicyProposal(Document):
    """A policy that is to hold. Sent twice, it is proposed once.

    ``replaces``: the version that its author knew to be in force, 0 for none; another one is refused.
    """

    request_id: RequestId
    actor: Actor
    reason: Reason
    replaces: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    document: PolicyDocument


class PolicyCheck(Document):
    """A policy document as somebody wrote it, which need not be one."""

    document: Mapping[str, Any]


class PolicyProblems(Contract):
    """All that is wrong with a document, as far as it can be read; the first hundred. None: it can be proposed."""

    problems: tuple[Problem, ...] = Field(default=(), max_length=100)


class PolicyDecision(Document):
    """Somebody's word on a proposed policy. Whoever proposed it cannot approve it."""

    actor: Actor
    reason: Reason | None = None


class PolicyEntry(Contract):
    """One version and what became of it, without what it says."""

    version: int
    state: PolicyState
    reason: str
    proposed_by: str
    proposed_at: AwareDatetime
    decided_by: str | None = None
    decided_at: AwareDatetime | None = None
    decided_because: str | None = None
    replaced_at: AwareDatetime | None = None


class PolicyView(Contract):
    """A version: ``document`` is what it says (a ``PolicyDocument``), ``effective`` every limit that comes of it.

    ``entry`` None: nobody ever set one, all is as built in. ``backtest``: the last of this
    version before it was decided.
    """

    version: int
    entry: PolicyEntry | None = None
    document: Mapping[str, Any]
    effective: Mapping[str, Any]
    backtest: "BacktestReport | None" = None


class PolicyHistory(Contract):
    """All versions, the last first."""

    active: int
    versions: tuple[PolicyEntry, ...]


class BacktestRequest(Document):
    """What would have been decided by another policy: a stored ``version``, or a ``document`` that nobody proposed yet.

    Of orders planned ``since`` then, at most ``limit``, the last first. ``carbon_g_per_tonne_km``: what a tonne carried
    a kilometre weighs, for the shop's carriers; without it no carbon is told.
    """

    version: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    document: PolicyDocument | None = None
    since: SentMoment | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=2_000)] = 500
    carbon_g_per_tonne_km: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if (self.version is None) == (self.document is None):
            raise PydanticCustomError("policy", "say either version or document: which policy is to be tried")
        return self


class BacktestFigure(Contract):
    """A mean for each order that both policies fill: as it was planned, as it would have been, and the difference.

    ``low`` to ``high`` is the 95 % confidence interval of the difference, by bootstrap over orders.
    """

    figure: str
    unit: str
    orders: int
    before: float
    after: float
    difference: float
    low: float
    high: float


class BacktestReport(Contract):
    """What another policy would have made of orders that were planned. Nothing acted on it.

    Each order is routed by what was known when it was planned: stock that other orders would have left is not reckoned
    with. ``asked`` orders were there, ``tried`` of them in the time given; ``skipped`` were planned before it was kept
    what a router looks at. Fill is in units, of all that were asked for. ``happened`` is what became of the plans.
    """

    policy: str
    against: str
    since: AwareDatetime | None
    asked: int
    tried: int
    skipped: int
    proven: int
    changed: int
    fill_before: float
    fill_after: float
    figures: tuple[BacktestFigure, ...]
    happened: Mapping[str, float] = Field(default_factory=dict)
    made_at: AwareDatetime
    notes: tuple[str, ...] = ()


PolicyView.model_rebuild()
