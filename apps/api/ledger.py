"""The books over HTTP: what all accounts add up to, and what customers may owe us or we owe them.

An order's own books are beside the order (``apps.api.orders``).
"""

import structlog
from fastapi import APIRouter, Depends, Request

from activities.store import accounts, ledger
from activities.store.ledger import TrialBalance
from apps.api import examples
from apps.api.bodies import body_of, read_message
from apps.api.contracts import AccountPayment, CreditLimit, TenderLeft, ValueIssue
from apps.api.parts import PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.money import Money
from models.order import TenderKind

router = APIRouter(prefix="/v1/ledger", tags=["ledger"], dependencies=[Depends(only_known_parameters)])


@router.get(
    "/balances",
    summary="Look at the trial balance",
    responses=answers(401, 503)
    | {200: {"content": {"application/json": {"example": examples.TRIAL_BALANCE}}}},
)
async def show_balances(parts: PartsOf) -> TrialBalance:
    """What every account adds up to, in each currency: a debit above zero, a credit below.

    The balances of one currency add up to zero, and `in_balance` says so. It adds up the whole ledger: ask once a day,
    not at every order.
    """
    async with parts.store.transaction() as session:
        return await ledger.trial_balance(session)


_LEFT = answers(401, 409, 413, 422, 503) | {
    200: {"content": {"application/json": {"example": examples.TENDER_LEFT}}}
}


@router.post(
    "/limits",
    summary="Let a customer pay on account",
    openapi_extra=body_of(CreditLimit, {"a business": examples.CREDIT_LIMIT}),
    responses=_LEFT,
)
async def set_credit_limit(request: Request, parts: PartsOf) -> TenderLeft:
    """Open an account, or change its limit. A limit below what is owed stops the next order and undoes nothing."""
    asked = await read_message(request, CreditLimit, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    async with parts.store.transaction() as session:
        limit = Money(minor=asked.limit_minor, currency=asked.currency)
        await accounts.open_account(session, asked.account, limit)
        return TenderLeft(left=await accounts.left(session, TenderKind.ON_ACCOUNT, asked.account))


@router.post(
    "/payments",
    summary="Write down what a customer paid",
    openapi_extra=body_of(AccountPayment, {"a transfer": examples.ACCOUNT_PAYMENT}),
    responses=_LEFT,
)
async def record_account_payment(request: Request, parts: PartsOf) -> TenderLeft:
    """An account paid some of what it owes into the bank. The same `request_id` again changes nothing.

    More than it owes is refused (`ledger_refused`) unless `in_advance` says that it is meant.
    """
    asked = await read_message(request, AccountPayment, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    async with parts.store.transaction() as session:
        amount = Money(minor=asked.amount_minor, currency=asked.currency)
        await accounts.paid(
            session,
            asked.account,
            amount,
            key=f"payment:{asked.request_id}",
            source=asked.actor,
            in_advance=asked.in_advance,
        )
        return TenderLeft(left=await accounts.left(session, TenderKind.ON_ACCOUNT, asked.account))


@router.post(
    "/issues",
    summary="Put value on a gift card or a store credit",
    openapi_extra=body_of(ValueIssue, {"a gift card": examples.VALUE_ISSUE}),
    responses=_LEFT,
)
async def issue_value(request: Request, parts: PartsOf) -> TenderLeft:
    """A gift card was sold, or a customer is given credit as goodwill. The same `request_id` again changes nothing.

    Only a digest of the code is kept: whoever knows it may spend it.
    """
    asked = await read_message(request, ValueIssue, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    kind = TenderKind(asked.kind)
    async with parts.store.transaction() as session:
        amount = Money(minor=asked.amount_minor, currency=asked.currency)
        await accounts.issue(
            session, kind, asked.code, amount, key=f"issue:{asked.request_id}", source=asked.actor
        )
        return TenderLeft(left=await accounts.left(session, kind, asked.code))
