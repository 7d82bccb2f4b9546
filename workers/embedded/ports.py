"""Ports on the loopback address: the preferred one, or the next that is neither listened on nor promised."""

import http.client
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from models.errors import Refused

LOOPBACK = "127.0.0.1"
_TRIES = 200
_PORTS = 65536


class NoFreePort(Refused):
    """No port of the range that was asked for can be listened on."""

    code = "no_free_port"


@dataclass(frozen=True)
class HeldPort:
    """A TCP port promised to a child that does not listen yet, or is just being started again.

    Between the choice of a port and the moment its child listens lie seconds, in which another stack may look for ports
    too. So whoever promises a TCP port holds the UDP port of the same number: nobody else gets that, whatever their
    user, nothing is sent to it, and it is free again when the holder is gone, however it went.
    """

    port: int
    _promise: socket.socket

    def release(self) -> None:
        """Let others have the port once nobody listens on it. May be called again."""
        self._promise.close()


def hold_port(preferred: int) -> HeldPort:
    """The first TCP port from ``preferred`` upwards on which nobody listens and which no other stack has promised.

    Raises:
        NoFreePort: none of the next 200 ports can be had by this user.
    """
    candidates = range(preferred, min(preferred + _TRIES, _PORTS))
    for port in candidates:
        promise = _promise(port)
        if promise is None:
            continue
        if is_free(port):
            return HeldPort(port, promise)
        promise.close()
    raise NoFreePort(
        f"no port from {candidates[0]} to {candidates[-1]} on {LOOPBACK} is free for this user (those below 1024 are"
        " root's on most machines): choose another range, the API's with --port, e.g. --port 8080"
    )


def _promise(port: int) -> socket.socket | None:
    promise = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        promise.bind((LOOPBACK, port))
    except OSError:
        promise.close()
        return None
    return promise


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
