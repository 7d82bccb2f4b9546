"""What a run of the harness came to: figures for programs, tables and whole timelines for people."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text
from sqlalchemy import text

from activities.store.store import Store
from apps.cli.output import listing, plain
from apps.simulators.ledger import Effect
from benchmarks.chaos.checks import MEANS, Invariant, Result, Violation
from benchmarks.chaos.deeds import Done
from benchmarks.chaos.evidence import Statements
from benchmarks.chaos.plan import Action, FaultPlan, Kind
from benchmarks.chaos.strikes import Struck
from models.base import Contract

_TIMELINES = 5
_VIOLATIONS_SHOWN = 40


class Looked(Contract):
    """One invariant in figures."""

    checked: int
    violations: int
    means: str


class Report(Contract):
    """A whole run.

    Attributes:
        violations: of all invariants together.
        struck: every strike that was carried out; ``deeds``: what customers and warehouses did; ``not_carried_out``:
            how many of both in the plan were not.
        lost_answers: orders whose first acceptance the submitter never heard of.
        ambiguous_messages: messages that were sent, and nobody knew at first whether they were.
        answered: tasks that the harness decided as a reviewer.
        events_repeated: events that the subscriber was told of again, and did not apply again.
        alarms: runs that were called broken for a while, and went on by themselves.
        orders_by_state: where the orders ended.
    """

    seed: int
    orders: int
    kills: int
    violations: int
    invariants: Mapping[Invariant, Looked]
    found: tuple[Violation, ...]
    kills_by_kind: Mapping[Kind, int]
    struck: tuple[Struck, ...]
    deeds: tuple[Done, ...] = ()
    not_carried_out: int
    orders_by_state: Mapping[str, int]
    lost_answers: int
    ambiguous_messages: int
    answered: int
    events_repeated: int
    alarms: int
    gave_up: str
    seconds: float
    plan: FaultPlan

    @property
    def ok(self) -> bool:
        """Nothing was broken, and everything that was to be done was."""
        return not self.violations and not self.gave_up


def looked(results: Sequence[Result]) -> dict[Invariant, Looked]:
    """Results of one invariant from several places, added up."""
    checked, broken = Counter[Invariant](), Counter[Invariant]()
    for result in results:
        checked[result.invariant] += result.checked
        broken[result.invariant] += len(result.violations)
    return {
        invariant: Looked(checked=checked[invariant], violations=broken[invariant], means=MEANS[invariant])
        for invariant in Invariant
        if invariant in checked
    }


def kills_by_kind(struck: Sequence[Struck]) -> dict[Kind, int]:
    """How many processes of each kind were killed."""
    counts = Counter(one.strike.kind for one in struck if one.strike.action is Action.KILL and one.pid)
    return {kind: counts[kind] for kind in Kind}


def show(report: Report, told: Console) -> None:
    """The summary for a person."""
    told.print()
    strikes = listing("struck", "what", "moments (seconds, orders at rest)")
    groups: defaultdict[tuple[str, str], list[Struck]] = defaultdict(list)
    for one in report.struck:
        what = one.strike.kind or one.strike.target
        groups[(one.strike.action, what)].append(one)
    for (action, what), several in sorted(groups.items()):
        moments = ", ".join(_moment(one) for one in several)
        strikes.add_row(f"{action} {len(several)}", what, moments)
    told.print(strikes)
    if report.not_carried_out:
        told.print(Text(f"{report.not_carried_out} steps of the plan were not carried out", style="red"))
    told.print()
    _show_deeds(report, told)
    ended = ", ".join(f"{count} {state}" for state, count in sorted(report.orders_by_state.items()))
    told.print(f"orders: {ended}", soft_wrap=True)
    for line in (
        f"{report.lost_answers} orders were accepted without their submitter hearing of it, and sent again",
        f"{report.ambiguous_messages} messages were sent without our hearing of it, and once all the same, because the"
        " gateway knows their keys",
        f"{report.events_repeated} events came again to a subscriber that had them, and were applied once",
        f"{report.answered} tasks were answered by a reviewer; {report.alarms} runs were called broken for a while",
    ):
        told.print(line, soft_wrap=True)
    told.print()
    table = listing("invariant", "checked", "violations", "what it says", right=("checked", "violations"))
    for invariant, figures in report.invariants.items():
        broken = Text(str(figures.violations), "bold red" if figures.violations else "")
        table.add_row(invariant.replace("_", " "), f"{figures.checked:,}", broken, figures.means)
    told.print(table)
    for violation in report.found[:_VIOLATIONS_SHOWN]:
        told.print(
            Text.assemble(
                (f"{violation.invariant}: ", "bold red"),
                f"{violation.order_id or ''} {violation.what}".strip(),
            ),
            soft_wrap=True,
        )
    if len(report.found) > _VIOLATIONS_SHOWN:
        told.print(f"and {len(report.found) - _VIOLATIONS_SHOWN} more: see --json")
    if report.gave_up:
        told.print(Text(f"gave up: {report.gave_up}", style="bold red"), soft_wrap=True)
    verdict = "0 violations" if report.ok else f"{report.violations} violations"
    told.print(
        Text(
            f"{verdict}; seed {report.seed}, {report.orders} orders, "
            f"{sum(report.kills_by_kind.values())} kills, {report.seconds:.0f} s",
            style="bold green" if report.ok else "bold red",
        )
    )


def _show_deeds(report: Report, told: Console) -> None:
    deeds = listing(
        "customers and warehouses", "seconds", "about", "sent", "what came of it", right=("seconds", "sent")
    )
    for one in report.deeds:
        came = one.came_to_nothing or one.outcome or ""
        deeds.add_row(str(one.deed.kind), f"{one.at:.0f}", one.subject or "", str(one.sent), came)
    told.print(deeds)
    ways = Counter(one.how for one in report.plan.paid_otherwise)
    told.print(
        f"paid otherwise than by card: {', '.join(f'{count} by {how}' for how, count in ways.items()) or 'none'}",
        soft_wrap=True,
    )


async def show_timelines(
    report: Report, store: Store, statements: Statements, told: Console, *, began: datetime
) -> None:
    """Everything that is known of the orders of violations: ours, the neighbours', and what was struck meanwhile."""
    orders = list(dict.fromkeys(v.order_id for v in report.found if v.order_id is not None))
    for order_id in orders[:_TIMELINES]:
        told.print()
        told.print(Text(f"--- {order_id} ---", style="bold"))
        for line in await timeline_of(order_id, store, statements, report.struck, began=began):
            told.print(plain(line), soft_wrap=True, highlight=False)
    if len(orders) > _TIMELINES:
        told.print(f"further orders: {', '.join(orders[_TIMELINES:])}", soft_wrap=True)


async def timeline_of(
    order_id: str, store: Store, statements: Statements, struck: Sequence[Struck], *, began: datetime
) -> list[str]:
    """The lines of one order, in the order of wall time."""
    lines: list[tuple[datetime, str]] = []
    async with store.transaction() as session:
        for query in _OF_AN_ORDER:
            rows: Sequence[Any] = (await session.execute(text(query), {"order": order_id})).all()
            lines += [(row[0], row[1]) for row in rows if row[0] is not None]
    for name in ("payment", "warehouse", "carrier", "messages"):
        effects: Sequence[Effect] = getattr(statements, name)
        lines += [
            (datetime.fromisoformat(effect.at), f"{name} says: {_effect(effect)}")
            for effect in effects
            if _is_about(effect, order_id)
        ]
    moments = [at for at, _ in lines]
    if moments:
        for one in struck:
            at = datetime.fromtimestamp(began.timestamp() + one.at, tz=began.tzinfo)
            if min(moments) <= at <= max(moments) or (one.subject and order_id in one.subject):
                lines.append(
                    (at, f"*** {one.strike.action} {one.strike.target} {one.subject or ''}".rstrip())
                )
    return [f"{at:%H:%M:%S.%f}  {what}" for at, what in sorted(lines, key=lambda line: line[0])]


def _is_about(effect: Effect, order_id: str) -> bool:
    subject = f":{order_id}:"
    return subject in f":{effect.reference}:" or subject in f":{effect.key}:"


def _effect(effect: Effect) -> str:
    amount = "" if effect.amount_minor is None else f" {effect.amount_minor} {effect.currency}"
    return f"{effect.kind} {effect.state}{amount} {effect.reference} (key {effect.key}, {effect.effect_id})"


def _moment(one: Struck) -> str:
    target = "" if one.strike.kind in (None, *_ALONE) else f"{one.strike.target} "
    return one.came_to_nothing or f"{target}{one.at:.0f}/{one.rested}"


_ALONE = (Kind.API, Kind.POSTGRES, Kind.TEMPORAL, Kind.SUPERVISOR)
_OF_AN_ORDER = (
    "SELECT received_at, 'intake ' || state || coalesce(', started ' || started_at::text, '') FROM intake"
    " WHERE order_id = :order",
    "SELECT recorded_at, kind || ': ' || what || coalesce(' (' || why || ')', '') || coalesce(' ' || shipment_id, '')"
    " || ' by ' || actor FROM timeline WHERE order_id = :order",
    "SELECT intended_at, 'intended ' || kind || ' ' || amount_minor || ' ' || currency || ', now ' || state || ' ('"
    " || key || ')' FROM payment_operations WHERE order_id = :order",
    "SELECT answered_at, 'answered ' || kind || ' ' || state || ' (' || key || ')' FROM payment_operations"
    " WHERE order_id = :order",
    "SELECT intended_at, 'intended ' || kind || ', now ' || state || ' (' || key || ')' FROM shipping_operations"
    " WHERE order_id = :order",
    "SELECT answered_at, 'answered ' || kind || ' ' || state || ' (' || key || ')' FROM shipping_operations"
    " WHERE order_id = :order",
    "SELECT created_at, 'reserved: ' || key || ' ' || r.state || ', ' || coalesce(string_agg(quantity || ' ' || sku ||"
    " ' at ' || node || ' ' || u.state || ' ' || shipment_id, '; ' ORDER BY sku), 'nothing') FROM reservations AS r"
    " LEFT JOIN reserved_units AS u USING (key) WHERE order_id = :order GROUP BY key",
    "SELECT created_at, 'message ' || template || ' ' || state || ' (' || key || ')' FROM notifications"
    " WHERE order_id = :order",
    "SELECT updated_at, 'shipment ' || shipment_id || ' is ' || state || ' (' || units || ' units, ' || amount_minor ||"
    " ', version ' || version || ')' FROM shipments WHERE order_id = :order",
    "SELECT updated_at, 'the order is ' || state || ' (version ' || version || ')' FROM orders WHERE order_id = :order",
    "SELECT created_at, 'amendment ' || request_id || ' proposed, version ' || base_version || ' to ' || number ||"
    " ', now ' || state FROM order_amendments WHERE order_id = :order",
    "SELECT decided_at, 'amendment ' || request_id || ' ' || state FROM order_amendments WHERE order_id = :order",
    "SELECT at, 'document ' || document_id || ' took ' || quantity || ' of ' || sku || ' at ' || node || ' from ' ||"
    " shipment_id FROM stock_released WHERE order_id = :order",
    "SELECT received_at, 'came late: ' || kind || ' ' || event_id FROM late_events WHERE order_id = :order",
)
