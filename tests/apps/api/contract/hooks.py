"""What schemathesis cannot know from the document: sums that add up, cursors that we gave out, how a neighbour signs.

Only what was made to be acceptable is mended; what was made to be wrong is sent as it is, webhooks signed all the same,
so that they get past the signature.
"""

import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
import schemathesis
from requests.auth import AuthBase
from schemathesis.core.parameters import ParameterLocation

from apps.api import examples
from apps.api.orders import BUSINESS_START_HEADER
from models.money import MAX_MINOR
from models.stock import MOST_UNITS
from models.tender import PayLink
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

_ANY_TIME = "2026-03-02T12:00:00Z"
# A SKU that the stage of these tests has as well.
COUNTED = "COUNTED"
_SECRET = os.environ["ORDERWRIGHT_WEBHOOK_SECRET"]
_PAY_LINK_SECRET = os.environ["ORDERWRIGHT_PAY_LINK_SECRET"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Make acceptable what is meant to be, and sign webhooks unless their headers are what is wrong with them."""
    operation = case.operation.definition.raw["operationId"]
    if case.meta is None or case.meta.generation.mode.is_positive:
        _MENDS.get(operation, lambda _: None)(case)
    if operation == "stream_availability" and not (
        case.meta and case.meta.is_negative_at(ParameterLocation.QUERY)
    ):
        # Also with a header that is meant to be wrong, should it be taken.
        _closed_at_once(case)
    if operation == "take_event" and not (case.meta and case.meta.is_negative_at(ParameterLocation.HEADER)):
        kwargs["auth"] = _Signed()


class _Signed(AuthBase):
    """Signs the bytes that are sent, as a neighbour does."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        raw = body.encode() if isinstance(body, str) else body
        assert isinstance(raw, bytes), "a webhook's body is no stream"
        timestamp = int(time.time())
        request.headers[TIMESTAMP_HEADER] = str(timestamp)
        request.headers[SIGNATURE_HEADER] = sign(_SECRET, timestamp, raw)
        return request


def _without_cursor(case: Any) -> None:
    """Only we can make one: nothing made up is ever acceptable."""
    if case.query:
        case.query = {name: value for name, value in case.query.items() if name != "cursor"}


def _that_adds_up(case: Any) -> None:
    """Give an order the totals of its lines and charges, and a tender of them."""
    draft = dict(case.body)
    if draft["external_id"] == examples.ORDER["external_id"]:
        # A number that is used twice would be a conflict, whatever else is in the order.
        draft["external_id"] = _number_of(draft)
    draft["lines"] = [line | {"line_id": str(number)} for number, line in enumerate(draft["lines"], start=1)]
    draft["charges"] = [
        charge | {"amount_minor": -abs(charge["amount_minor"])} if charge["kind"] == "discount" else charge
        for charge in draft.get("charges", [])
    ]
    # The same number to JSON Schema; with a decimal point, an amount is refused on purpose.
    for part in (*draft["lines"], *draft["charges"]):
        part |= {name: int(value) for name, value in part.items() if isinstance(value, float)}
    if isinstance(draft.get("min_shelf_life_days"), float):
        draft["min_shelf_life_days"] = int(draft["min_shelf_life_days"])
    # JSON Schema knows no range of times.
    for name in ("placed_at", "promise_by"):
        if draft.get(name):
            draft[name] = _possible(draft[name])
    if case.headers and BUSINESS_START_HEADER in case.headers:
        case.headers[BUSINESS_START_HEADER] = _possible(case.headers[BUSINESS_START_HEADER])
    lines, charges = _sums(draft)
    if not (lines <= MAX_MINOR and abs(charges) <= MAX_MINOR and 0 < lines + charges <= MAX_MINOR):
        draft["lines"] = [line | {"quantity": 1, "unit_price_minor": 1} for line in draft["lines"]]
        draft["charges"] = []
        lines, charges = _sums(draft)
    total = lines + charges
    draft["totals"] = {"lines_minor": lines, "charges_minor": charges, "total_minor": total}
    draft["tenders"] = [draft["tenders"][0] | {"amount_minor": total}]
    for name in ("promise_by", "deliver_from"):
        if draft.get(name):
            draft[name] = draft["placed_at"]
    case.body = draft


def _possible(moment: str) -> str:
    return moment if "1970-01-03" <= moment < "2199-12-30" else _ANY_TIME


def _number_of(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _sums(draft: dict[str, Any]) -> tuple[int, int]:
    return (
        sum(line["quantity"] * line["unit_price_minor"] for line in draft["lines"]),
        sum(charge["amount_minor"] for charge in draft["charges"]),
    )


def _of_an_order_that_is_there(case: Any) -> None:
    """Change the one line that the order has, in ways that any order can be changed."""
    case.path_parameters["order_id"] = "web:1001"
    wish = {name: value for name, value in case.body.items() if name in ("actor", "reason", "ship_to")}
    number = _number_of(case.body)
    # Seven units and more: six is how it is, and would be no change.
    wish["lines"] = [{"line_id": "1", "quantity": 7 + int(number[:4], 16)}]
    case.body = wish | {"request_id": f"a-{number}"}


_KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "payment": (
        "payment_event",
        "captured",
        {"provider_ref": "c", "amount": {"minor": 1, "currency": "GBP"}},
    ),
    "warehouse": ("wms_event", "picked", {"pick_id": "p"}),
    "carrier": ("carrier_event", "in_transit", {"tracking": "t"}),
}


def _from_its_neighbour(case: Any) -> None:
    """Give an envelope an event of the neighbour's own kind, under the same id."""
    kind, event_kind, rest = _KINDS[case.path_parameters["neighbour"]]
    envelope = dict(case.body)
    envelope["event_id"] += _number_of(envelope) if len(envelope["event_id"]) < 90 else ""
    event = envelope["event"] if envelope["kind"] == kind and rest.keys() <= envelope["event"].keys() else {}
    envelope["event"] = (
        {"kind": event_kind, "occurred_at": _ANY_TIME} | rest | event | {"event_id": envelope["event_id"]}
    )
    envelope["kind"] = kind
    envelope["order_id"] = envelope.get("order_id") or "web:1001"
    envelope["shipment_id"] = envelope.get("shipment_id") or "web:1001:1"
    case.body = envelope


def _by_a_link_of_ours(case: Any) -> None:
    """Only we can make one. Each is for a tender of its own, as far as the order gets through them."""
    number = int(hashlib.sha256(json.dumps(case.body, default=str).encode()).hexdigest(), 16) % 1000
    link = PayLink("web:1001", number, datetime.now(UTC) + timedelta(days=1))
    case.path_parameters["token"] = link.token(_PAY_LINK_SECRET)


def _nowhere(case: Any) -> None:
    """Nothing is to be posted to an address that was made up."""
    case.body = dict(case.body) | {"url": "http://127.0.0.1:9/"}


def _the_one_there_is(case: Any) -> None:
    """No request makes an event fail: there is one that has."""
    (letter,) = examples.DEAD_LETTERS["dead_letters"]
    case.path_parameters = {name: letter[name] for name in ("subscriber_id", "position")}


def _the_run_there_is(case: Any) -> None:
    """A run is begun by a worker, not by a request."""
    case.path_parameters = {"run_id": examples.RECONCILIATION_RUN["run_id"]}


def _closed_at_once(case: Any) -> None:
    """A stream ends when its reader wants it to, and this one reads to the end."""
    case.query = dict(case.query or {}) | {"seconds": 0}


def _of_stock_that_is_there(case: Any) -> None:
    """Tell of nodes and SKUs that there are, of no more units than lie there, under an id of its own."""
    document = dict(case.body)
    document["document_id"] = _number_of(document)
    change = "change" if "change" in document["lines"][0] else "quantity"
    # What is counted is another SKU: it has one unit then.
    counted = case.operation.definition.raw["operationId"] == "count_stock"
    document["lines"] = [{"sku": COUNTED if counted else examples.RECEIPT["lines"][0]["sku"], change: 1}]
    document |= {
        name: node
        for name, node in (("node", "north"), ("from_node", "north"), ("to_node", "south"))
        if name in document
    }
    document.pop("transfer_id", None)
    if "expected_on" in document:
        document["expected_on"] = _ANY_TIME[:10]
    if "shipment_id" in document:
        document["shipment_id"] = examples.SHORT_PICK["shipment_id"]
    case.body = document


def _rules_that_make_sense(case: Any) -> None:
    """Give each rule one amount and an id of its own, of a SKU that there is; enough for whatever else is tried."""
    policy = dict(case.body) | {"replaces": None}
    policy["document_id"] = _number_of(policy)
    policy["rules"] = [
        {
            "rule_id": f"r{number}",
            "kind": rule["kind"] if rule["kind"] != "protect" else "limit",
            "sku": COUNTED,
            "node": "*" if rule.get("node") else None,
            "channels": rule.get("channels", []),
            "tiers": rule.get("tiers", []),
            "units": MOST_UNITS,
        }
        for number, rule in enumerate(policy["rules"])
    ]
    case.body = policy


def _for_an_order_that_is_there(case: Any) -> None:
    """What is offered for one that was made up is never taken."""
    case.path_parameters["order_id"] = "web:1001"


def _of_a_tender_of_its_own(case: Any) -> None:
    """Give it an account, or a code, that has no other currency; a payment comes from the one account there is."""
    body = {name: int(value) if isinstance(value, float) else value for name, value in case.body.items()}
    number = _number_of(body)
    if "limit_minor" in body:
        body["account"] = number
    elif "account" in body:
        body |= {"account": examples.CREDIT_LIMIT["account"], "currency": "GBP", "request_id": number}
        body["in_advance"] = True
    else:
        body |= {"code": number, "request_id": number}
    case.body = body


def _of_a_number_of_its_own(case: Any) -> None:
    """What a provider settled is settled once under its number."""
    case.body = dict(case.body) | {
        "amount_minor": int(case.body["amount_minor"]),
        "request_id": _number_of(case.body),
    }


def _of_the_plan_there_is(case: Any) -> None:
    """Ask about the one order that was routed, and its nodes."""
    case.path_parameters["order_id"] = "web:1001"
    if case.query:
        case.query = {name: value for name, value in case.query.items() if name != "plan"}
    if isinstance(case.body, dict):
        asked: dict[str, Any] = {
            name: int(value) for name, value in case.body.items() if isinstance(value, int | float)
        }
        asked |= {name: "north" for name in ("force", "without") if case.body.get(name)}
        case.body = asked or {"without": "south"}


def _of_a_notice_that_harms_nobody(case: Any) -> None:
    """Post it of a country that no order goes to, once; or lift the one that there is."""
    if "request_id" not in case.body:
        case.path_parameters["notice_id"] = 1
        return
    said = {name: case.body[name] for name in ("actor", "reason")}
    case.body = said | {"country": "NZ", "request_id": f"n-{_number_of(case.body)}"}


def _from_where_there_is_something(case: Any) -> None:
    """Set a plan for the one order that was routed, each under an id of its own."""
    case.path_parameters["order_id"] = "web:1001"
    said = {name: case.body[name] for name in ("actor", "reason")}
    case.body = said | {"node": "north", "request_id": f"s-{_number_of(case.body)}"}


def _of_the_account_there_is(case: Any) -> None:
    """Look at it, or block it."""
    if isinstance(case.body, dict):
        case.body = dict(case.body) | {"kind": "on_account", "token": examples.CREDIT_LIMIT["account"]}
    else:
        case.path_parameters["account"] = examples.CREDIT_LIMIT["account"]


def _of_the_payment_there_is(case: Any) -> None:
    """Take back what was written, again and again: it is once."""
    case.body = dict(case.body) | {"transaction": examples.REVERSAL["transaction"]}


def _with_each_price_once(case: Any) -> None:
    """Give a list an id of its own, a time that is one, and of each SKU one price."""
    body = dict(case.body)
    body["list_id"] = _number_of(body)
    body |= {"valid_from": _possible(body["valid_from"]), "valid_until": None}
    body["prices"] = [
        {
            name: int(value) if isinstance(value, float) else value
            for name, value in (price | {"min_quantity": number}).items()
        }
        for number, price in enumerate(body["prices"], start=1)
    ]
    case.body = body


def _of_the_list_there_is(case: Any) -> None:
    """Name the list that was loaded, and somebody where somebody is to be named."""
    case.path_parameters["list_id"] = examples.PRICE_LIST_REQUEST["list_id"]
    if isinstance(case.body, dict):
        named = case.body.get("assignee") or _number_of(case.body)
        to_all = case.body["kind"] == "every_business"
        case.body = dict(case.body) | {"assignee": None if to_all else named}
    elif case.query:
        case.query = {name: value for name, value in case.query.items() if name != "version"}


def _of_a_price_there_is(case: Any) -> None:
    """Ask for what the one list has, by the list itself."""
    query = {"price_list": examples.PRICE_LIST_REQUEST["list_id"], "sku": examples.AGREED_PRICE["sku"]}
    quantity = (case.query or {}).get("quantity")
    case.query = query | ({} if quantity is None else {"quantity": quantity})


def _a_policy_that_makes_sense(case: Any) -> None:
    """One that says nothing makes sense in any network."""
    case.body = {"actor": case.body["actor"], "reason": case.body["reason"], "document": {}}
    case.body["request_id"] = _number_of(case.body)


def _of_the_policies_there_are(case: Any) -> None:
    """The first is approved, and the second refused, by the same person every time."""
    refusing = case.operation.definition.raw["operationId"] == "refuse_policy"
    case.path_parameters["version"] = 2 if refusing else 1
    if isinstance(case.body, dict):
        case.body = dict(case.body) | {"actor": examples.POLICY_DECISION["actor"]}


def _of_a_cart_of_its_own(case: Any) -> None:
    """Each SKU once, under an id of its own, at a time that there is."""
    body = dict(case.body)
    lines = {line["sku"]: line | {"quantity": int(line["quantity"])} for line in body["lines"]}
    body["lines"] = list(lines.values())
    if "valid_minutes" in body:
        body["valid_minutes"] = int(body["valid_minutes"])
    if body.get("promise_by"):
        body["promise_by"] = _possible(body["promise_by"])
    if body.get("deliver_from"):
        body["deliver_from"] = body.get("promise_by") or _possible(body["deliver_from"])
    case.body = body | {"request_id": f"c-{_number_of(body)}"}
    if case.headers and BUSINESS_START_HEADER in case.headers:
        case.headers[BUSINESS_START_HEADER] = _possible(case.headers[BUSINESS_START_HEADER])


def _of_the_promise_there_is(case: Any) -> None:
    """Only we can make one."""
    case.path_parameters["promise_id"] = examples.PROMISE["promise_id"]


def _of_a_policy_there_is(case: Any) -> None:
    """Try the one that was approved, from a time that there is."""
    body: dict[str, Any] = {
        name: int(value) for name, value in case.body.items() if isinstance(value, int | float)
    }
    if case.body.get("since"):
        body["since"] = _possible(case.body["since"])
    case.body = body | {"version": 1}


def _any_document(case: Any) -> None:
    """Whatever stands in it is answered; what a body may not be is tried by others."""
    case.body = {"document": {"routing": {"max_parcels": 3}}}


_MENDS = {
    "check_policy": _any_document,
    "try_policy": _of_a_policy_there_is,
    "make_promise": _of_a_cart_of_its_own,
    "show_promise": _of_the_promise_there_is,
    "propose_policy": _a_policy_that_makes_sense,
    "show_policy_version": _of_the_policies_there_are,
    "approve_policy": _of_the_policies_there_are,
    "refuse_policy": _of_the_policies_there_are,
    "load_price_list": _with_each_price_once,
    "assign_price_list": _of_the_list_there_is,
    "show_price_list": _of_the_list_there_is,
    "show_price": _of_a_price_there_is,
    "amend_order": _of_an_order_that_is_there,
    "offer_tender": _for_an_order_that_is_there,
    "pay_by_link": _by_a_link_of_ours,
    "show_payment": _by_a_link_of_ours,
    "set_allocation": _rules_that_make_sense,
    "set_credit_limit": _of_a_tender_of_its_own,
    "record_account_payment": _of_a_tender_of_its_own,
    "issue_value": _of_a_tender_of_its_own,
    "reverse_transaction": _of_the_payment_there_is,
    "record_settlement": _of_a_number_of_its_own,
    "explain_route": _of_the_plan_there_is,
    "ask_what_if": _of_the_plan_there_is,
    "replay_route": _of_the_plan_there_is,
    "post_notice": _of_a_notice_that_harms_nobody,
    "lift_notice": _of_a_notice_that_harms_nobody,
    "set_plan": _from_where_there_is_something,
    "block_tender": _of_the_account_there_is,
    "show_account": _of_the_account_there_is,
    "add_subscriber": _nowhere,
    "drop_dead_letter": _the_one_there_is,
    "stream_availability": _closed_at_once,
    **dict.fromkeys(
        (
            "receive_stock",
            "expect_stock",
            "count_stock",
            "adjust_stock",
            "damage_stock",
            "transfer_stock",
            "short_pick_stock",
            "keep_stock_back",
        ),
        _of_stock_that_is_there,
    ),
    "list_differences": _without_cursor,
    "show_reconciliation": _the_run_there_is,
    "list_orders": _without_cursor,
    "list_reviews": _without_cursor,
    "list_stock_values": _without_cursor,
    "submit_order": _that_adds_up,
    "take_event": _from_its_neighbour,
}
