"""As much of PromQL as the rules of docs/alerts.yml speak, evaluated on series that a test makes up.

A reset of a counter is not looked for. What is not spoken here raises ``NotImplementedError``.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser as p

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
# Prometheus looks back so far for the value of a series.
_LOOK_BACK = 300.0
_COMPARED = {">": operator.gt, "<": operator.lt, "==": operator.eq, ">=": operator.ge}
_AGGREGATED: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "max": max, "min": min}


@dataclass(frozen=True)
class Series:
    """What was scraped of one series: (seconds, value), the oldest first."""

    name: str
    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]


def evaluated(rule: str, series: Iterable[Series], at: float) -> list[dict[str, str]]:
    """The labels of everything that a rule's expression finds at that second."""
    return [dict(labels) for labels in _vector(p.parse(rule), list(series), at)]


def kept_labels(expression: Any, of_a_series: Callable[[str], set[str]]) -> set[str]:  # noqa: PLR0911 - one per kind
    """The labels that what an expression finds has for certain."""
    match expression:
        case p.VectorSelector():
            return of_a_series(expression.name or "")
        case p.MatrixSelector():
            return of_a_series(expression.vector_selector.name or "")
        case p.ParenExpr():
            return kept_labels(expression.expr, of_a_series)
        case p.AggregateExpr():
            return set(expression.modifier.labels) if expression.modifier else set()
        case p.Call() if expression.func.name == "absent":
            return {matcher.name for matcher in expression.args[0].matchers.matchers}
        case p.Call():
            inner = kept_labels(expression.args[-1], of_a_series)
            return inner - {"le"} if expression.func.name == "histogram_quantile" else inner
        case p.BinaryExpr() if str(expression.op) == "or":
            return kept_labels(expression.lhs, of_a_series) & kept_labels(expression.rhs, of_a_series)
        case p.BinaryExpr():
            return kept_labels(expression.lhs, of_a_series)
    raise NotImplementedError(type(expression).__name__)


def _vector(expression: Any, series: list[Series], at: float) -> Vector:
    match expression:
        case p.ParenExpr():
            return _vector(expression.expr, series, at)
        case p.VectorSelector():
            return {
                frozenset({"__name__": one.name, **one.labels}.items()): samples[-1][1]
                for one in _selected(expression, series)
                if (samples := _between(one, at - _LOOK_BACK, at))
            }
        case p.Call():
            return _call(expression, series, at)
        case p.AggregateExpr():
            by = set(expression.modifier.labels) if expression.modifier else set()
            groups: dict[Labels, list[float]] = {}
            for labels, value in _vector(expression.expr, series, at).items():
                groups.setdefault(_only(labels, by), []).append(value)
            return {labels: _AGGREGATED[str(expression.op)](values) for labels, values in groups.items()}
        case p.BinaryExpr():
            return _binary(expression, series, at)
    raise NotImplementedError(type(expression).__name__)


def _call(call: p.Call, series: list[Series], at: float) -> Vector:
    (argument,) = call.args
    if call.func.name == "absent":
        named = argument.matchers.matchers
        there = _vector(argument, series, at)
        return {} if there else {frozenset((matcher.name, matcher.value) for matcher in named): 1.0}
    if call.func.name not in ("rate", "increase", "delta", "max_over_time"):
        raise NotImplementedError(call.func.name)
    seconds = argument.range.total_seconds()
    found: Vector = {}
    for one in _selected(argument.vector_selector, series):
        samples = _between(one, at - seconds, at)
        if call.func.name == "max_over_time":
            if samples:
                found[frozenset(one.labels.items())] = max(value for _, value in samples)
        elif len(samples) > 1:
            grown = _extrapolated(samples, at - seconds, at, counter=call.func.name != "delta")
            found[frozenset(one.labels.items())] = grown / seconds if call.func.name == "rate" else grown
    return found


def _extrapolated(samples: list[tuple[float, float]], begin: float, end: float, *, counter: bool) -> float:
    """What Prometheus makes of the difference: one failure in a window is somewhat more than one to it."""
    (first_at, first), (last_at, last) = samples[0], samples[-1]
    covered, between = last_at - first_at, (last_at - first_at) / (len(samples) - 1)
    gaps = [gap if gap < 1.1 * between else between / 2 for gap in (first_at - begin, end - last_at)]
    if counter and last > first:
        # No counter was ever below zero.
        gaps[0] = min(gaps[0], covered * first / (last - first))
    return (last - first) * (covered + sum(gaps)) / covered


def _binary(expression: p.BinaryExpr, series: list[Series], at: float) -> Vector:
    left, operation = _vector(expression.lhs, series, at), str(expression.op)
    if isinstance(expression.rhs, p.NumberLiteral):
        compared, number = _COMPARED[operation], expression.rhs.val
        return {labels: value for labels, value in left.items() if compared(value, number)}
    right = _vector(expression.rhs, series, at)
    matching = expression.modifier.matching if expression.modifier else None
    on = set(matching.labels) if matching else None

    def key(labels: Labels) -> Labels:
        return labels if on is None else _only(labels, on)

    if operation == "or":
        return left | {
            labels: value for labels, value in right.items() if key(labels) not in set(map(key, left))
        }
    if operation == "unless":
        return {labels: value for labels, value in left.items() if key(labels) not in set(map(key, right))}
    raise NotImplementedError(operation)


def _only(labels: Labels, names: set[str]) -> Labels:
    return frozenset((name, value) for name, value in labels if name in names)


def _selected(selector: p.VectorSelector, series: list[Series]) -> list[Series]:
    for matcher in selector.matchers.matchers:
        if matcher.op not in (p.MatchOp.Equal, p.MatchOp.NotEqual, p.MatchOp.Re):
            raise NotImplementedError(str(matcher))
    return [
        one
        for one in series
        if one.name == selector.name and all(_matches(matcher, one) for matcher in selector.matchers.matchers)
    ]


def _matches(matcher: p.Matcher, series: Series) -> bool:
    value = series.labels.get(matcher.name, "")
    if matcher.op == p.MatchOp.Equal:
        return value == matcher.value
    if matcher.op == p.MatchOp.NotEqual:
        return value != matcher.value
    return re.fullmatch(matcher.value, value) is not None


def _between(series: Series, after: float, until: float) -> list[tuple[float, float]]:
    return [sample for sample in series.samples if after < sample[0] <= until]
