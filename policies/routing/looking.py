"""What the policy makes of the values of stock that were worked out: what counts for an order, and what plans say."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import Field

from models.base import Contract
from models.values import StockValue
from policies.routing.fading import still_counts
from policies.routing.problem import (
    MOST_MILLS,
    KnownValues,
    RoutingProblem,
    StockFigures,
    StockRow,
    ValueTerms,
)

_MILLS = 1000
_WEEK = 7
_SHOWN = 3


class LookAheadPolicy(Contract):
    """See ``models.policy.LookAheadTerms``."""

    version: str = "look-ahead/1"
    percent: int = Field(default=0, ge=0, le=100)
    half_life_days: int = Field(default=7, ge=1)
    window_days: int = Field(default=28, ge=1)
    horizon_days: int = Field(default=28, ge=1)


class Markdown(Contract):
    """A node where each unit of a SKU is credited ``credit_minor`` while it has more than ``weeks_of_supply`` of it."""

    weeks_of_supply: int = Field(ge=1)
    credit_minor: int = Field(ge=0)


def valued(
    problem: RoutingProblem, look_ahead: LookAheadPolicy, markdowns: Mapping[str, Markdown]
) -> RoutingProblem:
    """``problem`` with what each unit weighs where it lies, by the figures it has and the policy's terms.

    Prices count for what they differ by: that of the cheapest node that has some is taken off all of them, for all that
    is asked for comes from somewhere. A SKU of which too little was sold has none, anywhere.
    """
    nodes = {node.node_id for node in problem.nodes if node.active}
    overstocked = tuple(sorted(markdowns.keys() & nodes))
    terms = None
    if look_ahead.percent or overstocked:
        terms = ValueTerms(
            percent=look_ahead.percent,
            half_life_days=look_ahead.half_life_days,
            overstocked=overstocked,
        )
    return problem.model_copy(
        update={"value_terms": terms, "stock": tuple(_valued_rows(problem, nodes, look_ahead, markdowns))}
    )


def _valued_rows(
    problem: RoutingProblem, nodes: set[str], look_ahead: LookAheadPolicy, markdowns: Mapping[str, Markdown]
) -> Iterator[StockRow]:
    places = [_Place(row.node, row.sku, row.available > 0 and row.node in nodes) for row in problem.stock]
    share = _share(problem, problem.values, look_ahead)
    for row, (ahead, credit) in zip(
        problem.stock, _weights(places, problem.values, share, markdowns), strict=True
    ):
        yield row.model_copy(update={"look_ahead_mills": ahead, "markdown_mills": credit})


class _Place(NamedTuple):
    node: str
    sku: str
    has_some: bool


def _weights(
    places: Sequence[_Place], known: KnownValues | None, share: float, markdowns: Mapping[str, Markdown]
) -> Iterator[tuple[int, int]]:
    """For each place, in mills: what a unit weighs more because of what is to come, and less because of too many."""
    figures = {(one.node, one.sku): one for one in (known.figures if known else ())}
    unknown = {one.sku for one in figures.values() if one.price_mills is None}

    def price(place: _Place) -> int:
        found = figures.get((place.node, place.sku))
        return 0 if found is None or place.sku in unknown else int((found.price_mills or 0) * share)

    least: dict[str, int] = {}
    for place in places:
        if place.has_some:
            least[place.sku] = min(least.get(place.sku, MOST_MILLS), price(place))
    for place in places:
        found, markdown = figures.get((place.node, place.sku)), markdowns.get(place.node)
        credit = 0
        if known is not None and found is not None and markdown is not None:
            over = is_overstocked(found, known.window_days, markdown.weeks_of_supply)
            credit = markdown.credit_minor * _MILLS if over else 0
        yield min(max(price(place) - least.get(place.sku, 0), 0), MOST_MILLS), credit


def values_now(
    known: KnownValues, look_ahead: LookAheadPolicy, markdowns: Mapping[str, Markdown], moment: datetime
) -> Iterator[StockValue]:
    """What the last run found, with what it counts at ``moment``; of each SKU all places must be there."""
    share = share_at(moment, known, look_ahead.percent, look_ahead.half_life_days)
    places = [_Place(one.node, one.sku, one.on_hand > 0) for one in known.figures]
    weights = _weights(places, known, share, markdowns)
    for one, (ahead, credit) in zip(known.figures, weights, strict=True):
        moved = None if one.sold is None else one.sold + one.on_hand
        yield StockValue(
            sku=one.sku,
            node=one.node,
            price_mills=one.price_mills,
            sold=one.sold,
            on_hand=one.on_hand,
            weeks_of_supply=(
                round(one.on_hand * known.window_days / (_WEEK * one.sold), 1) if one.sold else None
            ),
            sell_through_percent=round(100 * (one.sold or 0) / moved) if moved else None,
            look_ahead_mills=ahead,
            markdown_mills=credit,
        )


def is_overstocked(found: StockFigures, window_days: int, weeks_of_supply: int) -> bool:
    """Whether it would take more than so many weeks to sell what lies there, at the pace of the window.

    What has not been there for the whole window is new, not overstocked.
    """
    return found.sold is not None and found.on_hand * window_days > weeks_of_supply * _WEEK * found.sold


def share_at(moment: datetime, known: KnownValues, percent: int, half_life_days: int) -> float:
    """How much of a price counts at ``moment``; an order's own clock may be behind that of the run."""
    age = max(moment - known.worked_out_at, timedelta(0))
    return still_counts(age, percent / 100, timedelta(days=half_life_days))


def _share(problem: RoutingProblem, known: KnownValues | None, look_ahead: LookAheadPolicy) -> float:
    if known is None or not look_ahead.percent:
        return 0.0
    return share_at(problem.business_now, known, look_ahead.percent, look_ahead.half_life_days)


def notes_on_values(problem: RoutingProblem) -> tuple[str, ...]:
    """What a person should know of the values of stock that a plan was made by, where the policy wants any."""
    terms, known = problem.value_terms, problem.values
    if terms is None:
        return ()
    what = " and ".join(
        (*(("look-ahead",) if terms.percent else ()), *(("markdown",) if terms.overstocked else ()))
    )
    if known is None:
        return (f"no values of stock were worked out yet: {what} had no say",)
    return tuple(_notes(problem, terms, known))


def _notes(problem: RoutingProblem, terms: ValueTerms, known: KnownValues) -> Iterator[str]:
    asked = sorted({line.sku for line in problem.lines})
    if terms.percent:
        share = share_at(problem.business_now, known, terms.percent, terms.half_life_days)
        yield f"look-ahead counts {share:.0%} of the prices of {known.worked_out_at:%Y-%m-%d %H:%M} UTC"
        priced = {one.sku for one in known.figures if one.price_mills is not None}
        if few := [sku for sku in asked if sku not in priced]:
            yield (
                f"{_named(few)}: fewer than {known.least_lines} order lines in {known.window_days} days,"
                " so no look-ahead"
            )
    new = sorted(
        f"{one.sku} at {one.node}"
        for one in known.figures
        if one.node in terms.overstocked and one.sold is None and one.sku in asked
    )
    if new:
        yield f"{_named(new)}: stocked there for less than {known.window_days} days, so no markdown"


def _named(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
