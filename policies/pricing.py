"""Business customers' price lists: what is wrong with one, what an order's lines ought to cost, what to do if not."""

from collections import Counter
from collections.abc import Iterator

from models.base import Contract
from models.clock import EARLIEST
from models.effects import RiskAssessment, RiskDecision
from models.errors import Problem
from models.money import Money
from models.order import DraftLine, OrderDraft
from models.prices import NO_END, AgreedPrices, NoAgreedPrices, PriceListDocument
from models.review import Flag, Verdict

WITHIN_TOLERANCE = "price_within_tolerance"
# An order may have a thousand lines; whoever decides wants to see what is wrong, and then how much of it there is.
_LINES_TOLD = 20


class PricePolicy(Contract):
    """How much a line may differ from the price list before a person is asked.

    A line's amount may differ by ``tolerance_basis_points`` of what the list says, or by ``tolerance_minor`` if that is
    more: a shop that works prices out anew rounds otherwise. ``review_unlisted``: also ask about what the list has no
    price for, or not for so few units.
    """

    version: str = "pricing-2026-11-1"
    tolerance_basis_points: int = 50
    tolerance_minor: int = 5
    review_unlisted: bool = True

    def allows(self, expected: Money, found: Money) -> bool:
        """Whether a line may cost ``found`` where the list says ``expected``."""
        differs = abs(found.minor - expected.minor)
        return differs <= max(expected.minor * self.tolerance_basis_points // 10_000, self.tolerance_minor)


class PriceFindings(Contract):
    """What differs from the list: ``flags`` are for a person, ``noted`` is for the record. ``difference``: too much."""

    flags: tuple[Flag, ...] = ()
    noted: tuple[Flag, ...] = ()
    difference: Money | None = None


def problems_of_list(document: PriceListDocument) -> tuple[Problem, ...]:
    """What makes no sense in a price list whose shape is right; empty when it can be loaded."""
    return tuple(_problems_of_list(document))


def _problems_of_list(document: PriceListDocument) -> Iterator[Problem]:
    until = document.valid_until or NO_END
    for name, moment in (("valid_from", document.valid_from), ("valid_until", until)):
        if not EARLIEST <= moment <= NO_END:
            yield Problem(
                path=name,
                code="impossible_time",
                message=f"must lie between the years {EARLIEST.year} and {NO_END.year}",
            )
    if until <= document.valid_from:
        yield Problem(
            path="valid_until",
            code="never_valid",
            message="is not after valid_from: no order could use the list",
        )
    first: dict[tuple[str, int], int] = {}
    for index, price in enumerate(document.prices):
        known = first.setdefault((price.sku, price.min_quantity), index)
        if known != index:
            yield Problem(
                path=f"prices[{index}].min_quantity",
                code="duplicate_price",
                message=f"{price.sku} has a price from {price.min_quantity:,} units on already, in prices[{known}]: "
                "say one",
            )


def check_prices(
    draft: OrderDraft, agreed: AgreedPrices | NoAgreedPrices | None, policy: PricePolicy
) -> PriceFindings:
    """How the prices of a business customer's order differ from those agreed; nothing for a customer without a list."""
    if agreed is None:
        return PriceFindings()
    if isinstance(agreed, NoAgreedPrices):
        flag = Flag(code=agreed.code, reason=agreed.why)
        return PriceFindings(flags=(flag,)) if agreed.code == CURRENCY else PriceFindings(noted=(flag,))
    flags: list[Flag] = []
    noted: list[Flag] = []
    difference = Money.zero(draft.currency)
    for line in draft.lines:
        found, expected = _amounts(draft, line, agreed)
        if expected is None:
            (flags if policy.review_unlisted else noted).append(_unlisted(draft, line, agreed))
        elif found != expected:
            within = policy.allows(expected, found)
            (noted if within else flags).append(_differs(draft, line, agreed, within=within))
            difference += found - expected
    return PriceFindings(flags=_told(flags), noted=_told(noted), difference=difference)


CURRENCY = "price_list_currency"
EXPIRED = "price_list_not_valid"
UNLISTED = "price_not_listed"
DIFFERS = "price_differs"


def with_prices(assessment: RiskAssessment, found: PriceFindings, policy: PricePolicy) -> RiskAssessment:
    """The assessment with what was found of prices: a person is asked if any price is to be looked at."""
    if not found.flags and not found.noted:
        return assessment
    changes: dict[str, object] = {
        "flags": assessment.flags + found.flags + found.noted,
        "policy_version": f"{assessment.policy_version}, {policy.version}",
    }
    if found.flags:
        advice = _advice(found)
        if assessment.flags:
            advice = f"{advice} Besides, check with the customer that the order is meant as it stands."
        changes |= {"recommended": Verdict.REJECT, "recommendation": advice}
        if assessment.decision is RiskDecision.PASS:
            changes["decision"] = RiskDecision.REVIEW
    return assessment.model_copy(update=changes)


def _advice(found: PriceFindings) -> str:
    differs = found.difference
    told = (
        ""
        if differs is None or not differs.minor
        else f"In all the customer would pay {_size(differs)} too {'much' if differs.minor > 0 else 'little'}. "
    )
    return (
        f"{told}Find out which price was agreed. If it is the list's, amend the lines to it, which withdraws this "
        "question: orderwright orders amend ORDER --line SKU=QTY@PRICE --apply. If it is the order's, approve, and "
        "have it loaded into the list. If neither can be had, reject."
    )


def _amounts(draft: OrderDraft, line: DraftLine, agreed: AgreedPrices) -> tuple[Money, Money | None]:
    """What a line costs, and what it ought to; None where the list does not say."""
    reached = agreed.at(line.sku, line.quantity)
    found = Money(minor=line.quantity * line.unit_price_minor, currency=draft.currency)
    if reached is None:
        return found, None
    return found, Money(minor=line.quantity * reached[1], currency=draft.currency)


def _differs(draft: OrderDraft, line: DraftLine, agreed: AgreedPrices, *, within: bool) -> Flag:
    found, expected = _amounts(draft, line, agreed)
    reached = agreed.at(line.sku, line.quantity)
    assert expected is not None and reached is not None  # noqa: S101 - asked for lines that are listed
    much = "much" if expected < found else "little"
    unit = Money(minor=line.unit_price_minor, currency=draft.currency)
    return Flag(
        code=WITHIN_TOLERANCE if within else DIFFERS,
        reason=f"line {line.line_id}: {line.quantity:,} of {line.sku} at {unit} are {found}; {agreed.named} says "
        f"{Money(minor=reached[1], currency=draft.currency)} from {_units(reached[0])} on, which is {expected}: "
        f"{_size(found - expected)} too {much}{', within tolerance' if within else ''}",
    )


def _unlisted(draft: OrderDraft, line: DraftLine, agreed: AgreedPrices) -> Flag:
    found, _ = _amounts(draft, line, agreed)
    return Flag(
        code=UNLISTED,
        reason=f"line {line.line_id}: {line.quantity:,} of {line.sku} are {found}; {why_unlisted(agreed, line.sku)}",
    )


def why_unlisted(agreed: AgreedPrices, sku: str) -> str:
    """What is to be said of a SKU that the list has no price for, or not for so few units."""
    breaks = agreed.breaks.get(sku, ())
    if not breaks:
        return f"{agreed.named} has no price for {sku}"
    smallest, minor = breaks[0]
    least = Money(minor=minor, currency=agreed.currency)
    return f"{agreed.named} has a price for {sku} from {_units(smallest)} on only, {least}"


def _told(flags: list[Flag]) -> tuple[Flag, ...]:
    """The first of them, and of the rest how many there are of each kind."""
    rest = Counter(flag.code for flag in flags[_LINES_TOLD:])
    return tuple(flags[:_LINES_TOLD]) + tuple(
        Flag(code=code, reason=f"and {count:,} more lines of this kind") for code, count in rest.items()
    )


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count:,} units"


def _size(amount: Money) -> Money:
    return -amount if amount.minor < 0 else amount
