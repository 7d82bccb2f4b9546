"""What we need of our neighbours, as Protocols. An adapter turns each into a real neighbour's protocol.

Every method that changes something takes an idempotency ``key``; calling it twice with one key has one effect and one
answer. Errors are ``models.errors``: NeighbourRefused (no, for good), NeighbourUnavailable (nothing happened, try
again), OutcomeUnknown (sent, answer lost: look up by key before repeating). A look-up answers None for an unknown key.
"""

from typing import Protocol

from pydantic import AwareDatetime

from models.base import Contract
from models.effects import (
    Audience,
    Authorisation,
    Captured,
    Interception,
    Label,
    PickRequested,
    Refunded,
    Template,
    Undone,
    Voided,
)
from models.messages import CarrierEvent, WmsEvent
from models.money import Money
from models.order import Address
from models.plan import PlannedLine
from models.reconciliation import StatementPage
from models.stock import LotUnits


class PaymentProvider(Protocol):
    """Holds, takes and returns money."""

    async def authorise(self, *, key: str, reference: str, token: str, amount: Money) -> Authorisation:
        """Hold ``amount`` on the tender ``token``; ``reference`` is our order id."""
        ...

    async def find_authorisation(self, *, key: str) -> Authorisation | None:
        """The authorisation made under ``key``."""
        ...

    async def void_by_key(self, *, key: str, authorisation_key: str) -> Voided:
        """Give back what the authorisation made under ``authorisation_key`` still holds; zero when nothing is held.

        One that has not arrived yet is refused when it does; the amount is then None.
        """
        ...

    async def capture(self, *, key: str, authorisation_id: str, amount: Money) -> Captured:
        """Take ``amount`` of the hold. Several captures may follow, up to the held sum.

        A hold that has expired is an answer, as is a decline: ``expired``, and nothing taken.
        """
        ...

    async def find_capture(self, *, key: str) -> Captured | None:
        """The capture made under ``key``."""
        ...

    async def refund(self, *, key: str, capture_id: str, amount: Money, cause: str) -> Refunded:
        """Give back ``amount`` of a capture."""
        ...

    async def find_refund(self, *, key: str) -> Refunded | None:
        """The refund made under ``key``."""
        ...

    async def statement(
        self, *, since: AwareDatetime | None = None, reference: str | None = None, cursor: str | None = None
    ) -> StatementPage:
        """A page of what the provider did or changed, in the order of change.

        ``since``: only what was done or changed from then on; ``reference``: all of one order, however old.
        ``cursor`` is the ``next_cursor`` of the page before. What changes while it is read comes again at the end.
        """
        ...


class PickLine(PlannedLine):
    """What to pick; of which ``lots``, if the goods come in lots."""

    lots: tuple[LotUnits, ...] = ()


class Warehouse(Protocol):
    """Picks and packs. Its progress comes back as ``wms_event`` by webhook."""

    async def request_pick(
        self,
        *,
        key: str,
        node: str,
        shipment_id: str,
        lines: tuple[PickLine, ...],
        business_now: AwareDatetime,
    ) -> PickRequested:
        """Ask ``node`` to pick ``lines``."""
        ...

    async def find_pick(self, *, key: str) -> PickRequested | None:
        """The pick requested under ``key``."""
        ...

    async def progress_of_pick(self, *, key: str) -> tuple[WmsEvent, ...]:
        """What has happened to the pick requested under ``key``, oldest first; empty when nothing is known."""
        ...

    async def cancel_pick(self, *, key: str, pick_key: str) -> Undone:
        """Call off the pick under ``pick_key``, even one that never arrived: a later request is then refused."""
        ...


class Carrier(Protocol):
    """Sells labels and carries parcels. Its scans come back as ``carrier_event`` by webhook."""

    async def buy_label(
        self,
        *,
        key: str,
        carrier: str,
        service: str,
        shipment_id: str,
        node: str,
        ship_to: Address,
        recipient: str,
        weight_g: int,
        transit_days: int,
        price: Money,
        business_now: AwareDatetime,
    ) -> Label:
        """Buy a label; the carrier collects the parcel from ``node`` and delivers within ``transit_days``."""
        ...

    async def find_label(self, *, key: str) -> Label | None:
        """The label bought under ``key``."""
        ...

    async def intercept(self, *, key: str, label_key: str, business_now: AwareDatetime) -> Interception:
        """Bring the parcel with the label bought under ``label_key`` back to its sender, if it still can be."""
        ...

    async def scans(self, *, key: str) -> tuple[CarrierEvent, ...]:
        """What was seen of the parcel with the label bought under ``key``, oldest first; empty when nothing was."""
        ...

    async def void_label(self, *, key: str, label_key: str) -> Undone:
        """Give back the label bought under ``label_key``; not undone once the parcel was collected."""
        ...

    async def statement(
        self, *, since: AwareDatetime | None = None, reference: str | None = None, cursor: str | None = None
    ) -> StatementPage:
        """A page of the labels that the carrier sold or took back; as of a payment provider, by shipment."""
        ...


class SentMessage(Contract):
    """A message that the gateway took over."""

    message_id: str


class MessageGateway(Protocol):
    """Tells customers and reviewers. The words and the channel are the gateway's."""

    async def send(
        self, *, key: str, audience: Audience, template: Template, to: str, facts: dict[str, str]
    ) -> SentMessage:
        """Send one message; the same key is never sent twice."""
        ...
