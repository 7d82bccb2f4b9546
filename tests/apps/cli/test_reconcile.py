"""``ledger reconcile`` and ``stock reconcile``: what was compared, and both sides of what waits for a person."""

import json
from typing import Any

from apps.api import examples
from tests.apps.cli.conftest import Answers, Run

RUN = "reconciliation:money:month-end-1"


def at(answers: Answers) -> tuple[str, ...]:
    return ("--api-url", answers.url, "--token", "t0ken")


def prepared(answers: Answers, *, found: list[dict[str, Any]], **changes: Any) -> None:
    run = examples.RECONCILIATION_RUN | {"run_id": RUN, "left_open": len(found)} | changes
    answers.given |= {
        "POST /v1/reconciliation/runs": (202, json.dumps({"run_id": RUN, "area": "money"})),
        f"GET /v1/reconciliation/runs/{RUN}": (200, json.dumps(run)),
        "GET /v1/reconciliation/differences": (
            200,
            json.dumps({"differences": found, "next_cursor": None}),
        ),
    }


def test_what_is_open_is_shown_with_both_sides_and_ends_with_one(run: Run, answers: Answers) -> None:
    prepared(answers, found=[examples.DIFFERENCE])
    outcome = run("ledger", "reconcile", *at(answers))
    assert outcome.code == 1
    text = " ".join(outcome.out.split())
    assert "area since checked matched under way healed gone open" in text
    assert "money 2026-03-01 12:00 1,204 1,199 3 1 0 1" in text
    assert "theirs_only the payment provider did a capture of 3.00 GBP for order web:1001" in text
    assert "nothing" in text, "our side"
    assert "line_id cap_52" in text
    assert "orderwright review show difference-5f2d1c0b9a887766:x1" in text


def test_sides_that_agree_end_with_zero(run: Run, answers: Answers) -> None:
    prepared(answers, found=[])
    outcome = run("ledger", "reconcile", *at(answers))
    assert outcome.code == 0
    assert "nothing waits for a person" in outcome.out


def test_programs_get_runs_and_differences_as_json(run: Run, answers: Answers) -> None:
    prepared(answers, found=[examples.DIFFERENCE])
    outcome = run("ledger", "reconcile", "--json", *at(answers))
    assert outcome.code == 1
    said = json.loads(outcome.out)
    assert said["open"] == 1
    assert said["runs"][0]["run_id"] == RUN
    assert said["differences"][0]["theirs"] == examples.DIFFERENCE["theirs"]


def test_stock_reconciles_stock_and_labels(run: Run, answers: Answers) -> None:
    prepared(answers, found=[])
    assert run("stock", "reconcile", "--all", *at(answers)).code == 0
    sent = [json.loads(body) for what, _, body in answers.asked if what.startswith("POST")]
    assert [(one["area"], one["everything"]) for one in sent] == [("stock", True), ("labels", True)]


def test_a_run_that_failed_is_told_with_its_reason_and_ends_with_three(run: Run, answers: Answers) -> None:
    prepared(answers, found=[], state="failed", failure="the payment provider gives no statement")
    outcome = run("ledger", "reconcile", *at(answers))
    assert outcome.code == 3
    assert "the payment provider gives no statement" in " ".join(outcome.err.split())


def test_a_run_that_nobody_begins_is_waited_for_and_then_told(run: Run, answers: Answers) -> None:
    prepared(answers, found=[])
    answers.given[f"GET /v1/reconciliation/runs/{RUN}"] = (
        404,
        json.dumps({"code": "not_found", "detail": "there is no such run"}),
    )
    outcome = run("ledger", "reconcile", "--wait", "1", *at(answers))
    assert outcome.code == 3
    assert "are the workers up?" in " ".join(outcome.err.split())
