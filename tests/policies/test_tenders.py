"""Which tender pays how much, and in which order."""

from hypothesis import given
from hypothesis import strategies as st

from models.order import OrderDraft, TenderKind
from policies.tenders import draw, holds, in_parts, part_key, part_of, parts_of, replaced
from tests.builders import a_draft

KINDS = st.sampled_from(TenderKind)


def paid_by(*tenders: tuple[TenderKind, int]) -> OrderDraft:
    given = [
        {"kind": kind, "token": f"t{number}", "amount_minor": minor}
        for number, (kind, minor) in enumerate(tenders)
    ]
    return OrderDraft.model_validate(a_draft().model_dump() | {"tenders": given})


SPLITS = st.lists(st.tuples(KINDS, st.integers(1, 1_000)), min_size=1, max_size=4).map(
    lambda all_: paid_by(*all_)
)


def test_what_we_owe_the_customer_is_drawn_on_first_and_the_card_last() -> None:
    draft = paid_by(
        (TenderKind.CARD, 1),
        (TenderKind.ON_ACCOUNT, 2),
        (TenderKind.STORE_CREDIT, 3),
        (TenderKind.GIFT_CARD, 4),
    )
    assert [(part.number, part.amount_minor) for part in parts_of(draft)] == [(1, 4), (2, 3), (3, 2), (4, 1)]


def test_one_card_needs_no_parts_and_everything_else_does() -> None:
    assert not in_parts(parts_of(paid_by((TenderKind.CARD, 1))))
    assert in_parts(parts_of(paid_by((TenderKind.CARD, 1), (TenderKind.CARD, 2))))
    assert in_parts(parts_of(paid_by((TenderKind.GIFT_CARD, 1))))


def test_another_tender_takes_over_one_part_with_its_number_and_amount() -> None:
    parts = parts_of(
        paid_by((TenderKind.GIFT_CARD, 10), (TenderKind.STORE_CREDIT, 20), (TenderKind.CARD, 30))
    )
    after = replaced(parts, 1, TenderKind.CARD, "another", 7)
    assert [(part.number, part.kind, part.amount_minor) for part in after] == [
        (2, TenderKind.STORE_CREDIT, 20),
        (1, TenderKind.CARD, 10),
        (3, TenderKind.CARD, 30),
    ]
    assert (after[1].token, after[1].offered) == ("another", 7)


def test_a_movement_under_a_plain_key_is_for_the_only_part() -> None:
    assert part_of(part_key("order:web:1:authorise:2", 3)) == 3
    assert part_of("order:web:1:authorise:2") == 1


def test_a_hold_made_anew_asks_each_part_for_what_it_still_has_to_pay() -> None:
    parts = parts_of(paid_by((TenderKind.GIFT_CARD, 30), (TenderKind.CARD, 70)))
    assert holds(parts, 60, {1: 30, 2: 10}) == {1: 0, 2: 60}
    assert holds(parts, 80, {1: 20}) == {1: 10, 2: 70}


@given(SPLITS, st.integers(0, 5_000))
def test_holds_add_up_to_the_amount_and_only_the_last_tender_holds_more_than_it_pays(
    draft: OrderDraft, amount: int
) -> None:
    parts = parts_of(draft)
    shares = holds(parts, amount)
    assert sum(shares.values()) == amount
    assert all(0 <= shares[part.number] <= part.amount_minor for part in parts[:-1])
    assert shares[parts[-1].number] >= 0


@given(SPLITS)
def test_of_the_whole_order_each_tender_holds_what_it_pays(draft: OrderDraft) -> None:
    whole = sum(tender.amount_minor for tender in draft.tenders)
    assert holds(parts_of(draft), whole) == {part.number: part.amount_minor for part in parts_of(draft)}


@given(st.integers(0, 100), st.lists(st.integers(0, 50), max_size=4))
def test_a_draw_takes_from_the_first_on_and_never_more_than_there_is(
    amount: int, available: list[int]
) -> None:
    shares = draw(amount, available)
    assert sum(shares) == min(amount, sum(available))
    for place, (share, there) in enumerate(zip(shares, available, strict=True)):
        assert share == min(there, amount - sum(shares[:place]))
