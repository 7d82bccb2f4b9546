"""Who calls when a proxy stands in front: its ``X-Forwarded-For`` and ``X-Forwarded-Proto``, if it is believed."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workers.settings import Settings

Client = tuple[str, int]


class Proxies:
    """The proxies that the settings name: each by its address or network, or whoever connects."""

    def __init__(self, settings: Settings) -> None:
        self._everybody = settings.proxies == ("*",)
        self._named = () if self._everybody else tuple(map(ip_network, settings.proxies))

    def believe(self, client: Client | None) -> bool:
        """Whether the word of ``client`` counts, who has connected to us."""
        if self._everybody or client is None:
            return self._everybody
        address = _address(client[0])
        return address is not None and self._names(address)

    def caller(self, forwarded_for: str) -> Client | None:
        """The caller that a proxy speaks for, by its ``X-Forwarded-For``; None where it names no address.

        Every proxy appends who called it, so the list is read from its end: what stands further left than the first
        address that is no proxy's is the caller's own invention. Where everybody is believed, nothing tells proxies
        from callers, and the last entry counts.
        """
        found = None
        for entry in reversed(forwarded_for.split(",")):
            address = _address(entry.strip())
            if address is None:
                break
            found = (str(address), 0)
            if not self._names(address):
                break
        return found

    def _names(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._named)


class Forwarded:
    """An ASGI layer: the caller that a believed proxy names becomes the request's client, its scheme the request's."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as its proxy received it."""
        if scope["type"] == "http" and self._proxies.believe(scope.get("client")):
            headers = Headers(scope=scope)
            client = self._proxies.caller(",".join(headers.getlist("x-forwarded-for")))
            scheme = headers.get("x-forwarded-proto", "").strip()
            scope = {
                **scope,
                "client": client or scope.get("client"),
                "scheme": scheme if scheme in ("http", "https") else scope["scheme"],
            }
        await self._app(scope, receive, send)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: bare, or with a port (``192.0.2.1:4711``, ``[2001:db8::1]:4711``)."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
