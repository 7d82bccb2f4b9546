"""Ports on the loopback address: the preferred one, or the next that nobody listens on."""

import http.client
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
_TRIES = 200


def free_port(preferred: int, taken: Collection[int] = ()) -> int:
    """The first free TCP port from ``preferred`` upwards that is not in ``taken``.

    ``taken`` names ports already promised to others that do not listen yet.

    Raises:
        OSError: none of the next 200 ports is free.
    """
    for port in range(preferred, min(preferred + _TRIES, 65536)):
        if port not in taken and is_free(port):
            return port
    raise OSError(f"none of the ports {preferred} to {preferred + _TRIES - 1} on {LOOPBACK} is free")


def any_port() -> int:
    """A port that the operating system says is free right now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback address now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether somebody listens on ``port`` of the loopback address."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def answers_ok(url: str) -> bool:
    """Whether a GET of a loopback ``url`` answers 200 within two seconds. No proxy of the environment is asked."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
