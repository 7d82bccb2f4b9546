"""``orderwright subscribers`` as a user meets it."""

import json
from pathlib import Path
from typing import Any

import pytest

from apps.api import examples
from tests.apps.cli.conftest import Answers, Run

BASE = "/v1/subscribers"


def at(answers: Answers) -> tuple[str, ...]:
    return ("--api-url", answers.url, "--token", "t0ken")


def asked(answers: Answers) -> tuple[str, Any]:
    path, _, body = answers.asked[-1]
    return path, json.loads(body or "null")


def test_adding_one_shows_its_secret_once(run: Run, answers: Answers) -> None:
    answers.given[f"POST {BASE}"] = (201, json.dumps(examples.SUBSCRIBER_ADDED))
    words = ("--url", "https://erp.shop.example/orderwright", "--topic", "commitments", "--topic", "finance")
    outcome = run("subscribers", "add", "erp", *words, "--name", "The ERP", *at(answers))
    assert outcome.code == 0
    assert examples.SUBSCRIBER_ADDED["secret"] in outcome.out
    assert asked(answers) == (f"POST {BASE}", examples.NEW_SUBSCRIBER)
    as_json = run("subscribers", "add", "erp", *words, "--json", *at(answers))
    assert json.loads(as_json.out) == examples.SUBSCRIBER_ADDED


def test_a_secret_of_ones_own_comes_from_a_file(run: Run, answers: Answers, tmp_path: Path) -> None:
    answers.given[f"POST {BASE}/erp/secret"] = (200, json.dumps(examples.NEW_SECRET))
    (tmp_path / "secret").write_text("x" * 40 + "\n")
    outcome = run("subscribers", "secret", "erp", "--secret-file", tmp_path / "secret", *at(answers))
    assert outcome.code == 0
    assert asked(answers) == (f"POST {BASE}/erp/secret", {"secret": "x" * 40})
    missing = run("subscribers", "secret", "erp", "--secret-file", tmp_path / "none", *at(answers))
    assert missing.code == 2
    assert "--secret-file" in missing.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ERP", "--url", "https://erp.example/", "--topic", "orders"), "--subscriber-id"),
        (("erp", "--url", "https://dana:pw@erp.example/", "--topic", "orders"), "--url"),
        (("erp", "--url", "ftp://erp.example/", "--topic", "orders"), "--url"),
        (("erp", "--url", "https://erp.example/", "--topic", "all"), "topic"),
        (("erp", "--url", "https://erp.example/"), "--topic"),
    ],
)
def test_what_cannot_be_a_subscriber_never_reaches_the_api(
    run: Run, answers: Answers, words: tuple[str, ...], said: str
) -> None:
    outcome = run("subscribers", "add", *words, *at(answers))
    assert outcome.code == 2
    assert said in outcome.err
    assert answers.asked == []


def test_the_list_says_who_needs_somebody(run: Run, answers: Answers) -> None:
    paused = examples.SUBSCRIBER | {"subscriber_id": "wms", "active": False, "waiting": 10_000}
    stuck = examples.SUBSCRIBER | {
        "subscriber_id": "shop",
        "dead_letters": 2,
        "waiting": 3,
        "oldest_seconds": 71.5,
    }
    found = [examples.SUBSCRIBER, paused, stuck]
    answers.given[f"GET {BASE}"] = (200, json.dumps({"subscribers": found}))
    outcome = run("subscribers", "list", *at(answers))
    erp, wms, shop = outcome.out.splitlines()[1:]
    assert erp.startswith("erp") and " ok " in erp
    assert " paused " in wms and "10,000+" in wms
    assert " dead letters " in shop and "72 s" in shop
    assert json.loads(run("subscribers", "list", "--json", *at(answers)).out) == found
    answers.given[f"GET {BASE}"] = (200, json.dumps({"subscribers": []}))
    assert "nobody subscribes" in run("subscribers", "list", *at(answers)).out


def test_one_is_shown_with_its_last_failure(run: Run, answers: Answers) -> None:
    failing = examples.SUBSCRIBER | {"failing_since": "2026-03-02T09:30:00Z", "last_failure": "HTTP 503"}
    answers.given[f"GET {BASE}/erp"] = (200, json.dumps(failing))
    assert "HTTP 503, failing since 2026-03-02 09:30" in run("subscribers", "show", "erp", *at(answers)).out


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (("pause", "erp"), "/erp/pause", {}),
        (("resume", "erp"), "/erp/resume", {}),
        (("replay", "erp", "--from", "4000"), "/erp/replay", {"position": 4000}),
        (
            ("dead-letters", "drop", "erp", "4711", "--reason", "by hand", "--actor", "dana"),
            "/erp/dead-letters/4711/drop",
            {"actor": "dana", "reason": "by hand"},
        ),
    ],
)
def test_each_command_says_it_to_the_api(
    run: Run, answers: Answers, words: tuple[str, ...], path: str, body: dict[str, Any]
) -> None:
    answers.given[f"POST {BASE}{path}"] = (200, json.dumps(examples.SUBSCRIBER))
    outcome = run("subscribers", *words, *at(answers))
    assert outcome.code == 0
    assert "position 4,711" in outcome.out
    assert asked(answers) == (f"POST {BASE}{path}", body)
    assert json.loads(run("subscribers", *words, "--json", *at(answers)).out) == examples.SUBSCRIBER


def test_dead_letters_are_listed_and_tried_again(run: Run, answers: Answers) -> None:
    answers.given[f"GET {BASE}/erp/dead-letters"] = (200, json.dumps(examples.DEAD_LETTERS))
    outcome = run("subscribers", "dead-letters", "list", "erp", *at(answers))
    assert "4711" in outcome.out and "HTTP 422" in outcome.out
    answers.given[f"POST {BASE}/erp/dead-letters/retry"] = (200, json.dumps({"retried": 1}))
    assert "1 dead letters" in run("subscribers", "dead-letters", "retry", "erp", *at(answers)).out
    assert asked(answers)[1] == {}
    run("subscribers", "dead-letters", "retry", "erp", "--position", "4711", *at(answers))
    assert asked(answers)[1] == {"position": 4711}


def test_removing_one_is_said(run: Run, answers: Answers) -> None:
    answers.given[f"DELETE {BASE}/erp"] = (204, "")
    assert run("subscribers", "remove", "erp", *at(answers)).out.strip() == "erp is removed"


@pytest.mark.parametrize("words", [("list",), ("show", "erp"), ("pause", "erp"), ("remove", "erp")])
def test_without_a_stack_every_command_says_so_and_exits_3(run: Run, words: tuple[str, ...]) -> None:
    outcome = run("subscribers", *words)
    assert outcome.code == 3
    assert "orderwright up" in (outcome.out + outcome.err).replace("\n", " ")
