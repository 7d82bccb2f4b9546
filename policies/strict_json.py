"""JSON from strangers, read strictly: nothing that two parsers understand differently, nothing without a bound."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from models.errors import InvalidDocument, Problem

MAX_DEPTH = 32
# Ten times what an order of 1,000 lines needs; far more would take seconds to check.
MAX_VALUES = 100_000
# Amounts and quantities have 13 digits at most. Past 300 other readers round or fail.
MAX_DIGITS = 100


def parse(raw: bytes) -> Any:
    """The value of a UTF-8 JSON text.

    Raises ``InvalidDocument`` for what is not JSON, and for JSON with a key twice in one object, with NaN, Infinity or
    a number out of range, nested over ``MAX_DEPTH`` levels, or with over ``MAX_VALUES`` values.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_json(f"is not UTF-8 text (byte {error.start})") from None
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        raise _not_json(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _not_json(f"is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise _not_json(f"is not acceptable JSON: {error}") from None
    _check_extent(parsed)
    return parsed


def unstorable_text(value: Any, path: str = "") -> Iterator[Problem]:
    """A problem for every text in a parsed value, keys included, that no database can store."""
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
            yield Problem(
                path=path,
                code="bad_text",
                message="holds a NUL or half a surrogate pair: send plain Unicode text",
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from unstorable_text(key, path or "key")
            yield from unstorable_text(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unstorable_text(item, f"{path}[{index}]")


def _not_json(message: str) -> InvalidDocument:
    return InvalidDocument((Problem(path="", code="not_json", message=message),))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        # Two values for one key: parsers disagree on which one counts, and one of them may be the price.
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"the key {twice[0][:60]!r} stands twice in one object")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _whole(digits: str) -> int:
    _check_length(digits)
    return int(digits)


def _finite(digits: str) -> float:
    _check_length(digits)
    number = float(digits)
    if not math.isfinite(number):
        # It would be written down as Infinity, which is not JSON.
        raise ValueError(f"{digits} is out of range")
    return number


def _check_length(digits: str) -> None:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits; at most {MAX_DIGITS} are accepted")


def _check_extent(value: Any) -> None:
    level, values = [value], 1
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
        values += len(level)
        if values > MAX_VALUES:
            raise _not_json(f"holds more than the {MAX_VALUES:,} values that are accepted: split it")
    raise _not_json(f"is nested more than {MAX_DEPTH} levels deep")
