"""``orderwright orders amend``: what a person types, what is sent, and what is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from apps.api import examples
from tests.apps.cli.conftest import Answers, Run
from tests.apps.cli.test_commands import a_problem, at

ORDER = "GET /v1/orders/web:1001"
AMENDMENTS = "/v1/orders/web:1001/amendments"
PREVIEW: dict[str, Any] = examples.AMENDMENT_TAKEN["preview"]


@pytest.fixture
def known(answers: Answers) -> Answers:
    """An API that knows the order, and answers a preview or an application."""
    answers.given[ORDER] = (200, json.dumps(examples.VIEW))
    answers.given[f"POST {AMENDMENTS}"] = (200, json.dumps(examples.AMENDMENT_TAKEN))
    return answers


def sent(answers: Answers) -> tuple[str, dict[str, Any]]:
    """The address and body of the one amendment that was sent."""
    (found,) = [(asked, body) for asked, _, body in answers.asked if asked.startswith("POST")]
    return found[0], json.loads(found[1])


def amend(run: Run, answers: Answers, *arguments: str | Path) -> Any:
    return run("orders", "amend", "web:1001", *arguments, "--actor", "dana", *at(answers))


def test_preview_prints_before_and_after_with_the_money(run: Run, known: Answers) -> None:
    known.given[f"POST {AMENDMENTS}"] = (200, json.dumps(PREVIEW))
    outcome = amend(run, known, "--line", "85123A=4", "--reason", "fewer", "--preview")
    assert outcome.code == 0, outcome.err
    path, body = sent(known)
    assert path == f"POST {AMENDMENTS}?preview=true"
    assert body["lines"] == [{"sku": "85123A", "quantity": 4, "description": ""}]
    rows = [line.split() for line in outcome.out.splitlines()]
    assert ["1", "85123A", "6", "4", "15.30", "GBP", "10.20", "GBP"] in rows
    assert ["total", "19.25", "GBP", "14.15", "GBP"] in rows
    assert ["difference", "-5.10", "GBP"] in rows
    assert ["given", "back", "5.10", "GBP"] in rows
    assert "shipment 1 is not picked yet" in outcome.out


def test_apply_says_what_became_of_it(run: Run, known: Answers) -> None:
    outcome = amend(run, known, "--line", "85123A=4", "--reason", "fewer", "--apply")
    assert (outcome.code, outcome.out.strip()) == (
        0,
        "web:1001:a2: applied: The order's document is of version 2 now.",
    )
    path, body = sent(known)
    assert path == f"POST {AMENDMENTS}"
    assert (body["actor"], body["reason"]) == ("dana", "fewer")
    assert body["request_id"].startswith("cli-")


def test_apply_that_is_under_way_says_where_to_look(run: Run, known: Answers) -> None:
    taken = examples.AMENDMENT_TAKEN | {"outcome": "applying", "message": "warehouses are asked first"}
    known.given[f"POST {AMENDMENTS}"] = (200, json.dumps(taken))
    outcome = amend(run, known, "--line", "85123A=4", "--apply")
    assert "orderwright orders show web:1001" in outcome.out


def test_apply_without_a_worker_is_queued(run: Run, known: Answers) -> None:
    known.given[f"POST {AMENDMENTS}"] = (202, json.dumps(examples.QUEUED))
    outcome = amend(run, known, "--line", "85123A=4", "--apply")
    assert outcome.code == 0
    assert "queued as" in outcome.out


def test_everything_that_can_be_changed_is_sent(run: Run, known: Answers, tmp_path: Path) -> None:
    address, charges = tmp_path / "address.json", tmp_path / "charges.json"
    address.write_text(json.dumps(examples.AMEND_ALL["ship_to"]))
    charges.write_text(json.dumps(examples.AMEND_ALL["charges"]))
    outcome = amend(
        run,
        known,
        *("--line", "line:1=4", "--line", "22423=1@12.75", "--ship-to", address),
        *("--service", "parcelforce/express48", "--promise-by", "2026-03-06", "--charges", charges),
        *("--reason", "the customer rang", "--base-version", "1", "--request-id", "amend-web-1001-2"),
        "--apply",
    )
    assert outcome.code == 0, outcome.err
    _, body = sent(known)
    assert body["lines"] == [
        {"line_id": "1", "quantity": 4, "description": ""},
        {"sku": "22423", "quantity": 1, "unit_price_minor": 1275, "description": ""},
    ]
    assert body["ship_to"]["city"] == "York"
    assert body["charges"][0]["amount_minor"] == 495
    assert body["promise_by"] == "2026-03-06T23:59:59Z"
    assert (body["service"], body["base_version"]) == ("parcelforce/express48", 1)
    assert (body["request_id"], body["reason"]) == ("amend-web-1001-2", "the customer rang")


@pytest.mark.parametrize(
    ("price", "minor"), [("12", 1200), ("12.5", 1250), ("12.75", 1275), ("0", 0), ("0.01", 1)]
)
def test_a_price_is_in_the_orders_currency(run: Run, known: Answers, price: str, minor: int) -> None:
    amend(run, known, "--line", f"22423=1@{price}", "--apply")
    assert sent(known)[1]["lines"][0]["unit_price_minor"] == minor


def test_a_price_in_a_currency_without_fractions_has_none(run: Run, known: Answers) -> None:
    yen = json.loads(json.dumps(examples.VIEW).replace("GBP", "JPY"))
    known.given[ORDER] = (200, json.dumps(yen))
    assert amend(run, known, "--line", "22423=1@12.5", "--apply").code == 2
    amend(run, known, "--line", "22423=1@1250", "--apply")
    assert sent(known)[1]["lines"][0]["unit_price_minor"] == 1250


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--line", "85123A"), "--line"),
        (("--line", "=4"), "--line"),
        (("--line", "85123A=four"), "--line"),
        (("--line", "85123A=-1"), "--line"),
        (("--line", "85123A=1.5"), "--line"),
        (("--line", f"85123A={'9' * 5000}"), "--line"),
        (("--line", "85123A=9999999"), "--lines.0.quantity"),
        (("--line", "85123A=1@1,50"), "--line"),
        (("--line", "85123A=1@1.505"), "--line"),
        (("--line", "85123A=1@Infinity"), "--line"),
        (("--line", "85123A=1@1e99"), "--line"),
        (("--service", "express"), "--service"),
        (("--promise-by", "soon"), "--promise-by"),
        (("--ship-to", "nowhere.json"), "nowhere.json"),
        (("--ship-to", "README.md"), "README.md"),
        (("--charges", "README.md"), "README.md"),
        (("--reason", " "), "--reason"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    run: Run, known: Answers, arguments: tuple[str, ...], named: str
) -> None:
    outcome = amend(run, known, *arguments, "--apply")
    assert outcome.code == 2
    assert named in outcome.err
    assert not [asked for asked, _, _ in known.asked if asked.startswith("POST")]


def test_nothing_is_done_unless_it_is_said(run: Run, known: Answers) -> None:
    outcome = amend(run, known, "--line", "85123A=4")
    assert outcome.code == 2
    assert "--preview or --apply" in outcome.err
    assert known.asked == []


def test_a_cut_off_is_one_clear_sentence(run: Run, known: Answers) -> None:
    told = "the order is delivered: what is not wanted is returned, what is wanted besides is a new order"
    known.given[f"POST {AMENDMENTS}"] = (409, a_problem("amendment_refused", told))
    outcome = amend(run, known, "--line", "85123A=4", "--apply")
    assert (outcome.code, outcome.err.strip()) == (1, f"orderwright: {told}")


def test_a_program_gets_json(run: Run, known: Answers) -> None:
    outcome = amend(run, known, "--line", "85123A=4", "--apply", "--json")
    assert json.loads(outcome.out) == examples.AMENDMENT_TAKEN
    known.given[f"POST {AMENDMENTS}"] = (200, json.dumps(PREVIEW))
    assert json.loads(amend(run, known, "--line", "85123A=4", "--preview", "--json").out) == PREVIEW


def test_show_lists_amendments_and_the_version(run: Run, known: Answers) -> None:
    refused = examples.AMENDMENT | {
        "amendment_id": "web:1001:a3",
        "number": 3,
        "state": "refused",
        "refusal": {"path": "lines", "code": "below_shipped", "message": "6 of 85123A are packed"},
    }
    known.given[ORDER] = (200, json.dumps(examples.VIEW | {"document_version": 2}))
    known.given[f"GET {AMENDMENTS}"] = (200, json.dumps([examples.AMENDMENT, refused]))
    known.given["GET /v1/orders/web:1001/timeline"] = (200, "[]")
    outcome = run("orders", "show", "web:1001", *at(known))
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    assert ["version", "2"] in rows
    assert any(row[:2] == ["2", "applied"] and "fewer" in row for row in rows)
    assert any(row[:2] == ["3", "refused"] and "packed" in row for row in rows)
    shown = json.loads(run("orders", "show", "web:1001", "--json", *at(known)).out)
    assert [amendment["number"] for amendment in shown["amendments"]] == [2, 3]
