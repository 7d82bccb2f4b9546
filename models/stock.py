"""What happens to stock: the kinds of movement, and the documents of a warehouse that cause them. See docs/stock.md."""

from datetime import date
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints
from pydantic_core import PydanticCustomError

from models.base import Contract, Document
from models.identifiers import SHIPMENT_ID_PATTERN, NodeId, Sku
from models.messages import Actor, Reason


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


# A billion pieces of one thing in one place is a slip of the finger.
MOST_UNITS = 1_000_000_000
MOST_LINES = 500

DocumentId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")]
# Pieces: no fraction, and no text or 3.0 that would have to be guessed at.
Units = Annotated[int, Field(strict=True, ge=0, le=MOST_UNITS)]
SomeUnits = Annotated[int, Field(strict=True, ge=1, le=MOST_UNITS)]


def _some(change: int) -> int:
    if change == 0:
        raise PydanticCustomError("no_change", "must be more or fewer: 0 changes nothing")
    return change


Change = Annotated[
    int,
    Field(strict=True, ge=-MOST_UNITS, le=MOST_UNITS, json_schema_extra={"not": {"const": 0}}),
    AfterValidator(_some),
]
YesOrNo = Annotated[bool, Field(strict=True)]


# What stands on the goods, as their maker writes it.
Lot = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\s\x00]([^\n\x00]*[^\s\x00])?$")
]
# The last day on which they are good.
ExpiresOn = Annotated[date, Field(strict=True)]


class SkuUnits(Document):
    """So many units of a SKU; of one ``lot``, if it is known. A SKU may have a line for each lot."""

    sku: Sku
    quantity: SomeUnits
    lot: Lot | None = None


class ReceivedUnits(SkuUnits):
    """``expires_on`` is needed for a ``lot`` that was never received before."""

    expires_on: ExpiresOn | None = None


class SupplyUnits(Document):
    """So many units of a SKU are to come; none cancels."""

    sku: Sku
    quantity: Units


class CountedUnits(SupplyUnits):
    """So many units of a SKU were found; none is an answer as well.

    With a ``lot``: so many of this one, and the SKU's lots that no line names are as they were. A line without a lot
    beside such lines is for units of which nobody knows it. What a lot has more than in the books comes from those.
    """

    lot: Lot | None = None
    expires_on: ExpiresOn | None = None


class ChangedUnits(Document):
    """So many units of a SKU, or of a lot of it, more; or with a minus fewer."""

    sku: Sku
    change: Change
    lot: Lot | None = None


class StockDocument(Document):
    """What happened to stock, as whoever was there says. Sent twice it happens once; ``document_id`` tells."""

    document_id: DocumentId
    actor: Actor


class Receipt(StockDocument):
    """Goods arrived at ``node`` and lie on its shelves now.

    ``supply_id``: they were expected as this. ``transfer_id``: they come from another node of ours; with ``last`` no
    more of that transfer will come, and what is missing is written off. ``new``: the SKUs are stocked for the first
    time anywhere; without it a name that nobody knows is refused.
    """

    node: NodeId
    lines: tuple[ReceivedUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason | None = None
    transfer_id: DocumentId | None = None
    supply_id: DocumentId | None = None
    last: YesOrNo = False
    new: YesOrNo = False


class Expected(StockDocument):
    """A supplier will deliver so much to ``node`` on a day. What is said last of a ``supply_id`` counts; none cancels.

    What has arrived of it already is counted in.
    """

    supply_id: DocumentId
    node: NodeId
    expected_on: Annotated[date, Field(strict=True)]
    lines: tuple[SupplyUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason | None = None


class Count(StockDocument):
    """Somebody counted at ``node``: so many units lie there, whatever we thought. Never refused for what it says.

    Parcels that left the house are not counted. Reservations that no longer fit are released, the latest promise first.
    """

    node: NodeId
    lines: tuple[CountedUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason | None = None
    new: YesOrNo = False


class Adjustment(StockDocument):
    """The books were wrong by so much."""

    node: NodeId
    lines: tuple[ChangedUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason


class Damage(StockDocument):
    """So many units broke, were stolen or ran out of date. Without a lot they are taken from those nobody knows the lot
    of, then from the last to expire.
    """

    node: NodeId
    lines: tuple[SkuUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason


class Transfer(StockDocument):
    """Units left ``from_node`` for ``to_node``; they are nowhere until ``to_node`` says that it has them.

    Their lots go with them: those that are named, else the first to expire.
    """

    from_node: NodeId
    to_node: NodeId
    lines: tuple[SkuUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason | None = None


class ShortPick(StockDocument):
    """Who picked ``shipment_id`` did not find so many units of it; they are not on the shelf.

    With a ``lot`` of those that it was to be picked from; without, those that it has of the last to expire.
    """

    shipment_id: str = Field(pattern=SHIPMENT_ID_PATTERN)
    lines: tuple[SkuUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason | None = None


class Departure(StockDocument):
    """``shipment_id`` left ``node`` with these units, though they had been freed. Nobody sends it: we write it down."""

    node: NodeId
    shipment_id: str
    lines: tuple[SkuUnits, ...] = Field(min_length=1)


class SafetyStock(StockDocument):
    """So many units of each SKU are kept back at ``node``: they are promised to nobody new. None keeps nothing back.

    What is promised already stays so, and a transfer may take units that are kept back.
    """

    node: NodeId
    lines: tuple[CountedUnits, ...] = Field(min_length=1, max_length=MOST_LINES)
    reason: Reason | None = None


class StockNow(Contract):
    """A stock row as a document left it. ``available`` can be promised: what is kept back is not."""

    node: str
    sku: str
    on_hand: int
    reserved: int
    available: int


class ReleasedUnits(Contract):
    """Units that a shipment was promised and that are not there: it has to be planned anew."""

    order_id: str
    shipment_id: str
    reservation: str
    node: str
    sku: str
    quantity: int


class StockAnswer(Contract):
    """What came of a document. ``released`` are the promises that it broke."""

    document_id: str
    repeated: bool = False
    stock: tuple[StockNow, ...]
    released: tuple[ReleasedUnits, ...] = ()


class LotUnits(Contract):
    """So many units of a lot; None: of those that nobody knows the lot of."""

    lot: str | None
    expires_on: date | None
    quantity: int


class LotStock(Contract):
    """Units of a SKU at a node that came in one lot; None: nobody knows in which. ``available``: neither reserved nor
    expired.
    """

    lot: str | None
    expires_on: date | None
    on_hand: int
    reserved: int
    available: int
    expired: bool = False


class NodeStock(Contract):
    """One SKU at one node. ``available`` can be promised; ``in_transit`` is on its way here from another node.

    ``lots``: what it is divided into, the first to expire first, if it came in lots.
    """

    node: str
    on_hand: int
    reserved: int
    safety_stock: int
    available: int
    in_transit: int = 0
    lots: tuple[LotStock, ...] = ()


class Movement(Contract):
    """One change of a SKU's stock at one node: by how much, why, by whom, and what it came to."""

    movement_id: int
    at: AwareDatetime
    node: str
    kind: MovementKind
    on_hand: int
    reserved: int
    on_hand_after: int
    reserved_after: int
    actor: str
    reason: str | None = None
    source: str = ""
    document_id: str | None = None


class LotMovement(Movement):
    """One change of one lot; None: of those of which nobody knows it."""

    lot: str | None = None


class StockView(Contract):
    """A SKU everywhere: by node, together, and its last movements, newest first; ``lot_movements``: of its lots."""

    sku: str
    on_hand: int
    reserved: int
    available: int
    in_transit: int
    nodes: tuple[NodeStock, ...]
    movements: tuple[Movement, ...] = ()
    lot_movements: tuple[LotMovement, ...] = ()
