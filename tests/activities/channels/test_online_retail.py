"""The importer: every invoice comes out once, whatever stands in the file."""

import csv
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.channels.online_retail import (
    COLUMNS,
    COUNTRIES,
    ImportedInvoice,
    RefusalKind,
    read_invoices,
)
from models.errors import InvalidDocument
from models.order import ChargeKind, OrderDraft
from policies.intake import check_draft

EXAMPLE = Path(__file__).parents[3] / "examples" / "online_retail"
INVOICES = EXAMPLE / "invoices-2011-09-10.parquet"


def a_row(**cells: Any) -> dict[str, Any]:
    row = {
        "InvoiceNo": "536365",
        "StockCode": "85123A",
        "Description": "WHITE HANGING HEART",
        "Quantity": 6,
        "InvoiceDate": "2011-09-01 08:26:00",
        "UnitPrice": "2.55",
        "CustomerID": "17850",
        "Country": "United Kingdom",
    }
    return row | cells


def read_rows(folder: Path, *rows: dict[str, Any]) -> list[ImportedInvoice]:
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return list(read_invoices(path))


def only_draft(results: list[ImportedInvoice]) -> OrderDraft:
    assert len(results) == 1
    assert results[0].draft is not None, results[0].refusal
    return results[0].draft


def only_refusal(results: list[ImportedInvoice]) -> tuple[RefusalKind, str]:
    assert len(results) == 1
    assert results[0].refusal is not None
    return results[0].refusal.kind, results[0].refusal.reason


@pytest.fixture(scope="module")
def example() -> list[ImportedInvoice]:
    return list(read_invoices(INVOICES))


def test_the_example_accounts_for_every_invoice_and_row(example: list[ImportedInvoice]) -> None:
    kinds = Counter(result.refusal.kind if result.refusal else "order" for result in example)
    assert kinds == {
        "order": 3822,
        RefusalKind.CREDIT_NOTE: 695,
        RefusalKind.NOT_AN_ORDER: 392,
        RefusalKind.NO_GOODS: 54,
        RefusalKind.TOO_MANY_LINES: 1,
    }
    assert sum(kinds.values()) == 4269 + 695
    assert sum(result.rows for result in example) == 110_968
    assert len({result.invoice for result in example}) == len(example)


def test_the_example_is_in_time_order_and_adds_up_to_its_known_sum(example: list[ImportedInvoice]) -> None:
    times = [result.placed_at for result in example if result.placed_at is not None]
    assert len(times) == len(example)
    assert times == sorted(times)
    drafts = [result.draft for result in example if result.draft is not None]
    assert sum(draft.totals.total_minor for draft in drafts) == 216_797_436
    assert sum(len(draft.lines) for draft in drafts) == 107_019


def test_every_draft_of_the_example_passes_intake(example: list[ImportedInvoice]) -> None:
    refused = {
        result.invoice: check_draft(result.draft)
        for result in example
        if result.draft is not None and check_draft(result.draft)
    }
    assert refused == {}


def test_the_assumed_stock_covers_what_the_example_sells(example: list[ImportedInvoice]) -> None:
    stock = pyarrow.parquet.read_table(EXAMPLE / "stock.parquet").to_pylist()
    on_hand: Counter[str] = Counter()
    for row in stock:
        on_hand[row["sku"]] += row["on_hand"]
    demand: Counter[str] = Counter()
    for result in example:
        for line in result.draft.lines if result.draft else ():
            demand[line.sku] += line.quantity
    assert [sku for sku, units in demand.items() if on_hand[sku] < units] == []
    assert len({row["node"] for row in stock}) == 6


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("POST", ChargeKind.SHIPPING),
        ("DOT", ChargeKind.SHIPPING),
        ("C2", ChargeKind.SHIPPING),
        ("BANK CHARGES", ChargeKind.FEE),
        ("AMAZONFEE", ChargeKind.FEE),
        ("CRUK", ChargeKind.FEE),
        ("M", ChargeKind.ADJUSTMENT),
        ("m", ChargeKind.ADJUSTMENT),
        ("S", ChargeKind.ADJUSTMENT),
    ],
)
def test_codes_that_are_no_goods_become_charges(tmp_path: Path, code: str, kind: ChargeKind) -> None:
    rows = (a_row(), a_row(StockCode=code, Quantity=2, UnitPrice="1.25"))
    draft = only_draft(read_rows(tmp_path, *rows))
    assert [(charge.code, charge.kind, charge.amount_minor) for charge in draft.charges] == [
        (code, kind, 250)
    ]
    assert draft.totals.total_minor == 6 * 255 + 250


def test_a_discount_is_negative(tmp_path: Path) -> None:
    rows = (a_row(), a_row(StockCode="D", Quantity=-1, UnitPrice="3.00"))
    draft = only_draft(read_rows(tmp_path, *rows))
    assert (draft.charges[0].kind, draft.charges[0].amount_minor) == (ChargeKind.DISCOUNT, -300)
    assert check_draft(draft) == ()


@pytest.mark.parametrize("code", ["PADS", "gift_0001_20", "DCGSSBOY", "85123A"])
def test_goods_with_odd_codes_stay_goods(tmp_path: Path, code: str) -> None:
    draft = only_draft(read_rows(tmp_path, a_row(StockCode=code)))
    assert [line.sku for line in draft.lines] == [code]


def test_a_line_taken_back_within_a_sale_becomes_an_adjustment(tmp_path: Path) -> None:
    [result] = read_rows(tmp_path, a_row(), a_row(StockCode="22423", Quantity=-2, UnitPrice="1.00"))
    assert result.draft is not None
    assert [(c.code, c.kind, c.amount_minor) for c in result.draft.charges] == [
        ("22423", ChargeKind.ADJUSTMENT, -200)
    ]
    assert result.notes == ("row 2 (22423, quantity -2) became an adjustment",)


def test_an_article_without_price_or_description_stays_an_article(tmp_path: Path) -> None:
    draft = only_draft(read_rows(tmp_path, a_row(), a_row(StockCode="22423", UnitPrice=0, Description="")))
    assert (draft.lines[1].unit_price_minor, draft.lines[1].description) == (0, "")


def test_parts_of_pennies_are_rounded_once_and_noted(tmp_path: Path) -> None:
    [result] = read_rows(tmp_path, a_row(), a_row(StockCode="PADS", Quantity=1000, UnitPrice="0.001"))
    assert result.draft is not None
    assert result.draft.totals.total_minor == 6 * 255 + 100
    assert [(c.code, c.amount_minor) for c in result.draft.charges] == [("ROUNDING", 100)]
    assert "not whole pennies" in result.notes[0]
    assert check_draft(result.draft) == ()


def test_a_guest_has_no_email_and_a_customer_always_the_same(tmp_path: Path) -> None:
    guest = only_draft(read_rows(tmp_path, a_row(CustomerID="")))
    assert (guest.customer.email, guest.customer.customer_ref) == (None, None)
    for spelt in ("17850", "17850.0"):
        known = only_draft(read_rows(tmp_path, a_row(CustomerID=spelt)))
        assert known.customer.email == "customer-17850@example.com"
        assert known.customer.customer_ref == "17850"
        assert known.customer_type is None


def test_times_are_those_of_london(tmp_path: Path) -> None:
    summer = only_draft(read_rows(tmp_path, a_row(InvoiceDate="2011-09-01 08:26:00")))
    assert summer.placed_at == datetime(2011, 9, 1, 7, 26, tzinfo=UTC)
    winter = only_draft(read_rows(tmp_path, a_row(InvoiceDate="12/1/2010 8:26")))
    assert winter.placed_at == datetime(2010, 12, 1, 8, 26, tzinfo=UTC)


@pytest.mark.parametrize(
    ("country", "code"), [("EIRE", "IE"), ("RSA", "ZA"), ("Channel Islands", "JE"), ("Unspecified", "GB")]
)
def test_country_names_become_codes(tmp_path: Path, country: str, code: str) -> None:
    assert only_draft(read_rows(tmp_path, a_row(Country=country))).ship_to.country == code


@pytest.mark.parametrize(
    ("cells", "kind", "words"),
    [
        ({"InvoiceNo": "C536379", "Quantity": -1}, RefusalKind.CREDIT_NOTE, "C536379 is a credit note"),
        ({"InvoiceNo": "A563185"}, RefusalKind.BAD_DEBT_ADJUSTMENT, "bad debt"),
        ({"UnitPrice": 0}, RefusalKind.NOT_AN_ORDER, "adds up to 0 GBP"),
        ({"Quantity": -6}, RefusalKind.NOT_AN_ORDER, "adds up to -15.30 GBP"),
        ({"StockCode": "POST"}, RefusalKind.NO_GOODS, "charges only (POST)"),
        ({"Country": "Atlantis"}, RefusalKind.UNKNOWN_COUNTRY, "'Atlantis'"),
        ({"Quantity": "six"}, RefusalKind.UNREADABLE, "row 1: Quantity 'six' is not a number"),
        ({"Quantity": "1.5"}, RefusalKind.UNREADABLE, "Quantity '1.5' is not a whole number"),
        ({"UnitPrice": "nan"}, RefusalKind.UNREADABLE, "UnitPrice 'nan' is not a usable number"),
        ({"InvoiceDate": "soon"}, RefusalKind.UNREADABLE, "InvoiceDate 'soon' is not a time"),
        ({"InvoiceNo": ""}, RefusalKind.UNREADABLE, "row 1: it has no invoice number"),
        ({"InvoiceNo": "no spaces please"}, RefusalKind.UNREADABLE, "external_id"),
        ({"Quantity": 10**9}, RefusalKind.UNREADABLE, "quantity"),
    ],
)
def test_what_is_no_order_is_refused_with_its_reason(
    tmp_path: Path, cells: dict[str, Any], kind: RefusalKind, words: str
) -> None:
    found, reason = only_refusal(read_rows(tmp_path, a_row(**cells)))
    assert found is kind
    assert words in reason


def test_an_invoice_with_too_many_lines_is_refused(tmp_path: Path) -> None:
    kind, reason = only_refusal(read_rows(tmp_path, *(a_row() for _ in range(1001))))
    assert kind is RefusalKind.TOO_MANY_LINES
    assert "1,001 lines" in reason


def test_parquet_and_csv_give_the_same_orders(tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(INVOICES).slice(0, 500)
    pyarrow.parquet.write_table(table, tmp_path / "some.parquet")
    with (tmp_path / "some.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(table.to_pylist())
    assert list(read_invoices(tmp_path / "some.parquet")) == list(read_invoices(tmp_path / "some.csv"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "has no column InvoiceNo, StockCode"),
        (b"InvoiceNo,StockCode,Quantity\n1,2,3\n", "has no column Description, InvoiceDate"),
        (b"PAR1 and then nothing", "is not readable as parquet"),
        (bytes(range(256)), "has no column"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_message(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "given"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidDocument) as raised:
        list(read_invoices(path))
    assert words in raised.value.message


def test_a_folder_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="cannot read"):
        list(read_invoices(tmp_path))


_odd = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
)
_rows = st.lists(
    st.fixed_dictionaries(
        {
            "InvoiceNo": st.one_of(st.sampled_from(["1", "2", "C3", "A4"]), _odd),
            "StockCode": st.one_of(st.sampled_from(["22423", "POST", "M", "D", "PADS"]), _odd),
            "Description": _odd,
            "Quantity": st.one_of(st.integers(-20, 20).map(str), _odd),
            "InvoiceDate": st.one_of(st.datetimes().map(str), _odd),
            "UnitPrice": st.one_of(st.decimals(-5, 50, places=3).map(str), _odd),
            "CustomerID": st.one_of(st.sampled_from(["", "17850"]), _odd),
            "Country": st.one_of(st.sampled_from(sorted(COUNTRIES)), _odd),
        }
    ),
    max_size=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_rows)
def test_whatever_stands_in_the_cells_every_row_is_accounted_for(
    tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    cleaned = [{key: value.replace("\x00", "") for key, value in row.items()} for row in rows]
    results = read_rows(tmp_path, *cleaned)
    assert sum(result.rows for result in results) == len(cleaned)
    for result in results:
        assert (result.draft is None) != (result.refusal is None)
        assert result.draft is None or check_draft(result.draft) == ()
