"""The examples in the API's documentation. A test holds each against its contract."""

from typing import Any

ORDER: dict[str, Any] = {
    "channel": "web",
    "external_id": "1001",
    "placed_at": "2026-03-02T09:30:00Z",
    "currency": "GBP",
    "customer": {"name": "Alex Example", "email": "alex@example.com"},
    "ship_to": {"lines": ["1 High Street"], "city": "Leeds", "postcode": "LS1 4DY", "country": "GB"},
    "lines": [
        {
            "line_id": "1",
            "sku": "85123A",
            "description": "White hanging heart T-light holder",
            "quantity": 6,
            "unit_price_minor": 255,
        }
    ],
    "charges": [{"code": "POST", "kind": "shipping", "description": "Postage", "amount_minor": 395}],
    "tenders": [{"kind": "card", "token": "tok_visa_4242", "amount_minor": 1925}],
    "totals": {"lines_minor": 1530, "charges_minor": 395, "total_minor": 1925},
}
ORDERS = {"a small order": ORDER}

ACCEPTED: dict[str, Any] = {
    "order_id": "web:1001",
    "workflow_id": "order:web:1001",
    "state": "received",
    "links": {
        "self": "/v1/orders/web:1001",
        "timeline": "/v1/orders/web:1001/timeline",
        "cancel": "/v1/orders/web:1001/cancel",
        "amendments": "/v1/orders/web:1001/amendments",
    },
}

CANCEL: dict[str, Any] = {
    "actor": "dana@shop.example",
    "reason": "the customer ordered twice",
    "request_id": "cancel-web-1001-1",
}
CANCEL_TAKEN: dict[str, Any] = {
    "status": "answered",
    "request_id": "cancel-web-1001-1",
    "outcome": "cancelling",
    "message": "Nothing has left a warehouse: stock is freed and the held money is given back.",
}

AMEND: dict[str, Any] = {
    "request_id": "amend-web-1001-1",
    "actor": "dana@shop.example",
    "reason": "the customer wants fewer",
    "lines": [{"sku": "85123A", "quantity": 4}],
}
AMEND_ALL: dict[str, Any] = AMEND | {
    "request_id": "amend-web-1001-2",
    "reason": "the customer rang",
    "lines": [
        {"line_id": "1", "quantity": 4},
        {"sku": "22423", "quantity": 1, "unit_price_minor": 1275, "description": "Regency cakestand 3 tier"},
    ],
    "ship_to": {"lines": ["2 Station Road"], "city": "York", "postcode": "YO1 7HH", "country": "GB"},
    "service": "parcelforce/express48",
    "promise_by": "2026-03-06T18:00:00Z",
    "charges": [{"code": "POST", "kind": "shipping", "description": "Postage", "amount_minor": 495}],
    "base_version": 1,
}
_AMENDED = {
    "order_id": "web:1001",
    "base_version": 1,
    "lines": [
        {
            "line_id": "1",
            "sku": "85123A",
            "units_before": 6,
            "units_after": 4,
            "amount_before": {"minor": 1530, "currency": "GBP"},
            "amount_after": {"minor": 1020, "currency": "GBP"},
        }
    ],
    "goods_before": {"minor": 1530, "currency": "GBP"},
    "goods_after": {"minor": 1020, "currency": "GBP"},
    "charges_before": {"minor": 395, "currency": "GBP"},
    "charges_after": {"minor": 395, "currency": "GBP"},
    "total_before": {"minor": 1925, "currency": "GBP"},
    "total_after": {"minor": 1415, "currency": "GBP"},
    "difference": {"minor": -510, "currency": "GBP"},
    "kept": {"minor": 0, "currency": "GBP"},
    "to_authorise": {"minor": 0, "currency": "GBP"},
    "to_release": {"minor": 510, "currency": "GBP"},
    "address_changes": False,
    "service": None,
    "promise_by": None,
    "notes": ["shipment 1 is not picked yet: it is called off and planned anew"],
}
AMENDMENT_TAKEN: dict[str, Any] = {
    "status": "answered",
    "request_id": "amend-web-1001-1",
    "amendment_id": "web:1001:a2",
    "number": 2,
    "outcome": "applied",
    "message": "The order's document is of version 2 now.",
    "preview": _AMENDED,
}
AMENDMENT: dict[str, Any] = {
    "amendment_id": "web:1001:a2",
    "order_id": "web:1001",
    "number": 2,
    "state": "applied",
    "request_id": "amend-web-1001-1",
    "actor": "dana@shop.example",
    "reason": "the customer wants fewer",
    "preview": _AMENDED,
    "refusal": None,
    "created_at": "2026-03-02T10:12:00Z",
    "decided_at": "2026-03-02T10:12:01Z",
}

DECISION: dict[str, Any] = {
    "verdict": "approve",
    "actor": "dana@shop.example",
    "reason": "known customer, paid every invoice since 2019",
    "request_id": "decide-web-1001-r1",
}
DECISION_TAKEN: dict[str, Any] = {
    "status": "decided",
    "request_id": "decide-web-1001-r1",
    "task_id": "web:1001:r1",
    "verdict": "approve",
    "message": "approved: the order goes on",
}
TENDER: dict[str, Any] = {
    "token": "tok_mastercard_5100",
    "actor": "dana@shop.example",
    "request_id": "tender-web-1001-1",
}
TENDER_ON_ACCOUNT: dict[str, Any] = {
    "kind": "on_account",
    "token": "acme-ltd",
    "actor": "dana@shop.example",
    "request_id": "tender-web-1001-2",
}
TENDER_TAKEN: dict[str, Any] = {
    "status": "taken",
    "request_id": "tender-web-1001-1",
    "tender": 1,
    "message": "the payment is tried with it now",
}
TENDER_QUEUED: dict[str, Any] = {"status": "queued", "request_id": "tender-web-1001-1"}
PAY_TOKEN = "d2ViOjEwMDF8MHwxNzcyNjk5NDAw.QWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU"  # noqa: S105 - an example
PAY: dict[str, Any] = {"token": "tok_mastercard_5100"}
PAYMENT_DUE: dict[str, Any] = {
    "order_number": "1001",
    "amount": {"minor": 1925, "currency": "GBP"},
    "until": "2026-03-05T09:30:00Z",
}
QUEUED: dict[str, Any] = {"status": "queued", "request_id": "decide-web-1001-r1"}

WEBHOOKS: dict[str, Any] = {
    "a carrier's scan": {
        "event_id": "scan-7781",
        "kind": "carrier_event",
        "shipment_id": "web:1001:1",
        "event": {
            "event_id": "scan-7781",
            "kind": "in_transit",
            "occurred_at": "2026-03-03T18:04:00Z",
            "tracking": "TRK0000042",
            "detail": "arrived at the hub",
        },
    },
    "the warehouse has picked": {
        "event_id": "pick-12-picked",
        "kind": "wms_event",
        "shipment_id": "web:1001:1",
        "event": {
            "event_id": "pick-12-picked",
            "kind": "picked",
            "occurred_at": "2026-03-02T13:00:00Z",
            "pick_id": "pick-12",
        },
    },
    "the picker did not find all": {
        "event_id": "pick-12-short",
        "kind": "wms_event",
        "shipment_id": "web:1001:1",
        "event": {
            "event_id": "pick-12-short",
            "kind": "short",
            "occurred_at": "2026-03-02T13:00:00Z",
            "pick_id": "pick-12",
            "missing": [{"sku": "85123A", "quantity": 2}],
        },
    },
    "money was captured": {
        "event_id": "pay-99",
        "kind": "payment_event",
        "order_id": "web:1001",
        "event": {
            "event_id": "pay-99",
            "kind": "captured",
            "occurred_at": "2026-03-02T15:00:00Z",
            "provider_ref": "cap_31",
            "amount": {"minor": 1925, "currency": "GBP"},
        },
    },
}

SUMMARY: dict[str, Any] = {
    "order_id": "web:1001",
    "workflow_id": "order:web:1001",
    "channel": "web",
    "external_id": "1001",
    "customer_type": "b2c",
    "state": "released",
    "needs_review": False,
    "total": {"minor": 1925, "currency": "GBP"},
    "goods": {"minor": 1530, "currency": "GBP"},
    "line_count": 1,
    "unit_count": 6,
    "ship_country": "GB",
    "placed_at": "2026-03-02T09:30:00Z",
    "promised_at": "2026-03-05T17:00:00Z",
    "plan_id": "web:1001:p1",
    "version": 7,
    "created_at": "2026-03-02T09:30:01Z",
    "updated_at": "2026-03-02T09:30:03Z",
    "closed_at": None,
    "exit_reason": None,
}
PAGE: dict[str, Any] = {"orders": [SUMMARY], "next_cursor": None}
VIEW: dict[str, Any] = SUMMARY | {
    "document_version": 1,
    "document_hash": "9f2c1d0e5b7a4c33a1f8e6d2b4907c55e1d3f7a90b6c8e2244f1a7d9c0b3e516",
    "source": "api",
    "received_at": "2026-03-02T09:30:01Z",
    "lines": [
        {
            "line_id": "1",
            "sku": "85123A",
            "description": "White hanging heart T-light holder",
            "quantity": 6,
            "unit_price": {"minor": 255, "currency": "GBP"},
        }
    ],
    "shipments": [
        {
            "shipment_id": "web:1001:1",
            "order_id": "web:1001",
            "number": 1,
            "state": "pick_requested",
            "node": "LEEDS",
            "carrier": "parcelforce",
            "service": "express48",
            "units": 6,
            "amount": {"minor": 1925, "currency": "GBP"},
            "promised_at": "2026-03-05T17:00:00Z",
            "tracking": None,
            "handed_over_at": None,
            "delivered_at": None,
            "late": False,
            "version": 1,
        }
    ],
    "reviews": [],
    "payments": [
        {
            "key": "order:web:1001:authorise_payment:1",
            "kind": "authorise",
            "state": "confirmed",
            "shipment_id": None,
            "amount": {"minor": 1925, "currency": "GBP"},
            "provider_ref": "auth_17",
            "cause": None,
            "intended_at": "2026-03-02T09:30:02Z",
            "answered_at": "2026-03-02T09:30:02Z",
        }
    ],
    "money": {
        "authorised": {"minor": 1925, "currency": "GBP"},
        "captured": {"minor": 0, "currency": "GBP"},
        "refunded": {"minor": 0, "currency": "GBP"},
        "voided": {"minor": 0, "currency": "GBP"},
        "held": {"minor": 1925, "currency": "GBP"},
        "unclear": 0,
    },
    "late_events": [],
}

ENTRY: dict[str, Any] = {
    "entry_id": "order:web:1001/4",
    "order_id": "web:1001",
    "at": "2026-03-02T09:30:02Z",
    "business_at": "2026-03-02T09:30:02Z",
    "actor": "orderwright",
    "kind": "order.released",
    "what": "Released to the warehouse",
    "why": "all 6 units are reserved at one node",
    "policy_version": "2026-01",
}

REVIEW: dict[str, Any] = {
    "task_id": "web:1001:r1",
    "order_id": "web:1001",
    "workflow_id": "order:web:1001",
    "kind": "risk",
    "state": "open",
    "what_happened": "An order of 1,925.00 GBP came in from a customer without a history.",
    "why_flagged": [{"code": "high_value", "reason": "1,925.00 GBP is above the limit of 1,000.00 GBP"}],
    "recommended": "approve",
    "recommendation": "Approve: the address is known and the tender is a card.",
    "options": {
        "approve": "the money is held and the order goes on",
        "reject": "the order is rejected; nothing was charged",
    },
    "opened_at": "2026-03-02T09:30:01Z",
    "remind_at": "2026-03-02T13:30:01Z",
    "escalate_at": "2026-03-03T09:30:01Z",
    "deadline_at": "2026-03-04T09:30:01Z",
    "on_deadline": "reject",
    "policy_version": "2026-01",
}

_HELD: dict[str, Any] = {
    "account": "held.authorised",
    "name": "Authorised and held",
    "amount": {"minor": 1395, "currency": "GBP"},
    "tender": "order:web:1001:authorise:1",
    "instrument": None,
}
_OTHER_SIDE: dict[str, Any] = {
    "account": "held.contra",
    "name": "Authorised and held, other side",
    "amount": {"minor": -1395, "currency": "GBP"},
    "tender": None,
    "instrument": None,
}
_BALANCES: list[dict[str, Any]] = [
    {
        "account": "held.authorised",
        "name": "Authorised and held",
        "side": "debit",
        "debits": {"minor": 1395, "currency": "GBP"},
        "credits": {"minor": 0, "currency": "GBP"},
        "balance": {"minor": 1395, "currency": "GBP"},
    },
    {
        "account": "held.contra",
        "name": "Authorised and held, other side",
        "side": "credit",
        "debits": {"minor": 0, "currency": "GBP"},
        "credits": {"minor": 1395, "currency": "GBP"},
        "balance": {"minor": -1395, "currency": "GBP"},
    },
]
LEDGER: dict[str, Any] = {
    "order_id": "web:1001",
    "transactions": [
        {
            "id": "order:web:1001:authorise:1",
            "kind": "authorise",
            "shipment_id": None,
            "cause": None,
            "source": "payment_operations",
            "at": "2026-03-02T09:30:03Z",
            "recorded_at": "2026-03-02T09:30:03Z",
            "reverses": None,
            "entries": [_HELD, _OTHER_SIDE],
        }
    ],
    "balances": _BALANCES,
}
CREDIT_LIMIT: dict[str, Any] = {
    "account": "acme-ltd",
    "limit_minor": 500_000,
    "currency": "GBP",
    "actor": "dana",
}
TENDER_BLOCK: dict[str, Any] = {
    "kind": "on_account",
    "token": "acme-ltd",
    "active": False,
    "actor": "dana",
    "reason": "invoices of January are unpaid",
}
CUSTOMER_ACCOUNT: dict[str, Any] = {
    "account": "acme-ltd",
    "active": True,
    "limit": {"minor": 500_000, "currency": "GBP"},
    "owed": {"minor": 120_000, "currency": "GBP"},
    "held": {"minor": 0, "currency": "GBP"},
    "left": {"minor": 380_000, "currency": "GBP"},
    "changes": [
        {
            "at": "2026-03-02T09:30:00Z",
            "actor": "dana",
            "reason": "pays on time",
            "request_id": "limit-2026-03",
            "active": True,
            "limit": {"minor": 500_000, "currency": "GBP"},
        }
    ],
}
ACCOUNT_PAYMENT: dict[str, Any] = {
    "account": "acme-ltd",
    "amount_minor": 120_000,
    "currency": "GBP",
    "actor": "dana",
    "request_id": "bank-2026-03-02-17",
}
VALUE_ISSUE: dict[str, Any] = {
    "kind": "gift_card",
    "code": "GIFT-7K2M-9QXA",
    "amount_minor": 5_000,
    "currency": "GBP",
    "actor": "dana",
    "request_id": "shop-sale-88123",
}
_ROUTE_PLAN: dict[str, Any] = {
    "shipments": [
        {
            "number": 1,
            "node": "gb-north",
            "carrier": "islandpost",
            "service": "tracked48",
            "lines": [{"line_id": "1", "sku": "85123A", "quantity": 6}],
            "weight_g": 1080,
            "handling": {"minor": 140, "currency": "GBP"},
            "freight": {"minor": 383, "currency": "GBP"},
            "transit_days": 2,
            "promised_at": "2026-03-05T23:59:59Z",
            "held_until": None,
            "distance_km": 264,
            "look_ahead": None,
            "markdown": None,
        }
    ],
    "split_penalty": {"minor": 0, "currency": "GBP"},
    "cost": {"minor": 523, "currency": "GBP"},
    "promised_at": "2026-03-05T23:59:59Z",
    "router": "exact/2",
    "reasons": ["1 shipment: the cheapest there is of 18 ways from 6 nodes (sets)"],
    "policy": "policy/1",
    "promise": None,
    "set_by": None,
    "left_out": [],
    "late": None,
    "late_risk": None,
    "look_ahead": None,
    "markdown": None,
    "proof": {
        "method": "sets",
        "proven": True,
        "objective_minor": 523,
        "bound_minor": 523,
        "fallback": False,
    },
    "alternatives": [
        {
            "what": "everything from gb-south",
            "cost": {"minor": 593, "currency": "GBP"},
            "promised_at": "2026-03-05T23:59:59Z",
            "why_not": None,
            "look_ahead": None,
            "markdown": None,
        },
        {
            "what": "everything from gb-midlands",
            "cost": None,
            "promised_at": None,
            "why_not": "short of 1 line",
            "look_ahead": None,
            "markdown": None,
        },
    ],
}
_ROUTE_TERMS: list[dict[str, Any]] = [
    {"term": "handling", "amount": {"minor": 140, "currency": "GBP"}},
    {"term": "freight", "amount": {"minor": 383, "currency": "GBP"}},
    {"term": "split penalty", "amount": {"minor": 0, "currency": "GBP"}},
]
ROUTE: dict[str, Any] = {
    "order_id": "web:1001",
    "plan_id": "web:1001:p1",
    "attempt": 1,
    "made_at": "2026-03-02T09:30:00Z",
    "pinned": True,
    "terms": _ROUTE_TERMS,
    "plan": _ROUTE_PLAN,
}
ROUTE_QUESTION: dict[str, Any] = {"force": "gb-south"}
ROUTE_ANSWER: dict[str, Any] = {
    "order_id": "web:1001",
    "plan_id": "web:1001:p1",
    "plan": None,
    "difference": None,
    "terms": [],
    "reasons": ["line 1: 2 of 6 units of 85123A cannot be served, active nodes hold 4 of the 6 asked for"],
    "missing": [{"line_id": "1", "sku": "85123A", "quantity": 2}],
}
ROUTE_REPLAY: dict[str, Any] = {
    "order_id": "web:1001",
    "plan_id": "web:1001:p1",
    "router": "exact/2",
    "identical": True,
    "differences": [],
}
PROVIDER_SETTLEMENT: dict[str, Any] = {
    "kind": "payout",
    "amount_minor": 480_000,
    "currency": "GBP",
    "actor": "dana",
    "reason": "statement of 2 March",
    "request_id": "po-2026-03-02",
}
PROVIDER_LEFT: dict[str, Any] = {
    "left": {"minor": 15_250, "currency": "GBP"},
    "transaction": "payout:po-2026-03-02",
}
TENDER_LEFT: dict[str, Any] = {"left": {"minor": 5_000, "currency": "GBP"}}
REVERSAL: dict[str, Any] = {
    "transaction": "payment:bank-2026-03-02-17",
    "actor": "dana",
    "reason": "the bank took the transfer back",
}
REVERSED: dict[str, Any] = {
    "id": "reverse:payment:bank-2026-03-02-17",
    "kind": "payment",
    "shipment_id": None,
    "cause": "the bank took the transfer back",
    "source": "dana",
    "at": "2026-03-04T09:30:00Z",
    "recorded_at": "2026-03-04T09:30:00Z",
    "reverses": "payment:bank-2026-03-02-17",
    "entries": [
        {
            "account": "bank",
            "name": "Bank",
            "amount": {"minor": -120_000, "currency": "GBP"},
            "tender": None,
            "instrument": None,
        },
        {
            "account": "receivable.on_account",
            "name": "Owed by customers on account",
            "amount": {"minor": 120_000, "currency": "GBP"},
            "tender": None,
            "instrument": "account:acme-ltd",
        },
    ],
}
TRIAL_BALANCE: dict[str, Any] = {"balances": _BALANCES, "in_balance": True}

PRICE_LIST_REQUEST: dict[str, Any] = {
    "list_id": "trade-2026",
    "name": "Trade customers 2026",
    "currency": "GBP",
    "valid_from": "2026-01-01T00:00:00Z",
    "valid_until": "2027-01-01T00:00:00Z",
    "prices": [
        {"sku": "85123A", "min_quantity": 1, "unit_price_minor": 255},
        {"sku": "85123A", "min_quantity": 48, "unit_price_minor": 210},
        {"sku": "22423", "min_quantity": 1, "unit_price_minor": 1275},
    ],
    "actor": "dana",
    "reason": "prices of the new year",
}
PRICE_ASSIGNMENT: dict[str, Any] = {"kind": "customer", "assignee": "acme-ltd", "actor": "dana"}
PRICE_DEFAULT: dict[str, Any] = {"kind": "every_business", "actor": "dana"}
PRICE_WITHDRAWN: dict[str, Any] = PRICE_ASSIGNMENT | {"withdrawn": True, "reason": "they left us"}
PRICE_LIST: dict[str, Any] = {
    "list_id": "trade-2026",
    "name": "Trade customers 2026",
    "currency": "GBP",
    "valid_from": "2026-01-01T00:00:00Z",
    "valid_until": "2027-01-01T00:00:00Z",
    "version": 1,
    "prices": 3,
    "loaded_at": "2025-12-18T14:00:00Z",
    "loaded_by": "dana",
    "reason": "prices of the new year",
    "assigned_to": [
        {
            "kind": "customer",
            "assignee": "acme-ltd",
            "assigned_at": "2025-12-18T14:05:00Z",
            "assigned_by": "dana",
        }
    ],
}
PRICE_LISTS: dict[str, Any] = {"lists": [PRICE_LIST]}
PRICE_LIST_LOADED: dict[str, Any] = {"changed": True, "price_list": PRICE_LIST}
PRICE_LIST_CONTENT: dict[str, Any] = {
    "price_list": PRICE_LIST,
    "prices": [
        {"sku": "22423", "min_quantity": 1, "unit_price": {"minor": 1275, "currency": "GBP"}},
        {"sku": "85123A", "min_quantity": 1, "unit_price": {"minor": 255, "currency": "GBP"}},
        {"sku": "85123A", "min_quantity": 48, "unit_price": {"minor": 210, "currency": "GBP"}},
    ],
    "next_sku": None,
}
AGREED_PRICE: dict[str, Any] = {
    "sku": "85123A",
    "quantity": 6,
    "unit_price": {"minor": 255, "currency": "GBP"},
    "amount": {"minor": 1530, "currency": "GBP"},
    "list_id": "trade-2026",
    "version": 1,
    "assigned_to": "customer",
    "min_quantity": 1,
    "next_break": {"sku": "85123A", "min_quantity": 48, "unit_price": {"minor": 210, "currency": "GBP"}},
}

REVIEW_PAGE: dict[str, Any] = {"reviews": [REVIEW], "next_cursor": None}

NEW_SUBSCRIBER: dict[str, Any] = {
    "subscriber_id": "erp",
    "name": "The ERP",
    "url": "https://erp.shop.example/orderwright",
    "topics": ["commitments", "finance"],
}
SUBSCRIBER: dict[str, Any] = {
    "subscriber_id": "erp",
    "name": "The ERP",
    "url": "https://erp.shop.example/orderwright",
    "topics": ["commitments", "finance"],
    "active": True,
    "position": 4711,
    "waiting": 0,
    "oldest_seconds": 0.0,
    "failing_keys": 0,
    "dead_letters": 0,
    "failing_since": None,
    "last_failure": None,
    "created_at": "2026-03-02T09:30:00Z",
}
SUBSCRIBERS: dict[str, Any] = {"subscribers": [SUBSCRIBER]}
SUBSCRIBER_ADDED: dict[str, Any] = {
    "subscriber": SUBSCRIBER,
    "secret": "4b1f5c0e8a7d4f0c9e2b6a3d1f8e7c5b4b1f5c0e8a7d4f0c9e2b6a3d1f8e7c5b",
}
SECRET_REQUEST: dict[str, Any] = {"secret": "a-long-random-text-of-your-own-0123456789"}
NEW_SECRET: dict[str, Any] = {"subscriber_id": "erp"} | SECRET_REQUEST
REPLAY: dict[str, Any] = {"position": 4000}
RETRY: dict[str, Any] = {"position": 4711}
DROP: dict[str, Any] = {"actor": "dana@shop.example", "reason": "entered in the ERP by hand"}
OUTBOX_EVENT: dict[str, Any] = {
    "position": 4711,
    "event_id": "ledger:shipment:web:1001:1:refund:1",
    "topic": "finance",
    "key": "web:1001",
    "type": "ledger.refund",
    "at": "2026-03-02T12:00:00Z",
    "data": {
        "transaction": "shipment:web:1001:1:refund:1",
        "order_id": "web:1001",
        "shipment_id": "web:1001:1",
        "cause": "lost_parcel",
        "at": "2026-03-02T12:00:00+00:00",
        "currency": "GBP",
        "amount_minor": 1925,
        "entries": [
            {"account": "refunds.lost_parcel", "amount_minor": 1925, "currency": "GBP", "tender": None},
            {
                "account": "provider.clearing",
                "amount_minor": -1925,
                "currency": "GBP",
                "tender": "order:web:1001:authorise:1",
            },
        ],
    },
}
DEAD_LETTERS: dict[str, Any] = {
    "dead_letters": [
        {
            "subscriber_id": "wms",
            "position": 4711,
            "event": OUTBOX_EVENT,
            "attempts": 20,
            "failure": "HTTP 422",
            "failed_at": "2026-03-02T12:00:00Z",
            "dead_at": "2026-03-02T14:05:00Z",
            "behind": 2,
        }
    ]
}

STREAM = """\
retry: 2000

id: 4710
event: start
data: {"position": 4710, "resumed": false}

id: 4710
event: availability
data: {"node": "leeds", "sku": "85123A", "on_hand": 40, "reserved": 6, "safety_stock": 0, "available": 34, \
"position": 4710, "at": "2026-03-02T09:30:00+00:00"}

id: 4711
event: availability
data: {"node": "leeds", "sku": "85123A", "on_hand": 40, "reserved": 8, "safety_stock": 0, "available": 32, \
"position": 4711, "at": "2026-03-02T09:30:07+00:00"}

"""
DIFFERENCE: dict[str, Any] = {
    "key": "theirs_only:cap_52",
    "comparison": "money",
    "kind": "theirs_only",
    "state": "open",
    "subject": "web:1001",
    "order_id": "web:1001",
    "what": "the payment provider did a capture of 3.00 GBP for order web:1001 that our books do not have",
    "ours": {"of": "ours", "found": []},
    "theirs": {
        "of": "payment provider",
        "found": [
            {
                "line_id": "cap_52",
                "kind": "capture",
                "reference": "web:1001",
                "parent_id": "auth_17",
                "state": "done",
                "amount": {"minor": 300, "currency": "GBP"},
                "at": "2026-03-02T11:00:00Z",
            }
        ],
    },
    "first_seen_at": "2026-03-02T12:00:03Z",
    "last_seen_at": "2026-03-02T13:00:03Z",
    "times": 1,
    "task_id": "difference-5f2d1c0b9a887766:x1",
    "rule": None,
    "settled_by": None,
    "settled_why": None,
    "settled_at": None,
}
DIFFERENCE_PAGE: dict[str, Any] = {"differences": [DIFFERENCE], "next_cursor": None}
STOCK_VALUES: dict[str, Any] = {
    "run": {
        "run_id": "stock-values:before-the-sale",
        "worked_out_at": "2026-03-02T12:00:00Z",
        "method": "shadow-prices/1",
        "policy": "policy/1",
        "window_days": 28,
        "horizon_days": 28,
        "least_lines": 10,
        "orders": 412,
        "skus": 1250,
        "priced": 310,
        "priced_rows": 95,
        "left_out": 0,
        "countries_left_out": 0,
        "skipped": None,
    },
    "currency": "GBP",
    "values": [
        {
            "sku": "85123A",
            "node": "gb-north",
            "price_mills": 120000,
            "sold": 36,
            "on_hand": 9,
            "weeks_of_supply": 1.0,
            "sell_through_percent": 80,
            "look_ahead_mills": 90000,
            "markdown_mills": 0,
        },
        {
            "sku": "85123A",
            "node": "gb-south",
            "price_mills": 0,
            "sold": 4,
            "on_hand": 60,
            "weeks_of_supply": 60.0,
            "sell_through_percent": 6,
            "look_ahead_mills": 0,
            "markdown_mills": 25000,
        },
    ],
    "next_cursor": None,
}
VALUES_REQUEST: dict[str, Any] = {"request_id": "before-the-sale"}
VALUES_ASKED: dict[str, Any] = {"run_id": "stock-values:before-the-sale"}
RECONCILIATION_RUN: dict[str, Any] = {
    "run_id": "reconciliation:money:api-1",
    "area": "money",
    "state": "done",
    "since": "2026-03-01T12:00:00Z",
    "started_at": "2026-03-02T13:00:00Z",
    "ended_at": "2026-03-02T13:00:03Z",
    "checked": 1204,
    "differing": 2,
    "under_way": 3,
    "healed": 1,
    "opened": 0,
    "gone": 0,
    "left_open": 1,
    "failure": None,
}
RECONCILIATION_RUNS: dict[str, Any] = {"runs": [RECONCILIATION_RUN]}
RECONCILIATION_REQUEST: dict[str, Any] = {"area": "money", "request_id": "month-end-1"}
RECONCILIATION_ASKED: dict[str, Any] = {"run_id": "reconciliation:money:month-end-1", "area": "money"}

PROBLEMS: dict[int, tuple[str, str]] = {
    400: ("bad_request", "this is no HTTP request that could be read"),
    401: ("unauthorised", "send the API token: Authorization: Bearer …"),
    404: ("not_found", "there is no order web:4711"),
    409: ("conflict", "order web:1001 was already accepted with other content"),
    408: ("too_slow", "the body did not arrive within 30 s: send it again"),
    410: ("pay_link_expired", "this pay link was good until 2026-03-05 09:30 UTC"),
    413: ("document_too_large", "the body is larger than the 5,242,880 bytes that are accepted here"),
    414: ("uri_too_long", "the address is longer than the 8,192 bytes that are accepted"),
    415: ("unsupported_media_type", "send JSON in UTF-8, with Content-Type: application/json"),
    422: (
        "invalid_document",
        "the document has 1 problem: totals.total_minor: says 19.26 GBP, the document adds up to 19.25 GBP",
    ),
    429: ("rate_limited", "too many requests: the next one is served in 1 s"),
    431: ("header_too_large", "the header is larger than the 16,384 bytes that are accepted"),
    500: ("internal", "Something went wrong on our side; it has been logged."),
    502: (
        "neighbour_refused",
        "Temporal refused the call (permission_denied); whoever runs this server has to look at it",
    ),
    503: ("not_reachable", "Temporal does not answer; try again in a few seconds"),
}
PROBLEM_LISTS: dict[int, list[dict[str, str]]] = {
    422: [
        {
            "path": "totals.total_minor",
            "code": "totals_mismatch",
            "message": "says 19.26 GBP, the document adds up to 19.25 GBP",
        }
    ]
}

RECEIPT: dict[str, Any] = {
    "document_id": "GRN-2041",
    "actor": "wms",
    "node": "north",
    "lines": [{"sku": "85123A", "quantity": 48}],
    "new": True,
}
RECEIPT_OF_LOTS: dict[str, Any] = {
    "document_id": "GRN-2043",
    "actor": "wms",
    "node": "north",
    "lines": [
        {"sku": "CREAM-50", "quantity": 24, "lot": "L2411A", "expires_on": "2027-11-30"},
        {"sku": "CREAM-50", "quantity": 12, "lot": "L2502C", "expires_on": "2028-02-29"},
    ],
    "new": True,
}
ARRIVAL: dict[str, Any] = {
    "document_id": "GRN-2042",
    "actor": "wms",
    "node": "south",
    "lines": [{"sku": "85123A", "quantity": 12}],
    "transfer_id": "TO-77",
}
EXPECTED: dict[str, Any] = {
    "document_id": "PO-881-rev2",
    "actor": "erp",
    "supply_id": "PO-881",
    "node": "north",
    "expected_on": "2026-03-16",
    "lines": [{"sku": "85123A", "quantity": 240}],
}
COUNT: dict[str, Any] = {
    "document_id": "CNT-2026-03-02-17",
    "actor": "dana@shop.example",
    "node": "north",
    "lines": [{"sku": "85123A", "quantity": 41}],
    "reason": "yearly count",
}
ADJUSTMENT: dict[str, Any] = {
    "document_id": "ADJ-9",
    "actor": "dana@shop.example",
    "node": "north",
    "lines": [{"sku": "85123A", "change": -2}],
    "reason": "GRN-2041 was typed as 48 instead of 46",
}
DAMAGE: dict[str, Any] = {
    "document_id": "DMG-5",
    "actor": "dana@shop.example",
    "node": "north",
    "lines": [{"sku": "85123A", "quantity": 1}],
    "reason": "broken on the shelf",
}
TRANSFER: dict[str, Any] = {
    "document_id": "TO-77",
    "actor": "wms",
    "from_node": "north",
    "to_node": "south",
    "lines": [{"sku": "85123A", "quantity": 12}],
}
SHORT_PICK: dict[str, Any] = {
    "document_id": "PICK-12-short",
    "actor": "wms",
    "shipment_id": "web:1001:1",
    "lines": [{"sku": "85123A", "quantity": 2}],
}
SAFETY_STOCK: dict[str, Any] = {
    "document_id": "SAFE-2026-03",
    "actor": "dana@shop.example",
    "node": "north",
    "lines": [{"sku": "85123A", "quantity": 4}, {"sku": "22423", "quantity": 0}],
    "reason": "the count is off by a few each month",
}
STOCK_ANSWER: dict[str, Any] = {
    "document_id": "CNT-2026-03-02-17",
    "repeated": False,
    "stock": [{"node": "north", "sku": "85123A", "on_hand": 41, "reserved": 40, "available": 1}],
    "released": [
        {
            "order_id": "web:1001",
            "shipment_id": "web:1001:1",
            "reservation": "order:web:1001:reserve:1",
            "node": "north",
            "sku": "85123A",
            "quantity": 6,
        }
    ],
}
STOCK: dict[str, Any] = {
    "sku": "85123A",
    "on_hand": 53,
    "reserved": 40,
    "available": 11,
    "in_transit": 0,
    "nodes": [
        {
            "node": "north",
            "on_hand": 41,
            "reserved": 40,
            "safety_stock": 0,
            "available": 1,
            "in_transit": 0,
            "lots": [],
        },
        {
            "node": "south",
            "on_hand": 12,
            "reserved": 0,
            "safety_stock": 2,
            "available": 10,
            "in_transit": 0,
            "lots": [
                {
                    "lot": "L2411A",
                    "expires_on": "2027-11-30",
                    "on_hand": 8,
                    "reserved": 0,
                    "available": 8,
                    "expired": False,
                },
                {
                    "lot": None,
                    "expires_on": None,
                    "on_hand": 4,
                    "reserved": 0,
                    "available": 4,
                    "expired": False,
                },
            ],
        },
    ],
    "movements": [
        {
            "movement_id": 90211,
            "at": "2026-03-02T16:40:00Z",
            "node": "north",
            "kind": "count",
            "on_hand": -5,
            "reserved": 0,
            "on_hand_after": 41,
            "reserved_after": 40,
            "actor": "dana@shop.example",
            "reason": "yearly count",
            "source": "",
            "document_id": "CNT-2026-03-02-17",
        }
    ],
    "lot_movements": [
        {
            "movement_id": 411,
            "at": "2026-03-02T09:12:00Z",
            "node": "south",
            "kind": "transfer_in",
            "on_hand": 8,
            "reserved": 0,
            "on_hand_after": 8,
            "reserved_after": 0,
            "actor": "wms",
            "reason": None,
            "source": "TO-77",
            "document_id": "GRN-2042",
            "lot": "L2411A",
        }
    ],
}
STOCK_ACCOUNT: dict[str, Any] = {
    "rows": 12000,
    "movements": 90211,
    "held": 371,
    "unexplained": 0,
    "differences": [],
}

ALLOCATION_POLICY: dict[str, Any] = {
    "document_id": "allocation-2026-11-27",
    "actor": "jo",
    "reason": "Black Friday",
    "replaces": 4,
    "rules": [
        {
            "rule_id": "own-shop-first",
            "kind": "protect",
            "sku": "85123A",
            "node": "*",
            "channels": ["web"],
            "percent": 30,
        },
        {
            "rule_id": "black-friday",
            "kind": "cap",
            "sku": "85123A",
            "channels": ["market"],
            "units": 50,
            "valid_from": "2026-11-27T00:00:00Z",
            "valid_until": "2026-11-30T00:00:00Z",
        },
    ],
}
ALLOCATION: dict[str, Any] = {
    "version": 5,
    "document_id": "allocation-2026-11-27",
    "actor": "jo",
    "reason": "Black Friday",
    "rules": [
        {
            "rule": {
                "rule_id": "black-friday",
                "kind": "cap",
                "sku": "85123A",
                "node": None,
                "channels": ["market"],
                "tiers": [],
                "units": 50,
                "percent": None,
                "valid_from": "2026-11-27T00:00:00Z",
                "valid_until": "2026-11-30T00:00:00Z",
            },
            "in_force": True,
            "uses": [{"sku": "85123A", "node": None, "used": 12}],
        },
        {
            "rule": {
                "rule_id": "own-shop-first",
                "kind": "protect",
                "sku": "85123A",
                "node": "*",
                "channels": ["web"],
                "tiers": [],
                "units": None,
                "percent": 30,
                "valid_from": None,
                "valid_until": None,
            },
            "in_force": True,
            "uses": [{"sku": "85123A", "node": "north", "used": 2}],
        },
    ],
}
AVAILABILITY: dict[str, Any] = {
    "destination": "GB",
    "channel": None,
    "tier": None,
    "skus": [
        {
            "sku": "85123A",
            "available": 11,
            "later": [{"on": "2026-03-16", "quantity": 251}],
            "nodes": [
                {"node": "north", "available": 1, "later": [{"on": "2026-03-16", "quantity": 241}]},
                {"node": "south", "available": 10, "later": []},
            ],
        }
    ],
}

_POLICY_DOCUMENT: dict[str, Any] = {
    "node_groups": {"stores": ["north"]},
    "routing": {"late_day_minor": 800, "max_parcels": 3},
    "routing_rules": [{"rule_id": "stores-first", "sequence": [["stores"], ["south"]]}],
    "shortage": {"substitute": "if_agreed"},
    "priorities": [{"tiers": ["gold"], "rule_id": "gold-first", "rank": 1}],
    "plan_review": {"max_shipments": 4},
}
POLICY_PROPOSAL: dict[str, Any] = {
    "request_id": "policy-2026-11-27",
    "actor": "jo",
    "reason": "stores are to be sold off first",
    "replaces": 0,
    "document": _POLICY_DOCUMENT,
}
POLICY_CHECK: dict[str, Any] = {
    "document": {"routing": {"max_parcel": 3}, "routing_rules": [{"rule_id": "stores", "only": ["leeds"]}]}
}
POLICY_PROBLEMS: dict[str, Any] = {
    "problems": [
        {
            "path": "routing.max_parcel",
            "code": "extra_forbidden",
            "message": "extra inputs are not permitted",
        },
        {
            "path": "routing_rules[0].only[0]",
            "code": "unknown_node",
            "message": "leeds is no node and no group: nodes are gb-midlands, gb-north",
        },
    ]
}
POLICY_DECISION: dict[str, Any] = {"actor": "dana", "reason": "as agreed on Monday"}
_POLICY_ENTRY: dict[str, Any] = {
    "version": 1,
    "state": "active",
    "reason": "stores are to be sold off first",
    "proposed_by": "jo",
    "proposed_at": "2026-11-27T09:00:00Z",
    "decided_by": "dana",
    "decided_at": "2026-11-27T10:30:00Z",
    "decided_because": "as agreed on Monday",
    "replaced_at": None,
}
POLICY: dict[str, Any] = {
    "version": 1,
    "entry": _POLICY_ENTRY,
    "document": _POLICY_DOCUMENT,
    "effective": {
        "routing": {"version": "policy/1", "late_day_minor": 800, "budget_seconds": 0.25, "max_parcels": 3},
        "shortage": {
            "version": "policy/1",
            "part_at_least_percent": 50,
            "substitute": "if_agreed",
        },
        "plan_review": {
            "version": "policy/1",
            "max_shipments": 4,
            "max_cost_percent": 60,
            "cost_floor_minor": 2000,
        },
    },
    "backtest": None,
}
BACKTEST_REQUEST: dict[str, Any] = {"version": 1, "since": "2026-11-01T00:00:00Z", "limit": 300}
BACKTEST: dict[str, Any] = {
    "policy": "policy/1",
    "against": "built-in",
    "since": "2026-11-01T00:00:00Z",
    "asked": 300,
    "tried": 300,
    "skipped": 0,
    "proven": 291,
    "changed": 44,
    "fill_before": 0.9987,
    "fill_after": 0.9987,
    "figures": [
        {
            "figure": "cost",
            "unit": "GBP",
            "orders": 300,
            "before": 8.41,
            "after": 8.66,
            "difference": 0.25,
            "low": 0.17,
            "high": 0.34,
        },
        {
            "figure": "parcels",
            "unit": "",
            "orders": 300,
            "before": 1.42,
            "after": 1.28,
            "difference": -0.14,
            "low": -0.19,
            "high": -0.1,
        },
    ],
    "happened": {"parcels": 418.0, "delivered": 402.0, "share_delivered_late": 0.03},
    "made_at": "2026-11-27T10:12:00Z",
    "notes": ["no distances: nodes or postcodes have no coordinates"],
}
POLICY_HISTORY: dict[str, Any] = {"active": 1, "versions": [_POLICY_ENTRY]}

CART: dict[str, Any] = {
    "request_id": "cart-77-1",
    "channel": "web",
    "destination": {"country": "GB", "postcode": "LS1 4DY"},
    "lines": [{"sku": "85123A", "quantity": 6}],
}
PROMISE: dict[str, Any] = {
    "promise_id": "p-5f0c4f7f3c5b4d0e8a9c1d2e3f4a5b6c",
    "valid_until": "2026-11-27T09:45:00Z",
    "promised_at": "2026-11-30T23:59:59Z",
    "cost": {"minor": 523, "currency": "GBP"},
    "parcels": [
        {
            "node": "gb-north",
            "carrier": "islandpost",
            "service": "tracked48",
            "lines": [{"sku": "85123A", "quantity": 6}],
            "promised_at": "2026-11-30T23:59:59Z",
        }
    ],
    "policy": "policy/1",
    "reasons": ["1 shipment: the cheapest there is of 6 ways from 3 nodes (dp)"],
    "missing": [],
}
PROMISE_VIEW: dict[str, Any] = {
    "promise": PROMISE,
    "made_at": "2026-11-27T09:30:00Z",
    "order_id": "web:1001",
    "taken_at": "2026-11-27T09:33:10Z",
    "not_taken": None,
    "order_promised_at": "2026-11-30T23:59:59Z",
    "kept_to": True,
    "delivered_at": "2026-11-29T11:05:00Z",
}
NOTICE_POST: dict[str, Any] = {
    "request_id": "flood-2026-03-02",
    "actor": "dana",
    "reason": "the ground floor is under water",
    "node": "gb-north",
    "ends_at": "2099-03-06T08:00:00Z",
}
NOTICE_OF_REGION: dict[str, Any] = {
    "request_id": "snow-2026-03-02",
    "actor": "dana",
    "reason": "snow, says the carrier",
    "country": "GB",
    "prefix": "AB",
    "delay_days": 2,
}
NOTICE: dict[str, Any] = {
    "notice_id": 1,
    "kind": "node",
    "node": "gb-north",
    "carrier": None,
    "service": None,
    "country": None,
    "prefix": None,
    "delay_days": None,
    "reason": "the ground floor is under water",
    "actor": "dana",
    "posted_at": "2026-03-02T09:30:00Z",
    "ends_at": "2099-03-06T08:00:00Z",
    "lifted_at": None,
    "lifted_by": None,
    "orders": 12,
    "spread_at": "2026-03-02T09:30:01Z",
}
NOTICE_LIFT: dict[str, Any] = {"actor": "dana", "reason": "it is dry again"}
LIFTED_NOTICE: dict[str, Any] = NOTICE | {
    "reason": "the ground floor is under water; lifted: it is dry again",
    "lifted_at": "2026-03-04T07:15:00Z",
    "lifted_by": "dana",
}
SET_PLAN: dict[str, Any] = {
    "request_id": "set-1001-1",
    "actor": "dana",
    "reason": "the customer collects the rest in the south",
    "node": "gb-south",
}
SET_PLAN_ANSWER: dict[str, Any] = {
    "order_id": "web:1001",
    "set_plan_id": None,
    "plan": None,
    "difference": None,
    "terms": [],
    "reasons": ["gb-south can give 4 of 85123A: 2 more would have to lie there"],
}
