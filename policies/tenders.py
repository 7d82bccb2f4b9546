"""In which order an order's tenders are drawn on, and how much each of them pays.

What we owe the customer goes first (gift card, then store credit), then their account, and the card last: its money is
the only one that costs a fee. Paid back is the other way round, each tender at most what it paid.
"""

from collections.abc import Sequence

from models.order import OrderDraft, Tender, TenderKind

_DRAWN = (TenderKind.GIFT_CARD, TenderKind.STORE_CREDIT, TenderKind.ON_ACCOUNT, TenderKind.CARD)


def in_parts(draft: OrderDraft) -> bool:
    """Whether the order is paid by more than one card's token."""
    return len(draft.tenders) > 1 or draft.tenders[0].kind is not TenderKind.CARD


def drawn(draft: OrderDraft) -> tuple[Tender, ...]:
    """The order's tenders in the order in which they are drawn on."""
    return tuple(sorted(draft.tenders, key=lambda tender: _DRAWN.index(tender.kind)))


def holds(draft: OrderDraft, amount: int) -> tuple[int, ...]:
    """How much of ``amount`` each of ``drawn`` holds: what it pays of the order, and the last one any more."""
    tenders = drawn(draft)
    shares = draw(amount, [tender.amount_minor for tender in tenders])
    return (*shares[:-1], shares[-1] + amount - sum(shares))


def draw(amount: int, available: Sequence[int]) -> tuple[int, ...]:
    """``amount`` out of what is ``available``, from the first on; less than it where there is less."""
    shares = []
    left = amount
    for each in available:
        shares.append(min(left, each))
        left -= shares[-1]
    return tuple(shares)
