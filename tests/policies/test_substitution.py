"""What is sent instead of what is short."""

from models.order import DraftLine
from models.plan import PlannedLine
from policies.substitution import said_of, substituted

LINES = (
    DraftLine(line_id="1", sku="red", quantity=5, unit_price_minor=300),
    DraftLine(line_id="2", sku="blue", quantity=1, unit_price_minor=200),
)
BY = {"red": ("blue", "pink", "rose"), "blue": ("navy", "rose")}


def missing(**units: int) -> list[PlannedLine]:
    return [
        PlannedLine(line_id=line.line_id, sku=line.sku, quantity=units[line.sku])
        for line in LINES
        if line.sku in units
    ]


def test_the_units_that_are_missing_are_replaced_at_the_price_of_the_line() -> None:
    changes = substituted(LINES, missing(red=2), BY, {"pink": 2, "rose": 9, "blue": 9})
    assert [(c.line_id, c.sku, c.quantity, c.unit_price_minor) for c in changes] == [
        ("1", None, 3, 300),
        # Not blue, which the order has already.
        (None, "pink", 2, 300),
    ]
    assert said_of(changes) == "2 × pink instead of red"


def test_the_next_one_comes_where_the_best_is_not_there_in_full() -> None:
    changes = substituted(LINES, missing(red=5), BY, {"pink": 4, "rose": 5})
    assert [(c.line_id, c.sku, c.quantity) for c in changes] == [("1", None, 0), (None, "rose", 5)]


def test_one_substitute_replaces_one_line() -> None:
    assert substituted(LINES, missing(red=5, blue=1), BY, {"rose": 9}) == ()
    changes = substituted(LINES, missing(red=5, blue=1), BY, {"rose": 9, "navy": 1})
    assert [c.sku for c in changes if c.sku] == ["rose", "navy"]


def test_nothing_is_replaced_unless_all_of_it_is() -> None:
    assert substituted(LINES, missing(red=1, blue=1), {"red": ("pink",)}, {"pink": 9}) == ()
    assert substituted(LINES, [PlannedLine(line_id="9", sku="x", quantity=1)], BY, {"pink": 9}) == ()
    assert substituted(LINES, [], BY, {"pink": 9}) == ()


def test_one_that_is_ruled_out_leaves_its_place_to_the_next() -> None:
    changes = substituted(LINES, missing(red=2), BY, {"pink": 2, "rose": 9}, ruled_out={"pink"})
    assert [c.sku for c in changes if c.sku] == ["rose"]
    assert substituted(LINES, missing(red=2), BY, {"pink": 2, "rose": 9}, {"pink", "rose"}) == ()
