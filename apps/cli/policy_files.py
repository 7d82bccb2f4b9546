"""What commands about the policy share: its file, times, and back tests as people read them."""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apps.cli.output import console, facts, listing, plain
from apps.cli.remote import bad_input
from models.policy import BacktestReport


def document_in(file: Path) -> dict[str, Any]:
    """The document in a TOML or JSON file, as it stands there. Raises ``InvalidDocument`` for one that is neither."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise bad_input(str(file), f"cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise bad_input(str(file), "is no policy: its keys are described in docs/policy.md")
    # What only TOML has, such as dates, is text for the API.
    return dict(json.loads(json.dumps(found, default=str)))


def moment_of(option: str, said: str) -> str:
    """A day or a time, in UTC where no zone is said. Raises ``InvalidDocument``."""
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise bad_input(option, f"{said!r} is no day such as 2026-11-01, nor a time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def print_backtest(report: BacktestReport) -> None:
    """A back test as a table that a person understands."""
    target = console()
    happened = report.happened
    late = happened.get("share_delivered_late")
    target.print(
        facts(
            (
                "back test",
                f"{report.policy} on {report.tried} of {report.asked} orders, against what was planned",
            ),
            ("in force", report.against),
            ("changed", f"{report.changed} orders would go another way; {report.proven} plans proven"),
            ("fill", f"{report.fill_before:.2%} of the units before, {report.fill_after:.2%} after"),
            (
                "happened",
                f"{happened.get('parcels', 0):.0f} parcels, {happened.get('delivered', 0):.0f} delivered"
                + (f", {late:.1%} of them late" if late is not None else ""),
            ),
            ("skipped", f"{report.skipped}, whose problem was not kept" if report.skipped else None),
            *(("note", note) for note in report.notes),
        )
    )
    if not report.figures:
        return
    table = listing(
        "mean of an order",
        "",
        "before",
        "after",
        "difference",
        "95 % interval",
        right=("before", "after", "difference"),
    )
    for one in report.figures:
        table.add_row(
            one.figure,
            plain(one.unit),
            f"{one.before:,.3f}",
            f"{one.after:,.3f}",
            f"{one.difference:+,.3f}",
            f"{one.low:+,.3f} to {one.high:+,.3f}",
        )
    target.print()
    target.print(table)
