"""Running a command as a user would, and a small HTTP server that answers as the API does."""

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from apps.cli import __main__ as command_line

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Outcome:
    """What a user gets from a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs ``orderwright ARGUMENTS`` in this process, on a data directory without a stack."""
    for variable in ("ORDERWRIGHT_API_URL", "ORDERWRIGHT_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(REPOSITORY)

    def orderwright(*arguments: str | Path, stack: bool = False) -> Outcome:
        given = [str(argument) for argument in arguments]
        if not stack:
            given += ["--data-dir", str(tmp_path / "no-stack-here")]
        monkeypatch.setattr(sys, "argv", ["orderwright", *given])
        try:
            code = command_line._run()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err
        return Outcome(code, said.out, said.err)

    return orderwright


@dataclass
class Answers:
    """A server that gives ``(status, body)`` by "METHOD /path", and keeps what it was asked."""

    url: str = ""
    given: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)


@pytest.fixture
def answers() -> Iterator[Answers]:
    """A real HTTP server with prepared answers: what the network and another version may send, ours never would."""
    prepared = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def do_PUT(self) -> None:
            self._answer("PUT")

        def do_DELETE(self) -> None:
            self._answer("DELETE")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            prepared.asked.append((f"{method} {self.path}", self.headers.get("Authorization", ""), body))
            known = prepared.given.get(f"{method} {self.path.partition('?')[0]}")
            status, content = known or (500, "")
            self.send_response(status)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    prepared.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield prepared
    server.shutdown()
    server.server_close()
