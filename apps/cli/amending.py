"""What a person types to amend an order, and what is shown of it: before and after, with the money."""

import re
from datetime import UTC, date, datetime, time

from rich.console import Console
from rich.text import Text

from apps.cli.amounts import minor_units
from apps.cli.output import facts, listing, plain, state, when
from apps.cli.remote import bad_input
from models.amendment import AmendmentPreview, AmendmentState, AmendmentView
from models.money import Money

_BY_ID = "line:"


def line_change(text: str, currency: str) -> dict[str, object]:
    """``SKU=QTY``, ``SKU=QTY@PRICE`` or ``line:ID=QTY`` as a change of a line; the price is in major units."""
    name, equals, wanted = text.rpartition("=")
    quantity, at, price = wanted.partition("@")
    if not name or not equals:
        raise bad_input("--line", f"{text!r} is not SKU=QTY, such as 85123A=4 or 22423=1@12.75")
    if not re.fullmatch(r"\d{1,12}", quantity.strip(), re.ASCII):
        raise bad_input(
            "--line", f"{text!r}: {quantity!r} is no number of units: use a whole one, 0 removes the line"
        )
    change: dict[str, object] = {"quantity": int(quantity)}
    if name.startswith(_BY_ID):
        change["line_id"] = name.removeprefix(_BY_ID)
    else:
        change["sku"] = name
    if at:
        change["unit_price_minor"] = _minor(price, currency, text)
    return change


def latest(text: str | None) -> str | None:
    """The latest moment of a day (in UTC), or a moment as it is."""
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return text
    return datetime.combine(day, time(23, 59, 59), UTC).isoformat()


def print_preview(target: Console, shown: AmendmentPreview) -> None:
    """A table of lines and sums before and after, and what is held, kept and given back."""
    target.print(Text.assemble((shown.order_id, "bold"), f"  version {shown.base_version}, as it would be"))
    table = listing(
        "line", "SKU", "units", "units then", "amount", "amount then",
        right=("units", "units then", "amount", "amount then"),
    )  # fmt: skip
    for line in shown.lines:
        changed = line.units_before != line.units_after or line.amount_before != line.amount_after
        table.add_row(
            plain(line.line_id),
            plain(line.sku),
            f"{line.units_before:,}",
            f"{line.units_after:,}",
            str(line.amount_before),
            str(line.amount_after),
            style="bold" if changed else "",
        )
    table.add_section()
    for name, before, after in (
        ("goods", shown.goods_before, shown.goods_after),
        ("charges", shown.charges_before, shown.charges_after),
        ("total", shown.total_before, shown.total_after),
    ):
        table.add_row(name, "", "", "", str(before), str(after), style="bold" if before != after else "")
    target.print(table)
    target.print(
        facts(
            ("difference", _signed(shown.difference)),
            ("already packed or sent", _unless_none(shown.kept)),
            ("held anew", _unless_none(shown.to_authorise)),
            ("given back", _unless_none(shown.to_release)),
            ("ships to", "another address" if shown.address_changes else None),
            ("service", shown.service),
            ("latest delivery", when(shown.promise_by) if shown.promise_by else None),
        )
    )
    for note in shown.notes:
        target.print(Text(plain(f"- {note}")), soft_wrap=True)


def print_amendments(target: Console, amendments: list[AmendmentView]) -> None:
    """What an order was to become, and what became of that."""
    if not amendments:
        return
    table = listing("amendment", "state", "asked for", "by", "total", "why", right=("total",))
    for amendment in amendments:
        why = amendment.reason if amendment.refusal is None else amendment.refusal.message
        table.add_row(
            str(amendment.number),
            state(amendment.state),
            when(amendment.created_at),
            plain(amendment.actor),
            str(amendment.preview.total_after),
            Text(plain(why), style="" if amendment.state is not AmendmentState.REFUSED else "red"),
        )
    target.print()
    target.print(table)


def _minor(price: str, currency: str, text: str) -> int:
    minor = minor_units(price, currency)
    if minor is None:
        example = Money(minor=1275, currency=currency)
        raise bad_input("--line", f"{text!r}: {price!r} is no price in {currency}: write it like {example}")
    return minor


def _signed(amount: Money) -> str:
    return f"+{amount}" if amount.minor > 0 else str(amount)


def _unless_none(amount: Money) -> str | None:
    return str(amount) if amount.minor else None
