"""The statement of effects: everything that the simulators did, line by line and added up, to check the books by."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from apps.simulators.ledger import Effect, Ledger

SIMULATORS = ("payment", "warehouse", "carrier", "messages")

# Kind and state of an effect -> the line of totals that it counts in.
_TOTALS: dict[str, dict[tuple[str, str], str]] = {
    "payment": {
        ("capture", "captured"): "charges",
        ("refund", "refunded"): "refunds",
        ("authorisation", "open"): "authorisations_open",
        ("authorisation", "used"): "authorisations_used",
        ("authorisation", "voided"): "authorisations_voided",
        ("authorisation", "declined"): "authorisations_declined",
        ("authorisation", "expired"): "authorisations_expired",
    },
    "warehouse": {
        ("pick", "accepted"): "picks",
        ("pick", "cancelled"): "picks_cancelled",
        ("pick", "refused"): "picks_refused",
    },
    "carrier": {
        ("label", "bought"): "labels",
        ("label", "voided"): "labels_voided",
        ("label", "refused"): "labels_refused",
    },
    "messages": {("message", "sent"): "messages"},
}


class Line(TypedDict):
    """One effect. ``amount_minor`` is in minor units of ``currency``; both are None where no money moved."""

    effect_id: str
    kind: str
    state: str
    key: str
    reference: str
    amount_minor: int | None
    currency: str | None
    at: str


class Total(TypedDict):
    """How many, and how much per currency in minor units."""

    count: int
    amounts: dict[str, int]


class Statement(TypedDict):
    """All effects of one simulator, oldest first, and their totals."""

    simulator: str
    effects: list[Line]
    totals: dict[str, Total]


def statement_of(simulator: str, effects: Iterable[Effect]) -> Statement:
    """Line up and add up.

    What an authorisation still holds, or gave back, is less than its amount by what was captured of it.
    """
    effects = list(effects)
    lines = [_line(effect) for effect in effects]
    totals = {name: Total(count=0, amounts={}) for name in _TOTALS[simulator].values()}
    captured: dict[str, int] = {}
    for effect in effects:
        if effect.kind == "capture" and effect.parent_id is not None:
            captured[effect.parent_id] = captured.get(effect.parent_id, 0) + (effect.amount_minor or 0)
    for effect in effects:
        name = _TOTALS[simulator].get((effect.kind, effect.state))
        if name is None:
            continue
        total = totals[name]
        total["count"] += 1
        if effect.amount_minor is not None and effect.currency is not None:
            amount = effect.amount_minor
            if name in ("authorisations_open", "authorisations_voided"):
                amount -= captured.get(effect.effect_id, 0)
            total["amounts"][effect.currency] = total["amounts"].get(effect.currency, 0) + amount
    return Statement(simulator=simulator, effects=lines, totals=totals)


def statements_in(data_dir: Path) -> list[Statement]:
    """The statements of all simulators whose state is in ``data_dir``, running or not; empty for one that never ran."""
    return [
        statement_of(simulator, _effects_in(ledger_path(data_dir, simulator))) for simulator in SIMULATORS
    ]


def ledger_path(data_dir: Path, simulator: str) -> Path:
    """Where a simulator keeps its state."""
    return data_dir / f"{simulator}.sqlite"


def as_text(statements: Iterable[Statement]) -> str:
    """For people: totals first, then each effect."""
    rows: list[str] = []
    for statement in statements:
        rows.append(statement["simulator"])
        for name, total in statement["totals"].items():
            amounts = "  ".join(f"{minor} {currency}" for currency, minor in sorted(total["amounts"].items()))
            rows.append(f"  {name.replace('_', ' '):<26}{total['count']:>8}  {amounts}".rstrip())
        for line in statement["effects"]:
            amount = "" if line["amount_minor"] is None else f"{line['amount_minor']} {line['currency']}"
            rows.append(
                f"    {line['at']}  {line['kind']:<14} {line['state']:<10} {amount:>14}  "
                f"{line['reference']}  key={line['key']}"
            )
    return "\n".join(rows)


def _effects_in(path: Path) -> list[Effect]:
    if not path.exists():
        return []
    ledger = Ledger(path, exclusive=False)
    try:
        return ledger.effects()
    finally:
        ledger.close()


def _line(effect: Effect) -> Line:
    return Line(
        effect_id=effect.effect_id,
        kind=effect.kind,
        state=effect.state,
        key=effect.key,
        reference=effect.reference,
        amount_minor=effect.amount_minor,
        currency=effect.currency,
        at=effect.at,
    )
