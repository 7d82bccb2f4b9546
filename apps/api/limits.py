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

from apps.api.problems import RateLimited
from workers.settings import Settings

# Where the state of a request holds what is to be called as soon as a token or a signature vouches for its sender.
VOUCHED = "vouched"
# And where it holds an event that is set when the server stops, so that what would go on for ever ends.
STOPPING = "stopping"

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


class Budgets(NamedTuple):
    """Every budget of one application. ``unverified``: what may cost us work before we know who asks for it."""

    callers: Budget
    strangers: Budget
    neighbours: Budget
    unverified: Budget

    @classmethod
    def of(cls, settings: Settings) -> "Budgets":
        """The budgets that the settings allow, all of them full."""
        return cls(
            callers=Budget("requests", settings.api_rate, settings.api_burst),
            strangers=Budget("strangers", settings.stranger_rate, settings.stranger_burst),
            neighbours=Budget("webhooks", settings.webhook_rate, settings.webhook_burst),
            unverified=Budget("unverified", settings.webhook_rate, settings.webhook_burst),
        )


class Account:
    """On whose account one request goes. ``fields`` are the header fields that tell of what was spent last.

    ``vouched`` is to be called as soon as a token or a signature shows that the caller is somebody we know.
    """

    def __init__(
        self,
        budgets: Budgets,
        client: tuple[str, int] | None,
        vouched: Callable[[], None] = lambda: None,
    ) -> None:
        self.budgets = budgets
        self.fields: dict[str, str] = {}
        self.vouched = vouched
        self._caller = caller_of(client)

    def spend(self, budget: Budget, what: str = "") -> None:
        """Take the request off the caller's budget, or its budget for ``what``. Raises ``RateLimited``."""
        standing = budget.take(f"{what} {self._caller}" if what else self._caller)
        self.fields.update(budget.headers(standing))
        if standing.wait:
            raise RateLimited(standing.wait)


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
