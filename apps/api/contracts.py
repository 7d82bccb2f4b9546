"""What the HTTP API takes and gives, where that is not already one of the contracts in ``models``."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from activities.store.reconciliation import RunView
from activities.store.subscribers import DeadLetter, SubscriberView
from models.allocation import AllocationPolicy
from models.amendment import AmendmentPreview, AmendmentRequest
from models.base import Contract, Document
from models.journal import RESERVED_ACTORS
from models.messages import Actor, AmendOutcome, CancelOutcome, Reason, RequestId
from models.money import MAX_MINOR, Currency, Money
from models.order import PositiveMinor, TenderKind
from models.outbox import Secret, SubscriberId, SubscriberUrl, Topic
from models.policy import PolicyDecision, PolicyProposal
from models.prices import AssigneeKind, AssigneeName, PriceListDocument
from models.promise import PromiseRequest
from models.reconciliation import Area
from models.rerouting import NoticeLift, NoticePost, SetPlan
from models.review import Verdict
from models.states import OrderState
from models.stock import (
    Adjustment,
    Count,
    Damage,
    Expected,
    Receipt,
    SafetyStock,
    ShortPick,
    Transfer,
    YesOrNo,
)
from models.webhooks import WebhookResult
from policies.strict_json import unstorable_text

SentRequestId = Annotated[RequestId, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]


def _storable(answer: dict[str, Any]) -> dict[str, Any]:
    """Raise ``ValueError`` for text that no database can store: the run would stop at writing it down."""
    for problem in unstorable_text(answer):
        raise ValueError(f"{problem.path} {problem.message}")
    return answer


def _a_person(actor: str) -> str:
    """Raise ``ValueError`` for the names that our own doings are recorded under: nobody could tell them apart."""
    if actor.strip().casefold() in RESERVED_ACTORS:
        raise ValueError("is a name of the machine's own in the record: say who of you acts")
    return actor


Person = Annotated[
    Actor,
    AfterValidator(_a_person),
    Field(
        description="who acts, for the record; `orderwright` and `temporal` stand there for what no person did",
        json_schema_extra={"not": {"enum": sorted(RESERVED_ACTORS)}},
    ),
]


class AllocationRequest(AllocationPolicy):
    """Who may be promised what, from now on. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class ReceiptRequest(Receipt):
    """Goods that arrived. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class ExpectedRequest(Expected):
    """Goods that a supplier will deliver. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class CountRequest(Count):
    """What somebody counted. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class AdjustmentRequest(Adjustment):
    """A correction of the books. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class DamageRequest(Damage):
    """Goods that are no good any more. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class TransferRequest(Transfer):
    """Goods that left one node for another. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class ShortPickRequest(ShortPick):
    """Goods that a picker did not find. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class SafetyStockRequest(SafetyStock):
    """Units that are kept back. With the same ``document_id`` a repeat changes nothing."""

    actor: Person


class PromiseAsked(PromiseRequest):
    """A cart. With the same ``request_id`` a repeat gives the same promise."""

    request_id: SentRequestId


class PolicyProposalRequest(PolicyProposal):
    """A policy that somebody else is to approve. With the same ``request_id`` a repeat changes nothing."""

    request_id: SentRequestId
    actor: Person


class PolicyDecisionRequest(PolicyDecision):
    """Somebody's word on a proposed policy; not its author's, where it is approved."""

    actor: Person


class NoticeRequest(NoticePost):
    """What nothing is to be planned with. With the same ``request_id`` a repeat changes nothing."""

    request_id: SentRequestId
    actor: Person


class NoticeLiftRequest(NoticeLift):
    """It is over before its time."""

    actor: Person


class SetPlanRequest(SetPlan):
    """Where an order is to come from. With the same ``request_id`` a repeat changes nothing."""

    request_id: SentRequestId
    actor: Person


STOCK_REQUESTS = (
    ExpectedRequest,
    ReceiptRequest,
    CountRequest,
    AdjustmentRequest,
    AllocationRequest,
    DamageRequest,
    TransferRequest,
    ShortPickRequest,
    SafetyStockRequest,
)


_AccountId = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]
_SomeMinor = Annotated[int, Field(strict=True, ge=1, le=MAX_MINOR)]


class CreditLimit(Document):
    """How much a customer may owe us, held and taken together, in minor units. `account` is the tender's token.

    With the same ``request_id`` a repeat changes nothing, even if the limit was changed again meanwhile.
    """

    account: _AccountId
    limit_minor: PositiveMinor
    currency: Currency
    actor: Person
    reason: Reason | None = None
    request_id: SentRequestId | None = None


class AccountPayment(Document):
    """What a customer paid of what they owe. With the same ``request_id`` a repeat changes nothing.

    More than they owe is refused, as a typing error, unless it is said to be ``in_advance``.
    """

    account: _AccountId
    amount_minor: _SomeMinor
    currency: Currency
    in_advance: YesOrNo = False
    actor: Person
    request_id: SentRequestId


class ValueIssue(Document):
    """Value for a gift card that was sold, or a store credit. With the same ``request_id`` a repeat changes nothing."""

    kind: Literal["gift_card", "store_credit"]
    code: Annotated[
        str, StringConstraints(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    amount_minor: _SomeMinor
    currency: Currency
    actor: Person
    request_id: SentRequestId


class ProviderSettlement(Document):
    """What the payment provider paid out, or kept as a fee. With the same ``request_id`` a repeat changes nothing."""

    kind: Literal["payout", "fee"]
    amount_minor: _SomeMinor
    currency: Currency
    actor: Person
    reason: Reason | None = None
    request_id: SentRequestId


class ProviderLeft(Contract):
    """What is with the payment provider now, and the ``transaction`` that was written."""

    left: Money
    transaction: str


class TenderBlock(Document):
    """Whether an account, a gift card or a store credit may be used: `token` is what orders name it by."""

    kind: Literal["on_account", "gift_card", "store_credit"]
    token: Annotated[
        str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    ]
    active: YesOrNo
    actor: Person
    reason: Reason | None = None


class Reversal(Document):
    """A payment or an issue that was not meant, or did not come: `transaction` is what its answer named."""

    transaction: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    actor: Person
    reason: Reason


class TenderLeft(Contract):
    """What can still be spent: neither used nor held for an order. Below zero where a limit was lowered.

    ``transaction``: what was written into the books, to be named should it have to be taken back.
    """

    left: Money
    transaction: str | None = None


class PriceListRequest(PriceListDocument):
    """A whole price list. Sent again as it is it changes nothing."""

    actor: Person
    reason: Reason | None = None


class PriceAssignmentRequest(Document):
    """Whom a price list is for: `assignee` is the customer's `customer_ref`, or the account that pays.

    It is left out for every business. With `withdrawn` the list is not for them any more. A repeat changes nothing.
    """

    kind: AssigneeKind
    assignee: AssigneeName | None = None
    withdrawn: YesOrNo = False
    actor: Person
    reason: Reason | None = None

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if (self.assignee is None) != (self.kind is AssigneeKind.EVERY_BUSINESS):
            raise PydanticCustomError(
                "assignee",
                "assignee must be given for a customer or an account, and for every_business left out",
            )
        return self


class OrderLinks(Contract):
    """Where to look and what to do next, as paths on this server."""

    self: str
    timeline: str
    cancel: str
    amendments: str


class OrderAccepted(Contract):
    """The order is stored and will run; ``workflow_id`` finds it in Temporal."""

    order_id: str
    workflow_id: str
    state: OrderState
    links: OrderLinks


class DecisionRequest(Document):
    """A person's answer to a review task. With the same ``request_id`` a repeat changes nothing."""

    verdict: Verdict
    actor: Person
    reason: Reason
    request_id: SentRequestId | None = None
    answer: Annotated[dict[str, Any], AfterValidator(_storable)] | None = Field(
        default=None, description="with `finish`: what was done by hand; the task's options show its form"
    )


class CancelRequest(Document):
    """A wish to call an order off. With the same ``request_id`` a repeat changes nothing."""

    actor: Person
    reason: Reason
    request_id: SentRequestId | None = None


class AmendRequest(AmendmentRequest):
    """What is to be different about an order. What is left out stays as it is.

    Name a line by `line_id`, or by `sku` where only one line has it; a `quantity` of 0 removes it, a SKU that the order
    has not adds a line and needs `unit_price_minor`. `service` is `carrier/service`, `promise_by` the latest delivery.
    `charges` replaces all charges; without it taxes and discounts follow the goods in proportion, and other charges
    stay. With `base_version`, the `document_version` that you saw, a change to another one is refused.
    """

    request_id: SentRequestId
    actor: Person


def _no_card_number(token: str) -> str:
    """Raise ``ValueError`` for what looks like a card's own number: it must not be kept here, not even for a moment."""
    digits = [int(sign) for sign in token if sign.isdigit()]
    if len(digits) < _SHORTEST_CARD_NUMBER or not set(token) <= set("0123456789-"):
        return token
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    if (sum(digits[::-2]) + sum(doubled)) % 10 == 0:
        raise ValueError(
            "looks like the number of a card: send the payment provider's token for it, never the number"
        )
    return token


_SHORTEST_CARD_NUMBER = 12
ProviderToken = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$"),
    AfterValidator(_no_card_number),
    Field(description="the payment provider's token of a means of payment; never a card number"),
]


class TenderRequest(Document):
    """Another means of payment for an order that waits for one: it takes over the part that was declined last.

    ``token`` is the payment provider's for a card; else the account's id, or the code of the gift card or store credit.
    With the same ``request_id`` a repeat changes nothing.
    """

    token: ProviderToken
    kind: TenderKind = TenderKind.CARD
    actor: Person
    request_id: SentRequestId | None = None


class PayRequest(Document):
    """What a customer gives in exchange for a pay link.

    ``amount``: what the customer was shown. Should another amount be asked for by then, nothing is taken.
    """

    token: ProviderToken
    amount: Money | None = None


class PaymentDue(Contract):
    """What a pay link asks for: ``order_number`` is the shop's own."""

    order_number: str
    amount: Money
    until: AwareDatetime


class TenderTaken(Contract):
    """The run has taken the tender, and tries it now. ``tender``: its number within the order."""

    status: Literal["taken"] = "taken"
    request_id: str
    tender: int
    message: str


class DecisionTaken(Contract):
    """The run has taken the decision."""

    status: Literal["decided"] = "decided"
    request_id: str
    task_id: str
    verdict: Verdict
    message: str


class CancelTaken(Contract):
    """The run has taken the cancellation; ``message`` says what happens to goods and money."""

    status: Literal["answered"] = "answered"
    request_id: str
    outcome: CancelOutcome
    message: str


class AmendmentTaken(Contract):
    """The run has taken the amendment. `applying`: it is under way; ask again with the same `request_id`."""

    status: Literal["answered"] = "answered"
    request_id: str
    amendment_id: str
    number: int
    outcome: AmendOutcome
    message: str
    preview: AmendmentPreview


class ReconciliationRequest(Document):
    """Start a run now. With the same ``request_id`` a repeat starts none."""

    area: Area
    everything: bool = Field(
        default=False,
        strict=True,
        description="compare all there ever was, not what moved since the day before the last run",
    )
    request_id: SentRequestId | None = None


class ReconciliationAsked(Contract):
    """A run is started; it is at ``/v1/reconciliation/runs/{run_id}`` as soon as a worker has begun it."""

    run_id: str
    area: Area


class RefreshValues(Document):
    """Work out now what stock is worth where it lies. With the same ``request_id`` a repeat starts no other run."""

    request_id: SentRequestId | None = None


class ValuesAsked(Contract):
    """A run is started; ``GET /v1/routing/values`` names it as soon as it is through."""

    run_id: str


class ReconciliationRuns(Contract):
    """The newest run of each area that has ended; areas without any are left out."""

    runs: tuple[RunView, ...]


class Queued(Contract):
    """Nobody could answer within five seconds; the message is durable and is read as soon as a worker is up."""

    status: Literal["queued"] = "queued"
    request_id: str


class WebhookTaken(Contract):
    """``late``: the run it concerns has ended or is unknown; the event is kept for reconciliation.

    ``repeated``: it was delivered before, and nothing happened this time.
    """

    status: WebhookResult
    repeated: bool = False


class NewSubscriber(Document):
    """Who is to be told, where, of what. A secret of your own, or one is made."""

    subscriber_id: SubscriberId
    name: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f]*$")] | None = None
    url: SubscriberUrl
    topics: Annotated[list[Topic], Field(min_length=1, max_length=20)]
    secret: Secret | None = Field(default=None, repr=False)


class SubscriberAdded(Contract):
    """The subscriber, and the secret that signs what it is sent: it is not shown again."""

    subscriber: SubscriberView
    secret: str = Field(repr=False)


class Subscribers(Contract):
    """Every subscriber, the oldest first."""

    subscribers: tuple[SubscriberView, ...]


class SecretRequest(Document):
    """A secret of your own; without one, one is made."""

    secret: Secret | None = Field(default=None, repr=False)


class NewSecret(Contract):
    """What signs from now on: it is not shown again."""

    subscriber_id: str
    secret: str = Field(repr=False)


# A whole number that the database can hold.
Position = Annotated[int, Field(ge=0, le=2**63 - 2)]


class ReplayRequest(Document):
    """From which position on everything is to be sent once more."""

    position: Position


class DeadLetters(Contract):
    """What a subscriber did not take, the oldest first."""

    dead_letters: tuple[DeadLetter, ...]


class RetryRequest(Document):
    """Which dead letter to try again; without a position all of them."""

    position: Position | None = None


class Retried(Contract):
    """How many dead letters are tried again."""

    retried: int


class DropRequest(Document):
    """Who decides that an event is not sent, and why."""

    actor: Person
    reason: Reason


class Health(Contract):
    """The process is up."""

    status: Literal["ok"] = "ok"


class ReadinessStatus(StrEnum):
    """How much an API process can do. DEGRADED: it takes orders in, and what needs Temporal has to wait."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


class Readiness(Contract):
    """Whether requests may be sent here, and which part of it does not answer.

    `degraded`: Temporal is away. Orders and payment webhooks are accepted, and everything can be looked at; what needs
    a run is answered with `503`.
    """

    ready: bool
    status: ReadinessStatus = ReadinessStatus.OK
    parts: dict[str, str] = Field(
        description="database and temporal: `ok`, or a sentence that says what is wrong"
    )
