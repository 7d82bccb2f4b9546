"""Amounts as people write them: in the currency's major unit, never through a float."""

import re

from models.money import CURRENCY_EXPONENT


def minor_units(written: str, currency: str) -> int | None:
    """``12.75`` in GBP as 1275; None for what is no amount of this currency, or has more digits than it."""
    exponent = CURRENCY_EXPONENT[currency]
    found = re.fullmatch(rf"(\d{{1,12}})(?:\.(\d{{1,{exponent or 1}}}))?", written.strip(), re.ASCII)
    if found is None or (found[2] and not exponent):
        return None
    # The fraction filled up to all its digits: the number of minor units, as it is written.
    return int(found[1] + (found[2] or "").ljust(exponent, "0"))
