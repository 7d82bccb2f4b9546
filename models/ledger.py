"""The words of the books: what is written down, on which accounts, and on which side each usually stands.

An amount on an account is a debit when it is positive and a credit when it is negative; every transaction's entries add
up to zero in each currency. docs/money.md explains all of it with an example.
"""

from enum import StrEnum

from models.base import Contract


class TransactionKind(StrEnum):
    """What a transaction of the ledger stands for.

    LAPSE: what was still held is held no more, without anybody giving it back (it expired). REINSTATE: something was
    taken out of, or given back from, a hold that our books had thought gone. FEE, PAYOUT: what the provider kept and
    paid us. PAYMENT: a customer paid what they owed. ISSUE: value was put on a gift card or a customer's credit.
    """

    AUTHORISE = "authorise"
    CAPTURE = "capture"
    VOID = "void"
    LAPSE = "lapse"
    REINSTATE = "reinstate"
    REFUND = "refund"
    FEE = "fee"
    PAYOUT = "payout"
    PAYMENT = "payment"
    ISSUE = "issue"
    ADJUSTMENT = "adjustment"


class AccountKind(StrEnum):
    """What an account counts. MEMO: a promise, not yet money of ours or of anybody else's."""

    ASSET = "asset"
    LIABILITY = "liability"
    INCOME = "income"
    EXPENSE = "expense"
    MEMO = "memo"


class UsualSide(StrEnum):
    """On which side of an account its balance usually stands."""

    DEBIT = "debit"
    CREDIT = "credit"


class Account(Contract):
    """One account of the chart. ``tender``: it is moved for one means of payment of one order, and bounded by it."""

    code: str
    name: str
    kind: AccountKind
    side: UsualSide
    tender: bool = False


HELD = "held.authorised"
HELD_CONTRA = "held.contra"
CLEARING = "provider.clearing"
ON_ACCOUNT = "receivable.on_account"
GIFT_CARDS = "liability.gift_cards"
STORE_CREDIT = "liability.store_credit"
OTHER_REFUNDS = "refunds.other"
GOODWILL = "expense.goodwill"

_A, _L, _I, _E, _M = AccountKind
_DR, _CR = UsualSide

CHART: tuple[Account, ...] = (
    Account(code=HELD, name="Authorised and held", kind=_M, side=_DR, tender=True),
    Account(code=HELD_CONTRA, name="Authorised and held, other side", kind=_M, side=_CR),
    Account(code=CLEARING, name="With the payment provider", kind=_A, side=_DR, tender=True),
    Account(code=ON_ACCOUNT, name="Owed by customers on account", kind=_A, side=_DR, tender=True),
    Account(code="receivable.customers", name="Owed by customers otherwise", kind=_A, side=_DR),
    Account(code="bank", name="Bank", kind=_A, side=_DR),
    Account(code=GIFT_CARDS, name="Gift cards outstanding", kind=_L, side=_CR, tender=True),
    Account(code=STORE_CREDIT, name="Store credit outstanding", kind=_L, side=_CR, tender=True),
    Account(code="tax.payable", name="Tax collected, to be paid", kind=_L, side=_CR),
    Account(code="suspense", name="Not explained yet", kind=_L, side=_CR),
    Account(code="sales.goods", name="Goods sold", kind=_I, side=_CR),
    Account(code="sales.freight", name="Postage charged", kind=_I, side=_CR),
    Account(code="sales.fees", name="Fees charged", kind=_I, side=_CR),
    Account(code="sales.adjustments", name="Adjustments charged", kind=_I, side=_CR),
    Account(code="sales.discounts", name="Discounts given", kind=_I, side=_DR),
    Account(code="refunds.returned", name="Refunds: came back", kind=_I, side=_DR),
    Account(code="refunds.lost_parcel", name="Refunds: parcel lost or damaged", kind=_I, side=_DR),
    Account(code=OTHER_REFUNDS, name="Refunds: other causes", kind=_I, side=_DR),
    Account(code=GOODWILL, name="Goodwill", kind=_E, side=_DR),
    Account(code="expense.provider_fees", name="Fees of the payment provider", kind=_E, side=_DR),
)
NAMES: dict[str, str] = {account.code: account.name for account in CHART}
