"""``orderwright ledger``: books that a person understands, and JSON for programs."""

import json
from typing import Any

import pytest

from apps.api import examples
from tests.apps.cli.conftest import Answers, Run

GBP = "GBP"


def at(answers: Answers) -> tuple[str, ...]:
    return ("--api-url", answers.url, "--token", "t0ken")


def an_entry(account: str, name: str, minor: int) -> dict[str, Any]:
    return {"account": account, "name": name, "amount": {"minor": minor, "currency": GBP}}


REFUND: dict[str, Any] = examples.LEDGER["transactions"][0] | {
    "id": "shipment:web:1001:1:refund:1",
    "kind": "refund",
    "cause": "lost_parcel",
    "shipment_id": "web:1001:1",
    "entries": [
        an_entry("refunds.lost_parcel", "Refunds: parcel lost or damaged", 1395),
        an_entry("provider.clearing", "With the payment provider", -1395),
    ],
}


def test_an_orders_books_are_a_table_with_debits_credits_and_balances(run: Run, answers: Answers) -> None:
    books = examples.LEDGER | {"transactions": [*examples.LEDGER["transactions"], REFUND]}
    answers.given["GET /v1/orders/web:1001/ledger"] = (200, json.dumps(books))
    outcome = run("ledger", "show", "web:1001", *at(answers))
    assert outcome.code == 0
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert lines[0] == "date (UTC) what account debit credit"
    assert lines[1] == "2026-03-02 09:30 money held Authorised and held 13.95 GBP"
    assert lines[3].startswith("2026-03-02 09:30 paid back [1]: lost parcel Refunds: parcel lost or damaged")
    assert "Authorised and held held.authorised 13.95 GBP 0.00 GBP 13.95 GBP debit" in lines
    assert lines[-1] == "all of GBP 13.95 GBP 13.95 GBP 0.00 GBP"


def test_an_order_without_money_says_so(run: Run, answers: Answers) -> None:
    books = examples.LEDGER | {"transactions": [], "balances": []}
    answers.given["GET /v1/orders/web:1001/ledger"] = (200, json.dumps(books))
    assert run("ledger", "show", "web:1001", *at(answers)).out.strip() == "web:1001: no money has moved"


def test_programs_get_the_books_as_json(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/orders/web:1001/ledger"] = (200, json.dumps(examples.LEDGER))
    answers.given["GET /v1/ledger/balances"] = (200, json.dumps(examples.TRIAL_BALANCE))
    assert json.loads(run("ledger", "show", "web:1001", "--json", *at(answers)).out) == examples.LEDGER
    assert json.loads(run("ledger", "balances", "--json", *at(answers)).out) == examples.TRIAL_BALANCE


def test_the_trial_balance_ends_with_nothing_left(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/ledger/balances"] = (200, json.dumps(examples.TRIAL_BALANCE))
    outcome = run("ledger", "balances", *at(answers))
    assert outcome.code == 0
    assert " ".join(outcome.out.splitlines()[-1].split()) == "all of GBP 13.95 GBP 13.95 GBP 0.00 GBP"


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_books_out_of_balance_are_no_success(run: Run, answers: Answers, more: tuple[str, ...]) -> None:
    broken = examples.TRIAL_BALANCE | {"in_balance": False}
    answers.given["GET /v1/ledger/balances"] = (200, json.dumps(broken))
    outcome = run("ledger", "balances", *more, *at(answers))
    assert outcome.code == 1
    assert "out of balance" in outcome.err


def test_an_unknown_order_is_refused(run: Run, answers: Answers) -> None:
    problem = {
        "type": "t",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no order web:9",
        "code": "not_found",
    }
    answers.given["GET /v1/orders/web:9/ledger"] = (404, json.dumps(problem))
    outcome = run("ledger", "show", "web:9", *at(answers))
    assert (outcome.code, outcome.err.strip()) == (1, "orderwright: there is no order web:9")


@pytest.mark.parametrize(
    ("command", "path", "sent"),
    [
        (("limit", "acme", "500000", "GBP"), "limits", {"account": "acme", "limit_minor": 500_000}),
        (
            ("paid", "acme", "700", "GBP"),
            "payments",
            {"account": "acme", "amount_minor": 700, "in_advance": False},
        ),
        (("limit", "acme", "5", "GBP", "--reason", "late"), "limits", {"limit_minor": 5, "reason": "late"}),
        (("paid", "acme", "700", "GBP", "--in-advance"), "payments", {"in_advance": True}),
        (
            ("issue", "gift_card", "GIFT-12345", "5000", "GBP"),
            "issues",
            {"kind": "gift_card", "code": "GIFT-12345", "amount_minor": 5_000},
        ),
    ],
)
def test_tenders_of_our_own_are_opened_paid_and_filled(
    run: Run, answers: Answers, command: tuple[str, ...], path: str, sent: dict[str, Any]
) -> None:
    answers.given[f"POST /v1/ledger/{path}"] = (200, json.dumps(examples.TENDER_LEFT))
    outcome = run("ledger", *command, "--actor", "dana", *at(answers))
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip().endswith(": 50.00 GBP can be spent")
    given = json.loads(answers.asked[0][2])
    assert given.items() >= (sent | {"currency": "GBP", "actor": "dana"}).items()


@pytest.mark.parametrize(
    "command",
    [
        ("limit", "acme", "-1", "GBP"),
        ("limit", "a b", "1", "GBP"),
        ("issue", "gift_card", "short", "1", "GBP"),
    ],
)
def test_what_makes_no_sense_is_not_sent(run: Run, answers: Answers, command: tuple[str, ...]) -> None:
    outcome = run("ledger", *command, "--actor", "dana", *at(answers))
    assert outcome.code == 2
    assert answers.asked == []


@pytest.mark.parametrize(("command", "active"), [("block", False), ("unblock", True)])
def test_an_account_is_blocked_and_opened_again(
    run: Run, answers: Answers, command: str, active: bool
) -> None:
    answers.given["POST /v1/ledger/blocks"] = (200, json.dumps(examples.TENDER_LEFT))
    outcome = run(
        "ledger", command, "on_account", "acme", "--actor", "dana", "--reason", "unpaid", *at(answers)
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(answers.asked[0][2]) == {
        "kind": "on_account",
        "token": "acme",
        "active": active,
        "actor": "dana",
        "reason": "unpaid",
    }


def test_an_account_is_shown_with_who_changed_it(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/ledger/accounts/acme-ltd"] = (200, json.dumps(examples.CUSTOMER_ACCOUNT))
    outcome = run("ledger", "account", "acme-ltd", *at(answers))
    assert outcome.code == 0, outcome.err
    assert "owes 1,200.00 GBP" in outcome.out
    assert "pays on time" in outcome.out


@pytest.mark.parametrize("kind", ["payout", "fee"])
def test_what_the_provider_paid_out_or_kept_is_written_down(run: Run, answers: Answers, kind: str) -> None:
    answers.given["POST /v1/ledger/settlements"] = (200, json.dumps(examples.PROVIDER_LEFT))
    outcome = run(
        "ledger", kind, "480000", "GBP", "--reason", "2 March", "--request-id", "po-1", *at(answers)
    )
    assert outcome.out.strip() == "152.50 GBP is with the provider (written as payout:po-2026-03-02)"
    assert json.loads(answers.asked[0][2]) | {"actor": "x"} == {
        "kind": kind,
        "amount_minor": 480_000,
        "currency": "GBP",
        "actor": "x",
        "reason": "2 March",
        "request_id": "po-1",
    }


def test_a_payment_is_taken_back_with_a_reason(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/ledger/reversals"] = (200, json.dumps(examples.REVERSED))
    outcome = run(
        "ledger", "reverse", "payment:bank-1", "--reason", "bounced", "--actor", "dana", *at(answers)
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(answers.asked[0][2]) == {
        "transaction": "payment:bank-1",
        "actor": "dana",
        "reason": "bounced",
    }
    assert "paid by the customer, taken back" in outcome.out
