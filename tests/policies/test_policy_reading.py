"""All that is wrong with a policy document at once: what is wrong with its shape hides nothing of the rest."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.policy import PolicyDocument
from policies.document import problems_of
from policies.policy_reading import problems_in, read

NODES = {"north": True, "south": True, "closed": False}


def found(document: dict[str, Any], stocked: set[tuple[str, str]] | None = None) -> list[tuple[str, str]]:
    problems = problems_in(read(document), nodes=NODES, stocked=frozenset(stocked or ()))
    return [(problem.path, problem.code) for problem in problems]


def test_unknown_keys_amounts_below_zero_and_unknown_nodes_are_told_together() -> None:
    document = {
        "rooting": {},
        "routing": {"late_day_minor": -1, "max_parcels": 2},
        "node_groups": {"stores": ["north", "leeds"], "BAD NAME": ["mars"]},
        "routing_rules": [
            {"rule_id": "NO", "only": ["venus"]},
            {"rule_id": "b", "channels": ["web"], "only": ["south", "-", "mars"], "speed": 3},
        ],
        "substitutes": [{"sku": "A", "by": []}, {"sku": "B", "by": ["C"]}],
    }
    assert found(document, {("north", "B")}) == [
        ("node_groups.BAD NAME.[key]", "string_pattern_mismatch"),
        ("routing.late_day_minor", "greater_than_equal"),
        ("routing_rules[0].rule_id", "string_pattern_mismatch"),
        ("routing_rules[1].only[1]", "string_pattern_mismatch"),
        ("routing_rules[1].speed", "extra_forbidden"),
        ("substitutes[0].by", "too_short"),
        ("rooting", "extra_forbidden"),
        ("node_groups.stores[1]", "unknown_node"),
        # By their places in what was written, though others were taken out before them.
        ("routing_rules[1].only[2]", "unknown_node"),
        ("substitutes[1].by[0]", "unknown_sku"),
    ]


def test_what_only_follows_of_what_could_not_be_read_is_not_told() -> None:
    document = {
        "node_groups": {"stores": "north", "moons": [1, 2]},
        "routing_rules": [
            {"rule_id": "a", "channels": ["web", 7], "only": ["stores"]},
            {"rule_id": "b", "channels": ["web"], "only": ["moons"], "sequence": [["stores"]]},
        ],
        "safety_stock": [{"sku": "A", "at": "stores", "units": 1}],
        "priorities": [{"rule_id": "p", "channels": 3, "rank": 1}, {"rule_id": "q", "rank": 2}],
    }
    assert {path.partition("[")[0] for path, _ in found(document, {("north", "A")})} == {
        "node_groups.stores",
        "node_groups.moons",
        "routing_rules",
        "priorities",
    }
    assert {code for _, code in found(document, {("north", "A")})} == {
        "tuple_type",
        "string_type",
    }


def test_one_that_is_well_formed_is_judged_by_its_sense_alone() -> None:
    document = {"routing_rules": [{"rule_id": "r", "only": ["mars"]}]}
    expected = problems_of(PolicyDocument.model_validate(document), nodes=NODES, stocked=frozenset())
    assert found(document) == [(problem.path, problem.code) for problem in expected]


def test_of_one_that_is_nothing_but_wrong_nothing_is_read() -> None:
    assert found({"schema_version": 9, "routing": 3, "routing_rules": {"a": 1}}) == [
        ("schema_version", "less_than_equal"),
        ("routing", "model_type"),
        ("routing_rules", "tuple_type"),
    ]


_NAMES = st.sampled_from(
    ["north", "mars", "BAD NAME", "web", "A", "rule_id", "only", "sequence", "sku", "by", "at"]
)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | _NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(PolicyDocument.model_fields)), _ANYTHING, max_size=5))
def test_whatever_is_written_there_is_an_end_and_each_mistake_is_told(document: dict[str, Any]) -> None:
    reading = read(document)
    try:
        PolicyDocument.model_validate(document)
    except ValueError:
        assert reading.shape
    else:
        assert not reading.shape and reading.document == PolicyDocument.model_validate(document)
