"""Request bodies as an adapter would send them."""

from datetime import UTC, datetime

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

Body = dict[str, object]


def a_label(city: str = "Leeds") -> Body:
    return {
        "carrier": "islandpost",
        "service": "tracked48",
        "shipment_id": "web:1:1",
        "node": "gb-midlands",
        "ship_to": {"lines": ["1 High Street"], "city": city, "country": "GB"},
        "recipient": "A. Customer",
        "weight_g": 1800,
        "transit_days": 2,
        "price_minor": 395,
        "currency": "GBP",
        "business_now": NOON.isoformat(),
    }


def a_pick(sku: str = "22423") -> Body:
    return {
        "node": "gb-midlands",
        "shipment_id": "web:1:1",
        "lines": [{"line_id": "1", "sku": sku, "quantity": 3}],
        "business_now": NOON.isoformat(),
    }


def an_authorisation(token: str = "tok_visa", amount_minor: int = 1000) -> Body:
    return {"reference": "web:1", "token": token, "amount_minor": amount_minor, "currency": "GBP"}


def an_amount(minor: int, **more: str) -> Body:
    return {"amount_minor": minor, "currency": "GBP", **more}


def a_message() -> Body:
    return {
        "audience": "customer",
        "template": "shipped",
        "to": "someone@example.org",
        "facts": {"tracking": "ABC"},
    }
