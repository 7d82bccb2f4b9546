"""Reads invoices in the form of the UCI "Online Retail" data set and makes order drafts of them.

Every invoice of the file comes out exactly once, in time order: as a draft, or with the kind of refusal and a sentence.
The file has no addresses, names, e-mail addresses or payments; they are assumed, the same way every time (see
``examples/online_retail/README.md``).
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow
import pyarrow.parquet
from pydantic import AwareDatetime, ValidationError

from models.base import Contract
from models.clock import EARLIEST, LATEST
from models.errors import InvalidDocument, Problem
from models.order import (
    MAX_LINES,
    Address,
    ChargeKind,
    DraftCharge,
    DraftLine,
    DraftTotals,
    OrderDraft,
    Party,
    Tender,
)

CHANNEL = "online_retail"
CURRENCY = "GBP"
COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)

# The invoices carry the wall clock of the shop, which is in London.
SHOP_TIME = ZoneInfo("Europe/London")


class RefusalKind(StrEnum):
    """Why an invoice is no order. Each is counted and told, none is dropped."""

    CREDIT_NOTE = "credit_note"
    BAD_DEBT_ADJUSTMENT = "bad_debt_adjustment"
    NOT_AN_ORDER = "not_an_order"
    NO_GOODS = "no_goods"
    TOO_MANY_LINES = "too_many_lines"
    UNKNOWN_COUNTRY = "unknown_country"
    UNREADABLE = "unreadable"


class Refusal(Contract):
    """The kind, and a sentence with the figures."""

    kind: RefusalKind
    reason: str


class ImportedInvoice(Contract):
    """One invoice of the file: either ``draft`` or ``refusal``. ``notes`` tell what was rounded, moved or assumed."""

    invoice: str
    rows: int
    placed_at: AwareDatetime | None = None
    draft: OrderDraft | None = None
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()


def read_invoices(path: Path) -> Iterator[ImportedInvoice]:
    """All invoices of a parquet or CSV file, in time order; those without a readable time come first.

    Raises ``InvalidDocument`` when the file cannot be read at all: missing, neither parquet nor CSV, no such column.
    """
    invoices: dict[str, list[_Row]] = {}
    for row in _read_rows(path):
        invoices.setdefault(row.invoice, []).append(row)
    # Sorting needs every row at hand, but drafts are made one by one, as they are asked for.
    for invoice in sorted(invoices, key=lambda name: (_placed_at(invoices[name]) or _LONG_AGO, name)):
        yield _import_invoice(invoice, invoices[invoice])


def require_readable(path: Path) -> None:
    """Raise ``InvalidDocument`` as ``read_invoices`` would for a file that cannot be read at all; cheap."""
    next(_read_cells(path), None)


# --- One invoice ------------------------------------------------------------------------------------------------------
# Codes that stand for money instead of goods. PADS, the DCGS articles and gift vouchers look alike but are goods.
CHARGE_KINDS: Mapping[str, ChargeKind] = {
    "POST": ChargeKind.SHIPPING,
    "DOT": ChargeKind.SHIPPING,
    "C2": ChargeKind.SHIPPING,
    "D": ChargeKind.DISCOUNT,
    "BANK CHARGES": ChargeKind.FEE,
    "AMAZONFEE": ChargeKind.FEE,
    "CRUK": ChargeKind.FEE,
    "M": ChargeKind.ADJUSTMENT,
    "S": ChargeKind.ADJUSTMENT,
    "B": ChargeKind.ADJUSTMENT,
}

# The file's country names -> ISO 3166-1 alpha-2 and the city of the assumed address.
COUNTRIES: Mapping[str, tuple[str, str]] = {
    "Australia": ("AU", "Canberra"),
    "Austria": ("AT", "Vienna"),
    "Bahrain": ("BH", "Manama"),
    "Belgium": ("BE", "Brussels"),
    "Brazil": ("BR", "Brasilia"),
    "Canada": ("CA", "Ottawa"),
    "Channel Islands": ("JE", "Saint Helier"),
    "Cyprus": ("CY", "Nicosia"),
    "Czech Republic": ("CZ", "Prague"),
    "Denmark": ("DK", "Copenhagen"),
    "EIRE": ("IE", "Dublin"),
    "European Community": ("BE", "Brussels"),
    "Finland": ("FI", "Helsinki"),
    "France": ("FR", "Paris"),
    "Germany": ("DE", "Berlin"),
    "Greece": ("GR", "Athens"),
    "Hong Kong": ("HK", "Hong Kong"),
    "Iceland": ("IS", "Reykjavik"),
    "Israel": ("IL", "Jerusalem"),
    "Italy": ("IT", "Rome"),
    "Japan": ("JP", "Tokyo"),
    "Lebanon": ("LB", "Beirut"),
    "Lithuania": ("LT", "Vilnius"),
    "Malta": ("MT", "Valletta"),
    "Netherlands": ("NL", "Amsterdam"),
    "Norway": ("NO", "Oslo"),
    "Poland": ("PL", "Warsaw"),
    "Portugal": ("PT", "Lisbon"),
    "RSA": ("ZA", "Pretoria"),
    "Saudi Arabia": ("SA", "Riyadh"),
    "Singapore": ("SG", "Singapore"),
    "Spain": ("ES", "Madrid"),
    "Sweden": ("SE", "Stockholm"),
    "Switzerland": ("CH", "Bern"),
    "USA": ("US", "Washington"),
    "United Arab Emirates": ("AE", "Abu Dhabi"),
    "United Kingdom": ("GB", "London"),
    "Unspecified": ("GB", "London"),
}
# Names that do not say which country: what is taken for them, and a note on the invoice that says so.
ASSUMED_COUNTRIES = frozenset({"Channel Islands", "European Community", "Unspecified"})

_PENNY = Decimal("0.01")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _Row:
    """One row of the file with its cells read, or with the ``trouble`` that prevented it."""

    number: int
    invoice: str
    sku: str = ""
    description: str = ""
    quantity: int = 0
    at: datetime | None = None
    price: Decimal = Decimal(0)
    customer: str | None = None
    country: str = ""
    trouble: str | None = None


def _import_invoice(invoice: str, rows: Sequence[_Row]) -> ImportedInvoice:
    placed_at = _placed_at(rows)
    result = ImportedInvoice(invoice=invoice, rows=len(rows), placed_at=placed_at)
    refusal = next(_refusals(invoice, rows), None)
    if refusal is not None or placed_at is None:
        return result.model_copy(update={"refusal": refusal})
    try:
        draft, notes = _draft(invoice, placed_at, rows)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"invoice {invoice} makes no order: {where}: {first['msg']}"
        return result.model_copy(update={"refusal": Refusal(kind=RefusalKind.UNREADABLE, reason=reason)})
    return result.model_copy(update={"draft": draft, "notes": tuple(notes)})


def _refusals(invoice: str, rows: Sequence[_Row]) -> Iterator[Refusal]:
    """Why the invoice is no order, the reason that counts first. A row without trouble has a time."""
    if invoice[:1] in "Cc":
        yield Refusal(
            kind=RefusalKind.CREDIT_NOTE,
            reason=f"invoice {invoice} is a credit note (its number starts with C): it orders nothing",
        )
    if invoice[:1] in "Aa":
        yield Refusal(
            kind=RefusalKind.BAD_DEBT_ADJUSTMENT,
            reason=f"invoice {invoice} is an adjustment of bad debt (its number starts with A)",
        )
    troubled = [row for row in rows if row.trouble is not None]
    if troubled:
        more = f" (and {len(troubled) - 1} more rows)" if len(troubled) > 1 else ""
        yield Refusal(
            kind=RefusalKind.UNREADABLE, reason=f"row {troubled[0].number}: {troubled[0].trouble}{more}"
        )
    total = _exact_total(rows)
    if _pence(total) <= 0:
        yield Refusal(
            kind=RefusalKind.NOT_AN_ORDER,
            reason=f"invoice {invoice} adds up to {total} {CURRENCY}: nobody owes it",
        )
    goods = [row for row in rows if _is_goods(row)]
    if not goods:
        codes = ", ".join(sorted({row.sku for row in rows}))
        yield Refusal(
            kind=RefusalKind.NO_GOODS,
            reason=f"invoice {invoice} has charges only ({codes}): there is nothing to ship",
        )
    if len(goods) > MAX_LINES:
        yield Refusal(
            kind=RefusalKind.TOO_MANY_LINES,
            reason=f"invoice {invoice} has {len(goods):,} lines; an order may have {MAX_LINES:,}",
        )
    if rows[0].country not in COUNTRIES:
        yield Refusal(
            kind=RefusalKind.UNKNOWN_COUNTRY,
            reason=f"country {rows[0].country!r} is none that the importer knows",
        )


def _draft(invoice: str, at: datetime, rows: Sequence[_Row]) -> tuple[OrderDraft, list[str]]:
    total = _pence(_exact_total(rows))
    notes: list[str] = []
    lines: list[DraftLine] = []
    charges: list[DraftCharge] = []
    for position, row in enumerate(rows, start=1):
        if _is_goods(row):
            lines.append(
                DraftLine(
                    line_id=str(position),
                    sku=row.sku,
                    description=row.description,
                    quantity=row.quantity,
                    unit_price_minor=_pence(row.price),
                )
            )
        else:
            if row.sku.upper() not in CHARGE_KINDS:
                notes.append(f"row {position} ({row.sku}, quantity {row.quantity}) became an adjustment")
            charges.append(_charge(row))
        if row.price != row.price.quantize(_PENNY):
            notes.append(
                f"row {position} ({row.sku}): unit price {row.price} is not whole pennies, rounded half-even"
            )
    lines_minor = sum(line.quantity * line.unit_price_minor for line in lines)
    charges_minor = sum(charge.amount_minor for charge in charges)
    rounding = total - lines_minor - charges_minor
    if rounding:
        # The customer owes the invoice's exact sum; what the rounded rows miss of it is shown, not hidden.
        charges.append(
            DraftCharge(
                code="ROUNDING",
                kind=ChargeKind.ADJUSTMENT,
                description="rows rounded to pennies",
                amount_minor=rounding,
            )
        )
    country, city = COUNTRIES[rows[0].country]
    if rows[0].country in ASSUMED_COUNTRIES:
        notes.append(f"country {rows[0].country!r} taken as {country}")
    return (
        OrderDraft(
            channel=CHANNEL,
            external_id=invoice,
            placed_at=at,
            currency=CURRENCY,
            customer=_party(rows[0].customer),
            ship_to=Address(lines=("1 Assumed Street",), city=city, country=country),
            lines=tuple(lines),
            charges=tuple(charges),
            tenders=(Tender(token=f"tok_or_{invoice}", amount_minor=total),),
            totals=DraftTotals(lines_minor=lines_minor, charges_minor=total - lines_minor, total_minor=total),
        ),
        notes,
    )


def _charge(row: _Row) -> DraftCharge:
    amount = _pence(row.price * row.quantity)
    kind = CHARGE_KINDS.get(row.sku.upper(), ChargeKind.ADJUSTMENT)
    if kind is ChargeKind.DISCOUNT and amount > 0:
        kind = ChargeKind.ADJUSTMENT  # a discount taken back
    return DraftCharge(code=row.sku or "UNNAMED", kind=kind, description=row.description, amount_minor=amount)


def _exact_total(rows: Sequence[_Row]) -> Decimal:
    return sum((row.price * row.quantity for row in rows), Decimal(0))


def _placed_at(rows: Sequence[_Row]) -> datetime | None:
    """The time of an invoice's first readable row; a long invoice can run over two minutes."""
    return min((row.at for row in rows if row.at is not None), default=None)


def _is_goods(row: _Row) -> bool:
    """Something to ship. A line taken back or with a price below zero within a sale only adjusts its money."""
    return bool(row.sku) and row.sku.upper() not in CHARGE_KINDS and row.quantity > 0 and row.price >= 0


def _party(customer: str | None) -> Party:
    if customer is None:
        return Party(name="Guest")
    return Party(name=f"Customer {customer}", email=f"customer-{customer}@example.com", customer_ref=customer)


def _pence(pounds: Decimal) -> int:
    return int((pounds * 100).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


# --- The rows of a file -----------------------------------------------------------------------------------------------
def _read_rows(path: Path) -> Iterator[_Row]:
    for number, cells in enumerate(_read_cells(path), start=1):
        yield _row(number, cells)


def _read_cells(path: Path) -> Iterator[tuple[Any, ...]]:
    """The cells of each row in the order of ``COLUMNS``: typed from parquet, text from CSV."""
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
    except OSError as error:
        reason = error.strerror or error
        raise _unusable(path, "cannot_read", f"cannot read {path}: {reason}") from error
    yield from _read_parquet(path) if is_parquet else _read_csv(path)


def _read_parquet(path: Path) -> Iterator[tuple[Any, ...]]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        _require_columns(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=10_000, columns=list(COLUMNS)):
            columns = batch.to_pydict()
            yield from zip(*(columns[name] for name in COLUMNS), strict=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unusable(path, "not_readable", f"{path} is not readable as parquet: {error}") from error


def _read_csv(path: Path) -> Iterator[tuple[Any, ...]]:
    # The file as first published is in Latin-1; a file made by today's tools is in UTF-8.
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(rows, [])]
        _require_columns(path, header)
        wanted = [header.index(name) for name in COLUMNS]
        for row in rows:
            if row:
                yield tuple(row[index] if index < len(row) else "" for index in wanted)
    except csv.Error as error:
        raise _unusable(path, "not_readable", f"{path} is not readable as CSV: {error}") from error


def _require_columns(path: Path, present: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in present]
    if missing:
        raise _unusable(
            path,
            "missing_columns",
            f"{path} has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)} (parquet, or CSV with a header)",
        )


def _unusable(path: Path, code: str, message: str) -> InvalidDocument:
    return InvalidDocument((Problem(path=path.name, code=code, message=message),))


def _row(number: int, cells: tuple[Any, ...]) -> _Row:
    invoice, sku, description, quantity, at, price, customer, country = cells
    name = _text(invoice)
    row = _Row(number=number, invoice=name or f"row-{number}")
    if not name:
        return _troubled(row, "it has no invoice number")
    try:
        return _Row(
            number=number,
            invoice=name,
            sku=_text(sku),
            description=_text(description)[:200],
            quantity=_whole_number("Quantity", quantity),
            at=_shop_time(at),
            price=_decimal("UnitPrice", price),
            customer=_customer(customer),
            country=_text(country),
        )
    except ValueError as error:
        return _troubled(row, str(error))


def _troubled(row: _Row, trouble: str) -> _Row:
    return _Row(number=row.number, invoice=row.invoice, trouble=trouble)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


@lru_cache(maxsize=10_000)
def _decimal(column: str, cell: Any) -> Decimal:
    """Exactly what the file says: the shortest decimal that the stored float stands for, never its binary expansion."""
    try:
        value = Decimal(_text(cell))
    except InvalidOperation as error:
        raise ValueError(f"{column} {_text(cell)!r} is not a number") from error
    # A bound that keeps the arithmetic exact (28 digits) and the message honest.
    if not value.is_finite() or abs(value) >= Decimal(10) ** 12 or int(value.as_tuple().exponent) < -10:
        raise ValueError(f"{column} {_text(cell)!r} is not a usable number")
    return value


@lru_cache(maxsize=10_000)
def _whole_number(column: str, cell: Any) -> int:
    value = _decimal(column, cell)
    if value != value.to_integral_value():
        raise ValueError(f"{column} {_text(cell)!r} is not a whole number")
    return int(value)


def _customer(cell: Any) -> str | None:
    """``17850`` from 17850, "17850" and "17850.0" (what spreadsheets make of it); nothing for a guest."""
    text = _text(cell)
    if text.lower() in {"", "nan", "none", "null"}:
        return None
    return text.removesuffix(".0")[:64]


_TIME_FORMATS = ("%m/%d/%Y %H:%M", "%m/%d/%y %H:%M", "%d.%m.%Y %H:%M")


@lru_cache(maxsize=10_000)
def _shop_time(cell: Any) -> datetime:
    """The UTC time of a cell; a time without a zone is the shop's."""
    at = cell if isinstance(cell, datetime) else _parse_time(_text(cell))
    aware = at if at.tzinfo is not None else at.replace(tzinfo=SHOP_TIME)
    try:
        at = aware.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"InvoiceDate {cell!s} is out of range") from error
    if not EARLIEST <= at <= LATEST:
        raise ValueError(f"InvoiceDate {cell!s} is not between the years {EARLIEST.year} and {LATEST.year}")
    return at


def _parse_time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        for form in _TIME_FORMATS:
            try:
                return datetime.strptime(text, form)  # noqa: DTZ007 - the caller adds the shop's zone
            except ValueError:
                continue
    raise ValueError(f"InvoiceDate {text!r} is not a time (such as 2011-09-01 08:25:00)")
