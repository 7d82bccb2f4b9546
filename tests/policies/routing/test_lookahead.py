"""Prices of stock for orders to come."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from policies.routing.lookahead import (
    Lookahead,
    NoLookahead,
    ShadowPrices,
    expected_demand,
    prices_of_recent,
    shadow_prices,
)
from tests.policies.routing.held import some_orders

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRICES = ShadowPrices(("tea",), ("leeds", "york"), np.array([[8_000, 0]]), NOON, 0.75, timedelta(days=2))


def test_a_price_is_scaled_at_once_and_halves_with_each_half_life() -> None:
    ahead: Lookahead = PRICES
    assert [ahead.price("tea", "leeds", NOON + timedelta(days=days)) for days in (0, 2, 4)] == [
        6_000,
        3_000,
        1_500,
    ]
    assert PRICES.at(NOON + timedelta(days=2)).tolist() == [[3_000, 0]]


def test_what_is_not_known_costs_nothing() -> None:
    assert PRICES.price("milk", "leeds", NOON) == PRICES.price("tea", "hull", NOON) == 0
    assert NoLookahead().price("tea", "leeds", NOON) == 0


def test_prices_say_nothing_about_the_time_before_them() -> None:
    with pytest.raises(ValueError, match="before that"):
        PRICES.price("tea", "leeds", NOON - timedelta(seconds=1))


def test_prices_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot have the shape"):
        ShadowPrices(("tea",), ("leeds",), np.zeros((2, 1), np.int64), NOON)
    with pytest.raises(ValueError, match="never below zero"):
        ShadowPrices(("tea",), ("leeds",), np.array([[-1]]), NOON)
    with pytest.raises(ValueError, match="a scale from 0 to 1"):
        ShadowPrices(("tea",), ("leeds",), np.array([[1]]), NOON, scale=2.0)


def test_demand_is_the_moving_average_and_leans_on_everybodys_regions() -> None:
    demand = expected_demand(
        np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([30, 10, 40]), (2, 2), ahead=2, trust=40
    )
    assert demand.sum(axis=1).tolist() == pytest.approx([80, 80])
    assert 0 < demand[1, 1] < demand[0, 1]


def test_scarce_stock_near_those_who_come_is_worth_what_it_costs_to_do_without() -> None:
    # Ten customers at the first node, five units there; the other node's cost 600 mills more.
    found = shadow_prices(
        np.array([[10.0]]), np.array([[[100, 700]]]), np.array([10_000]), np.array([[5, 20]]), rounds=200
    )
    assert found[0, 0] == pytest.approx(600, rel=0.1)
    assert found[0, 1] == 0


def test_plenty_is_worth_nothing() -> None:
    held = some_orders(1, orders=30)
    assert not prices_of_recent(held, np.full_like(held.stock, 10_000), ahead=3).any()


def test_the_longer_the_time_ahead_the_more_stock_is_worth() -> None:
    held = some_orders(1, orders=30)
    short, long = (prices_of_recent(held, np.full_like(held.stock, 20), ahead).sum() for ahead in (1, 20))
    assert short < long


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="matching shapes"):
        shadow_prices(
            np.ones((1, 1)), np.ones((1, 1, 3), np.int64), np.ones(1, np.int64), np.ones((1, 2), np.int64)
        )
    with pytest.raises(ValueError, match="for every line"):
        expected_demand(np.array([0]), np.array([0]), np.array([1, 2]), (1, 1), ahead=1)
