"""What we ask of neighbours, and where each such operation stands."""

from enum import StrEnum


class OperationState(StrEnum):
    """Where an operation stands.

    INTENDED: it may or may not have happened. CONFIRMED: it did. DECLINED: the neighbour's answer was no.
    REFUSED: the neighbour took it for a wrong request. CALLED_OFF: undone, or never to be done.
    """

    INTENDED = "intended"
    CONFIRMED = "confirmed"
    DECLINED = "declined"
    REFUSED = "refused"
    CALLED_OFF = "called_off"


class PaymentKind(StrEnum):
    """Movements of money."""

    AUTHORISE = "authorise"
    VOID = "void"
    CAPTURE = "capture"
    REFUND = "refund"


class ShippingKind(StrEnum):
    """What is asked of warehouse and carrier."""

    PICK = "pick"
    CANCEL_PICK = "cancel_pick"
    LABEL = "label"
    VOID_LABEL = "void_label"
    INTERCEPT = "intercept"
