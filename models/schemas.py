"""The public contracts as JSON Schema, for clients that are not written in Python.

``python -m models.schemas docs/schemas`` writes one file each; a test keeps the committed ones current.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from models.amendment import AmendmentPreview, AmendmentRequest
from models.errors import Problem
from models.journal import TimelineEntry
from models.messages import (
    AmendAnswer,
    AmendOrder,
    CancelAnswer,
    CancelOrder,
    CancelShipment,
    CarrierEvent,
    DecideReview,
    DecisionAnswer,
    OfferAnswer,
    OfferTender,
    PaymentEvent,
    PlanAgain,
    ResolveFailure,
    ShipmentProgress,
    SignalledDecision,
    WmsEvent,
)
from models.money import Money
from models.network import Network
from models.order import OrderDraft
from models.outbox import OutboxEnvelope
from models.plan import Plan
from models.policy import PolicyDocument
from models.review import ReviewTask
from models.runs import OrderResult, OrderRun, ShipmentResult, ShipmentRun
from models.webhooks import WebhookEnvelope

# What a stranger sends us or gets from us, by HTTP or as a Temporal payload; not the steps of our own parts.
PUBLIC_CONTRACTS: tuple[type[BaseModel], ...] = (
    OrderDraft,
    OrderRun,
    OrderResult,
    ShipmentRun,
    ShipmentResult,
    DecideReview,
    SignalledDecision,
    DecisionAnswer,
    ResolveFailure,
    CancelOrder,
    CancelAnswer,
    CancelShipment,
    AmendmentRequest,
    AmendmentPreview,
    AmendOrder,
    AmendAnswer,
    OfferTender,
    OfferAnswer,
    PlanAgain,
    CarrierEvent,
    WmsEvent,
    PaymentEvent,
    WebhookEnvelope,
    OutboxEnvelope,
    ShipmentProgress,
    ReviewTask,
    TimelineEntry,
    Plan,
    PolicyDocument,
    Network,
    Money,
    Problem,
)


def schemas() -> Mapping[str, str]:
    """File name -> text of each public contract's schema (JSON Schema 2020-12), the same text every time."""
    return MappingProxyType({f"{contract.__name__}.json": _text(contract) for contract in PUBLIC_CONTRACTS})


def write_schemas(folder: Path) -> Sequence[Path]:
    """Write every schema into ``folder``, remove what no longer has a contract, return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    current = schemas()
    for leftover in folder.glob("*.json"):
        if leftover.name not in current:
            leftover.unlink()
    written = []
    for name, text in current.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _text(contract: type[BaseModel]) -> str:
    schema: dict[str, Any] = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:orderwright:schema:{contract.__name__}",
        **contract.model_json_schema(mode="validation"),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """``python -m models.schemas FOLDER``; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m models.schemas FOLDER\n")
        return 2
    written = write_schemas(Path(arguments[0]))
    sys.stdout.write(f"{len(written)} schemas in {arguments[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
