import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.money import CURRENCY_EXPONENT, Money

minors = st.integers(-(10**12), 10**12)
weights = st.lists(st.integers(0, 10**9), min_size=1, max_size=60)


def gbp(minor: int) -> Money:
    return Money(minor=minor, currency="GBP")


@given(minors, weights)
def test_the_parts_of_a_split_add_up_to_the_whole(minor: int, shares: list[int]) -> None:
    parts = gbp(minor).allocate(shares)
    assert len(parts) == len(shares)
    assert Money.total(parts, "GBP") == gbp(minor)


@given(minors, weights)
def test_no_part_is_a_whole_unit_off_its_exact_share(minor: int, shares: list[int]) -> None:
    whole = sum(shares)
    if whole == 0:
        return
    for part, weight in zip(gbp(minor).allocate(shares), shares, strict=True):
        assert abs(part.minor * whole - minor * weight) < whole


@given(minors, st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_no_part_has_the_opposite_sign(minor: int, shares: list[int]) -> None:
    assert all(part.minor * minor >= 0 for part in gbp(minor).allocate(shares))


def test_ties_go_to_the_earlier_part() -> None:
    assert [part.minor for part in gbp(100).allocate([1, 1, 1])] == [34, 33, 33]


@pytest.mark.parametrize("shares", [[], [-1, 2]])
def test_a_split_by_nothing_or_by_less_is_refused(shares: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one weight"):
        gbp(1).allocate(shares)


@given(minors, minors)
def test_adding_and_taking_away_come_back_to_the_start(a: int, b: int) -> None:
    assert gbp(a) + gbp(b) - gbp(b) == gbp(a)
    assert gbp(a) + (-gbp(a)) == gbp(0)


def test_two_currencies_never_mix() -> None:
    with pytest.raises(ValueError, match="cannot combine"):
        gbp(1) + Money(minor=1, currency="EUR")
    with pytest.raises(ValueError, match="cannot combine"):
        assert gbp(1) < Money(minor=2, currency="EUR")


@pytest.mark.parametrize("code", ["gbp", "XXX", "", "POUND"])
def test_an_unknown_currency_is_refused_by_name(code: str) -> None:
    with pytest.raises(ValidationError, match="unknown currency"):
        Money(minor=1, currency=code)


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (129_900, "GBP", "1,299.00 GBP"),
        (-5, "EUR", "-0.05 EUR"),
        (1_500, "JPY", "1,500 JPY"),
        (1_234, "KWD", "1.234 KWD"),
    ],
)
def test_money_reads_as_its_currency_is_written(minor: int, currency: str, text: str) -> None:
    assert str(Money(minor=minor, currency=currency)) == text


def test_every_currency_has_three_letters_and_one_exponent() -> None:
    assert all(len(code) == 3 and code.isupper() for code in CURRENCY_EXPONENT)
    assert set(CURRENCY_EXPONENT.values()) == {0, 2, 3}
