"""``orderwright stock``: tables for people, JSON for programs, and what was typed wrongly."""

import json
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
