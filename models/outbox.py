"""What we tell others of what happens: topics, events, and the envelope that a subscriber is sent.

An envelope is signed like every webhook (``models.webhooks``): ``Orderwright-Timestamp`` and ``Orderwright-Signature``.
An event keeps its ``event_id`` however often it is sent, so that a receiver that remembers ids applies it once.
"""

from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, Field

from models.base import Contract


class Topic(StrEnum):
    """What can be subscribed to. Events of one ``key`` come in the order in which they happened, across topics."""

    AVAILABILITY = "availability"
    COMMITMENTS = "commitments"
    FULFILMENT = "fulfilment"
    FINANCE = "finance"
    ORDERS = "orders"


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
