"""What customers of the harness pay with; what they and warehouses do shows in ``tests/chaos``."""

from itertools import islice

import pytest

from activities.channels.online_retail import ImportedInvoice, read_invoices
from apps.api.contracts import ValueIssue
from apps.cli.demo import EXAMPLE
from benchmarks.chaos.deeds import otherwise_paid
from benchmarks.chaos.plan import FaultPlan, PaidOtherwise, Paying
from models.order import OrderDraft, TenderKind


def drafts(*paid: PaidOtherwise) -> list[OrderDraft]:
    plan = FaultPlan(seed=3, orders=9, kills=0, strikes=(), paid_otherwise=paid)
    invoices: list[ImportedInvoice] = list(islice(otherwise_paid(read_invoices(EXAMPLE), plan), 9))
    return [invoice.draft for invoice in invoices if invoice.draft is not None]


@pytest.mark.parametrize(
    ("how", "kinds"),
    [
        (Paying.GIFT_CARD_AND_CARD, [TenderKind.GIFT_CARD, TenderKind.CARD]),
        (Paying.STORE_CREDIT_AND_CARD, [TenderKind.STORE_CREDIT, TenderKind.CARD]),
        (Paying.STORE_CREDIT, [TenderKind.STORE_CREDIT]),
    ],
)
def test_an_order_is_paid_as_the_plan_says_and_no_other(how: Paying, kinds: list[TenderKind]) -> None:
    before, after = drafts(), drafts(PaidOtherwise(order=2, how=how))
    assert [tender.kind for tender in after[1].tenders] == kinds
    assert sum(tender.amount_minor for tender in after[1].tenders) == after[1].totals.total_minor
    assert after[1].model_copy(update={"tenders": before[1].tenders}) == before[1]
    assert (after[0], *after[2:]) == (before[0], *before[2:])
    assert drafts(PaidOtherwise(order=2, how=how)) == after


def test_the_code_of_a_card_is_one_that_the_api_takes() -> None:
    (ours, _) = drafts(PaidOtherwise(order=1, how=Paying.GIFT_CARD_AND_CARD))[0].tenders
    ValueIssue(
        kind="gift_card",
        code=ours.token,
        amount_minor=ours.amount_minor,
        currency="GBP",
        actor="chaos",
        request_id="chaos-1",
    )
