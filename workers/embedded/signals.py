"""Being asked to stop: Ctrl-C, SIGTERM and a closed terminal mean the same, and each ends in an orderly stop."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_handlers: list[Callable[[], None]] = []


def run_until_interrupted(main: Coroutine[object, object, int | None]) -> int:
    """Run ``main`` like ``asyncio.run`` and give its exit code; a stop signal cancels it and gives 0.

    ``main`` cleans up in ``finally`` as for any cancellation. Being asked to stop is not a failure.
    """

    async def interruptible() -> int:
        task = asyncio.ensure_future(main)
        asked = False

        def ask() -> None:
            nonlocal asked
            if not asked:
                asked = True
                task.cancel()

        with on_stop_signal(ask):
            try:
                return await task or 0
            except asyncio.CancelledError:
                if asked:
                    return 0
                raise

    return asyncio.run(interruptible())


@contextmanager
def on_stop_signal(react: Callable[[], None]) -> Iterator[None]:
    """While inside, a stop signal calls ``react`` on the running loop instead of the handler outside."""
    loop = asyncio.get_running_loop()
    _handlers.append(react)
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, react)
    try:
        yield
    finally:
        _handlers.pop()
        for number in _STOP_SIGNALS:
            if _handlers:
                loop.add_signal_handler(number, _handlers[-1])
            else:
                loop.remove_signal_handler(number)
