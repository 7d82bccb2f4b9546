"""What makes a document an acceptable order. Every problem is found at once, so that a sender mends it in one go."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from models.clock import EARLIEST, LATEST
from models.errors import DocumentTooLarge, InvalidDocument, Problem
from models.money import CURRENCY_EXPONENT
from models.order import MAX_DAYS_AHEAD, MAX_DOCUMENT_BYTES, MAX_LINES, ChargeKind, OrderDraft
from policies.strict_json import parse, unstorable_text

# What a problem says stands in logs and on timelines: nothing about a person may be quoted there.
_PERSONAL = ("customer", "ship_to", "bill_to")


def check_document(raw: bytes, limit: int = MAX_DOCUMENT_BYTES) -> OrderDraft:
    """Parse and check one order document, UTF-8 JSON of at most ``limit`` bytes.

    Raises ``DocumentTooLarge``, or ``InvalidDocument`` with every problem of shape and of sense.
    """
    if len(raw) > limit:
        raise DocumentTooLarge(
            f"the document has {len(raw):,} bytes; at most {limit:,} are accepted: split the order"
        )
    return check_parsed(parse(raw))


def check_parsed(document: Any) -> OrderDraft:
    """Check a document that is already parsed JSON. Raises ``InvalidDocument`` with every problem."""
    if not isinstance(document, dict):
        raise InvalidDocument(
            (Problem(path="", code="not_an_object", message="must be a JSON object with an order in it"),)
        )
    unstorable = tuple(unstorable_text(document))
    if unstorable:
        raise InvalidDocument(unstorable)
    try:
        draft = OrderDraft.model_validate(document)
    except ValidationError as error:
        shape = tuple(
            _problem_of_shape(item) for item in error.errors(include_url=False) if not _is_echo(item)
        )
        raise InvalidDocument(
            shape + _sums_of_broken(document, {problem.path for problem in shape})
        ) from None
    problems = check_draft(draft)
    if problems:
        raise InvalidDocument(problems)
    return draft


def check_draft(draft: OrderDraft) -> tuple[Problem, ...]:
    """The problems of sense in a draft whose shape is right; empty when it is acceptable."""
    return tuple(_problems_of_sense(draft))


_SENTENCES = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of this document: check its spelling",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number, without a fraction",
    "string_type": "must be text",
    "timezone_aware": "must have a time zone, e.g. 2026-03-01T09:30:00Z",
    "datetime_type": "must be a time, e.g. 2026-03-01T09:30:00Z",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "tuple_type": "must be a list",
}


def _problem_of_shape(error: Any) -> Problem:
    kind: str = error["type"]
    path = _path(error["loc"])
    context = error.get("ctx", {})
    if kind in _SENTENCES:
        message = _SENTENCES[kind]
    elif kind == "too_long" and path == "lines":
        message = (
            f"has {context.get('actual_length')} lines; at most {MAX_LINES:,} are accepted: split the order"
        )
    elif kind == "value_error":
        message = str(context["error"])
    else:
        message = error["msg"][:1].lower() + error["msg"][1:]
    if kind in (
        "greater_than_equal",
        "less_than_equal",
        "string_pattern_mismatch",
        "enum",
    ) and not path.startswith(_PERSONAL):
        message += f", not {error['input']!r:.60}"
    return Problem(path=path, code=kind, message=message)


def _is_echo(error: Any) -> bool:
    """Whether a list only counts as too short because its broken items were left out; those are named themselves."""
    return bool(error["type"] == "too_short" and error["input"])


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _problems_of_sense(draft: OrderDraft) -> Iterator[Problem]:
    for line_id, count in Counter(line.line_id for line in draft.lines).items():
        if count > 1:
            yield Problem(
                path="lines", code="duplicate_line", message=f"line_id {line_id!r} stands {count} times"
            )
    for index, charge in enumerate(draft.charges):
        if charge.kind is ChargeKind.DISCOUNT and charge.amount_minor > 0:
            yield Problem(
                path=f"charges[{index}].amount_minor",
                code="discount_sign",
                message="a discount is zero or negative",
            )
    lines = sum(line.quantity * line.unit_price_minor for line in draft.lines)
    charges = sum(charge.amount_minor for charge in draft.charges)
    yield from _sums(draft.currency, lines, charges, draft.totals.model_dump())
    tendered = sum(tender.amount_minor for tender in draft.tenders)
    if tendered != draft.totals.total_minor:
        yield Problem(
            path="tenders",
            code="tender_mismatch",
            message=f"pay {_amount(tendered, draft.currency)}, the total is "
            f"{_amount(draft.totals.total_minor, draft.currency)}",
        )
    for index, tender in enumerate(draft.tenders):
        if len(draft.tenders) > 1 and tender.amount_minor == 0:
            yield Problem(
                path=f"tenders[{index}].amount_minor",
                code="tender_pays_nothing",
                message="pays nothing: leave it out",
            )
        if any((tender.kind, tender.token) == (one.kind, one.token) for one in draft.tenders[:index]):
            yield Problem(
                path=f"tenders[{index}]",
                code="duplicate_tender",
                message="is the same tender as one before: name each once, with all that it pays",
            )
    if draft.totals.total_minor <= 0:
        yield Problem(
            path="totals.total_minor",
            code="not_an_order",
            message=f"the total is {_amount(draft.totals.total_minor, draft.currency)}: this is not an order; "
            "credit notes and corrections do not come in here",
        )
    for name, moment in (
        ("placed_at", draft.placed_at),
        ("promise_by", draft.promise_by),
        ("deliver_from", draft.deliver_from),
    ):
        if moment is not None and not EARLIEST <= moment <= LATEST:
            yield Problem(
                path=name,
                code="impossible_time",
                message=f"must lie between the years {EARLIEST.year} and {LATEST.year}",
            )
    if draft.promise_by is not None and draft.promise_by < draft.placed_at:
        yield Problem(path="promise_by", code="promise_before_order", message="lies before placed_at")
    yield from _of_window(draft)


def _of_window(draft: OrderDraft) -> Iterator[Problem]:
    if draft.deliver_from is None:
        return
    if draft.promise_by is not None and draft.deliver_from > draft.promise_by:
        yield Problem(
            path="deliver_from",
            code="no_window",
            message="lies after promise_by: no day is both late and early enough",
        )
    if draft.deliver_from - draft.placed_at > timedelta(days=MAX_DAYS_AHEAD):
        yield Problem(
            path="deliver_from",
            code="too_far_ahead",
            message=f"lies more than {MAX_DAYS_AHEAD} days after placed_at: send the order when it is nearer",
        )


def _sums(currency: str, lines: int, charges: int, totals: dict[str, int]) -> Iterator[Problem]:
    for name, found in (("lines_minor", lines), ("charges_minor", charges), ("total_minor", lines + charges)):
        if totals[name] != found:
            yield Problem(
                path=f"totals.{name}",
                code="totals_mismatch",
                message=f"says {_amount(totals[name], currency)}, the document adds up to {_amount(found, currency)}",
            )


def _amount(minor: int, currency: str) -> str:
    exponent = CURRENCY_EXPONENT.get(currency, 0)
    sign = "-" if minor < 0 else ""
    units, fraction = divmod(abs(minor), 10**exponent)
    return f"{sign}{units}{f'.{fraction:0{exponent}d}' if exponent else ''} {currency}"


def _sums_of_broken(document: dict[str, Any], broken: set[str]) -> tuple[Problem, ...]:
    """Check the sums of a document with other faults too, if the numbers they are made of are sound."""
    parts = ("lines", "charges", "totals")
    if any(path.startswith(parts) for path in broken):
        return ()
    lines = sum(line["quantity"] * line["unit_price_minor"] for line in document["lines"])
    charges = sum(charge["amount_minor"] for charge in document.get("charges", ()))
    currency = document.get("currency")
    return tuple(_sums(currency if isinstance(currency, str) else "", lines, charges, document["totals"]))
