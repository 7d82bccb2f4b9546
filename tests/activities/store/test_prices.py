"""Price lists in the database: versions, breaks, times, who they are for, and what is refused."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from activities.store import prices
from activities.store.prices import Customer
from activities.store.store import Store
from models.errors import (
    CurrencyMismatch,
    InvalidDocument,
    NoPriceList,
    NotFound,
    PriceListsOverlap,
    PriceNotListed,
)
from models.order import CustomerType
from models.prices import AgreedPrices, AssigneeKind, NoAgreedPrices, PriceListDocument, PriceListLoaded
from tests.builders import a_draft, gbp, new_number

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
SPRING = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
BREAKS = ((1, 255), (12, 240), (48, 210))


def a_list(list_id: str | None = None, **changes: Any) -> PriceListDocument:
    """A list of one SKU with three prices, good for 2026."""
    document: dict[str, Any] = {
        "list_id": list_id or f"list-{new_number()}",
        "name": "Trade",
        "currency": "GBP",
        "valid_from": START,
        "valid_until": END,
        "prices": [{"sku": "A", "min_quantity": n, "unit_price_minor": price} for n, price in BREAKS],
    }
    return PriceListDocument.model_validate(document | changes)


async def loaded(store: Store, document: PriceListDocument) -> PriceListLoaded:
    async with store.transaction() as session:
        return await prices.load(session, document, actor="dana", reason="a test")


async def for_customer(store: Store, document: PriceListDocument, ref: str | None = None) -> str:
    """The reference of a customer of its own whom the list is for."""
    customer = ref or f"customer-{new_number()}"
    await loaded(store, document)
    async with store.transaction() as session:
        await prices.assign(session, document.list_id, AssigneeKind.CUSTOMER, customer, actor="dana")
    return customer


async def price_of(store: Store, customer: str, quantity: int, at: datetime = SPRING, sku: str = "A") -> int:
    async with store.transaction() as session:
        found = await prices.quote(
            session, Customer(customer_ref=customer), sku, quantity, currency="GBP", at=at
        )
    return found.unit_price.minor


@pytest.mark.parametrize(
    ("quantity", "price"), [(1, 255), (11, 255), (12, 240), (47, 240), (48, 210), (1_000_000, 210)]
)
async def test_a_break_holds_from_its_quantity_on(store: Store, quantity: int, price: int) -> None:
    assert await price_of(store, await for_customer(store, a_list()), quantity) == price


async def test_a_price_says_where_it_begins_and_what_comes_next(store: Store) -> None:
    document = a_list()
    customer = await for_customer(store, document)
    async with store.transaction() as session:
        found = await prices.quote(
            session, Customer(customer_ref=customer), "A", 20, currency=None, at=SPRING
        )
        last = await prices.quote_from(session, document.list_id, "A", 48)
    assert (found.min_quantity, found.amount, found.assigned_to) == (12, gbp(4_800), AssigneeKind.CUSTOMER)
    assert found.next_break is not None
    assert (found.next_break.min_quantity, found.next_break.unit_price) == (48, gbp(210))
    assert (last.next_break, last.assigned_to) == (None, None)


async def test_a_list_holds_from_its_first_moment_until_just_before_its_end(store: Store) -> None:
    customer = await for_customer(store, a_list())
    assert await price_of(store, customer, 1, START) == 255
    assert await price_of(store, customer, 1, END - timedelta(microseconds=1)) == 255
    for outside in (START - timedelta(microseconds=1), END):
        with pytest.raises(NoPriceList, match="holds on"):
            await price_of(store, customer, 1, outside)


async def test_the_next_years_list_takes_over_at_the_very_moment(store: Store) -> None:
    customer = await for_customer(store, a_list())
    next_year = a_list(
        valid_from=END, valid_until=None, prices=[{"sku": "A", "min_quantity": 1, "unit_price_minor": 260}]
    )
    await for_customer(store, next_year, customer)
    assert await price_of(store, customer, 1, END - timedelta(seconds=1)) == 255
    assert await price_of(store, customer, 1, END) == 260


async def test_what_a_list_does_not_have_is_said_and_not_guessed(store: Store) -> None:
    document = a_list(prices=[{"sku": "A", "min_quantity": 6, "unit_price_minor": 200}])
    customer = await for_customer(store, document)
    with pytest.raises(PriceNotListed, match="has no price for B"):
        await price_of(store, customer, 1, sku="B")
    with pytest.raises(PriceNotListed, match="from 6 units on only"):
        await price_of(store, customer, 5)
    assert await price_of(store, customer, 6) == 200
    async with store.transaction() as session:
        with pytest.raises(CurrencyMismatch):
            await prices.quote(session, Customer(customer_ref=customer), "A", 6, currency="EUR", at=SPRING)
        with pytest.raises(NotFound):
            await prices.quote_from(session, "no-such-list", "A", 1)


async def test_a_load_is_a_version_and_the_same_load_again_is_none(store: Store) -> None:
    document = a_list()
    first = await loaded(store, document)
    assert (first.changed, first.price_list.version, first.price_list.prices) == (True, 1, 3)
    shuffled = document.model_copy(update={"prices": tuple(reversed(document.prices))})
    again = await loaded(store, shuffled)
    assert (again.changed, again.price_list) == (False, first.price_list)
    cheaper = a_list(document.list_id, prices=[{"sku": "A", "min_quantity": 1, "unit_price_minor": 99}])
    third = await loaded(store, cheaper)
    assert (third.changed, third.price_list.version) == (True, 2)
    async with store.transaction() as session:
        now = await prices.content(session, document.list_id)
        before = await prices.content(session, document.list_id, version=1)
        with pytest.raises(NotFound, match="no version 3"):
            await prices.content(session, document.list_id, version=3)
    assert [price.unit_price.minor for price in now.prices] == [99]
    assert [(price.min_quantity, price.unit_price.minor) for price in before.prices] == list(BREAKS)


async def test_a_long_list_is_read_page_by_page(store: Store) -> None:
    skus = [f"S{number:03}" for number in range(25)]
    document = a_list(
        prices=[{"sku": sku, "min_quantity": n, "unit_price_minor": 5} for sku in skus for n in (1, 10)]
    )
    await loaded(store, document)
    seen: list[tuple[str, int]] = []
    following: str | None = None
    for _ in range(3):
        async with store.transaction() as session:
            page = await prices.content(session, document.list_id, from_sku=following, limit=10)
        seen += [(price.sku, price.min_quantity) for price in page.prices]
        following = page.next_sku
    assert following is None
    assert seen == [(sku, n) for sku in skus for n in (1, 10)]


async def test_a_load_that_makes_no_sense_leaves_nothing_behind(store: Store) -> None:
    twice = a_list(
        valid_until=START, prices=[{"sku": "A", "unit_price_minor": 1}, {"sku": "A", "unit_price_minor": 2}]
    )
    with pytest.raises(InvalidDocument) as refused:
        await loaded(store, twice)
    assert [(p.path, p.code) for p in refused.value.problems] == [
        ("valid_until", "never_valid"),
        ("prices[1].min_quantity", "duplicate_price"),
    ]
    async with store.transaction() as session:
        with pytest.raises(NotFound):
            await prices.price_list(session, twice.list_id)


async def test_a_list_keeps_its_currency(store: Store) -> None:
    document = a_list()
    await loaded(store, document)
    with pytest.raises(CurrencyMismatch, match="is in GBP, not EUR"):
        await loaded(store, document.model_copy(update={"currency": "EUR"}))


async def test_nobody_gets_two_lists_of_one_currency_for_one_moment(store: Store) -> None:
    first, second = a_list(), a_list(valid_from=END - timedelta(seconds=1), valid_until=None)
    customer = await for_customer(store, first)
    with pytest.raises(PriceListsOverlap):
        await for_customer(store, second, customer)
    assert await price_of(store, customer, 1) == 255
    # Of another currency it is another question.
    await for_customer(store, a_list(currency="EUR"), customer)
    async with store.transaction() as session:
        view = await prices.price_list(session, second.list_id)
    assert view.assigned_to == ()


async def test_a_load_cannot_stretch_a_list_over_another_one(store: Store) -> None:
    first, second = a_list(), a_list(valid_from=END, valid_until=None)
    customer = await for_customer(store, first)
    await for_customer(store, second, customer)
    longer = first.model_copy(update={"valid_until": END + timedelta(days=1), "name": "Longer"})
    with pytest.raises(PriceListsOverlap):
        await loaded(store, longer)
    async with store.transaction() as session:
        view = await prices.price_list(session, first.list_id)
    assert (view.version, view.name, view.valid_until) == (1, "Trade", END)
    # Made shorter it is in nobody's way, and whoever has it has it as short.
    shorter = first.model_copy(update={"valid_until": END - timedelta(days=1)})
    assert (await loaded(store, shorter)).price_list.version == 2
    with pytest.raises(NoPriceList):
        await price_of(store, customer, 1, END - timedelta(hours=1))


async def test_an_assignment_made_twice_is_one_and_one_taken_back_is_over(store: Store) -> None:
    document = a_list()
    customer = await for_customer(store, document)
    assert await for_customer(store, document, customer) == customer
    async with store.transaction() as session:
        view = await prices.price_list(session, document.list_id)
        assert [(one.kind, one.assignee) for one in view.assigned_to] == [(AssigneeKind.CUSTOMER, customer)]
        for _ in range(2):
            view = await prices.withdraw(
                session, document.list_id, AssigneeKind.CUSTOMER, customer, actor="dana"
            )
        assert view.assigned_to == ()
    with pytest.raises(NoPriceList, match="no price list"):
        await price_of(store, customer, 1)
    # It stays on record, and does not stand in the way of the next one.
    assert await for_customer(store, a_list(), customer) == customer


async def test_a_customers_own_list_counts_before_the_accounts_and_that_before_the_default(
    store: Store,
) -> None:
    # In a currency that no other test has a default of.
    of_everybody, of_account, own = (
        a_list(currency="NZD", prices=[{"sku": "A", "unit_price_minor": price}]) for price in (3, 2, 1)
    )
    customer = f"customer-{new_number()}"
    for document, kind, name in (
        (of_everybody, AssigneeKind.EVERY_BUSINESS, None),
        (of_account, AssigneeKind.ACCOUNT, customer),
        (own, AssigneeKind.CUSTOMER, customer),
    ):
        await loaded(store, document)
        async with store.transaction() as session:
            await prices.assign(session, document.list_id, kind, name, actor="dana")
    found = []
    for who in (
        Customer(customer_ref=customer, accounts=(customer,)),
        Customer(customer_ref="somebody-else", accounts=(customer,)),
        Customer(customer_ref="somebody-else"),
    ):
        async with store.transaction() as session:
            quoted = await prices.quote(session, who, "A", 1, currency="NZD", at=SPRING)
        found.append((quoted.unit_price.minor, quoted.assigned_to))
    async with store.transaction() as session:
        await prices.withdraw(session, of_everybody.list_id, AssigneeKind.EVERY_BUSINESS, None, actor="dana")
    assert found == [
        (1, AssigneeKind.CUSTOMER),
        (2, AssigneeKind.ACCOUNT),
        (3, AssigneeKind.EVERY_BUSINESS),
    ]


async def test_two_loads_at_once_are_two_whole_versions(store: Store) -> None:
    document = a_list()
    many = [
        a_list(
            document.list_id,
            name=f"Load {number}",
            prices=[{"sku": f"S{n}", "unit_price_minor": number} for n in range(200)],
        )
        for number in range(1, 7)
    ]
    answers = await asyncio.gather(*(loaded(store, one) for one in many))
    assert sorted(one.price_list.version for one in answers) == [1, 2, 3, 4, 5, 6]
    async with store.transaction() as session:
        for answer in answers:
            version = answer.price_list.version
            kept = await prices.content(session, document.list_id, version=version, limit=1_000)
            number = int(answer.price_list.name.removeprefix("Load "))
            assert [price.unit_price.minor for price in kept.prices] == [number] * 200


async def test_the_same_load_at_once_is_one_version(store: Store) -> None:
    document = a_list()
    answers = await asyncio.gather(*(loaded(store, document) for _ in range(5)))
    assert sorted(one.changed for one in answers) == [False] * 4 + [True]
    assert {one.price_list.version for one in answers} == {1}


async def test_two_lists_at_once_for_one_customer_are_one(store: Store) -> None:
    lists, customer = [a_list(), a_list()], f"customer-{new_number()}"
    answers = await asyncio.gather(
        *(for_customer(store, document, customer) for document in lists), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["PriceListsOverlap", "str"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE prices SET unit_price_minor = 1 WHERE list_id = :list",
        "DELETE FROM prices WHERE list_id = :list",
        "UPDATE price_list_versions SET name = 'x' WHERE list_id = :list",
        "INSERT INTO prices VALUES (:list, 1, 'A', 1, 5)",
        "INSERT INTO prices VALUES (:list, 1, 'B', 0, 5)",
        "INSERT INTO prices VALUES (:list, 1, 'B', 1, -5)",
        "INSERT INTO prices VALUES (:list, 7, 'B', 1, 5)",
        "UPDATE price_lists SET valid_until = valid_from WHERE list_id = :list",
        "INSERT INTO price_assignments (list_id, currency, valid_from, valid_until, kind, assignee, assigned_at, "
        "assigned_by) SELECT list_id, 'EUR', valid_from, valid_until, 'customer', 'x', now(), 'x' FROM price_lists "
        "WHERE list_id = :list",
        "INSERT INTO price_assignments (list_id, currency, valid_from, valid_until, kind, assignee, assigned_at, "
        "assigned_by) SELECT list_id, currency, valid_from, valid_until, 'customer', '', now(), 'x' FROM price_lists "
        "WHERE list_id = :list",
    ],
)
async def test_the_database_itself_refuses_what_would_be_ambiguous_or_rewrite_history(
    store: Store, statement: str
) -> None:
    document = a_list()
    await loaded(store, document)
    with pytest.raises(IntegrityError):
        async with store.transaction() as session:
            await session.execute(text(statement), {"list": document.list_id})


# --- orders ---
async def test_a_business_has_its_list_by_its_reference_or_by_the_account_that_pays(store: Store) -> None:
    document = a_list()
    customer = await for_customer(store, document)
    person = {"name": "Sam", "customer_ref": customer}
    business = a_draft(customer=person, customer_type=CustomerType.B2B)
    async with store.transaction() as session:
        await prices.assign(session, document.list_id, AssigneeKind.ACCOUNT, "paying", actor="dana")
        by_reference = await prices.agreed_for_order(session, business, ["A"])
        on_account = a_draft(
            customer_type=CustomerType.B2B,
            tenders=[{"kind": "on_account", "token": "paying", "amount_minor": 1_395}],
        )
        by_account = await prices.agreed_for_order(session, on_account)
        consumer = await prices.agreed_for_order(session, a_draft(customer=person))
        stranger = await prices.agreed_for_order(session, a_draft(customer_type=CustomerType.B2B))
        await prices.withdraw(session, document.list_id, AssigneeKind.ACCOUNT, "paying", actor="dana")
    assert isinstance(by_reference, AgreedPrices)
    assert by_reference.breaks == {"A": BREAKS}
    assert isinstance(by_account, AgreedPrices)
    assert (consumer, stranger) == (None, None)


async def test_a_business_whose_list_cannot_be_used_is_told_why(store: Store) -> None:
    customer = await for_customer(store, a_list())
    business = a_draft(customer={"name": "Sam", "customer_ref": customer}, customer_type=CustomerType.B2B)
    in_euro = business.model_copy(update={"currency": "EUR"})
    later = business.model_copy(update={"placed_at": END})
    async with store.transaction() as session:
        found = [await prices.agreed_for_order(session, draft) for draft in (in_euro, later)]
    assert [one.code for one in found if isinstance(one, NoAgreedPrices)] == [
        "price_list_currency",
        "price_list_not_valid",
    ]
