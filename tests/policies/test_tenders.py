"""Which tender pays how much, and in which order."""

from hypothesis import given
from hypothesis import strategies as st

from models.order import OrderDraft, TenderKind
from policies.tenders import draw, drawn, holds, in_parts
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
    assert [tender.amount_minor for tender in drawn(draft)] == [4, 3, 2, 1]


def test_one_card_needs_no_parts_and_everything_else_does() -> None:
    assert not in_parts(paid_by((TenderKind.CARD, 1)))
    assert in_parts(paid_by((TenderKind.CARD, 1), (TenderKind.CARD, 2)))
    assert in_parts(paid_by((TenderKind.GIFT_CARD, 1)))


@given(SPLITS, st.integers(0, 5_000))
def test_holds_add_up_to_the_amount_and_only_the_last_tender_holds_more_than_it_pays(
    draft: OrderDraft, amount: int
) -> None:
    shares = holds(draft, amount)
    assert sum(shares) == amount
    assert all(
        0 <= share <= tender.amount_minor
        for share, tender in zip(shares[:-1], drawn(draft)[:-1], strict=True)
    )


@given(SPLITS)
def test_of_the_whole_order_each_tender_holds_what_it_pays(draft: OrderDraft) -> None:
    whole = sum(tender.amount_minor for tender in draft.tenders)
    assert holds(draft, whole) == tuple(tender.amount_minor for tender in drawn(draft))


@given(st.integers(0, 100), st.lists(st.integers(0, 50), max_size=4))
def test_a_draw_takes_from_the_first_on_and_never_more_than_there_is(
    amount: int, available: list[int]
) -> None:
    shares = draw(amount, available)
    assert sum(shares) == min(amount, sum(available))
    for place, (share, there) in enumerate(zip(shares, available, strict=True)):
        assert share == min(there, amount - sum(shares[:place]))
