"""``orderwright prices``: files with all their problems, and what is sent and shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from apps.api import examples
from models.prices import MAX_PRICES
from tests.apps.cli.conftest import Answers, Run
from tests.apps.cli.test_stock import at, lines_of

NEW = ("--list", "trade-2026", "--currency", "GBP", "--from", "2026-01-01", "--actor", "dana")
CSV = "sku,min_quantity,unit_price\n85123A,1,2.55\n85123A,48,2.10\n22423,,12.75\n"
TOML = """\
list_id = "trade-2026"
name = "Trade customers 2026"
currency = "GBP"
valid_from = 2026-01-01
valid_until = 2027-01-01T00:00:00Z

[[prices]]
sku = "85123A"
unit_price = 2.55

[[prices]]
sku = "85123A"
min_quantity = 48
unit_price = "2.10"

[[prices]]
sku = "22423"
unit_price_minor = 1275
"""


@pytest.fixture
def loading(answers: Answers) -> Answers:
    """An API that has no list yet and takes every one."""
    answers.given["GET /v1/price-lists/trade-2026"] = (
        404,
        json.dumps({"code": "not_found", "detail": "there is no price list trade-2026"}),
    )
    answers.given["POST /v1/price-lists"] = (200, json.dumps(examples.PRICE_LIST_LOADED))
    return answers


def written(folder: Path, text: str, name: str = "trade.csv") -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def sent(answers: Answers) -> dict[str, Any]:
    asked, _, body = answers.asked[-1]
    assert asked == "POST /v1/price-lists"
    content: dict[str, Any] = json.loads(body)
    return content


def test_a_csv_file_is_sent_as_it_is_meant(run: Run, loading: Answers, tmp_path: Path) -> None:
    file = written(tmp_path, "\ufeff" + CSV)
    outcome = run("prices", "load", file, *NEW, "--until", "2027-01-01", "--name", "Trade", *at(loading))
    assert outcome.code == 0, outcome.err
    assert "trade-2026 is version 1: 3 prices" in outcome.out
    expected = {key: examples.PRICE_LIST_REQUEST[key] for key in ("list_id", "currency", "prices", "actor")}
    assert {key: sent(loading)[key] for key in expected} == expected
    assert (sent(loading)["valid_from"], sent(loading)["name"]) == ("2026-01-01T00:00:00Z", "Trade")


def test_a_toml_file_has_it_all(run: Run, loading: Answers, tmp_path: Path) -> None:
    file = written(tmp_path, TOML, "trade.toml")
    outcome = run(
        "prices", "load", file, "--actor", "dana", "--reason", "prices of the new year", *at(loading)
    )
    assert outcome.code == 0, outcome.err
    assert sent(loading) == examples.PRICE_LIST_REQUEST


def test_what_is_not_said_of_a_known_list_stays(run: Run, answers: Answers, tmp_path: Path) -> None:
    answers.given["GET /v1/price-lists/trade"] = (200, json.dumps(examples.PRICE_LIST_CONTENT))
    loaded = examples.PRICE_LIST_LOADED | {"changed": False}
    answers.given["POST /v1/price-lists"] = (200, json.dumps(loaded))
    file = written(tmp_path, "sku;unit_price_minor\n85123A;250\n")
    outcome = run("prices", "load", file, "--actor", "dana", *at(answers))
    assert outcome.code == 0, outcome.err
    assert "is like this already, in version 1" in outcome.out
    assert sent(answers) == {
        "list_id": "trade",
        "name": "Trade customers 2026",
        "currency": "GBP",
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "prices": [{"sku": "85123A", "min_quantity": 1, "unit_price_minor": 250}],
        "actor": "dana",
    }


def problems_of(run: Run, answers: Answers, file: str, *options: str) -> list[tuple[str, str]]:
    """Where and what, of a file that is refused before anything is sent."""
    outcome = run("prices", "load", file, *options, "--json", *at(answers))
    assert outcome.code == 2, outcome.out
    assert not any(asked.startswith("POST") for asked, _, _ in answers.asked)
    assert "Traceback" not in outcome.err
    return [(one["path"], one["code"]) for one in json.loads(outcome.out)["error"]["problems"]]


def test_every_problem_of_a_csv_file_has_its_line_and_column(
    run: Run, loading: Answers, tmp_path: Path
) -> None:
    text = (
        "sku,min_quantity,unit_price\n"
        "A,1,2.555\n"
        '"B\nB",1,1.00\n'
        ",1,1.00\n"
        "C,1.5,1.00\n"
        "D,0,1.00\n"
        "E,1,-1\n"
        "\n"
        "F,1\n"
        "G,1,1.00\n"
        "G,,2.00\n"
        "H,1,\n"
    )
    found = problems_of(run, loading, written(tmp_path, text), *NEW)
    assert found == [
        ("trade.csv, line 2, column 3", "not_a_price"),
        ("trade.csv, line 5, column 1", "sku_missing"),
        ("trade.csv, line 6, column 2", "not_a_whole_number"),
        ("trade.csv, line 8, column 3", "not_a_price"),
        ("trade.csv, line 10", "wrong_number_of_columns"),
        ("trade.csv, line 13, column 3", "price_missing"),
        ("trade.csv, line 3, column 1", "string_pattern_mismatch"),
        ("trade.csv, line 7, column 2", "greater_than_equal"),
    ]


def test_a_price_that_stands_twice_is_found_where_it_stands(
    run: Run, loading: Answers, tmp_path: Path
) -> None:
    file = written(tmp_path, "sku,min_quantity,unit_price\nG,1,1.00\nG,,2.00\n")
    assert problems_of(run, loading, file, *NEW) == [("trade.csv, line 3, column 2", "duplicate_price")]
    outcome = run("prices", "load", file, *NEW, *at(loading))
    assert "G has a price from 1 units on already, in trade.csv, line 2: say one" in outcome.err


def test_every_problem_of_a_toml_file_has_its_line_and_column(
    run: Run, loading: Answers, tmp_path: Path
) -> None:
    text = """\
list_id = "no spaces"
currency = "GBP"
valid_from = 2026-01-01
colour = "red"

[[prices]]
sku = "A"
unit_price = 2.555

[[prices]]
sku = "B"
unit_price = "1.00"
unit_price_minor = 100

[[prices]]
sku = "C"
min_quantity = 0
unit_price = 1
weight = 2
"""
    found = problems_of(run, loading, written(tmp_path, text, "trade.toml"), "--actor", "dana")
    assert found == [
        ("trade.toml, line 4, column 10", "unknown_field"),
        ("trade.toml, line 8, column 14", "not_a_price"),
        ("trade.toml, line 12, column 14", "two_prices"),
        ("trade.toml, line 19, column 10", "unknown_field"),
        ("trade.toml, line 1, column 11", "string_pattern_mismatch"),
        ("trade.toml", "missing"),
        ("trade.toml, line 17, column 16", "greater_than_equal"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ("trade.csv", "", "missing_column"),
        ("trade.csv", "sku,min_quantity\nA,1\n", "missing_column"),
        ("trade.csv", "sku,unit_price,unit_price_minor\nA,1,1\n", "missing_column"),
        ("trade.csv", "sku,unit_price,sku\nA,1,A\n", "duplicate_column"),
        ("trade.csv", "sku,unit_price,colour\nA,1,red\n", "unknown_column"),
        ("trade.csv", 'sku,unit_price\n"A,1\n', "not_csv"),
        ("trade.csv", "sku,unit_price\n", "too_short"),
        (
            "trade.csv",
            "sku,unit_price\n" + "".join(f"{n},1\n" for n in range(MAX_PRICES + 1)),
            "too_many_prices",
        ),
        ("trade.toml", "list_id = trade", "not_toml"),
        ("trade.toml", "prices = 3", "no_prices"),
        ("trade.txt", CSV, "bad_input"),
    ],
)
def test_a_file_that_is_no_price_list_is_bad_input(
    run: Run, loading: Answers, tmp_path: Path, wrong: tuple[str, str, str]
) -> None:
    name, text, code = wrong
    options = NEW if name.endswith("csv") else ("--actor", "dana")
    assert code in {found for _, found in problems_of(run, loading, written(tmp_path, text, name), *options)}


def test_a_new_list_needs_its_currency_and_time(run: Run, loading: Answers, tmp_path: Path) -> None:
    file = written(tmp_path, CSV)
    short = ("--list", "trade-2026", "--actor", "dana")
    assert problems_of(run, loading, file, *short) == [("--currency", "bad_input")]
    assert problems_of(run, loading, file, *short, "--currency", "XXX") == [("--currency", "bad_input")]
    assert problems_of(run, loading, file, *short, "--currency", "GBP") == [("--from", "missing")]


def test_options_of_a_csv_file_are_refused_for_another(run: Run, loading: Answers, tmp_path: Path) -> None:
    file = written(tmp_path, TOML, "trade.toml")
    found = problems_of(run, loading, file, "--currency", "EUR", "--actor", "dana")
    assert found == [("--currency", "bad_input")]


def test_bytes_that_are_no_text_are_named_by_their_line(run: Run, loading: Answers, tmp_path: Path) -> None:
    file = tmp_path / "trade.csv"
    file.write_bytes(b"sku,unit_price\nCaf\xe9,1\n")
    assert problems_of(run, loading, str(file), *NEW) == [("trade.csv, line 2", "bad_input")]


def test_yen_have_no_decimal_places(run: Run, loading: Answers, tmp_path: Path) -> None:
    options = [option if option != "GBP" else "JPY" for option in NEW]
    file = written(tmp_path, "sku,unit_price\nA,120\n")
    assert run("prices", "load", file, *options, *at(loading)).code == 0
    assert sent(loading)["prices"] == [{"sku": "A", "min_quantity": 1, "unit_price_minor": 120}]
    loading.asked.clear()
    found = problems_of(run, loading, written(tmp_path, "sku,unit_price\nA,120.0\n"), *options)
    assert found == [("trade.csv, line 2, column 2", "not_a_price")]


def test_a_price_is_shown_with_its_break_and_the_next(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/prices"] = (
        200,
        json.dumps(examples.AGREED_PRICE),
    )
    asked = ("prices", "show", "--customer", "acme-ltd", "--sku", "85123A", "--quantity", "6")
    assert lines_of(run(*asked, *at(answers)).out) == [
        "a unit 2.55 GBP, from 1 on",
        "6 units 15.30 GBP",
        "next 2.10 GBP from 48 on",
        "by trade-2026, version 1, of the customer",
    ]
    assert json.loads(run(*asked, "--json", *at(answers)).out) == examples.AGREED_PRICE
    assert answers.asked[0][0] == "GET /v1/prices?sku=85123A&quantity=6&customer=acme-ltd"


class _Pages(dict[str, tuple[int, str]]):
    """Gives the first page to whoever asks first, and then the next."""

    def get(self, _path: str, _otherwise: object = None) -> tuple[int, str]:
        return self.pop(min(self))


def test_a_list_is_shown_with_all_its_pages(run: Run, answers: Answers) -> None:
    first = examples.PRICE_LIST_CONTENT | {"next_sku": "Z"}
    answers.given = _Pages(
        {"1": (200, json.dumps(first)), "2": (200, json.dumps(examples.PRICE_LIST_CONTENT))}
    )
    outcome = run("prices", "show", "trade-2026", *at(answers))
    assert outcome.code == 0, outcome.err
    assert [asked.partition("?")[2] for asked, _, _ in answers.asked] == [
        "limit=1000",
        "from_sku=Z&limit=1000",
    ]
    assert lines_of(outcome.out).count("85123A 48 2.10 GBP") == 2
    assert "holds GBP, from 2026-01-01 00:00 until before 2027-01-01 00:00" in lines_of(outcome.out)


def test_all_lists_are_listed(run: Run, answers: Answers) -> None:
    answers.given["GET /v1/price-lists"] = (200, json.dumps(examples.PRICE_LISTS))
    assert lines_of(run("prices", "list", *at(answers)).out)[1] == (
        "trade-2026 Trade customers 2026 GBP 2026-01-01 2027-01-01 1 3 customer acme-ltd"
    )


def test_an_assignment_is_sent_and_its_kind_is_one(run: Run, answers: Answers) -> None:
    answers.given["POST /v1/price-lists/trade-2026/assignments"] = (200, json.dumps(examples.PRICE_LIST))
    asked = ("prices", "assign", "trade-2026", "--actor", "dana")
    for options, expected in (
        (("--customer", "acme-ltd"), examples.PRICE_ASSIGNMENT),
        (("--every-business",), examples.PRICE_DEFAULT),
        (("--customer", "acme-ltd", "--withdraw", "--reason", "they left us"), examples.PRICE_WITHDRAWN),
    ):
        outcome = run(*asked, *options, *at(answers))
        assert outcome.code == 0, outcome.err
        assert json.loads(answers.asked[-1][2]) == {"withdrawn": False} | expected
    for wrong in ((), ("--customer", "a", "--account", "b"), ("--customer", "")):
        assert run(*asked, *wrong, *at(answers)).code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("show",),
        ("show", "--customer", "acme-ltd"),
        ("show", "trade-2026", "--customer", "acme-ltd"),
        ("show", "trade-2026", "--sku", "A", "--quantity", "2", "--version", "1"),
        ("show", ".."),
    ],
)
def test_a_question_that_is_none_is_bad_input(run: Run, answers: Answers, arguments: tuple[str, ...]) -> None:
    assert run("prices", *arguments, *at(answers)).code == 2
    assert answers.asked == []
