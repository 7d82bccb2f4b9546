"""What a person or a program sees: tables that are easy on the eye, or JSON. And the exit codes between the two."""

import json
import os
import unicodedata
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from apps.cli.app import exit_code
from models.errors import InvalidDocument, OrderwrightError
from models.states import OrderState

_UNBOUND_WIDTH = 160

# Colours say the same thing everywhere: green is done, yellow waits for a person, red went wrong.
_STYLES = {
    "closed": "green",
    "delivered": "green",
    "captured": "green",
    "confirmed": "green",
    "in_review": "yellow",
    "awaiting_customer": "yellow",
    "backordered": "yellow",
    "open": "yellow",
    "rejected": "red",
    "cancelled": "red",
    "compensated": "red",
    "needs_operator": "bold red",
    "lost": "bold red",
}


def console(*, to_stderr: bool = False) -> Console:
    """A console that never guesses at markup, emoji or numbers in somebody's text.

    Without a terminal to fit into, lines are wide: a program or a log reads them better whole.
    """
    made = Console(stderr=to_stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _UNBOUND_WIDTH
    return made


def print_json(value: Any) -> None:
    """One JSON document, indented, on standard output."""
    print(json.dumps(jsonable(value), indent=2, ensure_ascii=False))


def jsonable(value: Any) -> Any:
    """``value`` with our contracts turned into plain JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    return value


def error_json(error: OrderwrightError) -> dict[str, Any]:
    """An error as JSON, with each single problem where there are several."""
    answer: dict[str, Any] = {"code": error.code, "message": error.message, "exit_code": exit_code(error)}
    if isinstance(error, InvalidDocument):
        answer["problems"] = jsonable(error.problems)
    return answer


def print_error(target: Console, error: OrderwrightError, *, about: str = "") -> None:
    """An error for a person: the sentence, or one line for each problem."""
    lead = f"{about}: " if about else ""
    if isinstance(error, InvalidDocument):
        count = "1 problem" if len(error.problems) == 1 else f"{len(error.problems)} problems"
        target.print(Text(f"{lead}not accepted, {count}:", style="red"))
        for problem in error.problems:
            target.print(Text(plain(f"  {problem.path or 'document'}: {problem.message}")), soft_wrap=True)
    else:
        target.print(Text(plain(f"{lead}{error.message}"), style="red"), soft_wrap=True)


def facts(*rows: tuple[str, Text | str | None]) -> Table:
    """Names and values, one per line; what is None is left out."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(name, value if isinstance(value, Text) else plain(value))
    return table


def listing(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table with ``columns``; those in ``right`` hold numbers. The first, the id, stays whole."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column == columns[0])
    return table


def state(value: str) -> Text:
    """A state in its colour."""
    return Text(value, style=_STYLES.get(value, "cyan" if value in set(OrderState) else ""))


def when(moment: datetime | None) -> str:
    """A time to the minute, in UTC, or a dash."""
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def day(moment: datetime | None) -> str:
    """The day of a time, in UTC, or a dash."""
    return "-" if moment is None else f"{moment:%Y-%m-%d}"


def plain(text: str) -> str:
    """``text`` without control characters: what a stranger wrote must not steer the reader's terminal."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
