"""A subscriber as ``docs/integrate.md`` tells one to be: checks the signature, applies each event id once."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from models.outbox import OutboxEnvelope
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, verify

SECRET = "a-secret-between-two-of-the-tests-0123456789"


@dataclass
class Receiver:
    """What came, and what is answered: ``answers(envelope)`` gives a status, or 0 for hanging up without a word."""

    url: str = ""
    port: int = 0
    answers: Callable[[OutboxEnvelope], int] = lambda _: 204
    headers: dict[str, str] = field(default_factory=dict)
    # Every event id by key, in the order in which it came, however often.
    came: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    # Each event once, by key, as it was applied.
    applied: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    at: dict[str, float] = field(default_factory=dict)
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    most_of_one_key: int = 0
    most_at_once: int = 0
    _known: set[str] = field(default_factory=set)
    _now: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, headers: Any, body: bytes) -> int:
        try:
            verify((SECRET,), headers.get(SIGNATURE_HEADER), headers.get(TIMESTAMP_HEADER), body, time.time())
        except Exception as error:
            self.wrong.append(str(error))
            return 401
        envelope = OutboxEnvelope.model_validate_json(body)
        with self.lock:
            self.requests += 1
            self._now[envelope.key] += 1
            self.most_of_one_key = max(self.most_of_one_key, self._now[envelope.key])
            self.most_at_once = max(self.most_at_once, sum(self._now.values()))
            self.came[envelope.key] += [event.event_id for event in envelope.events]
        try:
            status = self.answers(envelope)
        finally:
            with self.lock:
                self._now[envelope.key] -= 1
        if 200 <= status < 300:
            with self.lock:
                for event in envelope.events:
                    if event.event_id not in self._known:
                        self._known.add(event.event_id)
                        self.applied[envelope.key].append(event.data)
                        self.at[event.event_id] = time.time()
        return status

    @property
    def count(self) -> int:
        return sum(len(events) for events in self.applied.values())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver that listens; at ``port`` if it is to be where it was before."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Header and body leave in one piece, or each answer waits for the last one's acknowledgement.
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status = receiver.take(self.headers, body)
            if not status:
                self.close_connection = True
                return
            answer = b"" if status == 204 else json.dumps({"status": status}).encode()
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", port), Handler)
    receiver.port = server.server_port
    receiver.url = f"http://127.0.0.1:{server.server_port}/events"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
