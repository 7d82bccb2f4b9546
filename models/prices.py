"""Price lists of business customers: what a unit costs whom, from how many units on, and from when until when."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from models.base import Contract, Document, SentMoment
from models.clock import LATEST
from models.identifiers import Sku
from models.money import Currency, Money
from models.order import MAX_QUANTITY, PositiveMinor

# Four values each, of the 100,000 that a JSON document of ours may have.
MAX_PRICES = 20_000
# A list without an end is good until here.
NO_END = LATEST

PriceListId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
# What the books call whoever a list is for. Of every business there is but one, and it has no name.
AssigneeName = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\s\x00]([^\n\x00]*[^\s\x00])?$")
]


class AssigneeKind(StrEnum):
    """Whom a list is assigned to; where several hold, the first of these counts.

    CUSTOMER: by the ``customer_ref`` of the order's customer. ACCOUNT: by the account that pays it. EVERY_BUSINESS: the
    default of all business customers.
    """

    CUSTOMER = "customer"
    ACCOUNT = "account"
    EVERY_BUSINESS = "every_business"


class Price(Document):
    """``unit_price_minor`` for each unit, when a line has ``min_quantity`` units or more."""

    sku: Sku
    min_quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTITY)] = 1
    unit_price_minor: PositiveMinor


class PriceListDocument(Document):
    """A whole price list. Loaded again under its id it is the list's next version and replaces all that was in it.

    It is good for orders placed from ``valid_from`` on and before ``valid_until``. Its currency stays.
    """

    list_id: PriceListId
    name: Annotated[
        str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")
    ]
    currency: Currency
    valid_from: SentMoment
    valid_until: SentMoment | None = None
    prices: tuple[Price, ...] = Field(min_length=1, max_length=MAX_PRICES)


class AssignmentView(Contract):
    """Whom a list is for. ``assignee`` is None for every business."""

    kind: AssigneeKind
    assignee: str | None = None
    assigned_at: AwareDatetime
    assigned_by: str


class PriceListView(Contract):
    """A price list as it stands, without its prices. ``version`` is that of what was loaded last."""

    list_id: str
    name: str
    currency: Currency
    valid_from: AwareDatetime
    valid_until: AwareDatetime | None = None
    version: int
    prices: int = Field(description="how many prices it has, each break of quantity counted")
    loaded_at: AwareDatetime
    loaded_by: str
    reason: str | None = None
    assigned_to: tuple[AssignmentView, ...] = ()


class PriceLists(Contract):
    """Every price list, by its id."""

    lists: tuple[PriceListView, ...]


class PriceView(Contract):
    """A price and from how many units on it holds."""

    sku: str
    min_quantity: int
    unit_price: Money


class PriceListContent(Contract):
    """A list and some of its prices, by SKU and quantity. ``next_sku`` is where to go on, if there is more."""

    price_list: PriceListView
    prices: tuple[PriceView, ...]
    next_sku: str | None = None


class PriceListLoaded(Contract):
    """What became of a load. ``changed`` is false when the list was like this already: it keeps its version."""

    changed: bool
    price_list: PriceListView


class AgreedPrice(Contract):
    """What one unit of a SKU costs a customer who orders ``quantity`` of them, and why.

    ``min_quantity`` is where this price begins, ``next_break`` the next larger quantity that has a price of its own.
    ``assigned_to`` says by which assignment the list holds; None when the list itself was asked.
    """

    sku: str
    quantity: int
    unit_price: Money
    amount: Money
    list_id: str
    version: int
    assigned_to: AssigneeKind | None = None
    min_quantity: int
    next_break: PriceView | None = None


class AgreedPrices(Contract):
    """The list that holds for an order, with the prices of the SKUs that were asked about.

    ``breaks`` has for each SKU of the list ``(min_quantity, unit_price_minor)``, the smallest quantity first.
    """

    list_id: str
    version: int
    currency: Currency
    assigned_to: AssigneeKind | None = None
    breaks: Mapping[str, tuple[tuple[int, int], ...]]

    def at(self, sku: str, quantity: int) -> tuple[int, int] | None:
        """The break that ``quantity`` units of ``sku`` reach; None where the list has no price for so many."""
        reached = [price for price in self.breaks.get(sku, ()) if price[0] <= quantity]
        return reached[-1] if reached else None

    @property
    def named(self) -> str:
        """The list as sentences name it."""
        return f"price list {self.list_id} (version {self.version})"


class NoAgreedPrices(Contract):
    """Why no list holds for an order of a customer who has one: a stable code and a sentence."""

    code: str
    why: str
