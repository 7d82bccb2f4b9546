"""The documents in ``examples/orders``: the good ones are accepted, each broken one is told what is wrong with it."""

from pathlib import Path

import pytest

from models.errors import InvalidDocument
from models.order import CustomerType
from policies.classification import classify
from policies.intake import check_document
from policies.risk import RiskPolicy, assess, features_of

ORDERS = Path(__file__).parents[3] / "examples" / "orders"

# File -> what the message must say: where, and what is wrong.
BROKEN = {
    "broken-absurd-amount.json": ("lines[0].unit_price_minor", "1000000000000"),
    "broken-country.json": ("ship_to.country", "two capital letters"),
    "broken-duplicate-line.json": ("lines", "line_id '1' stands 2 times"),
    "broken-email.json": ("customer.email", "must be an e-mail address"),
    "broken-fractional-quantity.json": ("lines[0].quantity", "whole number"),
    "broken-many-problems.json": ("custmer", "check its spelling"),
    "broken-missing-field.json": ("ship_to", "is missing"),
    "broken-naive-time.json": ("placed_at", "time zone"),
    "broken-negative-quantity.json": ("lines[0].quantity", "-2"),
    "broken-not-an-object.json": ("", "JSON object"),
    "broken-not-json.json": ("", "line 4, column 3"),
    "broken-price-as-text.json": ("lines[0].unit_price_minor", "whole number"),
    "broken-tender.json": ("tenders", "pay 1.00 GBP, the total is 22.60 GBP"),
    "broken-too-many-lines.json": ("lines", "1001 lines; at most 1,000"),
    "broken-total-zero.json": ("totals.total_minor", "not an order"),
    "broken-totals.json": ("totals.total_minor", "says 22.61 GBP, the document adds up to 22.60 GBP"),
    "broken-unknown-currency.json": ("currency", "unknown currency 'GBX'"),
    "broken-unknown-key.json": ("lines[0].gift_wrap", "check its spelling"),
}


def test_every_broken_example_is_known_here() -> None:
    assert {path.name for path in ORDERS.glob("broken-*.json")} == set(BROKEN)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_example_is_refused_with_the_place_and_the_reason(name: str) -> None:
    with pytest.raises(InvalidDocument) as raised:
        check_document((ORDERS / name).read_bytes())
    path, words = BROKEN[name]
    assert any(problem.path == path and words in problem.message for problem in raised.value.problems)


def test_many_problems_are_all_told_at_once() -> None:
    with pytest.raises(InvalidDocument) as raised:
        check_document((ORDERS / "broken-many-problems.json").read_bytes())
    assert {problem.path for problem in raised.value.problems} == {
        "currency",
        "customer",
        "custmer",
        "ship_to.city",
        "lines[0].quantity",
    }


@pytest.mark.parametrize(
    ("name", "customer_type", "decision"),
    [
        ("simple.json", CustomerType.B2C, "pass"),
        ("declined.json", CustomerType.B2C, "pass"),
        ("b2b.json", CustomerType.B2B, "pass"),
        ("review.json", CustomerType.B2C, "review"),
    ],
)
def test_a_good_example_is_accepted(name: str, customer_type: CustomerType, decision: str) -> None:
    draft = check_document((ORDERS / name).read_bytes())
    found, _ = classify(draft)
    assert found is customer_type
    assert assess(features_of(draft, found), RiskPolicy()).decision == decision


def test_every_article_of_the_good_examples_is_in_the_assumed_stock() -> None:
    import pyarrow.parquet

    stock = pyarrow.parquet.read_table(ORDERS.parent / "online_retail" / "stock.parquet")
    known = set(stock["sku"].to_pylist())
    for name in ("simple.json", "declined.json", "b2b.json", "review.json"):
        draft = check_document((ORDERS / name).read_bytes())
        assert {line.sku for line in draft.lines} <= known
