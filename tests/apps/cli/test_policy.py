import json
from pathlib import Path

from apps.api import examples
from tests.apps.cli.conftest import Answers, Run
from tests.apps.cli.test_ledger import at

FINE = (200, json.dumps({"problems": []}))
WRONG = (200, json.dumps(examples.POLICY_PROBLEMS))


def lines_of(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines()]


def test_the_policy_in_force_is_shown_with_all_that_comes_of_it(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/policy"] = (200, json.dumps(examples.POLICY))
    outcome = run("policy", "show", *at(answers))
    assert outcome.code == 0, outcome.err
    lines = lines_of(outcome.out)
    assert lines[0] == "policy version 1 is in force, proposed by jo, approved by dana"
    assert "routing.max_parcels 3" in lines
    assert "plan_review.max_cost_percent 60" in lines
    assert 'routing_rules[stores-first].sequence [["stores"], ["south"]]' in lines


def test_without_any_all_is_as_built_in(run: Run, answers: Answers) -> None:
    nothing: dict[str, object] = {"version": 0, "entry": None, "document": {}, "effective": {}}
    answers.given["GET /v1/policy"] = (200, json.dumps(nothing))
    assert run("policy", "show", *at(answers)).out.startswith("As built in: no policy is in force.")
    answers.given["GET /v1/policy/versions"] = (200, json.dumps({"active": 0, "versions": []}))
    assert "No policy was ever proposed" in run("policy", "history", *at(answers)).out


def test_history_says_who_and_why(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/policy/versions"] = (200, json.dumps(examples.POLICY_HISTORY))
    outcome = run("policy", "history", *at(answers))
    assert outcome.code == 0, outcome.err
    assert (
        "1 active 2026-11-27 09:00 jo stores are to be sold off first 2026-11-27 10:30 dana as agreed on Monday"
        in lines_of(outcome.out)
    )


def test_a_file_is_compared_with_what_is_in_force(run: Run, answers: Answers, tmp_path: Path) -> None:
    answers.given["GET /v1/policy"] = (200, json.dumps(examples.POLICY))
    answers.given["POST /v1/policy/check"] = FINE
    file = tmp_path / "policy.toml"
    file.write_text(
        '[node_groups]\nstores = ["north"]\n[routing]\nlate_day_minor = 900\nmax_parcels = 3\n'
        '[shortage]\nsubstitute = "if_agreed"\n[plan_review]\nmax_shipments = 4\n'
    )
    outcome = run("policy", "diff", str(file), *at(answers))
    assert outcome.code == 0, outcome.err
    lines = lines_of(outcome.out)
    assert "routing.late_day_minor 800 900" in lines
    assert "priorities[gold-first].rank 1 -" in lines
    assert not any(line.startswith("node_groups") for line in lines)
    as_json = json.loads(run("policy", "diff", str(file), "--json", *at(answers)).out)
    assert as_json["against"] == 1
    assert {"path": "routing.late_day_minor", "before": 800, "after": 900} in as_json["differences"]


def test_versions_are_compared_with_each_other(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/policy/versions/1"] = (200, json.dumps(examples.POLICY))
    outcome = run("policy", "diff", "1", "1", *at(answers))
    assert outcome.out.strip() == "It says the same as version 1."


def test_a_file_is_proposed_and_a_version_approved_or_refused(
    run: Run, answers: Answers, tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[routing]\nmax_parcels = 2\n")
    waiting = examples.POLICY | {
        "entry": examples.POLICY["entry"] | {"state": "proposed", "decided_by": None, "decided_at": None}
    }
    answers.given["POST /v1/policy/check"] = FINE
    answers.given["POST /v1/policy/versions"] = (200, json.dumps(waiting))
    outcome = run("policy", "propose", str(file), "--reason", "a sale", "--actor", "jo", *at(answers))
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "version 1 is proposed: it holds once somebody else than jo approves it"
    assert json.loads(answers.asked[0][2]) == {"document": {"routing": {"max_parcels": 2}}}
    sent = json.loads(answers.asked[1][2])
    assert sent["document"]["routing"] == {"max_parcels": 2}
    assert (sent["actor"], sent["reason"]) == ("jo", "a sale")
    answers.given["POST /v1/policy/versions/1/approve"] = (200, json.dumps(examples.POLICY))
    outcome = run("policy", "approve", "1", "--actor", "dana", *at(answers))
    assert "approved by dana" in outcome.out
    refused = examples.POLICY | {"entry": examples.POLICY["entry"] | {"state": "refused"}}
    answers.given["POST /v1/policy/versions/1/refuse"] = (200, json.dumps(refused))
    assert run("policy", "refuse", "1", "--actor", "dana", *at(answers)).out.strip() == (
        "version 1 was refused by dana"
    )


def test_a_file_that_makes_no_sense_is_neither_proposed_nor_compared(
    run: Run, answers: Answers, tmp_path: Path
) -> None:
    answers.given["POST /v1/policy/check"] = WRONG
    file = tmp_path / "policy.toml"
    file.write_text('[routing]\nmax_parcel = 3\n[[routing_rules]]\nrule_id = "stores"\nonly = ["leeds"]\n')
    propose = ("propose", str(file), "--reason", "x", "--actor", "jo")
    for command in (propose, ("diff", str(file)), ("diff", str(file), "--json")):
        outcome = run("policy", *command, *at(answers))
        said = outcome.err + outcome.out
        assert outcome.code == 2
        assert "policy.toml: routing.max_parcel: extra inputs are not permitted" in said
        assert "policy.toml: routing_rules[0].only[0]: leeds is no node and no group" in said
    assert {call[0] for call in answers.asked} == {"POST /v1/policy/check"}
    assert json.loads(answers.asked[0][2]) == {"document": examples.POLICY_CHECK["document"]}


def test_a_file_that_cannot_be_read_is_not_sent(run: Run, answers: Answers, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[routing\n")
    assert run("policy", "propose", str(file), "--reason", "x", "--actor", "jo", *at(answers)).code == 2
    assert run("policy", "diff", str(tmp_path / "none.toml"), *at(answers)).code == 2
    assert answers.asked == []
