from typing import Any

import pytest

from models.effects import RiskDecision
from models.order import CustomerType
from policies.classification import classify
from policies.risk import RiskFeatures, RiskPolicy, assess, features_of
from tests.builders import a_draft, gbp

POLICY = RiskPolicy()


def features(**changes: object) -> RiskFeatures:
    plain = RiskFeatures(
        customer_type=CustomerType.B2C,
        total=gbp(5_000),
        goods=gbp(5_000),
        discount=gbp(0),
        max_line_quantity=3,
        guest=False,
        ship_country="GB",
        bill_country="GB",
    )
    return plain.model_copy(update=changes)


def test_a_plain_order_passes_without_a_flag() -> None:
    found = assess(features(), POLICY)
    assert found.decision is RiskDecision.PASS and found.flags == ()
    assert found.policy_version == POLICY.version


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"total": gbp(200_001)}, "high_value"),
        ({"max_line_quantity": 1_001}, "wild_quantity"),
        ({"discount": gbp(2_501)}, "deep_discount"),
        ({"guest": True, "ship_country": "US", "total": gbp(50_001)}, "guest_abroad"),
    ],
)
def test_each_rule_flags_just_above_its_limit(change: dict[str, object], code: str) -> None:
    found = assess(features(**change), POLICY)
    assert found.decision is RiskDecision.REVIEW
    assert [flag.code for flag in found.flags] == [code]


@pytest.mark.parametrize(
    "change",
    [
        {"total": gbp(200_000)},
        {"max_line_quantity": 1_000},
        {"discount": gbp(2_500)},
        {"guest": True, "ship_country": "US", "total": gbp(50_000)},
    ],
)
def test_each_rule_is_silent_at_its_limit(change: dict[str, object]) -> None:
    assert assess(features(**change), POLICY).decision is RiskDecision.PASS


def test_a_business_may_buy_for_more_than_a_consumer() -> None:
    assert (
        assess(features(customer_type=CustomerType.B2B, total=gbp(400_000)), POLICY).decision
        is RiskDecision.PASS
    )


def test_a_currency_without_a_threshold_is_always_looked_at() -> None:
    yen = gbp(1).model_copy(update={"currency": "JPY"})
    found = assess(features(total=yen, goods=yen, discount=yen.model_copy(update={"minor": 0})), POLICY)
    assert [flag.code for flag in found.flags] == ["no_threshold"]


def test_a_refused_country_is_rejected_and_every_other_reason_is_kept() -> None:
    policy = RiskPolicy(refused_countries=frozenset({"XX"}))
    found = assess(features(ship_country="XX", total=gbp(900_000)), policy)
    assert found.decision is RiskDecision.REJECT
    assert [flag.code for flag in found.flags] == ["refused_country", "high_value"]


def test_features_come_from_the_document() -> None:
    draft = a_draft(2, quantity=7)
    found = features_of(draft, CustomerType.B2C)
    assert found.max_line_quantity == 7 and found.guest and found.bill_country == found.ship_country == "GB"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, CustomerType.B2C),
        ({"purchase_order": "PO-1"}, CustomerType.B2B),
        ({"customer": {"name": "N", "company": "N Ltd"}}, CustomerType.B2B),
        ({"customer": {"name": "N", "tax_id": "GB123456789"}}, CustomerType.B2B),
        ({"customer_type": "b2c", "purchase_order": "PO-1"}, CustomerType.B2C),
    ],
)
def test_what_marks_a_business(changes: dict[str, Any], expected: CustomerType) -> None:
    customer_type, why = classify(a_draft(**changes))
    assert customer_type is expected and why


def test_a_wholesale_quantity_marks_a_business() -> None:
    assert classify(a_draft(quantity=100))[0] is CustomerType.B2B
    assert classify(a_draft(quantity=99))[0] is CustomerType.B2C
