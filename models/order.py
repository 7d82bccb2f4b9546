"""The order as a channel hands it over: the draft. Amounts are integer minor units of the draft's one currency."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from models.base import Document, SentMoment
from models.identifiers import Channel, ExternalId, Sku
from models.money import MAX_MINOR, Currency

# What intake checks for all texts at once (policies.strict_json), said to those who read the schema.
_STORABLE = Field(json_schema_extra={"pattern": r"^[^\x00]*$"})
_SAYS_SOMETHING = Field(json_schema_extra={"pattern": r"^[^\x00]*[^\x00\s][^\x00]*$"})
Text = Annotated[str, StringConstraints(min_length=1, max_length=200), _SAYS_SOMETHING]
_COUNTRY = r"^[A-Z]{2}$"
# Spelt out where Python and JavaScript differ on what a space is.
_EMAIL = r"^[^@\s\x00\x1c-\x1f\x85\ufeff]+@[^@\s\x00\x1c-\x1f\x85\ufeff]+$"


# Said in words, and without the value: it may be somebody's address.
def _country(code: str) -> str:
    if not re.fullmatch(_COUNTRY, code):
        raise PydanticCustomError(
            "not_a_country", "must be a country code of two capital letters (ISO 3166-1), such as GB or DE"
        )
    return code


def _email(address: str) -> str:
    if not re.fullmatch(_EMAIL, address):
        raise PydanticCustomError("not_an_email", "must be an e-mail address, such as name@shop.example")
    return address


Country = Annotated[str, AfterValidator(_country), Field(json_schema_extra={"pattern": _COUNTRY})]
Email = Annotated[
    str,
    StringConstraints(max_length=254),
    AfterValidator(_email),
    Field(json_schema_extra={"pattern": _EMAIL}),
]
Minor = Annotated[int, Field(strict=True, ge=-MAX_MINOR, le=MAX_MINOR)]
PositiveMinor = Annotated[int, Field(strict=True, ge=0, le=MAX_MINOR)]

MAX_LINES = 1_000
MAX_TENDERS = 4
MAX_QUANTITY = 1_000_000
MAX_SHELF_LIFE_DAYS = 3_650
# Money is held and goods are kept meanwhile.
MAX_DAYS_AHEAD = 180
MAX_INLINE_BYTES = 256 * 1024
MAX_DOCUMENT_BYTES = 5 * 1024 * 1024


CarrierServiceName = Annotated[
    str,
    StringConstraints(max_length=100, pattern=r"^[^/\x00]*[^/\x00\s][^/\x00]*/[^/\x00]*[^/\x00\s][^/\x00]*$"),
    Field(description="`carrier/service`, as the network names them", examples=["islandpost/tracked48"]),
]


PromiseId = Annotated[
    str,
    StringConstraints(pattern=r"^p-[0-9a-f]{32}$"),
    Field(examples=["p-5f0c4f7f3c5b4d0e8a9c1d2e3f4a5b6c"]),
]


CustomerTier = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$"),
    Field(description="The shop's own name for how dear the customer is to it", examples=["gold"]),
]


class CustomerType(StrEnum):
    """Who buys: a consumer or a business. Decided at intake; rules, prices and service differ by it."""

    B2C = "b2c"
    B2B = "b2b"


class ChargeKind(StrEnum):
    """What an order line that is not goods stands for."""

    SHIPPING = "shipping"
    DISCOUNT = "discount"
    TAX = "tax"
    FEE = "fee"
    ADJUSTMENT = "adjustment"


class TenderKind(StrEnum):
    """How the order is paid. The token of a card is the payment provider's; of the others, ours.

    ON_ACCOUNT: a business pays later, up to its account's credit limit; the token is the account's id. GIFT_CARD and
    STORE_CREDIT: value that we owe the customer; the token is its code.
    """

    CARD = "card"
    GIFT_CARD = "gift_card"
    STORE_CREDIT = "store_credit"
    ON_ACCOUNT = "on_account"


class Address(Document):
    """A postal address. ``country`` is ISO 3166-1 alpha-2."""

    lines: tuple[Text, ...] = Field(min_length=1, max_length=5)
    city: Text
    postcode: Annotated[str, StringConstraints(max_length=20), _STORABLE] = ""
    region: Annotated[str, StringConstraints(max_length=100), _STORABLE] = ""
    country: Country


class Party(Document):
    """Who orders. Only what is needed to deliver, to tell them, and to classify the order."""

    name: Text
    email: Email | None = None
    phone: Annotated[str, StringConstraints(max_length=40), _STORABLE] | None = None
    company: Text | None = None
    tax_id: Annotated[str, StringConstraints(min_length=4, max_length=40), _SAYS_SOMETHING] | None = None
    customer_ref: Annotated[str, StringConstraints(min_length=1, max_length=64), _SAYS_SOMETHING] | None = (
        None
    )


class DraftLine(Document):
    """Goods asked for: ``quantity`` whole units at ``unit_price_minor`` each."""

    line_id: Annotated[str, StringConstraints(min_length=1, max_length=64), _SAYS_SOMETHING]
    sku: Sku
    description: Annotated[str, StringConstraints(max_length=200), _STORABLE] = ""
    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTITY)]
    unit_price_minor: PositiveMinor


class DraftCharge(Document):
    """Money that is not goods: postage, tax, a fee; a discount is negative."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=64), _SAYS_SOMETHING]
    kind: ChargeKind
    description: Annotated[str, StringConstraints(max_length=200), _STORABLE] = ""
    amount_minor: Minor


class Tender(Document):
    """A means of payment, and how much of the total it pays. A card number must never get here."""

    kind: TenderKind = TenderKind.CARD
    token: Annotated[str, StringConstraints(min_length=1, max_length=128), _SAYS_SOMETHING]
    amount_minor: PositiveMinor


class DraftTotals(Document):
    """What the channel says it adds up to; intake checks it to the minor unit."""

    lines_minor: Minor
    charges_minor: Minor
    total_minor: Minor


class OrderDraft(Document):
    """One order document. Send it to ``POST /v1/orders`` or inline as the input of an OrderWorkflow.

    ``min_shelf_life_days``: goods that expire are to be good for so many days more on the promised day of delivery.
    ``allow_partial``: whether what there is may go ahead when something is short; left out, the policy decides.
    ``allow_substitutes``: whether goods that are short may be replaced by what the policy names, at no higher price.
    ``deliver_from``: the goods are not wanted before that day; with ``promise_by``, the latest delivery, a window.
    ``promise_id``: as ``POST /v1/promise`` gave it; the order is shipped by that plan, if it is still to be had.
    """

    schema_version: int = Field(default=1, ge=1, le=1)
    channel: Channel
    external_id: ExternalId
    placed_at: SentMoment
    currency: Currency
    customer: Party
    ship_to: Address
    bill_to: Address | None = None
    lines: tuple[DraftLine, ...] = Field(min_length=1, max_length=MAX_LINES)
    charges: tuple[DraftCharge, ...] = Field(default=(), max_length=MAX_LINES)
    tenders: tuple[Tender, ...] = Field(min_length=1, max_length=MAX_TENDERS)
    totals: DraftTotals
    customer_type: CustomerType | None = None
    customer_tier: CustomerTier | None = None
    purchase_order: Annotated[str, StringConstraints(min_length=1, max_length=64), _SAYS_SOMETHING] | None = (
        None
    )
    promise_by: SentMoment | None = None
    deliver_from: SentMoment | None = None
    ship_complete: bool = False
    allow_partial: bool | None = None
    allow_substitutes: bool | None = None
    promise_id: PromiseId | None = None
    carrier_service: CarrierServiceName | None = None
    min_shelf_life_days: Annotated[int, Field(strict=True, ge=0, le=MAX_SHELF_LIFE_DAYS)] | None = None
