"""The one error hierarchy: each has a stable code, a sentence for a person, and says whether trying again helps."""

from typing import ClassVar

from models.base import Contract


class Problem(Contract):
    """One thing that is wrong with an input: where, a stable code, and what to do about it."""

    path: str
    code: str
    message: str


class OrderwrightError(Exception):
    """Base of all our errors. ``str(error)`` is meant to be read by a person."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidDocument(OrderwrightError):
    """The document breaks its contract; every problem is listed at once."""

    code = "invalid_document"
    http_status = 422

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"the document has {count}: "
            + "; ".join(f"{p.path or 'document'}: {p.message}" for p in problems)
        )


class DocumentTooLarge(OrderwrightError):
    """The document is over a size limit."""

    code = "document_too_large"
    http_status = 413


class Unauthorised(OrderwrightError):
    """No token, a wrong token, or a wrong signature."""

    code = "unauthorised"
    http_status = 401


class NotFound(OrderwrightError):
    """The thing asked for does not exist."""

    code = "not_found"
    http_status = 404


class NoNetwork(NotFound):
    """No fulfilment network is loaded, so that nothing can be sent from anywhere."""


class NeverAccepted(NotFound):
    """There is no such order, but a document was refused under its id: what was wrong stands on the timeline."""

    code = "never_accepted"


class Conflict(OrderwrightError):
    """The id is taken by something else, e.g. the same order number with other content."""

    code = "conflict"
    http_status = 409


class Refused(OrderwrightError):
    """A well-formed request that may not be done now: stale, too late, already decided."""

    code = "refused"
    http_status = 409


class NotAwaited(Refused):
    """A tender is offered for an order that does not wait for one, or not any more."""

    code = "not_awaited"


class PayLinkUnknown(NotFound):
    """The pay link was not made here, or not as a whole."""

    code = "pay_link_unknown"


class PayLinkUsed(Refused):
    """A means of payment was given since the pay link was made."""

    code = "pay_link_used"


class AmountChanged(Refused):
    """A pay link asks for another amount by now than its customer was shown."""

    code = "amount_changed"


class PayLinkExpired(OrderwrightError):
    """The time for paying by this link is over."""

    code = "pay_link_expired"
    http_status = 410


class AmendmentRefused(OrderwrightError):
    """An order cannot be amended like that any more: too late, or out of date. Each problem says what to do instead."""

    code = "amendment_refused"
    http_status = 409

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.path}: {p.message}" if p.path else p.message for p in problems))


class BeyondAuthorised(Refused):
    """More would be captured than was authorised and is still held."""

    code = "capture_above_authorised"


class RefundAboveCaptured(Refused):
    """More would be paid back than was captured."""

    code = "refund_above_captured"


class CurrencyMismatch(Refused):
    """An amount in another currency than the one it has to do with."""

    code = "currency_mismatch"


class PriceListsOverlap(Refused):
    """Somebody would have two price lists of one currency for the same moment."""

    code = "price_lists_overlap"


class NoPriceList(NotFound):
    """No price list holds for a customer at a moment."""

    code = "no_price_list"


class PriceNotListed(NotFound):
    """The price list has no price for a SKU, or not for so few units."""

    code = "price_not_listed"


class LedgerRefused(Refused):
    """A transaction that the books do not take: it does not add up, or is beyond what was authorised or captured."""

    code = "ledger_refused"


class NotReachable(OrderwrightError):
    """A part that is needed (API, Temporal, PostgreSQL) does not answer."""

    code = "not_reachable"
    http_status = 503
    retryable = True


class Outdated(OrderwrightError):
    """What was worked out was outdated before it could be stored; it is worked out again."""

    code = "outdated"
    http_status = 503
    retryable = True


class NeighbourRefused(OrderwrightError):
    """A neighbour (payment provider, warehouse, carrier, gateway) understood the request and said no for good."""

    code = "neighbour_refused"
    http_status = 502


class NeighbourUnavailable(OrderwrightError):
    """A neighbour failed or was too busy and did not act: trying again is safe."""

    code = "neighbour_unavailable"
    http_status = 502
    retryable = True

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OutcomeUnknown(OrderwrightError):
    """The request was sent and the answer was lost: look the effect up by its key before repeating it."""

    code = "outcome_unknown"
    http_status = 502
    retryable = True
