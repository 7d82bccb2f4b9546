import pytest

from models.plan import PlannedLine
from policies.routing.problem import DemandLine
from policies.shortage import ShortagePolicy, part_ahead

LINES = (DemandLine(line_id="1", sku="a", quantity=4), DemandLine(line_id="2", sku="b", quantity=2))
PRICES = {"1": 100, "2": 200}
POLICY = ShortagePolicy()


def lacking(**units: int) -> tuple[PlannedLine, ...]:
    skus = {"1": "a", "2": "b"}
    return tuple(PlannedLine(line_id=n, sku=skus[n], quantity=units[n]) for n in units)


def units(part: tuple[DemandLine, ...]) -> dict[str, int]:
    return {line.line_id: line.quantity for line in part}


def test_half_of_the_value_may_go_ahead_and_less_waits() -> None:
    assert units(part_ahead(LINES, lacking(**{"2": 2}), PRICES, POLICY)) == {"1": 4}
    assert units(part_ahead(LINES, lacking(**{"1": 2, "2": 1}), PRICES, POLICY)) == {"1": 2, "2": 1}
    assert part_ahead(LINES, lacking(**{"1": 1, "2": 2}), PRICES, POLICY) == ()


@pytest.mark.parametrize(("allowed", "expected"), [(True, {"1": 1}), (False, {}), (None, {})])
def test_what_the_document_says_of_parts_comes_before_the_policy(
    allowed: bool | None, expected: dict[str, int]
) -> None:
    assert units(part_ahead(LINES, lacking(**{"1": 3, "2": 2}), PRICES, POLICY, allowed)) == expected


def test_of_goods_that_cost_nothing_the_units_count() -> None:
    free = dict.fromkeys(PRICES, 0)
    assert units(part_ahead(LINES, lacking(**{"2": 2}), free, POLICY)) == {"1": 4}
    assert part_ahead(LINES, lacking(**{"1": 4}), free, POLICY) == ()


def test_nothing_goes_ahead_where_all_is_missing_or_it_is_not_for_want_of_units() -> None:
    assert part_ahead(LINES, lacking(**{"1": 4, "2": 2}), PRICES, POLICY, allowed=True) == ()
    assert part_ahead(LINES, (), PRICES, POLICY, allowed=True) == ()


def test_a_policy_may_leave_nothing_behind_but_what_is_free() -> None:
    whole = ShortagePolicy(part_at_least_percent=100)
    assert units(part_ahead(LINES, lacking(**{"2": 1}), {"1": 100, "2": 0}, whole)) == {"1": 4, "2": 1}
    assert part_ahead(LINES, lacking(**{"2": 1}), PRICES, whole) == ()
