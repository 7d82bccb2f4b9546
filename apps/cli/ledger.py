"""``orderwright ledger``: an order's books, and what all accounts add up to."""

import uuid
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from activities.store.accounts import AccountView
from activities.store.ledger import BalanceView, OrderLedger, TransactionView, TrialBalance
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
from apps.cli.output import console, listing, plain, print_json, when
from apps.cli.reconcile import Everything, Wait, reconcile
from apps.cli.remote import Actor, ApiUrl, AsJson, DataDir, Token, acting_as, message, open_api, path_part
from models.ledger import TransactionKind
from models.money import Money
from models.reconciliation import Area

app = typer.Typer(no_args_is_help=True)


class ValueKind(StrEnum):
    """What value can be put on."""

    GIFT_CARD = "gift_card"
    STORE_CREDIT = "store_credit"


_WHAT = {
    TransactionKind.AUTHORISE: "money held",
    TransactionKind.CAPTURE: "money taken",
    TransactionKind.VOID: "hold given back",
    TransactionKind.LAPSE: "hold expired",
    TransactionKind.REINSTATE: "hold was still there",
    TransactionKind.REFUND: "paid back",
    TransactionKind.FEE: "fee of the provider",
    TransactionKind.PAYOUT: "paid out by the provider",
    TransactionKind.PAYMENT: "paid by the customer",
    TransactionKind.ISSUE: "value given out",
    TransactionKind.ADJUSTMENT: "correction",
}


@app.command()
def show(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="CHANNEL:NUMBER, such as web:1001.")],
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Everything that happened to an order's money, entry by entry, and what it adds up to."""
    with open_api(api_url, token, data_dir) as api:
        books = api.get(f"/v1/orders/{path_part(order_id)}/ledger", OrderLedger)
    if as_json:
        print_json(books)
        return
    target = console()
    if not books.transactions:
        target.print(Text(plain(f"{books.order_id}: no money has moved")))
        return
    target.print(_entries(books.transactions))
    target.print()
    _print_balances(target, books.balances)


@app.command()
def balances(
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The trial balance: what every account adds up to. Exit code 1 if debits and credits differ."""
    with open_api(api_url, token, data_dir) as api:
        trial = api.get("/v1/ledger/balances", TrialBalance)
    if as_json:
        print_json(trial)
    elif not trial.balances:
        console().print("the books are empty")
    else:
        _print_balances(console(), trial.balances)
    if not trial.in_balance:
        console(to_stderr=True).print("the books are out of balance", style="red")
        raise typer.Exit(1)


@app.command(name="reconcile")
def reconcile_money(
    *,
    everything: Everything = False,
    wait: Wait = 120.0,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare our money with the payment provider's statement now, and show what waits for a person.

    Exit code 0: both sides agree, or a rule has made them; 1: a person is asked; 3: it did not come through.
    """
    reconcile(
        (Area.MONEY,),
        everything=everything,
        wait=wait,
        api_url=api_url,
        token=token,
        data_dir=data_dir,
        as_json=as_json,
    )


_Account = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="As orders name it as their tender's token.")
]
_MinorUnits = Annotated[int, typer.Argument(metavar="MINOR", help="In minor units: 5000 is 50.00 GBP.")]
_CurrencyCode = Annotated[str, typer.Argument(metavar="CURRENCY", help="Such as GBP.")]
_Repeatable = Annotated[
    str | None, typer.Option(help="Makes a repeat of this very request harmless; default: a new one.")
]


_Why = Annotated[str | None, typer.Option("--reason", help="Why; it stays with the account.")]


class Blockable(StrEnum):
    """What can be blocked."""

    ON_ACCOUNT = "on_account"
    GIFT_CARD = "gift_card"
    STORE_CREDIT = "store_credit"


_BlockedKind = Annotated[Blockable, typer.Argument(help="What it is.")]
_BlockedToken = Annotated[
    str, typer.Argument(metavar="TOKEN", help="As orders name it: the account, or the code.")
]


@app.command()
def account(
    account: _Account,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What a customer may owe and owes, and who changed the limit or blocked it, when and why."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get(f"/v1/ledger/accounts/{path_part(account)}", AccountView)
    if as_json:
        print_json(found)
        return
    blocked = "" if found.active else ", blocked"
    said = f"{found.account}: may owe {found.limit}{blocked}; owes {found.owed}, held {found.held}, left {found.left}"
    console().print(Text(plain(said)))
    table = listing("when (UTC)", "by", "limit", "", "why", right=("limit",))
    for change in found.changes:
        table.add_row(
            when(change.at),
            plain(change.actor),
            str(change.limit),
            "" if change.active else "blocked",
            plain(change.reason or ""),
        )
    console().print(table)


@app.command()
def block(
    kind: _BlockedKind,
    tender: _BlockedToken,
    *,
    reason: _Why = None,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let no new order be paid with an account or a gift card. What is held for others stays held."""
    asked = message(
        TenderBlock, kind=kind.value, token=tender, active=False, actor=acting_as(actor), reason=reason
    )
    _ask(
        "/v1/ledger/blocks",
        asked,
        f"{_named(kind, tender)}, blocked",
        (api_url, token, data_dir),
        as_json=as_json,
    )


@app.command()
def unblock(
    kind: _BlockedKind,
    tender: _BlockedToken,
    *,
    reason: _Why = None,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let orders be paid again with what was blocked."""
    asked = message(
        TenderBlock, kind=kind.value, token=tender, active=True, actor=acting_as(actor), reason=reason
    )
    _ask("/v1/ledger/blocks", asked, _named(kind, tender), (api_url, token, data_dir), as_json=as_json)


def _named(kind: Blockable, tender: str) -> str:
    """A code can be spent by whoever reads it: only an account is named."""
    return tender if kind is Blockable.ON_ACCOUNT else kind.value.replace("_", " ")


@app.command()
def limit(
    account: _Account,
    minor: _MinorUnits,
    currency: _CurrencyCode,
    *,
    reason: _Why = None,
    actor: Actor = None,
    request_id: _Repeatable = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a customer pay on account, up to a limit; or change it."""
    asked = message(
        CreditLimit,
        account=account,
        limit_minor=minor,
        currency=currency,
        actor=acting_as(actor),
        reason=reason,
        request_id=request_id or f"cli-{uuid.uuid4()}",
    )
    _ask("/v1/ledger/limits", asked, account, (api_url, token, data_dir), as_json=as_json)


@app.command()
def paid(
    account: _Account,
    minor: _MinorUnits,
    currency: _CurrencyCode,
    *,
    in_advance: Annotated[
        bool, typer.Option("--in-advance", help="It is more than they owe, and that is meant.")
    ] = False,
    actor: Actor = None,
    request_id: _Repeatable = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write down that a customer paid what they owe on account."""
    asked = message(
        AccountPayment,
        account=account,
        amount_minor=minor,
        currency=currency,
        in_advance=in_advance,
        actor=acting_as(actor),
        request_id=request_id or f"cli-{uuid.uuid4()}",
    )
    _ask("/v1/ledger/payments", asked, account, (api_url, token, data_dir), as_json=as_json)


@app.command()
def issue(
    kind: Annotated[ValueKind, typer.Argument(help="What it is put on.")],
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="What the customer pays with; 8 characters or more.")
    ],
    minor: _MinorUnits,
    currency: _CurrencyCode,
    *,
    actor: Actor = None,
    request_id: _Repeatable = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Put value on a gift card that was sold, or on a customer's store credit."""
    asked = message(
        ValueIssue,
        kind=kind.value,
        code=code,
        amount_minor=minor,
        currency=currency,
        actor=acting_as(actor),
        request_id=request_id or f"cli-{uuid.uuid4()}",
    )
    _ask(
        "/v1/ledger/issues", asked, kind.value.replace("_", " "), (api_url, token, data_dir), as_json=as_json
    )


@app.command()
def payout(
    minor: _MinorUnits,
    currency: _CurrencyCode,
    *,
    reason: _Why = None,
    actor: Actor = None,
    request_id: _Repeatable = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write down that the payment provider paid out some of what it took for us."""
    asked = _settlement("payout", (minor, currency), reason, actor, request_id)
    _settle(asked, (api_url, token, data_dir), as_json=as_json)


@app.command()
def fee(
    minor: _MinorUnits,
    currency: _CurrencyCode,
    *,
    reason: _Why = None,
    actor: Actor = None,
    request_id: _Repeatable = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write down what the payment provider kept of it as its fee."""
    asked = _settlement("fee", (minor, currency), reason, actor, request_id)
    _settle(asked, (api_url, token, data_dir), as_json=as_json)


def _settlement(
    kind: str, amount: tuple[int, str], reason: str | None, actor: str | None, request_id: str | None
) -> ProviderSettlement:
    return message(
        ProviderSettlement,
        kind=kind,
        amount_minor=amount[0],
        currency=amount[1],
        actor=acting_as(actor),
        reason=reason,
        request_id=request_id or f"cli-{uuid.uuid4()}",
    )


def _settle(
    asked: ProviderSettlement, where: tuple[str | None, str | None, Path | None], *, as_json: bool
) -> None:
    with open_api(*where) as api:
        answer = api.post("/v1/ledger/settlements", asked, ProviderLeft)
    if as_json:
        print_json(answer)
    else:
        console().print(Text(plain(f"{answer.left} is with the provider (written as {answer.transaction})")))


@app.command()
def reverse(
    transaction: Annotated[
        str,
        typer.Argument(
            metavar="TRANSACTION",
            help="As it was named when it was written: payment:…, issue:…, payout:…, fee:….",
        ),
    ],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the books.")],
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take a payment, an issue, a payout or a fee back, once, by a transaction that names it."""
    asked = message(Reversal, transaction=transaction, actor=acting_as(actor), reason=reason)
    with open_api(api_url, token, data_dir) as api:
        answer = api.post("/v1/ledger/reversals", asked, TransactionView)
    if as_json:
        print_json(answer)
    else:
        console().print(_entries([answer]))


def _ask(
    path: str,
    asked: CreditLimit | AccountPayment | ValueIssue | TenderBlock,
    name: str,
    where: tuple[str | None, str | None, Path | None],
    *,
    as_json: bool,
) -> None:
    with open_api(*where) as api:
        answer = api.post(path, asked, TenderLeft)
    if as_json:
        print_json(answer)
    else:
        wrote = "" if answer.transaction is None else f" (written as {answer.transaction})"
        console().print(Text(plain(f"{name}: {answer.left} can be spent{wrote}")))


def _entries(transactions: Sequence[TransactionView]) -> Table:
    table = listing("date (UTC)", "what", "account", "debit", "credit", right=("debit", "credit"))
    for wrote in transactions:
        for number, entry in enumerate(wrote.entries):
            first = number == 0
            table.add_row(
                when(wrote.at) if first else "",
                Text(plain(_what(wrote))) if first else "",
                plain(entry.name),
                *_sides(entry.amount),
            )
    return table


def _what(wrote: TransactionView) -> str:
    said = _WHAT[wrote.kind] if wrote.reverses is None else f"{_WHAT[wrote.kind]}, taken back"
    if wrote.shipment_id is not None:
        said += f" [{wrote.shipment_id.rpartition(':')[2]}]"
    if wrote.cause is not None:
        said += f": {wrote.cause.replace('_', ' ')}"
    return said


def _print_balances(target: Console, accounts: Sequence[BalanceView]) -> None:
    table = listing(
        "account", "code", "debits", "credits", "balance", "", right=("debits", "credits", "balance")
    )
    for one in accounts:
        side = "debit" if one.balance.minor > 0 else "credit" if one.balance.minor < 0 else ""
        table.add_row(
            plain(one.name),
            one.account,
            str(one.debits),
            str(one.credits),
            str(_size(one.balance)),
            side,
        )
    for currency in dict.fromkeys(one.balance.currency for one in accounts):
        of_currency = [one for one in accounts if one.balance.currency == currency]
        table.add_row(
            Text(f"all of {currency}", style="bold"),
            "",
            str(Money.total((one.debits for one in of_currency), currency)),
            str(Money.total((one.credits for one in of_currency), currency)),
            str(Money.total((one.balance for one in of_currency), currency)),
            "",
        )
    target.print(table)


def _sides(amount: Money) -> tuple[str, str]:
    return (str(amount), "") if amount.minor > 0 else ("", str(-amount))


def _size(amount: Money) -> Money:
    return -amount if amount.minor < 0 else amount
