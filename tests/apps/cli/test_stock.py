"""``orderwright stock``: tables for people, JSON for programs, and what was typed wrongly."""

import json
from pathlib import Path
from typing import Any

import pytest

from apps.api import examples
from tests.apps.cli.conftest import Answers, Run


def at(answers: Answers) -> tuple[str, ...]:
    return ("--api-url", answers.url, "--token", "t0ken")


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def told(answers: Answers, what: str, **changes: Any) -> None:
    answers.given[f"POST /v1/stock/{what}"] = (200, json.dumps(examples.STOCK_ANSWER | changes))


def test_a_sku_is_shown_by_node_and_with_its_movements(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/stock/85123A"] = (200, json.dumps(examples.STOCK))
    outcome = run("stock", "show", "85123A", *at(answers))
    assert outcome.code == 0
    lines = lines_of(outcome.out)
    assert lines[0] == "node on hand reserved kept back available on its way"
    assert lines[1:4] == ["north 41 40 0 1 0", "south 12 0 2 10 0", "all 53 40 2 11 0"]
    assert "south L2411A 2027-11-30 8 0 8" in lines
    assert "south unknown unknown 4 0 4" in lines
    assert lines[-1] == "2026-03-02 16:40 north count -5 = 41 dana@shop.example CNT-2026-03-02-17"
    assert json.loads(run("stock", "show", "85123A", "--json", *at(answers)).out) == examples.STOCK


@pytest.mark.parametrize(
    ("arguments", "path", "sent"),
    [
        (
            ("receive", "north", "85123A=48", "B=C=2", "--new"),
            "receive",
            {
                "node": "north",
                "lines": [{"sku": "85123A", "quantity": 48}, {"sku": "B=C", "quantity": 2}],
                "new": True,
                "last": False,
            },
        ),
        (
            ("receive", "south", "85123A=12", "--transfer", "TO-77", "--last"),
            "receive",
            {
                "node": "south",
                "lines": [{"sku": "85123A", "quantity": 12}],
                "new": False,
                "last": True,
                "transfer_id": "TO-77",
            },
        ),
        (
            ("count", "north", "85123A=0", "--reason", "yearly"),
            "count",
            {
                "node": "north",
                "lines": [{"sku": "85123A", "quantity": 0}],
                "new": False,
                "reason": "yearly",
            },
        ),
        (
            ("receive", "north", "CREAM-50=24", "--lot", "L2411A", "--expires", "2027-11-30"),
            "receive",
            {
                "node": "north",
                "lines": [{"sku": "CREAM-50", "quantity": 24, "lot": "L2411A", "expires_on": "2027-11-30"}],
                "last": False,
                "new": False,
            },
        ),
        (
            ("damage", "north", "CREAM-50=2", "--lot", "L2411A", "--reason", "expired"),
            "damage",
            {
                "node": "north",
                "lines": [{"sku": "CREAM-50", "quantity": 2, "lot": "L2411A"}],
                "reason": "expired",
            },
        ),
        (
            ("adjust", "north", "85123A=-2", "--reason", "typed wrongly"),
            "adjust",
            {"node": "north", "lines": [{"sku": "85123A", "change": -2}], "reason": "typed wrongly"},
        ),
        (
            ("damage", "north", "85123A=1", "--reason", "wet"),
            "damage",
            {"node": "north", "lines": [{"sku": "85123A", "quantity": 1}], "reason": "wet"},
        ),
        (
            ("transfer", "north", "south", "85123A=12"),
            "transfer",
            {"from_node": "north", "to_node": "south", "lines": [{"sku": "85123A", "quantity": 12}]},
        ),
        (
            ("expect", "north", "85123A=200", "--on", "2026-03-09", "--supply", "PO-77"),
            "expect",
            {
                "node": "north",
                "lines": [{"sku": "85123A", "quantity": 200}],
                "supply_id": "PO-77",
                "expected_on": "2026-03-09",
            },
        ),
        (
            ("short-pick", "web:1001:1", "85123A=2", "--reason", "shelf empty"),
            "short-pick",
            {
                "shipment_id": "web:1001:1",
                "lines": [{"sku": "85123A", "quantity": 2}],
                "reason": "shelf empty",
            },
        ),
        (
            ("safety", "85123A=4", "22423=0", "--node", "north"),
            "safety",
            {
                "node": "north",
                "lines": [{"sku": "85123A", "quantity": 4}, {"sku": "22423", "quantity": 0}],
            },
        ),
    ],
)
def test_what_was_typed_is_what_is_sent(
    run: Run, answers: Answers, arguments: tuple[str, ...], path: str, sent: dict[str, Any]
) -> None:
    told(answers, path)
    outcome = run("stock", *arguments, "--document", "D-1", "--actor", "dana", *at(answers))
    assert outcome.code == 0, outcome.err
    asked, _, body = answers.asked[-1]
    assert asked == f"POST /v1/stock/{path}"
    assert json.loads(body) == {"document_id": "D-1", "actor": "dana"} | sent


def test_promises_that_a_count_broke_are_named(run: Run, answers: Answers) -> None:
    told(answers, "count")
    outcome = run("stock", "count", "north", "85123A=41", "--actor", "dana", *at(answers))
    assert "released: 6 of 85123A that shipment web:1001:1 was promised" in outcome.out
    told(answers, "count", repeated=True)
    outcome = run("stock", "count", "north", "85123A=41", "--actor", "dana", *at(answers))
    assert "was taken before; nothing changed" in outcome.out


@pytest.mark.parametrize("line", ["85123A", "85123A=", "=4", "85123A=1.5", "85123A=two", "85123A=-3"])
def test_what_is_no_number_of_pieces_is_bad_input(run: Run, answers: Answers, line: str) -> None:
    outcome = run("stock", "count", "north", line, "--actor", "dana", *at(answers))
    assert outcome.code == 2
    assert answers.asked == []
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("A=1", "--expires", "2027-11-30"), "name it with --lot"),
        (("A=1", "--lot", "L1", "--expires", "30.11.2027"), "is no day such as"),
        (("A=1", "B=2", "--lot", "L1"), "is for one SKU=UNITS"),
    ],
)
def test_lots_that_cannot_be_meant_are_bad_input(
    run: Run, answers: Answers, options: tuple[str, ...], told: str
) -> None:
    outcome = run("stock", "receive", "north", *options, "--actor", "dana", *at(answers))
    assert outcome.code == 2
    assert told in " ".join(outcome.err.split())
    assert answers.asked == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("expect", "north", "85123A=2", "--on", "Monday", "--supply", "PO-77"), "--on"),
        (("expect", "north", "85123A=2", "--on", "2026-03-09", "--supply", ""), "--supply"),
        (("short-pick", "web:1001", "85123A=2"), "SHIPMENT"),
        (("short-pick", "web:1001:1", "85123A=0"), "--lines"),
        (("safety", "85123A=-1", "--node", "north"), "--lines"),
    ],
)
def test_what_is_typed_wrongly_is_named(
    run: Run, answers: Answers, arguments: tuple[str, ...], named: str
) -> None:
    outcome = run("stock", *arguments, "--actor", "dana", *at(answers))
    assert outcome.code == 2
    assert named in outcome.err
    assert answers.asked == []


def test_books_that_agree_say_so_and_others_end_with_one(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/stock"] = (200, json.dumps(examples.STOCK_ACCOUNT))
    outcome = run("stock", "check", *at(answers))
    assert outcome.code == 0
    assert "every row is the sum of its movements" in outcome.out
    difference = {
        "trouble": "movements_differ",
        "node": "north",
        "sku": "85123A",
        "source": "",
        "found": 12,
        "expected": 10,
        "what": "on hand, and the sum of its movements",
    }
    bent = examples.STOCK_ACCOUNT | {"differences": [difference]}
    answers.given["GET /v1/stock"] = (200, json.dumps(bent))
    outcome = run("stock", "check", *at(answers))
    assert outcome.code == 1
    assert "85123A north on hand, and the sum of its movements 12 10" in lines_of(outcome.out)
    assert json.loads(run("stock", "check", "--json", *at(answers)).out) == bent


RULES = """
[[rules]]
rule_id = "own-shop-first"
kind = "protect"
sku = "85123A"
node = "*"
channels = ["web"]
percent = 30

[[rules]]
rule_id = "black-friday"
kind = "cap"
sku = "85123A"
channels = ["market"]
units = 50
valid_from = 2026-11-27T00:00:00Z
valid_until = 2026-11-30T00:00:00Z
"""


def test_rules_are_set_from_a_file_and_shown(run: Run, answers: Answers, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    for method in ("GET", "PUT"):
        answers.given[f"{method} /v1/stock/allocation"] = (200, json.dumps(examples.ALLOCATION))
    outcome = run("stock", "allocate", str(file), "--replaces", "4", "--reason", "Black Friday", *at(answers))
    assert outcome.code == 0
    sent = json.loads(answers.asked[-1][2])
    assert [rule["rule_id"] for rule in sent["rules"]] == ["own-shop-first", "black-friday"]
    assert (sent["replaces"], sent["rules"][1]["valid_from"]) == (4, "2026-11-27T00:00:00Z")
    lines = lines_of(run("stock", "allocation", *at(answers)).out)
    assert lines[1].startswith("black-friday cap 50 units 85123A all nodes market 12 now")
    assert lines[-1] == "version 5, by jo: Black Friday"
    assert json.loads(run("stock", "allocation", "--json", *at(answers)).out) == examples.ALLOCATION


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules = 3", "[[rules]]"),
        ("[[rule]]", "[[rules]]"),
        ("[[rules", "cannot be read as TOML"),
        ('[[rules]]\nrule_id = "r"\nkind = "cap"', "say either units or percent"),
        ("rules = [3]", "rules.0"),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(
    run: Run, answers: Answers, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text)
    outcome = run("stock", "allocate", str(file), *at(answers))
    assert outcome.code == 2
    assert said in " ".join(outcome.err.split())
    assert answers.asked == []
