"""``python -m apps.api``: serve the HTTP API until SIGTERM or Ctrl-C, then finish what is being answered."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from apps.api.application import create_app
from apps.api.serving import uvicorn_config
from models.errors import InvalidDocument
from workers import exit as process_exit
from workers.logging import configure_logging
from workers.settings import get_settings

SHUTDOWN_SECONDS = 10


def main() -> int:
    """Serve; returns the exit code: 0 after a clean stop, 2 when the settings do not allow to start."""
    try:
        settings = get_settings()
        configure_logging(settings.log_level, json=settings.log_json)
        app = create_app(settings)
    except InvalidDocument as unusable:
        for problem in unusable.problems:
            sys.stderr.write(f"orderwright api: {problem.path} {problem.message}\n")
        return 2
    server = _Server(uvicorn_config(app, settings, stop_within_seconds=SHUTDOWN_SECONDS))
    server.run()
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """uvicorn ends by raising the signal again that stopped it; a stop that was asked for is a success of ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop serving on SIGTERM and Ctrl-C; a second Ctrl-C waits for no one."""
        for wanted in (signal.SIGTERM, signal.SIGINT):
            signal.signal(wanted, self.handle_exit)
        yield


if __name__ == "__main__":
    process_exit.run(main)
