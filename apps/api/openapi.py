"""The OpenAPI 3.1 document: ``python -m apps.api.openapi docs/openapi.json`` writes it, a test keeps it current."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from apps.api import examples
from apps.api.contracts import CancelRequest, DecisionRequest
from apps.api.problems import MEDIA_TYPE, ProblemDetails
from models.order import OrderDraft
from models.webhooks import WebhookEnvelope

DESCRIPTION = """\
Durable order management: each order is one long-running workflow, from the channel's document to settled goods
and money.

Send the token as `Authorization: Bearer …`. Every error answer is `application/problem+json` (RFC 9457); rely on its
`code`. Amounts are integer minor units (1299 GBP is £12.99), times are RFC 3339 with a zone.
"""
TAGS = [
    {"name": "orders", "description": "Hand over orders, look at them, call them off."},
    {"name": "reviews", "description": "Decisions that are prepared for a person."},
    {"name": "webhooks", "description": "What payment provider, warehouse and carriers tell by themselves."},
    {"name": "operations", "description": "Health and metrics."},
]

# Bodies that handlers read themselves, so that FastAPI does not see them.
_READ_BY_HAND = (OrderDraft, CancelRequest, DecisionRequest, WebhookEnvelope)

# FastAPI leaves nulls out of what it describes, also of examples of fields that are always there.
_EXAMPLES_WITH_NULLS = {
    "/v1/orders": examples.PAGE,
    "/v1/orders/{order_id}": examples.VIEW,
    "/v1/reviews": examples.REVIEW_PAGE,
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of ``app``, with everything that handlers do themselves."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        tags=app.openapi_tags,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, extra = models_json_schema(
        [(contract, "validation") for contract in (*_READ_BY_HAND, ProblemDetails)],
        ref_template="#/components/schemas/{model}",
    )
    for name, schema in extra.get("$defs", {}).items():
        schemas.setdefault(name, schema)
    _replace_fastapis_errors(document)
    for path, example in _EXAMPLES_WITH_NULLS.items():
        document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"] = example
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "The API token of this installation"}
    }
    document["security"] = [{"token": []}]
    return document


def _replace_fastapis_errors(document: dict[str, Any]) -> None:
    """Take out FastAPI's own form of an invalid request: every error of ours is a problem document."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    anything_else = {
        "description": "Anything else that went wrong",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            answers = operation["responses"]
            if "application/json" in answers.get("422", {}).get("content", {}):
                del answers["422"]
            operation["responses"] = dict(sorted(answers.items())) | {"default": anything_else}


def text_of(document: dict[str, Any]) -> str:
    """The document as it is committed: the same text every time."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """``python -m apps.api.openapi FILE``; returns the exit code."""
    from apps.api.application import routes_only  # noqa: PLC0415 - the application imports this module

    if len(arguments) != 1:
        sys.stderr.write("usage: python -m apps.api.openapi FILE\n")
        return 2
    Path(arguments[0]).write_text(text_of(describe(routes_only())), encoding="utf-8")
    sys.stdout.write(f"wrote {arguments[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
