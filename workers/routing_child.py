"""One process of the routing pool: problems come in and plans go out over one socket. See ``workers.routing_pool``.

Everything is JSON as it is stored, so what is decided here is decided of what a replay would read. A frame is a kind, a
length and that many bytes. The process ends when its parent does, however that ended: the socket is closed then.
"""

import faulthandler
import importlib
import os
import signal
import socket
import struct
import sys
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from policies.routing.router import Router

    class Routes(Router, Protocol):
        """A router that can be made ready."""

        def warm_up(self) -> None:
            """Load what the first problem would wait for."""
            ...


HEADER = struct.Struct("!cI")

PROBLEM, READY, PLAN, UNFILLABLE, FAILED = b"?", b"R", b"P", b"U", b"F"


def main(descriptor: int, router: str) -> None:
    """Route what comes over the socket ``descriptor`` by ``router`` (``module:Class``), until nobody is there."""
    # Who stops a worker stops all its processes with it, and what it has begun is to be finished: the parent decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Of a crash in a library the log then says where.
    faulthandler.enable()
    parent = socket.socket(fileno=descriptor)
    problems: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(parent, problems), name="parent", daemon=True).start()
    try:
        routes = _made_ready(router)
    except Exception as error:
        _send(parent, FAILED, _said(error))
        sys.exit(1)
    _send(parent, READY)
    while True:
        _send(parent, *_answer(routes, problems.get()))


def _receive(parent: socket.socket, problems: SimpleQueue[bytes]) -> None:
    try:
        with parent.makefile("rb") as stream:
            while header := stream.read(HEADER.size):
                _, length = HEADER.unpack(header)
                problems.put(stream.read(length))
    except (OSError, struct.error):
        pass  # ended in the middle of a frame
    finally:
        # On a thread of its own, and without asking anybody: the other one may be in the middle of a problem.
        os._exit(0)


def _made_ready(router: str) -> "Routes":
    module, _, name = router.partition(":")
    routes: Routes = getattr(importlib.import_module(module), name)()
    routes.warm_up()
    return routes


def _answer(routes: "Routes", sent: bytes) -> tuple[bytes, bytes]:
    # Imported by the router, too; not above, where the signals are not ours yet.
    from models.plan import Plan  # noqa: PLC0415
    from policies.routing.problem import RoutingProblem  # noqa: PLC0415

    try:
        answer = routes.route(RoutingProblem.model_validate_json(sent))
    except Exception as error:
        return FAILED, _said(error)
    return PLAN if isinstance(answer, Plan) else UNFILLABLE, answer.model_dump_json().encode()


def _said(error: Exception) -> bytes:
    return f"{type(error).__name__}: {error}".encode()


def _send(parent: socket.socket, kind: bytes, payload: bytes = b"") -> None:
    try:
        parent.sendall(HEADER.pack(kind, len(payload)) + payload)
    except OSError:
        os._exit(0)  # nobody is there any more


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
