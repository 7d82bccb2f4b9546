"""The OpenAPI 3.1 document: ``python -m apps.api.openapi docs/openapi.json`` writes it, a test keeps it current."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from apps.api import examples
from apps.api.contracts import (
    STOCK_REQUESTS,
    AccountPayment,
    AmendRequest,
    CancelRequest,
    CreditLimit,
    DecisionRequest,
    DropRequest,
    NewSubscriber,
    NoticeLiftRequest,
    NoticeRequest,
    PayRequest,
    PolicyDecisionRequest,
    PolicyProposalRequest,
    PriceAssignmentRequest,
    PriceListRequest,
    PromiseAsked,
    ProviderSettlement,
    ReconciliationRequest,
    RefreshValues,
    ReplayRequest,
    RetryRequest,
    Reversal,
    SecretRequest,
    SetPlanRequest,
    TenderBlock,
    TenderRequest,
    ValueIssue,
)
from apps.api.gate import PROBES
from apps.api.problems import ProblemDetails, answers
from models.order import OrderDraft
from models.policy import BacktestRequest, PolicyCheck
from models.routing import RouteQuestion
from models.webhooks import WebhookEnvelope

DESCRIPTION = """\
Durable order management: each order is one long-running workflow, from the channel's document to settled goods
and money.

Send the token as `Authorization: Bearer …`. Every error answer is `application/problem+json` (RFC 9457); rely on its
`code`. Amounts are integer minor units (1299 GBP is £12.99), times are RFC 3339 with a zone.

Limits: orders of 5 MB, 1,000 lines, 100,000 values and 32 levels; price lists of 5 MB and 20,000 prices; rules of
allocation of 1 MB; amendments of 512 KB; other bodies of 64 KB; addresses of 8 KB and headers of 16 KB; no number of
more than 100 digits, no NaN, no key twice in one object. Bodies are `application/json` in UTF-8, not compressed, and
arrive within 30 seconds. Each answer says in `RateLimit-Policy` and `RateLimit` how many requests you may make; over
that it is `429`, and `Retry-After` says when the next one is served. A query parameter that does not exist is
refused, not ignored. `HEAD` works wherever `GET` does, and `OPTIONS` says which methods there are.
"""
TAGS = [
    {"name": "orders", "description": "Hand over orders, look at them, call them off."},
    {
        "name": "routing",
        "description": "Why an order goes this way, and what if it did not; what stock is worth.",
    },
    {"name": "promises", "description": "When a cart would be there, before it is ordered."},
    {
        "name": "policy",
        "description": "What people decide once for all orders: proposed by one, approved by another.",
    },
    {"name": "reviews", "description": "Decisions that are prepared for a person."},
    {
        "name": "pay",
        "description": "How a customer pays otherwise when a payment was declined. The link is enough.",
    },
    {
        "name": "ledger",
        "description": "The books: double entry, append-only, every balance a sum of entries.",
    },
    {
        "name": "stock",
        "description": "What lies where; receipts, counts, damage and transfers, each once by its document's id.",
    },
    {"name": "prices", "description": "Price lists of business customers, and what a unit costs whom."},
    {
        "name": "reconciliation",
        "description": "Our books against the neighbours' and against each other: what differs.",
    },
    {"name": "webhooks", "description": "What payment provider, warehouse and carriers tell by themselves."},
    {"name": "availability", "description": "What can be promised to customers."},
    {
        "name": "subscribers",
        "description": "Who is told by us of what happens, and what one of them did not take.",
    },
    {"name": "operations", "description": "Health and metrics."},
]

# A request that cannot be read, or is too large to be looked at, is on nobody's account.
BEFORE_THE_BUDGET = frozenset({"400", "414", "431"})
RATE_LIMITS = {
    "RateLimit-Policy": {
        "description": "How many requests (`q`) in how many seconds (`w`)",
        "schema": {"type": "string", "pattern": r'^"[a-z]+";q=[0-9]+;w=[0-9]+$'},
    },
    "RateLimit": {
        "description": "How many requests remain (`r`), and in how many seconds all of them will be there again (`t`)",
        "schema": {"type": "string", "pattern": r'^"[a-z]+";r=[0-9]+;t=[0-9]+$'},
    },
}

# What can be asked next, of which operation, by which part of the answer.
_LINKS = {
    "submit_order": (
        ("200", "202"),
        ("show_order", "show_timeline", "show_order_ledger", "cancel_order"),
        {"order_id": "/order_id"},
    ),
    "list_orders": (
        ("200",),
        ("show_order", "show_timeline", "show_order_ledger", "cancel_order"),
        {"order_id": "/orders/0/order_id"},
    ),
    "add_subscriber": (
        ("201",),
        (
            "show_subscriber",
            "pause_subscriber",
            "resume_subscriber",
            "list_dead_letters",
            "remove_subscriber",
        ),
        {"subscriber_id": "/subscriber/subscriber_id"},
    ),
    "list_dead_letters": (
        ("200",),
        ("drop_dead_letter",),
        {"subscriber_id": "/dead_letters/0/subscriber_id", "position": "/dead_letters/0/position"},
    ),
    "list_reviews": (("200",), ("show_review", "decide_review"), {"task_id": "/reviews/0/task_id"}),
}

# Bodies that handlers read themselves, so that FastAPI does not see them.
_READ_BY_HAND = (
    OrderDraft,
    AmendRequest,
    CancelRequest,
    DecisionRequest,
    RouteQuestion,
    NoticeRequest,
    NoticeLiftRequest,
    SetPlanRequest,
    PromiseAsked,
    PolicyProposalRequest,
    PolicyCheck,
    PolicyDecisionRequest,
    BacktestRequest,
    TenderRequest,
    PayRequest,
    *STOCK_REQUESTS,
    CreditLimit,
    AccountPayment,
    ValueIssue,
    ProviderSettlement,
    TenderBlock,
    Reversal,
    PriceListRequest,
    PriceAssignmentRequest,
    ReconciliationRequest,
    RefreshValues,
    WebhookEnvelope,
    NewSubscriber,
    SecretRequest,
    ReplayRequest,
    RetryRequest,
    DropRequest,
)

# FastAPI leaves nulls out of what it describes, also of examples of fields that are always there.
_EXAMPLES_WITH_NULLS = {
    "/v1/promise/{promise_id}": examples.PROMISE_VIEW,
    "/v1/policy": examples.POLICY,
    "/v1/policy/versions": examples.POLICY_HISTORY,
    "/v1/policy/versions/{version}": examples.POLICY,
    "/v1/orders": examples.PAGE,
    "/v1/orders/{order_id}": examples.VIEW,
    "/v1/orders/{order_id}/ledger": examples.LEDGER,
    "/v1/orders/{order_id}/route": examples.ROUTE,
    "/v1/routing/values": examples.STOCK_VALUES,
    "/v1/reviews": examples.REVIEW_PAGE,
    "/v1/stock/{sku}": examples.STOCK,
    "/v1/reconciliation/differences": examples.DIFFERENCE_PAGE,
    "/v1/reconciliation/runs": examples.RECONCILIATION_RUNS,
    "/v1/reconciliation/runs/{run_id}": examples.RECONCILIATION_RUN,
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
    _complete_answers(document)
    _add_links(document)
    for path, example in _EXAMPLES_WITH_NULLS.items():
        document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"] = example
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "The API token of this installation"}
    }
    document["security"] = [{"token": []}]
    return document


def _complete_answers(document: dict[str, Any]) -> None:
    """Every answer that an operation can give, with the headers that come with it, in place of FastAPI's own form."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            own = operation["responses"]
            if "application/json" in own.get("422", {}).get("content", {}):
                del own["422"]
            every = {str(status): said for status, said in answers(*_also(path, operation)).items()} | own
            for status, said in every.items():
                if path not in PROBES and status not in BEFORE_THE_BUDGET:
                    said["headers"] = said.get("headers", {}) | RATE_LIMITS
            operation["responses"] = dict(sorted(every.items()))


def _also(path: str, operation: dict[str, Any]) -> Iterator[int]:
    """What an operation may answer besides what its route says."""
    yield from (400, 414, 431, 500, 503)
    if path not in PROBES:
        yield 429
    if operation.get("security") != []:
        yield 401
    if path.startswith(
        (
            "/v1/orders",
            "/v1/reviews",
            "/v1/pay",
            "/v1/ledger",
            "/v1/reconciliation",
            "/v1/stock",
            "/v1/subscribers",
            "/v1/availability",
        )
    ):
        yield 422
    if "requestBody" in operation:
        # 502: Temporal may refuse what is asked of a run.
        yield from (408, 413, 415, 502)


def _add_links(document: dict[str, Any]) -> None:
    operations = {
        operation["operationId"]: operation
        for operations in document["paths"].values()
        for operation in operations.values()
    }
    for name, (statuses, targets, parameters) in _LINKS.items():
        for status in statuses:
            operations[name]["responses"][status]["links"] = {
                target: {
                    "operationId": target,
                    "parameters": {key: f"$response.body#{at}" for key, at in parameters.items()},
                }
                for target in targets
            }


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
