"""What we tell others of what happens: topics, events, and the envelope that a subscriber is sent.

An envelope is signed like every webhook (``models.webhooks``): ``Orderwright-Timestamp`` and ``Orderwright-Signature``.
An event keeps its ``event_id`` however often it is sent, so that a receiver that remembers ids applies it once.
"""

from enum import StrEnum
from ipaddress import IPv6Address
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field, StringConstraints

from models.base import Contract


class Topic(StrEnum):
    """What can be subscribed to. Events of one ``key`` come in the order in which they happened, across topics."""

    AVAILABILITY = "availability"
    COMMITMENTS = "commitments"
    FULFILMENT = "fulfilment"
    FINANCE = "finance"
    ORDERS = "orders"


SUBSCRIBER_ID_PATTERN = r"^[a-z][a-z0-9-]{0,31}$"
SubscriberId = Annotated[str, StringConstraints(pattern=SUBSCRIBER_ID_PATTERN)]
# Where it is posted to. There is no place for a user and a password, which would stand in lists and logs.
SubscriberUrl = Annotated[
    str,
    StringConstraints(
        max_length=1000,
        pattern=r"^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[!\"$-~]*)?$",
    ),
]
Secret = Annotated[str, StringConstraints(min_length=32, max_length=200, pattern=r"^[!-~]+$")]


def address_problem(url: str) -> str | None:
    """What is wrong with a ``SubscriberUrl`` beyond its form, in words; None if nothing is."""
    try:
        parts = urlsplit(url)
        port = parts.port
        if parts.netloc.startswith("["):
            IPv6Address(parts.hostname or "")
    except ValueError as error:
        return f"is no address that can be posted to: {error}"
    return "has port 0" if port == 0 else None


class OutboxEvent(Contract):
    """One thing that happened. ``position`` is its place in the feed; ``data`` has ids, states, units and amounts."""

    position: int = Field(description="its place in the feed; only grows, with gaps")
    event_id: str = Field(description="the same however often the event is sent")
    topic: Topic
    key: str = Field(description="what is ordered: an order's id, or node/sku")
    type: str
    at: AwareDatetime
    data: dict[str, Any]


class OutboxEnvelope(Contract):
    """What a subscriber is sent: events of one key, the oldest first. Any 2xx says that all of them were taken."""

    subscriber_id: str
    key: str
    events: tuple[OutboxEvent, ...]
