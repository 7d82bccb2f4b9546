"""What happens to stock: the kinds of movement, and the documents of a warehouse that cause them."""

from enum import StrEnum


class MovementKind(StrEnum):
    """Why a stock row changed.

    OPENING: what lay there when movements began to be written. UNEXPLAINED: the row was changed by hand, or by a
    version that did not say why.
    """

    OPENING = "opening"
    SEED = "seed"
    RESERVE = "reserve"
    RELEASE = "release"
    SHIP = "ship"
    RECEIPT = "receipt"
    COUNT = "count"
    ADJUSTMENT = "adjustment"
    DAMAGE = "damage"
    SHORT_PICK = "short_pick"
    TRANSFER_OUT = "transfer_out"
    TRANSFER_IN = "transfer_in"
    RETURN = "return"
    UNEXPLAINED = "unexplained"
