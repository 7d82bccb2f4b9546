"""Price lists as people write them: CSV and TOML files, read so that every problem has its line and column.

The first line of a CSV file names its columns: ``sku``, ``min_quantity`` (left out: 1), and ``unit_price`` in the major
unit (2.40) or ``unit_price_minor`` (240). What the list is called and when it holds is said beside it. A TOML file has
it all, with one ``[[prices]]`` for each price.
"""

import csv
import io
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import ValidationError

from apps.api.contracts import PriceListRequest
from apps.cli.amounts import minor_units
from models.errors import InvalidDocument, Problem
from models.money import CURRENCY_EXPONENT
from models.prices import MAX_PRICES
from policies.pricing import problems_of_list

_COLUMNS = ("sku", "min_quantity", "unit_price", "unit_price_minor")
_FIELDS = ("list_id", "name", "currency", "valid_from", "valid_until", "prices")


class Price(NamedTuple):
    """One price as it was read, and where each part of it stands; ``places`` has the whole under no name."""

    values: dict[str, Any]
    places: Mapping[str, str]

    def place(self, field: str) -> str:
        """Where a part stands; where it is missing, where it ought to."""
        return self.places.get(field) or self.places[""]


class PriceFile(NamedTuple):
    """What a file says: of the list, and each price; what could not be read is in ``problems``."""

    fields: dict[str, Any]
    places: Mapping[str, str]
    prices: Sequence[Price]
    problems: Sequence[Problem]


def read_csv(name: str, text: str, currency: str) -> PriceFile:
    """The prices of a CSV file, whose ``unit_price`` are in ``currency``. ``;`` may stand for ``,``."""
    problems: list[Problem] = []
    prices: list[Price] = []
    rows = _rows(name, text, problems)
    _, header = next(rows, (1, []))
    columns = [column.strip().casefold() for column in header]
    problems += _problems_of_header(name, columns)
    if problems:
        return PriceFile({}, {}, (), problems)
    for line, row in rows:
        places = {"": f"{name}, line {line}"} | {
            column: f"{name}, line {line}, column {number}" for number, column in enumerate(columns, start=1)
        }
        if len(row) != len(columns):
            problems.append(
                Problem(
                    path=places[""],
                    code="wrong_number_of_columns",
                    message=f"has {len(row)} columns, and the first line names {len(columns)}",
                )
            )
        else:
            written = {
                column: value.strip() for column, value in zip(columns, row, strict=True) if value.strip()
            }
            prices.append(_price(written, places, currency, problems))
    return PriceFile({}, {}, prices, problems)


def read_toml(name: str, text: str) -> PriceFile:
    """A whole list from a TOML file."""
    try:
        # A price of 2.40 stays what is written.
        parsed = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        return PriceFile({}, {}, (), [Problem(path=name, code="not_toml", message=f"is not TOML: {error}")])
    places, tables = _places_in_toml(name, text)
    problems = [
        Problem(
            path=places.get(key, name), code="unknown_field", message=f"{key} is not a part of a price list"
        )
        for key in parsed
        if key not in _FIELDS
    ]
    listed = parsed.get("prices", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        problems.append(
            Problem(
                path=places.get("prices", name), code="no_prices", message="write each price as [[prices]]"
            )
        )
        listed = []
    currency = parsed.get("currency")
    prices = []
    for number, written in enumerate(listed):
        where = tables[number] if len(tables) == len(listed) else {"": f"{name}, prices {number + 1}"}
        problems += [
            Problem(
                path=where.get(key, where[""]),
                code="unknown_field",
                message=f"{key} is not a part of a price",
            )
            for key in written
            if key not in _COLUMNS
        ]
        known = {key: value for key, value in written.items() if key in _COLUMNS}
        prices.append(_price(known, where, currency if isinstance(currency, str) else "", problems))
    fields = {key: _moment(value) for key, value in parsed.items() if key in _FIELDS and key != "prices"}
    return PriceFile(fields, dict.fromkeys(_FIELDS, name) | places, prices, problems)


def understood(file: PriceFile, said: Mapping[str, Any], options: Mapping[str, str]) -> PriceListRequest:
    """The list that a file and what was ``said`` beside it make. ``options``: by which option a field was said.

    Raises ``InvalidDocument`` with every problem, each with its line and column.
    """
    problems = list(file.problems)
    if problems and not (file.fields or file.prices):
        # Nothing of it could be read: what is missing besides is no news.
        raise InvalidDocument(tuple(problems))
    sound = [price for price in file.prices if price.values]
    if len(file.prices) > MAX_PRICES:
        problems.append(
            Problem(
                path="prices",
                code="too_many_prices",
                message=f"there are {len(file.prices):,}; a list has at most {MAX_PRICES:,}: make several lists",
            )
        )
        sound = sound[:MAX_PRICES]

    def place(location: Sequence[int | str]) -> str:
        if len(location) > 1 and location[0] == "prices":
            return sound[int(location[1])].place(str(location[2]) if len(location) > 2 else "")
        field = str(location[0]) if location else ""
        return file.places.get(field) or options.get(field) or field

    document = {**file.fields, **said, "prices": [price.values for price in sound]}
    try:
        found = PriceListRequest.model_validate(document)
    except ValidationError as invalid:
        problems += [
            Problem(path=place(item["loc"]), code=item["type"], message=_sentence(item))
            for item in invalid.errors(include_url=False)
            # That too few are left is said by those that could not be read.
            if not (item["type"] == "too_short" and (item["input"] or problems))
        ]
        raise InvalidDocument(tuple(problems)) from None
    for problem in problems_of_list(found):
        index = re.fullmatch(r"prices\[(\d+)\]\.(\w+)", problem.path)
        where = place(("prices", int(index[1]), index[2]) if index else (problem.path,))
        message = re.sub(
            r"in prices\[(\d+)\]", lambda one: f"in {sound[int(one[1])].place('')}", problem.message
        )
        problems.append(problem.model_copy(update={"path": where, "message": message}))
    if problems:
        raise InvalidDocument(tuple(problems))
    return found


def start_of(day: str) -> str:
    """A day as its first moment in UTC; a moment as it is."""
    try:
        return datetime.combine(date.fromisoformat(day), time(0), UTC).isoformat()
    except ValueError:
        return day


def _rows(name: str, text: str, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty, with the number of the line that it begins on."""
    first_line = text.partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in first_line else ",", strict=True
    )
    line = 1
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        problems.append(Problem(path=f"{name}, line {line}", code="not_csv", message=f"is not CSV: {error}"))


def _problems_of_header(name: str, columns: Sequence[str]) -> Iterator[Problem]:
    for number, column in enumerate(columns, start=1):
        where = f"{name}, line 1, column {number}"
        if column not in _COLUMNS:
            message = f"{column!r} is no column of a price list: {', '.join(_COLUMNS)}"
            yield Problem(path=where, code="unknown_column", message=message)
        elif column in columns[: number - 1]:
            yield Problem(path=where, code="duplicate_column", message=f"{column} stands twice")
    prices = sum(column in columns for column in ("unit_price", "unit_price_minor"))
    if "sku" not in columns or prices != 1:
        message = (
            "names the columns: sku, min_quantity if you like, and either unit_price or unit_price_minor"
        )
        yield Problem(path=f"{name}, line 1", code="missing_column", message=message)


def _price(
    written: Mapping[str, Any], places: Mapping[str, str], currency: str, problems: list[Problem]
) -> Price:
    """One price in minor units. Without values when some of it could not be read: that is among the problems."""
    values, before = dict(written), len(problems)

    def wrong(field: str, code: str, message: str) -> None:
        problems.append(Problem(path=places.get(field) or places[""], code=code, message=message))

    for field in ("min_quantity", "unit_price_minor"):
        value = values.get(field)
        if isinstance(value, str):
            if re.fullmatch(r"\d{1,15}", value, re.ASCII):
                values[field] = int(value)
            else:
                wrong(field, "not_a_whole_number", f"{value!r:.60} is no whole number")
    if "unit_price" in values:
        price = values.pop("unit_price")
        if "unit_price_minor" in values:
            wrong("unit_price", "two_prices", "say either unit_price or unit_price_minor")
        if currency in CURRENCY_EXPONENT:
            minor = None if isinstance(price, bool) else minor_units(str(price), currency)
            if minor is None:
                digits = CURRENCY_EXPONENT[currency]
                wrong(
                    "unit_price",
                    "not_a_price",
                    f"{str(price)!r:.60} is no price in {currency}, which has {digits} decimal places",
                )
            else:
                values["unit_price_minor"] = minor
        else:
            # That the currency is none is said once, and not of every price.
            values["unit_price_minor"] = 0
    elif "unit_price_minor" not in values:
        wrong("unit_price", "price_missing", "has no price")
    if "sku" not in values:
        wrong("sku", "sku_missing", "has no SKU")
    return Price(values if len(problems) == before else {}, places)


def _moment(value: Any) -> Any:
    """TOML knows days: such a one is its first moment in UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time(0), UTC)
    return value


def _places_in_toml(name: str, text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Where each key stands: of the list, and of each ``[[prices]]`` table."""
    fields: dict[str, str] = {}
    tables: list[dict[str, str]] = []
    among = fields
    for number, line in enumerate(text.split("\n"), start=1):
        if re.match(r"\s*\[\[\s*prices\s*\]\]", line):
            among = {"": f"{name}, line {number}"}
            tables.append(among)
        elif (found := re.match(r"\s*(?:(\w+)|\"(\w+)\")\s*=\s*", line)) is not None:
            among.setdefault(found[1] or found[2], f"{name}, line {number}, column {found.end() + 1}")
    return fields, tables


def _sentence(item: Any) -> str:
    message: str = "is missing" if item["type"] == "missing" else item["msg"][:1].lower() + item["msg"][1:]
    return message
