"""Names that identify things, how they are built, and how they are read back.

Ids come from the channel and its own order number, so the same order can never start twice under two ids. They hold no
personal data: they stand in workflow ids, logs and URLs.
"""

import re
from typing import Annotated

from pydantic import StringConstraints

Channel = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
ExternalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sku = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\s\x00]([^\n\x00]*[^\s\x00])?$")
]
NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
OrderId = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
]

SHIPMENT_ID_PATTERN = r"^[a-z][a-z0-9_-]{0,31}:[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[1-9][0-9]{0,5}$"
_SHIPMENT_ID = re.compile(SHIPMENT_ID_PATTERN)


def order_id(channel: str, external_id: str) -> str:
    """``web`` and ``1001`` give ``web:1001``."""
    return f"{channel}:{external_id}"


def order_workflow_id(order: str) -> str:
    """The one workflow id an order can have: ``order:{channel}:{external_id}``."""
    return f"order:{order}"


def shipment_id(order: str, number: int) -> str:
    """``web:1001`` and 2 give ``web:1001:2``; numbers count from 1 and are never used again within an order."""
    return f"{order}:{number}"


def shipment_workflow_id(shipment: str) -> str:
    """The workflow id of a shipment: ``shipment:{channel}:{external_id}:{number}``."""
    return f"shipment:{shipment}"


def order_of_shipment(shipment: str) -> str:
    """The order that a shipment id belongs to. Raises ``ValueError`` for anything else."""
    if _SHIPMENT_ID.fullmatch(shipment) is None:
        raise ValueError(f"{shipment!r} is not a shipment id (channel:order:number)")
    return shipment.rpartition(":")[0]


def order_of_workflow(workflow_id: str) -> str | None:
    """The order that one of our workflow ids is about; None for anybody else's id."""
    kind, _, subject = workflow_id.partition(":")
    if kind == "order" and subject.count(":") == 1:
        return subject
    if kind == "shipment" and _SHIPMENT_ID.fullmatch(subject):
        return order_of_shipment(subject)
    return None


def review_task_id(subject: str, number: int) -> str:
    """The id of the n-th review task of an order or a shipment: ``web:1001:r1``."""
    return f"{subject}:r{number}"


def idempotency_key(workflow_id: str, step: str, attempt: int = 1) -> str:
    """The key of one external effect: the same for every retry of it, another for each business attempt."""
    return f"{workflow_id}:{step}:{attempt}"
