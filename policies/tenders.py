"""In which order an order's tenders are drawn on, and how much each of them pays.

What we owe the customer goes first (gift card, then store credit), then their account, and the card last: its money is
the only one that costs a fee. Paid back is the other way round, each tender at most what it paid.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from models.order import OrderDraft, TenderKind

_DRAWN = (TenderKind.GIFT_CARD, TenderKind.STORE_CREDIT, TenderKind.ON_ACCOUNT, TenderKind.CARD)


class Part(NamedTuple):
    """What one tender pays of an order. ``number`` stays the part's own, also when another tender takes it over.

    ``offered``: the number under which that other tender was offered; 0 for the document's own.
    """

    number: int
    kind: TenderKind
    token: str
    amount_minor: int
    offered: int = 0


def parts_of(draft: OrderDraft) -> tuple[Part, ...]:
    """The document's tenders in the order in which they are drawn on, numbered from 1 on."""
    drawn = sorted(draft.tenders, key=lambda tender: rank(tender.kind))
    return tuple(
        Part(number, tender.kind, tender.token, tender.amount_minor)
        for number, tender in enumerate(drawn, start=1)
    )


def rank(kind: TenderKind) -> int:
    """When a tender of this kind is drawn on: the lowest first."""
    return _DRAWN.index(kind)


def in_parts(parts: Sequence[Part]) -> bool:
    """Whether the order is paid by more than one card's token."""
    return len(parts) > 1 or parts[0].kind is not TenderKind.CARD


def replaced(
    parts: Iterable[Part], number: int, kind: TenderKind, token: str, offered: int
) -> tuple[Part, ...]:
    """``parts`` with another tender for the one with this number, which pays as much; as they are drawn on."""
    others = (
        part._replace(kind=kind, token=token, offered=offered) if part.number == number else part
        for part in parts
    )
    return tuple(sorted(others, key=lambda part: (rank(part.kind), part.number)))


def holds(parts: Sequence[Part], amount: int, taken: Mapping[int, int] | None = None) -> dict[int, int]:
    """How much of ``amount`` each part holds, by its number: what it still has to pay, and the last one any more.

    ``taken``: what was captured of parts already.
    """
    still = [max(0, part.amount_minor - (taken or {}).get(part.number, 0)) for part in parts]
    shares = draw(amount, still)
    shares = (*shares[:-1], shares[-1] + amount - sum(shares))
    return {part.number: share for part, share in zip(parts, shares, strict=True)}


def part_key(key: str, number: int) -> str:
    """The key of one part of what is done under ``key``."""
    return f"{key}/{number}"


def part_of(key: str) -> int:
    """Which part a movement under ``key`` is for: what is not done in parts is for the first and only one."""
    return int(key.partition("/")[2] or 1)


def draw(amount: int, available: Sequence[int]) -> tuple[int, ...]:
    """``amount`` out of what is ``available``, from the first on; less than it where there is less."""
    shares = []
    left = amount
    for each in available:
        shares.append(min(left, each))
        left -= shares[-1]
    return tuple(shares)
