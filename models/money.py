"""Money as integer minor units with a currency. There is no other money type and no float anywhere near one."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field
from typing_extensions import TypeAliasType

from models.base import Contract

# ISO 4217 active codes by number of decimal places (list of 2024; funds and precious metals left out).
_EXPONENTS: dict[int, str] = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
        "CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF "
        "IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR "
        "MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD "
        "SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD YER ZAR "
        "ZMW ZWG"
    ),
}
CURRENCY_EXPONENT: dict[str, int] = {
    code: exponent for exponent, codes in _EXPONENTS.items() for code in codes.split()
}

# Beyond this an amount is a typing error, not a purchase: ten billion in a two-decimal currency.
MAX_MINOR = 10**12


def _known_currency(code: str) -> str:
    if code not in CURRENCY_EXPONENT:
        raise ValueError(f"unknown currency {code!r}: use an ISO 4217 code such as GBP, EUR or USD")
    return code


# A type of its own name, so that every schema with an amount in it refers to one list.
Currency = TypeAliasType(
    "Currency",
    Annotated[
        str,
        AfterValidator(_known_currency),
        Field(description="ISO 4217 code", json_schema_extra={"enum": sorted(CURRENCY_EXPONENT)}),
    ],
)


class Money(Contract):
    """An amount in the currency's minor unit, e.g. ``Money(minor=1299, currency="GBP")`` is £12.99.

    Arithmetic across currencies raises ``ValueError``: converting is a business decision, never an accident.
    """

    minor: int = Field(ge=-(10**15), le=10**15)
    currency: Currency

    @classmethod
    def zero(cls, currency: str) -> Self:
        """Nothing, in the given currency."""
        return cls(minor=0, currency=currency)

    @classmethod
    def total(cls, amounts: Iterable["Money"], currency: str) -> "Money":
        """The sum of ``amounts``, zero of ``currency`` when there are none."""
        result = Money.zero(currency)
        for amount in amounts:
            result = result + amount
        return result

    def __add__(self, other: "Money") -> "Money":
        self._same_currency(other)
        return Money(minor=self.minor + other.minor, currency=self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._same_currency(other)
        return Money(minor=self.minor - other.minor, currency=self.currency)

    def __neg__(self) -> "Money":
        return Money(minor=-self.minor, currency=self.currency)

    def __mul__(self, quantity: int) -> "Money":
        return Money(minor=self.minor * quantity, currency=self.currency)

    def __lt__(self, other: "Money") -> bool:
        self._same_currency(other)
        return self.minor < other.minor

    def __le__(self, other: "Money") -> bool:
        self._same_currency(other)
        return self.minor <= other.minor

    def __str__(self) -> str:
        exponent = CURRENCY_EXPONENT[self.currency]
        sign = "-" if self.minor < 0 else ""
        units, fraction = divmod(abs(self.minor), 10**exponent)
        return f"{sign}{units:,}{f'.{fraction:0{exponent}d}' if exponent else ''} {self.currency}"

    def allocate(self, weights: Sequence[int]) -> tuple["Money", ...]:
        """Split into ``len(weights)`` parts proportional to non-negative integer ``weights``; the parts add up exactly.

        Largest remainder (Hare-Niemeyer); ties go to the earlier part, so the same input gives the same split.
        All-zero weights put everything on the first part. Raises ``ValueError`` for no or negative weights.
        """
        if not weights or min(weights) < 0:
            raise ValueError("allocate needs at least one weight and none below zero")
        whole = sum(weights)
        if whole == 0:
            return (self, *(Money.zero(self.currency) for _ in weights[1:]))
        sign = -1 if self.minor < 0 else 1
        shares = [divmod(abs(self.minor) * weight, whole) for weight in weights]
        left = abs(self.minor) - sum(units for units, _ in shares)
        extra = set(sorted(range(len(weights)), key=lambda i: (-shares[i][1], i))[:left])
        return tuple(
            Money(minor=sign * (units + (i in extra)), currency=self.currency)
            for i, (units, _) in enumerate(shares)
        )

    def _same_currency(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise ValueError(f"cannot combine {self.currency} with {other.currency}")
