import json
from pathlib import Path

from apps.api import examples
from tests.apps.cli.conftest import Answers, Run
from tests.apps.cli.test_ledger import at


def test_a_route_is_explained_with_its_terms_and_what_it_was_preferred_to(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/orders/web:1001/route"] = (200, json.dumps(examples.ROUTE))
    outcome = run("route", "explain", "web:1001", *at(answers))
    assert outcome.code == 0, outcome.err
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "proof the cheapest there is (sets)" in lines
    assert "freight 3.83 GBP" in lines
    assert "cost 5.23 GBP" in lines
    assert "everything from gb-south 5.93 GBP 0.70 GBP 2026-03-05 23:59" in lines
    assert "everything from gb-midlands short of 1 line" in lines


def test_how_far_each_parcel_goes_is_shown_where_it_is_known(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/orders/web:1001/route"] = (200, json.dumps(examples.ROUTE))
    shown = " ".join(run("route", "explain", "web:1001", *at(answers)).out.split())
    assert (
        "freight km promised 1 gb-north islandpost/tracked48 6 1.08 kg 1.40 GBP 3.83 GBP 264 2026-03-05"
        in shown
    )
    (parcel,) = examples.ROUTE["plan"]["shipments"]
    plan = examples.ROUTE["plan"] | {"shipments": [parcel | {"distance_km": None}]}
    answers.given["GET /v1/orders/web:1001/route"] = (200, json.dumps(examples.ROUTE | {"plan": plan}))
    shown = " ".join(run("route", "explain", "web:1001", *at(answers)).out.split())
    assert "handling freight promised 1 gb-north" in shown


def test_programs_get_the_route_as_json(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/orders/web:1001/route"] = (200, json.dumps(examples.ROUTE))
    outcome = run("route", "explain", "web:1001", "--plan", "web:1001:p1", "--json", *at(answers))
    assert json.loads(outcome.out) == examples.ROUTE


def test_a_way_that_there_is_not_says_what_it_would_take(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders/web:1001/route/what-if"] = (200, json.dumps(examples.ROUTE_ANSWER))
    outcome = run("route", "what-if", "web:1001", "--force", "gb-south", *at(answers))
    assert outcome.code == 1
    assert "it would take 2 more of 85123A (line 1)" in outcome.out
    assert json.loads(answers.asked[0][2]) == {"force": "gb-south"}


def test_another_way_says_what_it_costs_more(run: Run, answers: Answers) -> None:
    answer = examples.ROUTE_ANSWER | {
        "plan": examples.ROUTE["plan"],
        "terms": examples.ROUTE["terms"],
        "difference": {"minor": 70, "currency": "GBP"},
    }
    answers.given["POST /v1/orders/web:1001/route/what-if"] = (200, json.dumps(answer))
    outcome = run("route", "what-if", "web:1001", "--split-penalty", "0", *at(answers))
    assert outcome.code == 0, outcome.err
    assert "0.70 GBP more than web:1001:p1" in outcome.out


def test_a_question_that_asks_nothing_is_not_sent(run: Run, answers: Answers) -> None:
    assert run("route", "what-if", "web:1001", *at(answers)).code == 2
    assert answers.asked == []


def test_a_decision_that_is_another_now_is_no_success(run: Run, answers: Answers) -> None:
    path = "POST /v1/orders/web:1001/route/replay"
    answers.given[path] = (200, json.dumps(examples.ROUTE_REPLAY))
    same = run("route", "replay", "web:1001", *at(answers))
    assert (same.code, same.out.strip()) == (0, "web:1001:p1: exact/2 decides the same again")
    other = examples.ROUTE_REPLAY | {"identical": False, "differences": ["cost: 1 then, 2 now"]}
    answers.given[path] = (200, json.dumps(other))
    outcome = run("route", "replay", "web:1001", *at(answers))
    assert outcome.code == 1
    assert "cost: 1 then, 2 now" in outcome.out


def test_a_policy_is_tried_on_the_past(run: Run, answers: Answers, tmp_path: Path) -> None:
    answers.given["POST /v1/policy/backtest"] = (200, json.dumps(examples.BACKTEST))
    file = tmp_path / "policy.toml"
    file.write_text("[routing]\nmax_parcels = 2\n")
    outcome = run("route", "backtest", "--policy", str(file), "--since", "2026-11-01", *at(answers))
    assert outcome.code == 0, outcome.err
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "back test policy/1 on 300 of 300 orders, against what was planned" in lines
    assert "fill 99.87% of the units before, 99.87% after" in lines
    assert "cost GBP 8.410 8.660 +0.250 +0.170 to +0.340" in lines
    sent = json.loads(answers.asked[0][2])
    assert sent["document"]["routing"]["max_parcels"] == 2
    assert sent["since"] == "2026-11-01T00:00:00Z"
    as_json = run("route", "backtest", "--policy", "1", "--json", *at(answers))
    assert json.loads(as_json.out)["policy"] == "policy/1"
    assert json.loads(answers.asked[1][2])["version"] == 1
    assert run("route", "backtest", "--policy", "1", "--since", "soon", *at(answers)).code == 2
    file.write_text("[rooting]\n")
    refused = run("route", "backtest", "--policy", str(file), *at(answers))
    assert refused.code == 2 and "rooting" in refused.err


def test_weights_come_from_a_file_and_an_option_overrules_it(
    run: Run, answers: Answers, tmp_path: Path
) -> None:
    answers.given["POST /v1/orders/web:1001/route/what-if"] = (200, json.dumps(examples.ROUTE_ANSWER))
    file = tmp_path / "weights.toml"
    for said in (
        "split_penalty_minor = 0\nlate_day_minor = 9\n",
        "[routing]\nsplit_penalty_minor = 0\nlate_day_minor = 9\n",
    ):
        file.write_text(said)
        run("route", "what-if", "web:1001", "--weights", str(file), "--late-day", "7", *at(answers))
        assert json.loads(answers.asked[-1][2]) == {"split_penalty_minor": 0, "late_day_minor": 7}
    file.write_text("split_penalty = 0\n")
    wrong = run("route", "what-if", "web:1001", "--weights", str(file), *at(answers))
    assert wrong.code == 2 and "late_day_minor and split_penalty_minor" in wrong.err


def test_a_notice_is_posted_listed_and_lifted(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/routing/notices"] = (200, json.dumps(examples.NOTICE))
    outcome = run(
        "route", "notice", "--node", "gb-north", "--until", "2099-03-06", "--reason", "a flood",
        "--actor", "dana", *at(answers),
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "1 gb-north is closed the ground floor is under water dana" in " ".join(outcome.out.split())
    sent = json.loads(answers.asked[-1][2])
    assert sent.pop("request_id").startswith("cli-")
    assert sent == {
        "actor": "dana",
        "reason": "a flood",
        "node": "gb-north",
        "ends_at": "2099-03-06T00:00:00Z",
    }
    answers.given["GET /v1/routing/notices"] = (200, json.dumps([examples.NOTICE]))
    assert json.loads(run("route", "notices", "--json", *at(answers)).out) == [examples.NOTICE]
    answers.given["GET /v1/routing/notices"] = (200, "[]")
    assert "No notice holds now." in run("route", "notices", "--all", *at(answers)).out
    assert "every=" in answers.asked[-1][0]
    answers.given["POST /v1/routing/notices/1/lift"] = (200, json.dumps(examples.LIFTED_NOTICE))
    outcome = run("route", "lift", "1", "--reason", "it is dry again", "--actor", "dana", *at(answers))
    assert "lifted 2026-03-04" in " ".join(outcome.out.split())


def test_a_notice_about_nothing_is_not_sent(run: Run, answers: Answers) -> None:
    outcome = run("route", "notice", "--reason", "a flood", "--actor", "dana", *at(answers))
    assert outcome.code == 2 and "say one of node, carrier and country" in " ".join(outcome.err.split())
    assert not answers.asked


def test_a_plan_is_set_by_hand_after_it_was_looked_at(run: Run, answers: Answers) -> None:
    answer = examples.SET_PLAN_ANSWER | {
        "plan": examples.ROUTE["plan"],
        "terms": examples.ROUTE["terms"],
        "difference": {"minor": 70, "currency": "GBP"},
        "reasons": [],
    }
    answers.given["POST /v1/orders/web:1001/route"] = (200, json.dumps(answer))
    words = (
        "route",
        "set",
        "web:1001",
        "--from",
        "gb-south",
        "--line",
        "1=gb-north:4",
        "--line",
        "2=gb-north",
    )
    signed = ("--reason", "as agreed", "--actor", "dana", *at(answers))
    outcome = run(*words, *signed)
    assert outcome.code == 0, outcome.err
    assert "0.70 GBP more than the router's own plan" in outcome.out
    assert "Nothing was done: --apply hands it to the order." in outcome.out
    assert answers.asked[-1][0].endswith("?preview=true")
    assert json.loads(answers.asked[-1][2])["units"] == [
        {"line_id": "1", "node": "gb-north", "quantity": 4},
        {"line_id": "2", "node": "gb-north"},
    ]
    answers.given["POST /v1/orders/web:1001/route"] = (200, json.dumps(answer | {"set_plan_id": "set-1"}))
    outcome = run(*words, "--apply", *signed)
    assert "as soon as what is not packed has stopped (set-1)" in " ".join(outcome.out.split())
    assert "preview" not in answers.asked[-1][0]


def test_a_plan_that_cannot_be_says_why(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/orders/web:1001/route"] = (200, json.dumps(examples.SET_PLAN_ANSWER))
    signed = ("--reason", "as agreed", "--actor", "dana", *at(answers))
    outcome = run("route", "set", "web:1001", "--from", "gb-south", *signed)
    assert outcome.code == 1 and "gb-south can give 4 of 85123A" in outcome.out
    outcome = run("route", "set", "web:1001", "--line", "gb-south", *signed)
    assert outcome.code == 2 and "is not LINE=NODE" in " ".join(outcome.err.split())


def test_what_units_weigh_where_they_lie_is_told_by_parcel_and_of_other_ways(
    run: Run, answers: Answers
) -> None:
    (parcel,) = examples.ROUTE["plan"]["shipments"]
    other = examples.ROUTE["plan"]["alternatives"][0]
    ahead, credit = {"minor": 45, "currency": "GBP"}, {"minor": -120, "currency": "GBP"}
    plan = examples.ROUTE["plan"] | {
        "shipments": [parcel | {"look_ahead": ahead, "markdown": credit}],
        "alternatives": [other | {"look_ahead": {"minor": 310, "currency": "GBP"}}],
    }
    terms = [
        *examples.ROUTE["terms"],
        {"term": "look-ahead", "amount": ahead},
        {"term": "markdown credit", "amount": credit},
    ]
    answers.given["GET /v1/orders/web:1001/route"] = (
        200,
        json.dumps(examples.ROUTE | {"plan": plan, "terms": terms}),
    )
    outcome = run("route", "explain", "web:1001", *at(answers))
    assert outcome.code == 0, outcome.err
    shown = " ".join(outcome.out.split())
    assert "1.40 GBP 3.83 GBP 0.45 GBP -1.20 GBP 264" in shown
    assert "look-ahead 0.45 GBP markdown credit -1.20 GBP cost 5.23 GBP" in shown
    assert "everything from gb-south 5.93 GBP 0.70 GBP 3.10 GBP 2026-03-05" in shown


def test_values_of_stock_are_shown_with_how_they_sell(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/routing/values"] = (200, json.dumps(examples.STOCK_VALUES))
    outcome = run("route", "values", "--sku", "85123A", *at(answers))
    assert outcome.code == 0, outcome.err
    shown = " ".join(outcome.out.split())
    assert "310 of 1,250 SKUs" in shown
    assert "85123A gb-north 1.20 GBP 0.90 GBP 36 9 80 % 1.0" in shown
    assert "85123A gb-south 0.00 GBP 4 60 6 % 60.0 0.25 GBP" in shown
    assert "sku=85123A" in answers.asked[0][0]


def test_values_are_worked_out_at_once_and_waited_for(run: Run, answers: Answers) -> None:
    run_id = examples.STOCK_VALUES["run"]["run_id"]
    answers.given |= {
        "GET /v1/routing/values": (200, json.dumps(examples.STOCK_VALUES)),
        "POST /v1/routing/values/refresh": (202, json.dumps({"run_id": run_id})),
    }
    outcome = run("route", "values", "--refresh", "--json", *at(answers))
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == examples.STOCK_VALUES
    answers.given["POST /v1/routing/values/refresh"] = (202, json.dumps({"run_id": "stock-values:other"}))
    late = run("route", "values", "--refresh", "--wait", "1", *at(answers))
    assert late.code == 3 and "is not through after 1 s: are the workers up?" in late.err


def test_without_any_values_it_says_how_to_get_some(run: Run, answers: Answers) -> None:
    none: dict[str, object] = {"run": None, "currency": None, "values": [], "next_cursor": None}
    answers.given["GET /v1/routing/values"] = (200, json.dumps(none))
    assert "--refresh works them out now" in run("route", "values", *at(answers)).out
