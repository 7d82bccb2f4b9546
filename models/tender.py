"""Another means of payment for an order whose payment was declined, and the link by which its customer offers it.

A pay link is an address that ends in a token: the order, how many tenders had been offered for it when the link was
made, when it ends, and a signature over these under a secret of ours::

    base64url("web:1001|0|1767225600") "." base64url(HMAC-SHA256(secret, "pay-link.v1." + what stands before the dot))

The signature is all the authority that its bearer has: to say how that one order is paid. It is made when the message
is sent and stands in no payload of the engine. The same order, number and moment give the same link, as long as the
secret stays.
"""

import base64
import binascii
import hashlib
import hmac
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from models.errors import PayLinkExpired, PayLinkUnknown

# Who offers what comes in by a pay link, for the record. Whoever holds the link is taken for the customer.
CUSTOMER = "customer"
MAX_PAY_TOKEN = 400

_CONTEXT = b"pay-link.v1."
_CONTENT = re.compile(
    r"([a-z][a-z0-9_-]{0,31}:[A-Za-z0-9][A-Za-z0-9._-]{0,63})\|(0|[1-9]\d{0,5})\|([1-9]\d{0,11})"
)


class TenderState(StrEnum):
    """OFFERED: stored, and the run may not know yet. TAKEN: it has been told. REFUSED: the run did not want it."""

    OFFERED = "offered"
    TAKEN = "taken"
    REFUSED = "refused"


class PayLink(NamedTuple):
    """What a link is good for: the tender after the first ``version`` ones of an order, ``until`` a moment."""

    order_id: str
    version: int
    until: datetime

    def token(self, secret: str) -> str:
        """The link's token under ``secret``: letters, digits, ``-``, ``_`` and one dot."""
        content = _encode(f"{self.order_id}|{self.version}|{int(self.until.timestamp())}".encode())
        return f"{content}.{_signature(secret, content)}"


def read_pay_token(secrets: tuple[str, ...], token: str, now: datetime) -> PayLink:
    """What ``token`` is good for, if one of ``secrets`` vouches for it.

    Raises ``PayLinkUnknown`` for what we have not signed, ``PayLinkExpired`` for what we have and is over.
    """
    content, _, signature = token.partition(".")
    # Every secret is tried, also after one has matched: how long it takes says nothing about which one, or how nearly.
    matches = [
        hmac.compare_digest(_signature(secret, content).encode(), signature.encode("utf-8", "replace"))
        for secret in secrets
    ]
    found = _CONTENT.fullmatch(_decode(content)) if any(matches) and len(token) <= MAX_PAY_TOKEN else None
    if found is None:
        raise PayLinkUnknown("there is no such pay link: take the address from the message as a whole")
    link = PayLink(found[1], int(found[2]), datetime.fromtimestamp(int(found[3]), UTC))
    if now >= link.until:
        raise PayLinkExpired(f"this pay link was good until {link.until:%Y-%m-%d %H:%M} UTC")
    return link


def _signature(secret: str, content: str) -> str:
    return _encode(
        hmac.new(secret.encode(), _CONTEXT + content.encode("utf-8", "replace"), hashlib.sha256).digest()
    )


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        return ""
