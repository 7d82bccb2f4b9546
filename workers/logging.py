"""The one logger: structlog, to stderr, with the standard library's loggers (SDK, uvicorn) folded in.

Bind what a line is about (``order_id``, ``workflow_id``, ``actor``) with ``structlog.contextvars`` or
``.bind``; never a name, an address or a card. Lines of the SDK are told what they are about here. An exception is
written with its type and its places; its words only where they are ours, for others may quote their input.
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import Any

import structlog

from models.errors import InvalidDocument, OrderwrightError
from models.identifiers import order_of_workflow

Line = MutableMapping[str, Any]
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure_logging(level: str = "INFO", *, json: bool = False) -> None:
    """Set up this process's logging once, at its entry point. ``level`` is a standard level name."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(json=json)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # One line per HTTP call or per RPC retry drowns the lines that somebody wrote on purpose.
    for noisy in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger bound to ``name``, usually ``__name__``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _in_our_names(_logger: object, _method: str, line: Line) -> Line:
    """Turn what the SDK and uvicorn attach to their lines into our own names."""
    line.pop("color_message", None)  # uvicorn says everything twice
    core = line.pop("temporal_log", None)
    about: dict[str, Any] = dict(getattr(core, "fields", None) or {})
    for attached in ("temporal_workflow", "temporal_activity"):
        about |= line.pop(attached, None) or {}
    for theirs, ours in _NAMES.items():
        if theirs in about:
            line.setdefault(ours, about[theirs])
    if order_id := order_of_workflow(str(line.get("workflow_id", ""))):
        line.setdefault("order_id", order_id)
    return line


_NAMES = {
    "workflow_id": "workflow_id",
    "run_id": "run_id",
    "workflow_type": "workflow_type",
    "activity_type": "step",
    "attempt": "attempt",
    "task_queue": "task_queue",
}


def _describe_exception(_logger: object, _method: str, line: Line) -> Line:
    """Replace ``exc_info`` by ``exception``: a list of the error and its causes, outermost first."""
    found = _exc_info(line.pop("exc_info", None))
    if found is not None:
        line["exception"] = [
            {"type": type(error).__name__, **_own_words(error), "at": _places(error)}
            for error in _causes(found[1])
        ]
    return line


def _render_exception(_logger: object, _method: str, line: Line) -> Line:
    """The same for a person."""
    if isinstance(line.get("exception"), list):
        line["exception"] = "\ncaused by ".join(
            "\n".join(
                [": ".join(filter(None, (told["type"], told.get("message")))), *map(_INDENT, told["at"])]
            )
            for told in line["exception"]
        )
    return line


_INDENT = "    at {}".format


def _exc_info(given: Any) -> _ExcInfo | None:
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
    if given is True:
        given = sys.exc_info()
    return given if isinstance(given, tuple) and given[1] is not None else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _own_words(error: BaseException) -> Mapping[str, str]:
    # The problems of a document quote it.
    if isinstance(error, OrderwrightError) and not isinstance(error, InvalidDocument):
        return {"message": error.message}
    return {}


def _places(error: BaseException) -> list[str]:
    # Not extract_tb: it reads the sources, and this may run within a workflow's sandbox.
    return [
        f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    _in_our_names,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    _describe_exception,
]


def _renderers(*, json: bool) -> list[Any]:
    if json:
        return [structlog.processors.JSONRenderer()]
    return [_render_exception, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
