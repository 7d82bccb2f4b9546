"""Gate A's hard rules: what may pass, what a person must see, what is refused. Thresholds are data, set by humans."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pydantic import Field

from models.base import Contract
from models.effects import RiskAssessment, RiskDecision
from models.money import Money
from models.order import ChargeKind, CustomerType, OrderDraft
from models.review import Flag


class RiskFeatures(Contract):
    """What the rules look at. Everything was known when the order was placed."""

    customer_type: CustomerType
    total: Money
    goods: Money
    discount: Money
    max_line_quantity: int
    guest: bool
    ship_country: str
    bill_country: str


class RiskPolicy(Contract):
    """Thresholds by customer type. Values are minor units per currency; a currency without one is always reviewed."""

    version: str = "risk-2026-11-1"
    review_value_minor: Mapping[CustomerType, Mapping[str, int]] = Field(
        default_factory=lambda: MappingProxyType(
            {
                CustomerType.B2C: MappingProxyType({"GBP": 200_000, "EUR": 230_000, "USD": 250_000}),
                CustomerType.B2B: MappingProxyType({"GBP": 500_000, "EUR": 575_000, "USD": 625_000}),
            }
        )
    )
    review_line_quantity: int = 1_000
    review_discount_percent: int = 50
    guest_abroad_value_minor: Mapping[str, int] = Field(
        default_factory=lambda: MappingProxyType({"GBP": 50_000, "EUR": 57_500, "USD": 62_500})
    )
    refused_countries: frozenset[str] = frozenset()


def features_of(draft: OrderDraft, customer_type: CustomerType) -> RiskFeatures:
    """The features of a stored draft."""

    def money(minor: int) -> Money:
        return Money(minor=minor, currency=draft.currency)

    return RiskFeatures(
        customer_type=customer_type,
        total=money(draft.totals.total_minor),
        goods=money(draft.totals.lines_minor),
        discount=money(-sum(c.amount_minor for c in draft.charges if c.kind is ChargeKind.DISCOUNT)),
        max_line_quantity=max(line.quantity for line in draft.lines),
        guest=draft.customer.customer_ref is None,
        ship_country=draft.ship_to.country,
        bill_country=(draft.bill_to or draft.ship_to).country,
    )


def assess(features: RiskFeatures, policy: RiskPolicy) -> RiskAssessment:
    """Apply every rule; the strictest decision counts and every reason is kept."""
    refusals = tuple(_refusals(features, policy))
    flags = refusals + tuple(_flags(features, policy))
    decision = RiskDecision.REJECT if refusals else RiskDecision.REVIEW if flags else RiskDecision.PASS
    return RiskAssessment(decision=decision, flags=flags, policy_version=policy.version)


def _refusals(features: RiskFeatures, policy: RiskPolicy) -> Iterator[Flag]:
    if features.ship_country in policy.refused_countries:
        yield Flag(code="refused_country", reason=f"policy ships nothing to {features.ship_country}")


def _flags(features: RiskFeatures, policy: RiskPolicy) -> Iterator[Flag]:
    total, currency = features.total, features.total.currency
    limit = policy.review_value_minor[features.customer_type].get(currency)
    if limit is None:
        yield Flag(code="no_threshold", reason=f"no value threshold is set for {currency}")
    elif total.minor > limit:
        threshold = Money(minor=limit, currency=currency)
        yield Flag(
            code="high_value",
            reason=f"total {total} is above the {features.customer_type.upper()} limit of {threshold}",
        )
    if features.max_line_quantity > policy.review_line_quantity:
        yield Flag(
            code="wild_quantity",
            reason=f"a line of {features.max_line_quantity:,} units is above {policy.review_line_quantity:,}",
        )
    if features.discount.minor * 100 > features.goods.minor * policy.review_discount_percent:
        yield Flag(
            code="deep_discount",
            reason=f"discounts of {features.discount} are over {policy.review_discount_percent} % of {features.goods}",
        )
    guest_limit = policy.guest_abroad_value_minor.get(currency, 0)
    if features.guest and features.ship_country != features.bill_country and total.minor > guest_limit:
        yield Flag(
            code="guest_abroad",
            reason=f"a guest billed in {features.bill_country} sends {total} to {features.ship_country}",
        )
