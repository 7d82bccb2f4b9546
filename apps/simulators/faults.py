"""Misbehaviour on purpose: which request, webhook or decision goes wrong, how, and how often.

A script is a list of faults, kept beside the simulators' state. Each simulator looks for a new one at every request, so
faults can be switched on and off while orders run. Whom a fault strikes is drawn from the script's seed and the
idempotency key: the same script does the same harm to the same orders every time. As TOML::

    seed = 7

    [[fault]]
    at = "payment"                      # payment, warehouse, carrier or messages; default: all of them
    endpoint = "POST /authorisations"   # or a webhook's name, "carrier_event delivered"; default: every one
    order = "web:10*"                   # default: every order; * stands for anything
    do = "time_out_after"               # see FaultKind
    share = 0.1                         # of the keys; default: all of them
    times = 2                           # so often under one key, then it behaves; 0: always; default: 1

Above the first fault ``customers_pay = 0.7`` says which share of customers answer a declined payment with another card.

A decision of the business (a decline, a refused pick, a parcel's fate) counts for all attempts at it together.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from apps.simulators.chance import fraction
from models.base import Document
from models.errors import InvalidDocument, Problem
from models.messages import CarrierEventKind, PaymentEventKind, WmsEventKind

FILE_NAME = "faults.json"

Simulator = Literal["payment", "warehouse", "carrier", "messages"]


class FaultKind(StrEnum):
    """What goes wrong. BEFORE: nothing was done. AFTER: it was done, and the answer is lost."""

    LATENCY = "latency"
    STATUS = "status"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    TIME_OUT_BEFORE = "time_out_before"
    TIME_OUT_AFTER = "time_out_after"

    WEBHOOK_TWICE = "webhook_twice"
    WEBHOOK_LOST = "webhook_lost"
    WEBHOOK_LATE = "webhook_late"

    DECLINE_SOFT = "decline_soft"
    DECLINE_HARD = "decline_hard"
    REFUSE_PICK = "refuse_pick"
    SHORT_PICK = "short_pick"
    REFUSE_LABEL = "refuse_label"
    LATE_PARCEL = "late_parcel"
    LOST_PARCEL = "lost_parcel"
    DAMAGED_PARCEL = "damaged_parcel"
    FAILED_DELIVERY = "failed_delivery"


# Slow and wrong can come together; of the rest one request meets one.
BROKEN_EXCHANGES = frozenset(
    {
        FaultKind.STATUS,
        FaultKind.RESET_BEFORE,
        FaultKind.RESET_AFTER,
        FaultKind.TIME_OUT_BEFORE,
        FaultKind.TIME_OUT_AFTER,
    }
)
WEBHOOKS = frozenset({FaultKind.WEBHOOK_TWICE, FaultKind.WEBHOOK_LOST, FaultKind.WEBHOOK_LATE})
DECLINES = frozenset({FaultKind.DECLINE_SOFT, FaultKind.DECLINE_HARD})
PICKS = frozenset({FaultKind.REFUSE_PICK, FaultKind.SHORT_PICK})
LABELS = frozenset(
    {
        FaultKind.REFUSE_LABEL,
        FaultKind.LATE_PARCEL,
        FaultKind.LOST_PARCEL,
        FaultKind.DAMAGED_PARCEL,
        FaultKind.FAILED_DELIVERY,
    }
)
DECISIONS = DECLINES | PICKS | LABELS
# Of ``shipment:web:1:1:pick:2`` the last number; see ``models.identifiers.idempotency_key``.
_ATTEMPT = re.compile(r"(?<=[^:\d]):[1-9][0-9]*$")
# What a request can ask of each simulator, and what each one tells by itself.
ENDPOINTS: Mapping[Simulator, tuple[str, ...]] = MappingProxyType(
    {
        "payment": (
            "POST /authorisations",
            "GET /authorisations",
            "POST /authorisations/void",
            "POST /authorisations/{id}/void",
            "POST /authorisations/{id}/captures",
            "GET /captures",
            "POST /captures/{id}/refunds",
            "GET /refunds",
            "GET /statement/lines",
        ),
        "warehouse": ("POST /picks", "GET /picks", "POST /picks/cancel"),
        "carrier": (
            "POST /labels",
            "GET /labels",
            "POST /labels/void",
            "POST /labels/intercept",
            "GET /statement/lines",
        ),
        "messages": ("POST /messages", "GET /messages"),
    }
)
WEBHOOK_NAMES: Mapping[Simulator, tuple[str, ...]] = MappingProxyType(
    {
        "payment": tuple(f"payment_event {kind}" for kind in PaymentEventKind),
        "warehouse": tuple(f"wms_event {kind}" for kind in (WmsEventKind.PICKED, WmsEventKind.SHORT)),
        "carrier": tuple(f"carrier_event {kind}" for kind in CarrierEventKind),
        "messages": (),
    }
)
_DECIDED_AT = ((DECLINES, "POST /authorisations"), (PICKS, "POST /picks"), (LABELS, "POST /labels"))
_HOLDS_BACK: Mapping[FaultKind, float] = MappingProxyType(
    {
        FaultKind.LATENCY: 1.0,
        FaultKind.STATUS: 1.0,
        FaultKind.TIME_OUT_BEFORE: 60.0,
        FaultKind.TIME_OUT_AFTER: 60.0,
        FaultKind.WEBHOOK_LATE: 5.0,
    }
)


class Fault(Document):
    """One way of going wrong.

    ``seconds`` of wall time: the latency; the Retry-After of a ``status`` (0: none is named); how long an unanswered
    request is held at most; how much later a webhook comes.
    """

    do: FaultKind
    at: Simulator | Literal["*"] = "*"
    endpoint: Annotated[str, Field(min_length=1, max_length=100)] = "*"
    order: Annotated[str, Field(min_length=1, max_length=100)] = "*"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    times: Annotated[int, Field(ge=0, le=1000)] = 1
    status: Literal[408, 425, 429, 500, 502, 503, 504] = 503
    seconds: Annotated[float, Field(ge=0, le=600)] | None = None

    @model_validator(mode="after")
    def _can_happen(self) -> Self:
        for kinds, there in ((DECLINES, "payment"), (PICKS, "warehouse"), (LABELS, "carrier")):
            if self.do in kinds and self.at not in ("*", there):
                raise ValueError(f"{self.do} can only happen at {there!r}")
        if self.do in WEBHOOKS and self.at == "messages":
            raise ValueError("the message gateway sends no webhooks")
        if self.seconds is not None and self.do not in _HOLDS_BACK:
            raise ValueError(f"{self.do} takes no seconds")
        if not any(_fits(self.endpoint, place) for place in self._places()):
            raise ValueError(
                f"{self.do} can never strike at the endpoint {self.endpoint!r}; it can at: "
                + ", ".join(place.replace("{id}", "*") for place in self._places())
            )
        return self

    def _places(self) -> tuple[str, ...]:
        """Where a fault of this kind can strike: endpoints, or names of webhooks."""
        for kinds, place in _DECIDED_AT:
            if self.do in kinds:
                return (place,)
        where = WEBHOOK_NAMES if self.do in WEBHOOKS else ENDPOINTS
        return tuple(place for at, places in where.items() if self.at in ("*", at) for place in places)

    @property
    def wait(self) -> float:
        """``seconds``, or what is usual for this kind."""
        return _HOLDS_BACK.get(self.do, 0.0) if self.seconds is None else self.seconds


def _fits(pattern: str, place: str) -> bool:
    """Whether ``pattern`` can mean ``place``, which may stand for many: ``POST /captures/{id}/refunds``."""
    return fnmatchcase(place, pattern) or fnmatchcase(pattern, place.replace("{id}", "*"))


class FaultScript(Document):
    """Faults, tried in their order.

    ``customers_pay`` is no fault: the share of the messages that ask for another means of payment whose customer gives
    one, some hours later.
    """

    seed: int = 0
    customers_pay: Annotated[float, Field(ge=0, le=1)] = 0.0
    fault: tuple[Fault, ...] = Field(default=(), max_length=200)

    def digest(self) -> str:
        """What tells this script from another: what one has used up does not count for the next."""
        return sha256(self.model_dump_json().encode()).hexdigest()[:16]


OFF = FaultScript()

# Every kind of misfortune, each rare enough that most orders still arrive, all of them together hitting most orders.
HARSH = FaultScript(
    seed=1,
    customers_pay=0.7,
    fault=(
        Fault(do=FaultKind.LATENCY, share=0.1, seconds=0.5),
        Fault(do=FaultKind.STATUS, share=0.05, status=503, times=2),
        Fault(do=FaultKind.STATUS, share=0.03, status=429, times=2),
        Fault(do=FaultKind.STATUS, share=0.03, status=500, times=2),
        Fault(do=FaultKind.RESET_BEFORE, share=0.03),
        Fault(do=FaultKind.RESET_AFTER, share=0.04),
        Fault(do=FaultKind.TIME_OUT_BEFORE, share=0.01),
        Fault(do=FaultKind.TIME_OUT_AFTER, share=0.02),
        Fault(do=FaultKind.WEBHOOK_TWICE, share=0.1),
        Fault(do=FaultKind.WEBHOOK_LOST, share=0.04),
        Fault(do=FaultKind.WEBHOOK_LATE, share=0.05),
        Fault(do=FaultKind.DECLINE_SOFT, share=0.02),
        Fault(do=FaultKind.DECLINE_HARD, share=0.02),
        Fault(do=FaultKind.REFUSE_PICK, share=0.02),
        Fault(do=FaultKind.SHORT_PICK, share=0.02),
        Fault(do=FaultKind.REFUSE_LABEL, share=0.02),
        Fault(do=FaultKind.LATE_PARCEL, share=0.05),
        Fault(do=FaultKind.LOST_PARCEL, share=0.02),
        Fault(do=FaultKind.DAMAGED_PARCEL, share=0.02),
        Fault(do=FaultKind.FAILED_DELIVERY, share=0.05),
    ),
)
PRESETS: Mapping[str, FaultScript] = MappingProxyType({"harsh": HARSH, "off": OFF})


def read_script(file: Path) -> FaultScript:
    """The script in a TOML file. Raises ``InvalidDocument`` with every problem in it."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unusable(str(file), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _unusable(str(file), f"is not TOML: {error}") from error
    try:
        return FaultScript.model_validate(content)
    except ValidationError as error:
        raise InvalidDocument(
            tuple(
                Problem(path=".".join(map(str, item["loc"])), code=item["type"], message=item["msg"])
                for item in error.errors(include_url=False, include_input=False)
            )
        ) from None


def put_in_force(script: FaultScript, folder: Path) -> None:
    """Let the simulators that keep their state in ``folder`` follow ``script`` from their next request on."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{FILE_NAME}.part"
    part.write_text(script.model_dump_json(indent=1, exclude_defaults=True), encoding="utf-8")
    part.replace(folder / FILE_NAME)


def in_force(folder: Path) -> FaultScript:
    """The script that simulators on ``folder`` follow. Raises ``InvalidDocument`` when its file was damaged."""
    file = folder / FILE_NAME
    try:
        return FaultScript.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return OFF
    except ValidationError as error:
        raise _unusable(str(file), "is damaged: put a script in force anew") from error


# (script, number of the fault in it, key) -> how often it has struck there, this time included.
Count = Callable[[str, int, str], int]


class Faults:
    """The script in force at one simulator, and what of it strikes."""

    def __init__(self, simulator: Simulator, folder: Path, count: Count) -> None:
        self._simulator = simulator
        self._folder = folder
        self._count = count
        self._stamp: tuple[int, int] | None = None
        self._script = OFF
        self._digest = ""

    def strikes(self, kinds: Collection[FaultKind], endpoint: str, key: str) -> Fault | None:
        """The first fault of these ``kinds`` that strikes at ``endpoint`` under ``key``, if any; it is counted.

        A decision of the business is asked for anew under another key, the next number at its end: that is the same to
        a script, or a pick that is refused once would be refused for ever.
        """
        self._look_for_a_new_script()
        if not DECISIONS.isdisjoint(kinds):
            key = _ATTEMPT.sub("", key)
        for number, fault in enumerate(self._script.fault):
            if (
                fault.do in kinds
                and fault.at in ("*", self._simulator)
                and fnmatchcase(endpoint, fault.endpoint)
                and (fault.order == "*" or fnmatchcase(key, f"*:{fault.order}:*"))
                and fraction(self._script.seed, key, f"fault {number}") < fault.share
                and (fault.times == 0 or self._count(self._digest, number, key) <= fault.times)
            ):
                return fault
        return None

    def customer_pays(self, key: str) -> bool:
        """Whether the customer who is sent the message under ``key`` gives another means of payment."""
        self._look_for_a_new_script()
        return fraction(self._script.seed, key, "the customer pays") < self._script.customers_pay

    def _look_for_a_new_script(self) -> None:
        try:
            status = (self._folder / FILE_NAME).stat()
        except FileNotFoundError:
            self._stamp, self._script = None, OFF
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._script = in_force(self._folder)
            self._digest = self._script.digest()
            self._stamp = stamp


def _unusable(where: str, what: str) -> InvalidDocument:
    return InvalidDocument((Problem(path=where, code="unusable", message=what),))
