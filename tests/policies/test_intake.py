import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DocumentTooLarge, InvalidDocument
from models.order import MAX_DOCUMENT_BYTES
from policies.intake import check_document, check_draft
from tests.builders import a_draft


def a_document(**changes: Any) -> dict[str, Any]:
    return a_draft(2).model_dump(mode="json", exclude_none=True) | changes


def problems(document: Any) -> dict[str, str]:
    """Path -> code of every problem of a document that must be refused."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InvalidDocument) as refused:
        check_document(raw)
    return {problem.path: problem.code for problem in refused.value.problems}


def test_a_sound_document_becomes_a_draft() -> None:
    draft = a_draft(3)
    assert check_document(draft.model_dump_json().encode()) == draft
    assert check_draft(draft) == ()


def test_every_problem_is_listed_at_once() -> None:
    document = a_document(currency="GPB", channel="Web Shop", colour="red")
    document["totals"]["total_minor"] += 1
    document["ship_to"]["country"] = "England"
    found = problems(document)
    assert set(found) == {"currency", "channel", "colour", "ship_to.country", "totals.total_minor"}


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xfe", b"{", b"[1]", b'"order"', b'{"a": NaN}', b'{"a":1,"a":2}', b"[" * 5_000, b"1" * 5_000],
)
def test_what_is_no_json_object_is_refused_with_one_clear_problem(raw: bytes) -> None:
    assert set(problems(raw).values()) <= {"not_json", "not_an_object"}


def test_a_document_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(DocumentTooLarge, match="split the order"):
        check_document(b" " * (MAX_DOCUMENT_BYTES + 1))


@pytest.mark.parametrize("quantity", [0, -1, 1.5, "3", None, True, 10**7])
def test_a_quantity_is_a_whole_number_above_zero(quantity: object) -> None:
    document = a_document()
    document["lines"][0]["quantity"] = quantity
    assert "lines[0].quantity" in problems(document)


def test_text_that_no_database_can_hold_is_refused() -> None:
    document = a_document()
    document["customer"]["name"] = "A\x00B"
    assert problems(document) == {"customer.name": "bad_text"}


def test_a_total_of_nothing_is_not_an_order() -> None:
    document = a_document(totals={"lines_minor": 2_000, "charges_minor": -2_000, "total_minor": 0})
    document["charges"] = [{"code": "D", "kind": "discount", "amount_minor": -2_000}]
    document["tenders"] = [{"token": "tok", "amount_minor": 0}]
    assert problems(document) == {"totals.total_minor": "not_an_order"}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200)
@given(json_values)
def test_any_json_is_accepted_or_refused_with_problems_and_never_crashes(value: Any) -> None:
    try:
        check_document(json.dumps(value).encode())
    except InvalidDocument as refused:
        assert refused.problems and all(problem.message for problem in refused.problems)


@settings(max_examples=200)
@given(st.sampled_from(sorted(a_document())), json_values)
def test_one_broken_field_is_always_named(field: str, value: Any) -> None:
    document = a_document(**{field: value})
    try:
        check_document(json.dumps(document).encode())
    except InvalidDocument as refused:
        paths = [problem.path for problem in refused.problems]
        # A change of amounts shows where the sums no longer meet.
        assert any(path.startswith((field, "totals", "tenders", "promise_by")) for path in paths)


@given(
    st.lists(st.tuples(st.integers(1, 1_000), st.integers(0, 100_000)), min_size=1, max_size=30),
    st.integers(-5, 5),
)
def test_totals_are_checked_to_the_minor_unit(lines: list[tuple[int, int]], off_by: int) -> None:
    goods = sum(quantity * price for quantity, price in lines)
    total = goods + 395 + off_by
    document = a_document(
        lines=[
            {"line_id": str(n), "sku": "s", "quantity": quantity, "unit_price_minor": price}
            for n, (quantity, price) in enumerate(lines)
        ],
        tenders=[{"token": "tok", "amount_minor": total}],
        totals={"lines_minor": goods, "charges_minor": 395, "total_minor": total},
    )
    if off_by:
        assert problems(document) == {"totals.total_minor": "totals_mismatch"}
    else:
        check_document(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("since", "by", "found"),
    [
        ("2026-03-07T00:00:00Z", "2026-03-06T00:00:00Z", {"deliver_from": "no_window"}),
        ("2027-03-07T00:00:00Z", None, {"deliver_from": "too_far_ahead"}),
        ("1900-01-01T00:00:00Z", None, {"deliver_from": "impossible_time"}),
        ("2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z", {"promise_by": "promise_before_order"}),
    ],
)
def test_a_window_that_is_none_or_past_or_too_far_ahead_is_refused(
    since: str, by: str | None, found: dict[str, str]
) -> None:
    window = {"placed_at": "2026-03-02T10:00:00Z", "deliver_from": since, "promise_by": by}
    assert problems(a_document(**window)) == found


@pytest.mark.parametrize("since", ["2026-03-06T00:00:00Z", "2025-01-01T00:00:00Z", None])
def test_a_window_of_a_moment_or_that_has_begun_will_do(since: str | None) -> None:
    window = {"deliver_from": since, "promise_by": "2026-03-06T00:00:00Z"}
    document = a_document(placed_at="2026-03-02T10:00:00Z", **window)
    found = check_document(json.dumps(document).encode()).deliver_from
    assert found == (None if since is None else datetime.fromisoformat(since))
