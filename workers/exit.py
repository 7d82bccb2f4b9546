"""The one way out of a process that used a Temporal client.

The SDK's native threads now and then outlive the interpreter they call into, and abort it while it
shuts down (``PyGILState_Release … must be current``, exit code 134 or 139). Ending the process right after
flushing leaves them no interpreter to call, and a caller's exit code means what it says.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def leave(code: int = 0) -> NoReturn:
    """Flush what was written and end the process with ``code``. Nothing after this runs: clean up before."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a reader that went away, or a stream already closed
            stream.flush()
    os._exit(code)


def run(main: Callable[[], object]) -> NoReturn:
    """Call ``main`` and leave with its exit code: an int it returns, or its ``SystemExit``'s."""
    try:
        result = main()
        code = result if isinstance(result, int) else 0
    except SystemExit as wanted:
        code = _exit_code(wanted)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def _exit_code(wanted: SystemExit) -> int:
    if wanted.code is None:
        return 0
    if isinstance(wanted.code, int):
        return wanted.code
    print(wanted.code, file=sys.stderr)  # noqa: T201 - what the interpreter itself does with a message
    return 1
