"""How much one caller may ask: a budget that fills up again by itself (the generic cell rate algorithm).

One number per caller says all: when it will have nothing left to make good for. Budgets are kept by each API process on
its own, so that several of them allow several times as much; what must hold for all of them belongs into the proxy in
front.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

# A stranger with many addresses must not fill the memory; who has not been seen for longest starts afresh.
MAX_CALLERS = 10_000


class Standing(NamedTuple):
    """Where a caller stands: ``wait`` is the seconds until the next request is allowed, 0 for one that was."""

    wait: float
    remaining: int
    full_after: float


class Budget:
    """``burst`` requests at once, ``rate`` more each second. ``clock`` gives seconds that only ever grow."""

    def __init__(
        self, name: str, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._each = 1 / rate
        self._burst = burst
        self._clock = clock
        self._clear_at: OrderedDict[str, float] = OrderedDict()

    def take(self, caller: str) -> Standing:
        """Take one request off the budget of ``caller``, if there is one left."""
        now = self._clock()
        owed = max(self._clear_at.get(caller, now) - now, 0.0)
        limit = self._burst * self._each
        # A little more than the limit, as the sum of many small parts is never exact.
        if owed + self._each > limit * (1 + 1e-9):
            return Standing(owed + self._each - limit, 0, owed)
        owed += self._each
        self._clear_at[caller] = now + owed
        self._clear_at.move_to_end(caller)
        if len(self._clear_at) > MAX_CALLERS:
            self._clear_at.popitem(last=False)
        return Standing(0.0, int((limit - owed) / self._each + 1e-6), owed)

    def headers(self, standing: Standing) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-10: the policy, and where the caller stands."""
        window = max(math.ceil(self._burst * self._each), 1)
        return {
            "RateLimit-Policy": f'"{self._name}";q={self._burst};w={window}',
            "RateLimit": f'"{self._name}";r={standing.remaining};t={math.ceil(standing.full_after)}',
        }


def caller_of(client: tuple[str, int] | None) -> str:
    """Who calls, by address. A household has a whole /64 of IPv6 to itself, so that counts as one caller."""
    if client is None:
        return "local"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return client[0]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
    return str(address)
