"""The books over HTTP: what all accounts add up to, and what customers may owe us or we owe them.

An order's own books are beside the order (``apps.api.orders``).
"""

from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Path, Request

from activities.store import accounts, ledger
from activities.store.accounts import AccountView
from activities.store.ledger import TransactionView, TrialBalance
from apps.api import examples
from apps.api.bodies import body_of, read_message
from apps.api.contracts import (
    AccountPayment,
    CreditLimit,
    ProviderLeft,
    ProviderSettlement,
    Reversal,
    TenderBlock,
    TenderLeft,
    ValueIssue,
)
from apps.api.parts import PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.ledger import TransactionKind
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
    """Open an account, or change its limit. A limit below what is owed stops the next order and undoes nothing.

    Who changed it, when and why stays with the account (`GET /v1/ledger/accounts/{account}`).
    """
    asked = await read_message(request, CreditLimit, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    async with parts.store.transaction() as session:
        limit = Money(minor=asked.limit_minor, currency=asked.currency)
        await accounts.open_account(
            session,
            asked.account,
            limit,
            actor=asked.actor,
            reason=asked.reason,
            request_id=asked.request_id,
        )
        return TenderLeft(left=await accounts.left(session, TenderKind.ON_ACCOUNT, asked.account))


@router.get(
    "/accounts/{account}",
    summary="Look at a customer's account",
    responses=answers(401, 404, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.CUSTOMER_ACCOUNT}}}},
)
async def show_account(
    account: Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")],
    parts: PartsOf,
) -> AccountView:
    """What it may owe, owes and can still spend, and who changed its limit or blocked it, when and why."""
    async with parts.store.transaction() as session:
        return await accounts.account_of(session, account)


@router.post(
    "/blocks",
    summary="Block an account or a gift card",
    openapi_extra=body_of(TenderBlock, {"an account": examples.TENDER_BLOCK}),
    responses=answers(401, 404, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.TENDER_LEFT}}}},
)
async def block_tender(request: Request, parts: PartsOf) -> TenderLeft:
    """Stop new orders from being paid with it (`tender_inactive`), or let them again, with `active`.

    What is held for orders that were accepted stays held, and is taken when they are sent.
    """
    asked = await read_message(request, TenderBlock, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    kind = TenderKind(asked.kind)
    async with parts.store.transaction() as session:
        await accounts.set_active(
            session, kind, asked.token, active=asked.active, actor=asked.actor, reason=asked.reason
        )
        return TenderLeft(left=await accounts.left(session, kind, asked.token))


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
        key = f"payment:{asked.request_id}"
        await accounts.paid(
            session,
            asked.account,
            amount,
            key=key,
            source=asked.actor,
            in_advance=asked.in_advance,
        )
        left = await accounts.left(session, TenderKind.ON_ACCOUNT, asked.account)
        return TenderLeft(left=left, transaction=key)


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
        key = f"issue:{asked.request_id}"
        await accounts.issue(session, kind, asked.code, amount, key=key, source=asked.actor)
        return TenderLeft(left=await accounts.left(session, kind, asked.code), transaction=key)


@router.post(
    "/settlements",
    summary="Write down a payout or a fee of the provider",
    openapi_extra=body_of(ProviderSettlement, {"a payout": examples.PROVIDER_SETTLEMENT}),
    responses=answers(401, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.PROVIDER_LEFT}}}},
)
async def record_settlement(request: Request, parts: PartsOf) -> ProviderLeft:
    """The provider paid some of what it took for us into the bank, or kept it.

    The same `request_id` again changes nothing. It answers what is with the provider then: below zero, it paid out
    more than our books know of.
    """
    asked = await read_message(request, ProviderSettlement, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    key = f"{asked.kind}:{asked.request_id}"
    async with parts.store.transaction() as session:
        left = await ledger.settled(
            session,
            TransactionKind(asked.kind),
            Money(minor=asked.amount_minor, currency=asked.currency),
            key=key,
            source=asked.actor,
            reason=asked.reason,
        )
    return ProviderLeft(left=left, transaction=key)


@router.post(
    "/reversals",
    summary="Take back what was written",
    openapi_extra=body_of(Reversal, {"a returned transfer": examples.REVERSAL}),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.REVERSED}}}},
)
async def reverse_transaction(request: Request, parts: PartsOf) -> TransactionView:
    """Write a transaction that undoes one, and names it (`reverses`), once: asked for again it is the same.

    It may be a payment, an issue, a payout or a fee.

    A payment is taken back whatever the account owes by then; value that was put on a card, as long as none was spent.
    """
    asked = await read_message(request, Reversal, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=asked.actor)
    async with parts.store.transaction() as session:
        return await ledger.reverse(session, asked.transaction, actor=asked.actor, reason=asked.reason)
