"""Ports on the loopback address: the preferred one, or the next that nobody listens on."""

import http.client
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from models.errors import Refused

LOOPBACK = "127.0.0.1"
_TRIES = 200
_PORTS = 65536


class NoFreePort(Refused):
    """No port of the range that was asked for can be listened on."""

    code = "no_free_port"


def free_port(preferred: int, taken: Collection[int] = ()) -> int:
    """The first free TCP port from ``preferred`` upwards that is not in ``taken``.

    ``taken`` names ports already promised to others that do not listen yet.

    Raises:
        NoFreePort: none of the next 200 ports can be had by this user.
    """
    candidates = range(preferred, min(preferred + _TRIES, _PORTS))
    for port in candidates:
        if port not in taken and is_free(port):
            return port
    raise NoFreePort(
        f"no port from {candidates[0]} to {candidates[-1]} on {LOOPBACK} is free for this user (those below 1024 are"
        " root's on most machines): choose another range, the API's with --port, e.g. --port 8080"
    )


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


def answers_ok(url: str, saying: bytes = b"") -> bool:
    """Whether a GET of a loopback ``url`` answers 200 within two seconds, ``saying`` what it should.

    No proxy of the environment is asked.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        return answer.status == http.client.OK and saying in answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
