import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from activities.store.ledger import OrderLedger, TrialBalance
from activities.store.stock_books import StockAccount
from apps.api import contracts, examples
from apps.api.application import routes_only
from apps.api.openapi import describe, main, text_of
from models.availability import Availability
from models.journal import TimelineEntry
from models.prices import AgreedPrice, PriceListContent, PriceListLoaded, PriceLists
from models.review import ReviewTask
from models.stock import StockAnswer, StockView
from models.webhooks import WebhookEnvelope
from policies.intake import check_document

COMMITTED = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"

DOCUMENT = describe(routes_only())
OPERATIONS = [
    pytest.param(operation, id=operation["operationId"])
    for operations in DOCUMENT["paths"].values()
    for operation in operations.values()
]


def test_committed_document_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == text_of(DOCUMENT), (
        "run: python -m apps.api.openapi docs/openapi.json"
    )


def test_export_writes_the_document(tmp_path: Path) -> None:
    assert main([str(tmp_path / "openapi.json")]) == 0
    assert json.loads((tmp_path / "openapi.json").read_text())["openapi"].startswith("3.1")
    assert main([]) == 2


async def test_document_is_served_to_anybody(api: httpx.AsyncClient) -> None:
    answer = await api.get("/openapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.json() == DOCUMENT


def test_every_reference_leads_somewhere() -> None:
    def references(node: Any) -> Any:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for child in node.values():
                yield from references(child)
        elif isinstance(node, list):
            for child in node:
                yield from references(child)

    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(references(DOCUMENT)) <= known


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_explained_with_examples(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert operation["tags"]
    body = operation.get("requestBody")
    if body is not None:
        assert body["content"]["application/json"]["examples"]
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            assert "example" in content, (status, media_type)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_example_keeps_to_its_schema(operation: dict[str, Any]) -> None:
    contents = [
        content
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
    ]
    contents += operation.get("requestBody", {}).get("content", {}).values()
    for content in contents:
        if "schema" not in content or not content["schema"]:
            continue
        validator = Draft202012Validator(content["schema"] | {"components": DOCUMENT["components"]})
        given = [entry["value"] for entry in content.get("examples", {}).values()]
        given += [content["example"]] if "example" in content else []
        for example in given:
            assert [error.message for error in validator.iter_errors(example)] == []


@pytest.mark.parametrize(
    ("contract", "example"),
    [
        (contracts.OrderAccepted, examples.ACCEPTED),
        (contracts.CancelRequest, examples.CANCEL),
        (contracts.CancelTaken, examples.CANCEL_TAKEN),
        (contracts.DecisionRequest, examples.DECISION),
        (contracts.DecisionTaken, examples.DECISION_TAKEN),
        (contracts.Queued, examples.QUEUED),
        (contracts.TenderRequest, examples.TENDER),
        (contracts.TenderTaken, examples.TENDER_TAKEN),
        (contracts.Queued, examples.TENDER_QUEUED),
        (contracts.PayRequest, examples.PAY),
        (contracts.PaymentDue, examples.PAYMENT_DUE),
        (ReviewTask, examples.REVIEW),
        (TimelineEntry, examples.ENTRY),
        (OrderLedger, examples.LEDGER),
        (TrialBalance, examples.TRIAL_BALANCE),
        (contracts.CreditLimit, examples.CREDIT_LIMIT),
        (contracts.AccountPayment, examples.ACCOUNT_PAYMENT),
        (contracts.TenderBlock, examples.TENDER_BLOCK),
        (contracts.Reversal, examples.REVERSAL),
        (contracts.ValueIssue, examples.VALUE_ISSUE),
        (contracts.TenderLeft, examples.TENDER_LEFT),
        (contracts.PriceListRequest, examples.PRICE_LIST_REQUEST),
        (contracts.PriceAssignmentRequest, examples.PRICE_ASSIGNMENT),
        (contracts.PriceAssignmentRequest, examples.PRICE_DEFAULT),
        (contracts.PriceAssignmentRequest, examples.PRICE_WITHDRAWN),
        (PriceListLoaded, examples.PRICE_LIST_LOADED),
        (PriceLists, examples.PRICE_LISTS),
        (PriceListContent, examples.PRICE_LIST_CONTENT),
        (AgreedPrice, examples.AGREED_PRICE),
        (contracts.ReceiptRequest, examples.RECEIPT),
        (contracts.ReceiptRequest, examples.ARRIVAL),
        (contracts.ExpectedRequest, examples.EXPECTED),
        (Availability, examples.AVAILABILITY),
        (contracts.CountRequest, examples.COUNT),
        (contracts.AdjustmentRequest, examples.ADJUSTMENT),
        (contracts.DamageRequest, examples.DAMAGE),
        (contracts.TransferRequest, examples.TRANSFER),
        (contracts.ShortPickRequest, examples.SHORT_PICK),
        (contracts.SafetyStockRequest, examples.SAFETY_STOCK),
        (StockAnswer, examples.STOCK_ANSWER),
        (StockView, examples.STOCK),
        (StockAccount, examples.STOCK_ACCOUNT),
        *((WebhookEnvelope, webhook) for webhook in examples.WEBHOOKS.values()),
    ],
)
def test_examples_are_what_we_take_and_give(contract: type[BaseModel], example: dict[str, Any]) -> None:
    assert isinstance(contract.model_validate_json(json.dumps(example)), contract)


def test_example_order_is_accepted_as_it_stands() -> None:
    assert check_document(json.dumps(examples.ORDER).encode()).external_id == "1001"
