"""Commands as a user meets them: exit codes, one clear message, never a traceback, JSON for programs."""

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from apps.api import examples
from apps.cli import demo, doctor
from apps.cli.up import print_addresses
from tests.apps.cli.conftest import Answers, Run
from tests.apps.simulators.requests import a_message
from tests.apps.simulators.running import inside
from workers.embedded.published import PublishedStack
from workers.embedded.speed import keep_speed
from workers.embedded.stack import Stack, StackOptions

SIMPLE = "examples/orders/simple.json"
PROBLEM = {
    "type": "urn:orderwright:error:conflict",
    "title": "Conflict",
    "status": 409,
    "detail": "order web:1001 was already accepted with other content",
    "code": "conflict",
    "problems": [],
}


def at(answers: Answers) -> tuple[str, ...]:
    return ("--api-url", answers.url, "--token", "t0ken")


def a_problem(code: str, detail: str, *problems: dict[str, str]) -> str:
    return json.dumps(PROBLEM | {"code": code, "detail": detail, "problems": list(problems)})


@pytest.mark.parametrize(
    "command",
    [
        ("orders", "list"),
        ("orders", "show", "web:1001"),
        ("orders", "submit", SIMPLE),
        ("orders", "cancel", "web:1001", "--reason", "twice"),
        ("orders", "amend", "web:1001", "--line", "A=1", "--actor", "dana", "--preview"),
        ("orders", "tender", "web:1001", "--card-token", "tok_b", "--actor", "dana"),
        ("review", "list"),
        ("review", "show", "web:1001:r1"),
        ("review", "approve", "web:1001:r1", "--reason", "known"),
        ("review", "reject", "web:1001:r1", "--reason", "unknown"),
        ("doctor",),
    ],
)
def test_without_a_stack_every_command_says_so_and_exits_3(run: Run, command: tuple[str, ...]) -> None:
    outcome = run(*command)
    assert outcome.code == 3
    assert "orderwright up" in (outcome.out + outcome.err).replace("\n", " ")
    as_json = run(*command, "--json")
    assert as_json.code == 3
    assert "orderwright up" in json.dumps(json.loads(as_json.out))


def test_an_api_that_does_not_answer_exits_3(run: Run) -> None:
    outcome = run("orders", "list", "--api-url", "http://127.0.0.1:9", "--token", "t")
    assert outcome.code == 3
    assert "does not answer at http://127.0.0.1:9" in outcome.err


@pytest.mark.parametrize(
    "url", ["not a url", "ftp://example.com", "http://[::1", "http://127.0.0.1:99999999"]
)
def test_an_address_that_is_none_is_one_clear_message(run: Run, url: str) -> None:
    outcome = run("orders", "list", "--api-url", url, "--token", "t")
    assert outcome.code in (2, 3)
    assert outcome.err.strip()


def test_a_token_is_needed_for_a_given_address(run: Run) -> None:
    outcome = run("orders", "list", "--api-url", "http://127.0.0.1:9")
    assert outcome.code == 2
    assert "--token" in outcome.err


def test_a_token_that_cannot_be_a_header_is_bad_input(run: Run, answers: Answers) -> None:
    outcome = run("orders", "list", "--api-url", answers.url, "--token", "schlüssel\n")
    assert outcome.code == 2


def test_a_wrong_token_is_refused(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/orders"] = (401, a_problem("unauthorised", "send the API token"))
    outcome = run("orders", "list", *at(answers))
    assert outcome.code == 1
    assert "does not accept the token" in outcome.err


@pytest.mark.parametrize(
    ("status", "body"), [(200, "<html>"), (200, "{}"), (404, "nope"), (500, ""), (301, ""), (200, "[1]")]
)
def test_something_else_on_that_port_is_said(run: Run, answers: Answers, status: int, body: str) -> None:
    answers.given["GET /v1/orders"] = (status, body)
    outcome = run("orders", "list", *at(answers))
    assert outcome.code == 3
    assert outcome.err.strip()


@pytest.mark.parametrize("order_id", ["..", ".", " ", "a/b", "../../readyz", "web:1001?x=1", "web:\u00e9"])
def test_a_wrong_id_never_becomes_another_path(run: Run, answers: Answers, order_id: str) -> None:
    outcome = run("orders", "show", order_id, *at(answers))
    assert outcome.code in (2, 3)
    assert all(path.startswith("GET /v1/orders/") for path, _, _ in answers.asked)
    assert all("/../" not in path and "?" not in path for path, _, _ in answers.asked)


def test_an_unknown_order_is_refused(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/orders/web:9"] = (404, a_problem("not_found", "there is no order web:9"))
    outcome = run("orders", "show", "web:9", *at(answers))
    assert (outcome.code, outcome.err.strip()) == (1, "orderwright: there is no order web:9")


def test_submitting_sends_the_file_as_it_is_with_the_token(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders"] = (202, json.dumps(examples.ACCEPTED))
    outcome = run("orders", "submit", SIMPLE, *at(answers))
    assert outcome.code == 0
    assert outcome.out.strip() == f"{SIMPLE}: accepted: web:1001 (received)"
    assert answers.asked == [("POST /v1/orders", "Bearer t0ken", Path(SIMPLE).read_text())]


def test_submitting_again_says_that_it_is_already_there(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders"] = (200, json.dumps(examples.ACCEPTED))
    assert "already there: web:1001" in run("orders", "submit", SIMPLE, *at(answers)).out
    [answer] = json.loads(run("orders", "submit", SIMPLE, "--json", *at(answers)).out)
    assert (answer["new"], answer["order_id"]) == (False, "web:1001")


def test_changed_content_is_refused(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders"] = (409, json.dumps(PROBLEM))
    outcome = run("orders", "submit", SIMPLE, *at(answers))
    assert outcome.code == 1
    assert "already accepted with other content" in outcome.err


def test_each_problem_of_a_document_has_its_line(run: Run, answers: Answers) -> None:
    body = a_problem(
        "invalid_document",
        "the document has 2 problems",
        {"path": "currency", "code": "value_error", "message": "unknown currency 'GBX'"},
        {"path": "ship_to.city", "code": "missing", "message": "is missing"},
    )
    answers.given["POST /v1/orders"] = (422, body)
    outcome = run("orders", "submit", SIMPLE, *at(answers))
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        f"{SIMPLE}: not accepted, 2 problems:",
        "  currency: unknown currency 'GBX'",
        "  ship_to.city: is missing",
    ]


def test_files_that_cannot_be_read_or_are_not_json_never_reach_the_api(
    run: Run, answers: Answers, tmp_path: Path
) -> None:
    (tmp_path / "text.json").write_text("this is no JSON")
    (tmp_path / "bytes.json").write_bytes(bytes(range(256)))
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "huge.json").write_bytes(b" " * (5 * 1024 * 1024 + 1))
    files = [tmp_path / name for name in ("text.json", "bytes.json", "empty.json", "huge.json", "none.json")]
    outcome = run("orders", "submit", *files, tmp_path, *at(answers))
    assert outcome.code == 2
    assert answers.asked == []
    for words in ("is not JSON", "is not UTF-8", "at most 5,242,880", "No such file", "Is a directory"):
        assert words in outcome.err


def test_one_bad_file_does_not_hold_up_the_others(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders"] = (202, json.dumps(examples.ACCEPTED))
    outcome = run("orders", "submit", "examples/orders/broken-not-json.json", SIMPLE, "--json", *at(answers))
    assert outcome.code == 2
    bad, good = json.loads(outcome.out)
    assert bad["error"]["exit_code"] == 2
    assert good["new"] is True


def test_files_after_a_lost_connection_are_named_as_not_sent(run: Run) -> None:
    outcome = run(
        "orders", "submit", SIMPLE, SIMPLE, "--json", "--api-url", "http://127.0.0.1:9", "--token", "t"
    )
    assert outcome.code == 3
    assert [answer.get("not_sent", False) for answer in json.loads(outcome.out)] == [False, True]


def test_a_decision_carries_who_and_why(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/reviews/web:1001:r1/decision"] = (200, json.dumps(examples.DECISION_TAKEN))
    options = ("--reason", "known customer", "--actor", "dana")
    outcome = run("review", "approve", "web:1001:r1", *options, *at(answers))
    assert outcome.code == 0
    assert outcome.out.strip() == "web:1001:r1: approve: approved: the order goes on"
    sent: dict[str, Any] = json.loads(answers.asked[0][2])
    assert (sent["verdict"], sent["actor"], sent["reason"]) == ("approve", "dana", "known customer")
    assert sent["request_id"].startswith("cli-")


def test_a_queued_decision_says_so(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/reviews/web:1001:r1/decision"] = (202, json.dumps(examples.QUEUED))
    outcome = run("review", "reject", "web:1001:r1", "--reason", "no", *at(answers))
    assert outcome.code == 0
    assert "queued as decide-web-1001-r1" in outcome.out


def test_a_stale_decision_is_refused(run: Run, answers: Answers) -> None:
    body = a_problem("refused", "review task web:1001:r1 was already decided: approve by dana")
    answers.given["POST /v1/reviews/web:1001:r1/decision"] = (409, body)
    outcome = run("review", "reject", "web:1001:r1", "--reason", "no", *at(answers))
    assert outcome.code == 1
    assert "already decided: approve by dana" in outcome.err


@pytest.mark.parametrize(
    "options",
    [
        ("--reason", ""),
        ("--reason", "x" * 2000),
        ("--reason", "why", "--actor", " "),
        ("--reason", "why", "--actor", "x" * 200),
        ("--reason", "why", "--request-id", "spaces are not allowed"),
        (),
    ],
)
def test_an_answer_without_a_usable_reason_or_name_is_bad_input(
    run: Run, answers: Answers, options: tuple[str, ...]
) -> None:
    outcome = run("review", "approve", "web:1001:r1", *options, *at(answers))
    assert outcome.code == 2
    assert answers.asked == []


def test_control_characters_of_a_stranger_do_not_reach_the_terminal(run: Run, answers: Answers) -> None:
    task = examples.REVIEW | {"what_happened": "look \x1b[31mhere\x07 [bold]now[/bold]"}
    answers.given["GET /v1/reviews/web:1001:r1"] = (200, json.dumps(task))
    outcome = run("review", "show", "web:1001:r1", *at(answers))
    assert outcome.code == 0
    assert "\x1b" not in outcome.out
    assert "\x07" not in outcome.out
    assert "[bold]now[/bold]" in outcome.out


def test_the_list_of_reviews_tells_why_and_what_to_do(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/reviews"] = (200, json.dumps({"reviews": [examples.REVIEW], "next_cursor": None}))
    outcome = run("review", "list", *at(answers))
    assert "web:1001:r1" in outcome.out
    assert "above the limit" in " ".join(outcome.out.split())
    assert "orderwright review approve" in outcome.out
    answers.given["GET /v1/reviews"] = (200, '{"reviews": []}')
    assert run("review", "list", *at(answers)).out.strip() == "nothing waits for a person"


def test_the_demo_refuses_what_it_cannot_read_or_write_before_it_starts_anything(
    run: Run, tmp_path: Path
) -> None:
    assert "cannot read nowhere.csv: No such file" in run("demo", "--source", "nowhere.csv").err
    outcome = run("demo", "--json", tmp_path / "no" / "such" / "folder.json")
    assert (outcome.code, outcome.out) == (2, "")
    assert "cannot write" in outcome.err
    assert not (tmp_path / "no-stack-here").exists()


def a_stack(data_dir: Path, *, speed: float) -> PublishedStack:
    return PublishedStack(
        pid=os.getpid(),
        started=0.0,
        data_dir=data_dir,
        speed=speed,
        api_url="http://127.0.0.1:8080",
        api_token="t0ken",
        database_url="postgresql+psycopg://",
        temporal_address="127.0.0.1:7233",
        temporal_namespace="default",
        temporal_ui_url=None,
        build_id="b1",
    )


def test_an_address_is_printed_whole_however_narrow_the_terminal_is(tmp_path: Path) -> None:
    stack = Stack(StackOptions(data_dir=tmp_path))
    database_url = f"postgresql+psycopg://postgres@/orderwright?host={tmp_path / ('d' * 100)}&port=5432"
    stack.published = a_stack(tmp_path, speed=1.0).model_copy(update={"database_url": database_url})
    printed = StringIO()
    print_addresses(stack, Console(file=printed, width=40))
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    for name, url in stack.urls.items():
        assert any(line.startswith(name) and line.endswith(f" {url}") for line in lines), (name, lines)


@pytest.mark.parametrize(("kept", "asked"), [(None, None), (1.0, demo.FAST), (3600.0, None)])
def test_a_demo_goes_on_at_the_speed_of_the_data_but_never_in_real_time(
    tmp_path: Path, kept: float | None, asked: float | None
) -> None:
    if kept is not None:
        keep_speed(tmp_path, kept)
    options = demo._stack_options(tmp_path, None)
    assert (options.speed, options.usual_speed) == (asked, demo.FAST)


@pytest.mark.parametrize("speed", ["0", "1e8", "fast", "nan"])
@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_speed_that_no_clock_has_is_bad_input(run: Run, tmp_path: Path, command: str, speed: str) -> None:
    outcome = run(command, "--speed", speed)
    assert outcome.code == 2
    assert "--speed" in outcome.err
    assert not (tmp_path / "no-stack-here").exists()


def test_the_demo_does_not_join_a_stack_of_another_speed_than_it_was_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "read_stack", lambda _: a_stack(tmp_path, speed=1.0))
    outcome = run("demo", "--speed", "86400")
    assert outcome.code == 1
    assert "http://127.0.0.1:8080 runs at speed 1, not 86400" in outcome.err


def test_what_is_wrong_with_a_demo_is_json_only_where_the_figures_go_to_standard_output(run: Run) -> None:
    for asked in (("--json", "-"), ("--json=-",)):
        outcome = run("demo", "--source", "nowhere.csv", *asked)
        assert json.loads(outcome.out)["error"]["exit_code"] == outcome.code == 2
    outcome = run("demo", "--source", "nowhere.csv", "--json", "figures.json")
    assert outcome.out == ""
    assert "cannot read nowhere.csv" in outcome.err


def test_the_demo_says_at_once_that_a_file_has_not_the_columns(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    outcome = run("demo", "--source", tmp_path / "other.csv")
    assert outcome.code == 2
    assert "has no column InvoiceNo" in outcome.err


def test_the_user_of_the_operating_system_acts_by_default(
    run: Run, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "LOGNAME", "robin")
    answers.given["POST /v1/orders/web:1001/cancel"] = (200, json.dumps(examples.CANCEL_TAKEN))
    outcome = run("orders", "cancel", "web:1001", "--reason", "ordered twice", *at(answers))
    assert outcome.code == 0
    assert "cancelling: Nothing has left a warehouse" in outcome.out
    assert json.loads(answers.asked[0][2])["actor"] == "robin"


def test_a_card_that_a_customer_names_on_the_phone_is_offered(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders/web:1001/tenders"] = (200, json.dumps(examples.TENDER_TAKEN))
    offer = ("orders", "tender", "web:1001", "--card-token", "tok_b", "--actor", "dana")
    outcome = run(*offer, "--request-id", "t-1", *at(answers))
    assert outcome.code == 0
    assert "web:1001: tender 1: the payment is tried with it now" in outcome.out
    assert json.loads(answers.asked[-1][2]) == {
        "token": "tok_b",
        "kind": "card",
        "actor": "dana",
        "request_id": "t-1",
    }
    assert json.loads(run(*offer, "--json", *at(answers)).out) == examples.TENDER_TAKEN
    answers.given["POST /v1/orders/web:1001/tenders"] = (202, json.dumps(examples.TENDER_QUEUED))
    assert "tries it once it can" in run(*offer, *at(answers)).out.replace("\n", " ")
    refused = a_problem("not_awaited", "order web:1001 is closed: it has ended")
    answers.given["POST /v1/orders/web:1001/tenders"] = (409, refused)
    outcome = run(*offer, *at(answers))
    assert outcome.code == 1
    assert "it has ended" in outcome.err


@pytest.mark.parametrize(
    ("option", "kind"),
    [("--account", "on_account"), ("--gift-card", "gift_card"), ("--store-credit", "store_credit")],
)
def test_a_tender_of_ours_is_offered_by_its_own_option_and_one_at_a_time(
    run: Run, answers: Answers, option: str, kind: str
) -> None:
    answers.given["POST /v1/orders/web:1001/tenders"] = (200, json.dumps(examples.TENDER_TAKEN))
    offer = ("orders", "tender", "web:1001", option, "acme-ltd", "--actor", "dana")
    assert run(*offer, *at(answers)).code == 0
    sent = json.loads(answers.asked[-1][2])
    assert (sent["kind"], sent["token"]) == (kind, "acme-ltd")
    for wrong in (offer[:3] + offer[5:], (*offer, "--card-token", "tok_b")):
        outcome = run(*wrong, *at(answers))
        assert outcome.code == 2
        assert "say one means of payment" in outcome.err.replace("\n", " ")
    assert len(answers.asked) == 1


def test_the_number_of_a_card_is_not_even_sent(run: Run, answers: Answers) -> None:
    outcome = run(
        "orders", "tender", "web:1001", "--card-token", "4111111111111111", "--actor", "dana", *at(answers)
    )
    assert outcome.code == 2
    assert "--card-token" in outcome.err
    assert "looks like the number of a card" in outcome.err.replace("\n", " ")
    assert "4111" not in outcome.err
    assert answers.asked == []


@pytest.mark.parametrize("user", ["service", "nobody", "orderwright", "Temporal"])
@pytest.mark.parametrize("command", ["orders cancel web:1001", "review approve web:1001:r1"])
def test_who_is_nobody_in_particular_is_asked_for_a_name(
    run: Run, answers: Answers, monkeypatch: pytest.MonkeyPatch, command: str, user: str
) -> None:
    monkeypatch.setenv("LOGNAME", user)
    outcome = run(*command.split(), "--reason", "why", *at(answers))
    assert (outcome.code, answers.asked) == (2, [])
    assert "--actor: is missing: say who you are" in outcome.err
    assert user in outcome.err


def test_a_user_without_a_name_is_asked_for_one(
    run: Run, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 10001")

    monkeypatch.setattr("getpass.getuser", nameless)
    outcome = run("review", "approve", "web:1001:r1", "--reason", "why", *at(answers))
    assert (outcome.code, answers.asked) == (2, [])
    assert "--actor: is missing: say who you are" in outcome.err


def test_a_name_of_the_machines_own_is_no_actor(run: Run, answers: Answers) -> None:
    options = ("--reason", "why", "--actor", "Orderwright")
    outcome = run("review", "approve", "web:1001:r1", *options, *at(answers))
    assert (outcome.code, answers.asked) == (2, [])
    assert "--actor: " in outcome.err


def test_an_order_can_be_called_off_without_a_word_and_the_record_says_so(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders/web:1001/cancel"] = (200, json.dumps(examples.CANCEL_TAKEN))
    assert run("orders", "cancel", "web:1001", *at(answers)).code == 0
    assert json.loads(answers.asked[0][2])["reason"] == "no reason was given"


async def test_the_statement_of_the_simulators_is_read_from_the_data_of_the_stack(
    run: Run, tmp_path: Path
) -> None:
    async with inside("messages", tmp_path / "no-stack-here" / "simulators") as messages:
        await messages.post("/messages", json=a_message(), headers={"Idempotency-Key": "m1"})
    assert "key=m1" in run("simulators", "statement").out
    found = {one["simulator"]: one for one in json.loads(run("simulators", "statement", "--json").out)}
    assert found["messages"]["totals"]["messages"]["count"] == 1
    assert found["payment"]["effects"] == []


def test_data_on_which_no_simulator_ran_have_no_statement(run: Run, tmp_path: Path) -> None:
    outcome = run("simulators", "statement")
    assert outcome.code == 1
    assert "no simulator ever ran on these data" in outcome.err
    assert not (tmp_path / "no-stack-here").exists()


@pytest.mark.parametrize("command", ["statement", "faults"])
def test_without_simulators_it_is_said_where_they_are_in_containers(run: Run, command: str) -> None:
    outcome = run("simulators", command)
    assert outcome.code == 1
    # In the API's container, for one, there are none.
    assert "docker compose exec simulator-payment orderwright simulators" in " ".join(outcome.err.split())


@pytest.mark.parametrize(
    ("ready", "parts", "said"),
    [
        (True, {"database": "ok", "temporal": "ok"}, "ready at URL"),
        (
            True,
            {"database": "ok", "temporal": "it is away"},
            "answers at URL but does a part of its work only: temporal: it is away",
        ),
        (
            False,
            {"database": "it is away", "temporal": "ok"},
            "answers at URL but is not ready: database: it is away",
        ),
    ],
)
async def test_the_doctor_says_which_part_the_api_misses(
    answers: Answers, tmp_path: Path, ready: bool, parts: dict[str, str], said: str
) -> None:
    answers.given["GET /readyz"] = (200 if ready else 503, json.dumps({"ready": ready, "parts": parts}))
    answers.given["GET /v1/orders"] = (200, "{}")
    stack = PublishedStack(
        pid=1,
        started=0,
        data_dir=tmp_path,
        speed=1,
        api_url=answers.url,
        api_token="t",
        database_url="",
        temporal_address="",
        temporal_namespace="",
        temporal_ui_url=None,
        build_id="",
    )
    well, told = await doctor._api(stack)
    assert (well, told.replace(answers.url, "URL")) == (set(parts.values()) == {"ok"}, said)
