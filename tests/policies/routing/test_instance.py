import pytest

from policies.routing.instance import Brackets, Instance, Linear, Stepped
from tests.policies.routing.orders import a_line, an_instance, an_option


def test_freight_is_linear_or_by_steps_begun_or_by_a_table() -> None:
    assert Linear(3).freight(1_500) == 4_500
    assert [Stepped(1_000, 50).freight(grams) for grams in (0, 1, 1_000, 1_001)] == [0, 50, 50, 100]
    table = Brackets(((500, 70), (2_000, 90)))
    assert [table.freight(grams) for grams in (0, 500, 501, 2_000)] == [70, 70, 90, 90]


def test_a_table_of_freight_is_a_limit_of_weight() -> None:
    table = Brackets(((500, 70), (2_000, 90)))
    assert an_option(rate=table).weight_limit_g == 2_000
    assert an_option(rate=table, max_weight_g=800).weight_limit_g == 800
    assert an_option(max_weight_g=800).weight_limit_g == 800
    assert an_option().weight_limit_g is None


def test_a_node_reaches_as_much_of_a_line_as_it_holds_and_of_a_whole_line_all_or_nothing() -> None:
    lines = (a_line("a", 5, splittable=True), a_line("b", 5), a_line("c", 5))
    order = an_instance(
        lines,
        (an_option(),),
        {("n1", "a"): 3, ("n1", "b"): 3, ("n1", "c"): 9},
        unit_cost=((0,), (0,), (None,)),
    )
    assert [order.reach(line, 0) for line in range(3)] == [3, 0, 0]


def test_all_that_is_wrong_with_an_instance_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="not a routing instance") as refused:
        Instance(
            lines=(a_line("a", 0, unit_weight_g=-1), a_line("a", 1, unfilled_mills=-5)),
            options=(
                an_option("n1", -1),
                an_option("n1", 1, rate=Stepped(0, 5)),
                an_option("n2", 1, rate=Brackets(((500, 1), (400, -2))), max_weight_g=-3),
                an_option("n3", 1, rate=Linear(-1)),
                an_option("n4", 1, rate=Brackets(())),
            ),
            unit_cost=((1, 2),),
            stock={("n1", "a"): -1},
            capacity={"n1": -2},
            split_penalty_mills=-1,
            max_shipments=-1,
            min_split_value_minor=-1,
        )
    for told in (
        "line l-a is there 2 times",
        "line l-a: quantity 0 is below 1",
        "line l-a: unit_weight_g -1 is below 0",
        "line l-a: unfilled_mills -5 is below 0",
        "option n1 post/standard is there 2 times",
        "option n1 post/standard: fixed_mills -1 is below 0",
        "option n1 post/standard: steps of 0 g at 5 mills",
        "option n2 post/standard: max_weight_g -3 is below 0",
        "option n2 post/standard: the weights of its table do not rise",
        "option n2 post/standard: its table has a price below 0",
        "option n3 post/standard: mills_per_g -1 is below 0",
        "option n4 post/standard: the weights of its table do not rise",
        "unit_cost has 1 rows for 2 lines",
        "line l-a: unit_cost has 2 columns for 5 options",
        "stock of a at n1: -1 is below 0",
        "capacity of n1: -2 is below 0",
        "split_penalty_mills -1 is below 0",
        "max_shipments -1 is below 0",
        "min_split_value_minor -1 is below 0",
    ):
        assert told in str(refused.value)


def test_an_order_without_lines_is_none() -> None:
    with pytest.raises(ValueError, match="there are no lines"):
        an_instance((), (an_option(),), {})


def test_costs_that_cannot_be_added_up_in_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        an_instance((a_line("a", 1_000_000, unfilled_mills=10**12),), (an_option(),), {})
