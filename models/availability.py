"""What can be promised to customers: now, and from which day on how much."""

from datetime import date

from models.base import Contract


class Inbound(Contract):
    """So many units that are not there yet are to arrive on a day."""

    on: date
    quantity: int


class FromThen(Contract):
    """From ``on`` on so many units in all can be promised."""

    on: date
    quantity: int


class Promise(Contract):
    """What can be promised: ``available`` at once, and ``later`` more, day by day."""

    available: int
    later: tuple[FromThen, ...] = ()


class NodePromise(Promise):
    """What one node can promise."""

    node: str


class SkuPromise(Promise):
    """What can be promised of a SKU, by all nodes together and by each."""

    sku: str
    nodes: tuple[NodePromise, ...] = ()


class Availability(Contract):
    """Of each SKU that was asked for. ``destination``: only of nodes from which a carrier goes there.

    ``channel`` and ``tier``: to whom; without, what anybody may have.
    """

    destination: str | None = None
    channel: str | None = None
    tier: str | None = None
    skus: tuple[SkuPromise, ...]
