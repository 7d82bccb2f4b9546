"""What another policy would have made of decisions that were taken, with how sure that is."""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from models.money import CURRENCY_EXPONENT
from models.plan import Plan, Unfillable
from models.policy import BacktestFigure
from policies.routing.problem import RoutingProblem
from policies.routing.router import Router

_RESAMPLES = 2_000
# The same question gets the same answer.
_SEED = 20_261_127


class Decided(NamedTuple):
    """A decision that was taken, and what its router looked at, as the other policy would have had it."""

    plan: Plan
    problem: RoutingProblem


class _Pair(NamedTuple):
    before: Plan
    after: Plan
    at: datetime


class Outcome(NamedTuple):
    """What the other policy makes of the orders; ``tried`` of them in the time given."""

    tried: int
    proven: int
    changed: int
    fill_before: float
    fill_after: float
    figures: tuple[BacktestFigure, ...]


def backtest(
    decisions: Iterable[Decided],
    router: Router,
    *,
    seconds: float,
    carbon_g_per_tonne_km: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Route each order anew and compare, as long as ``seconds`` last.

    Figures are means over the orders that both fill, else a policy that refuses the dear ones would look cheap.
    """
    until = clock() + seconds
    pairs: list[_Pair] = []
    asked = given = given_before = tried = proven = changed = 0
    for decided in decisions:
        if clock() >= until:
            break
        tried += 1
        units = sum(line.quantity for line in decided.problem.lines)
        # What a part that went ahead left out was asked for as well, and neither policy had it.
        asked += units + sum(line.quantity for line in decided.plan.left_out)
        given_before += units
        answer = router.route(decided.problem)
        if isinstance(answer, Unfillable):
            given += units - sum(line.quantity for line in answer.missing) if answer.missing else 0
            changed += 1
            continue
        given += units
        proven += answer.proof is not None and answer.proof.proven
        changed += _ways(answer) != _ways(decided.plan)
        pairs.append(_Pair(decided.plan, answer, decided.problem.business_now))
    return Outcome(
        tried=tried,
        proven=proven,
        changed=changed,
        fill_before=given_before / asked if asked else 1.0,
        fill_after=given / asked if asked else 1.0,
        figures=tuple(_figures(pairs, carbon_g_per_tonne_km)),
    )


def _ways(plan: Plan) -> list[tuple[object, ...]]:
    return sorted(
        (one.node, one.carrier, one.service, tuple(sorted((line.sku, line.quantity) for line in one.lines)))
        for one in plan.shipments
    )


def _figures(pairs: Sequence[_Pair], carbon: int | None) -> Iterable[BacktestFigure]:
    if not pairs:
        return
    currency = pairs[0].before.cost.currency
    minor = 10 ** CURRENCY_EXPONENT[currency]
    yield _figure("cost", currency, pairs, lambda plan, _: _paid(plan) / minor)
    if any(_values(plan) for pair in pairs for plan in (pair.before, pair.after)):
        yield _figure("look-ahead and markdown", currency, pairs, lambda plan, _: _values(plan) / minor)
    yield _figure("parcels", "", pairs, lambda plan, _: len(plan.shipments))
    yield _figure(
        "promised", "days", pairs, lambda plan, at: (plan.promised_at - at).total_seconds() / 86_400
    )
    yield _figure("promised too late", "share", pairs, lambda plan, _: plan.late is not None)
    far = [pair for pair in pairs if _known_distance(pair.before) and _known_distance(pair.after)]
    if far:
        yield _figure(
            "distance", "km", far, lambda plan, _: sum(one.distance_km or 0 for one in plan.shipments)
        )
        yield _figure("transport", "tonne-km", far, lambda plan, _: _tonne_km(plan))
        if carbon is not None:
            yield _figure("carbon", "kg", far, lambda plan, _: _tonne_km(plan) * carbon / 1000)


def _paid(plan: Plan) -> int:
    # What is put on top for a split or for being late is what the policies differ in, and nobody's money.
    return sum((one.handling + one.freight).minor for one in plan.shipments)


def _values(plan: Plan) -> int:
    return sum(one.minor for one in (plan.look_ahead, plan.markdown) if one is not None)


def _known_distance(plan: Plan) -> bool:
    return all(one.distance_km is not None for one in plan.shipments)


def _tonne_km(plan: Plan) -> float:
    return sum((one.distance_km or 0) * one.weight_g / 1e6 for one in plan.shipments)


def _figure(
    name: str, unit: str, pairs: Sequence[_Pair], of: Callable[[Plan, datetime], float]
) -> BacktestFigure:
    before = np.array([float(of(pair.before, pair.at)) for pair in pairs])
    after = np.array([float(of(pair.after, pair.at)) for pair in pairs])
    low, high = interval(after - before)
    return BacktestFigure(
        figure=name,
        unit=unit,
        orders=len(pairs),
        before=float(before.mean()),
        after=float(after.mean()),
        difference=float((after - before).mean()),
        low=low,
        high=high,
    )


def interval(differences: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float]:
    """The 95 % confidence interval of a mean, by the percentiles of bootstrap means. Shape (orders,)."""
    chooser = np.random.default_rng(_SEED)
    count = len(differences)
    means = np.array(
        [differences[chooser.integers(0, count, count)].mean() for _ in range(_RESAMPLES)], dtype=np.float64
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
