"""The books over HTTP: what all accounts add up to. An order's own are beside the order (``apps.api.orders``)."""

from fastapi import APIRouter, Depends

from activities.store import ledger
from activities.store.ledger import TrialBalance
from apps.api import examples
from apps.api.parts import PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters

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
