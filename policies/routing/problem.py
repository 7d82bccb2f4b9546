"""The routing problem of one order: everything a router may look at, and nothing it would have to fetch."""

from pydantic import AwareDatetime, Field

from models.base import Contract
from models.network import CarrierService, Node
from policies.routing.weights import RoutingWeights


class DemandLine(Contract):
    """``quantity`` units of a SKU asked for by an order line."""

    line_id: str
    sku: str
    quantity: int = Field(ge=1)


class StockRow(Contract):
    """``available`` units of a SKU that a node can promise now; ``kept_back`` more lie there, but not for it."""

    node: str
    sku: str
    available: int = Field(ge=0)
    kept_back: int = 0


class RoutingProblem(Contract):
    """One order to be routed. Amounts are minor units of ``currency``, the network's own; weights are grams.

    ``carrier_service`` (``carrier/service``): the only one that will do. ``sequence``: nodes that are tried alone
    before the next ones are added. ``weights`` and ``max_parcels`` are the policy's, whose version is ``policy``; None
    of ``weights`` are those built in. ``rule``: the policy's rule that the nodes were chosen by.
    """

    order_id: str
    currency: str
    business_now: AwareDatetime
    lines: tuple[DemandLine, ...] = Field(min_length=1)
    ship_country: str
    nodes: tuple[Node, ...]
    services: tuple[CarrierService, ...]
    stock: tuple[StockRow, ...]
    unit_weight_g: int = Field(gt=0)
    split_penalty_minor: int = Field(ge=0)
    processing_days: int = Field(ge=0)
    promise_by: AwareDatetime | None = None
    ship_complete: bool = False
    carrier_service: str | None = None
    policy: str | None = None
    weights: RoutingWeights | None = None
    max_parcels: int | None = None
    sequence: tuple[tuple[str, ...], ...] = ()
    rule: str | None = None

    def usable_services(self) -> tuple[CarrierService, ...]:
        """The active services that will do."""
        return tuple(
            service
            for service in self.services
            if service.active and self.carrier_service in (None, f"{service.carrier}/{service.service}")
        )
