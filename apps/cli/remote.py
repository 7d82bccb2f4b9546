"""The HTTP API as the commands use it: where it is, the token, and its answers as our own types and errors."""

import getpass
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import quote

import httpx
import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from models.errors import (
    Conflict,
    DocumentTooLarge,
    InvalidDocument,
    NotFound,
    NotReachable,
    OrderwrightError,
    Problem,
    Refused,
    Unauthorised,
)
from models.journal import RESERVED_ACTORS
from workers.embedded.published import read_stack
from workers.settings import get_settings

ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url", envvar="ORDERWRIGHT_API_URL", help="The API; default: the stack that runs here."
    ),
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="ORDERWRIGHT_API_TOKEN", help="The API's token.", show_envvar=True),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Whose running stack to talk to, if no --api-url is given.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Actor = Annotated[
    str | None,
    typer.Option(
        "--actor", help="Who you are, for the record; default: your user name, if it is a person's."
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]

Answer = TypeVar("Answer")
Message = TypeVar("Message", bound=BaseModel)
Row = TypeVar("Row")


class Api:
    """A connection to one API. Errors come out as ``models.errors``; ``NotReachable`` when nobody answers."""

    def __init__(self, url: str, token: str, *, timeout: float = 20.0) -> None:
        self.url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise bad_input("--api-url or --token", f"cannot be used: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, gives: type[Answer], **query: str | int | bool | None) -> Answer:
        """The answer of ``path`` as ``gives``; None values are left out of the query."""
        asked = {name: value for name, value in query.items() if value is not None}
        return self._as(gives, self._send("GET", path, params=asked))

    def post(self, path: str, body: BaseModel, gives: type[Answer]) -> Answer:
        """Send ``body``; the answer as ``gives``."""
        content = body.model_dump_json(exclude_none=True).encode()
        return self._as(gives, self.post_bytes(path, content))

    def put(self, path: str, body: BaseModel, gives: type[Answer]) -> Answer:
        """Have ``body`` be what is at ``path``; the answer as ``gives``."""
        content = body.model_dump_json(exclude_none=True).encode()
        sent = {"Content-Type": "application/json"}
        return self._as(gives, self._send("PUT", path, content=content, headers=sent))

    def delete(self, path: str) -> None:
        """Have what is at ``path`` removed."""
        self._send("DELETE", path)

    def post_bytes(
        self, path: str, content: bytes, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send ``content`` as it is, said to be JSON."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        return self._send("POST", path, content=content, headers=sent)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **request)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise bad_input("--api-url or --token", f"cannot be used: {error}") from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise NotReachable(
                f"the API does not answer at {self.url} ({reason}). Is the stack running (orderwright up)?"
            ) from error
        if not response.is_success:
            raise error_of(response)
        return response

    def _as(self, gives: type[Answer], response: httpx.Response) -> Answer:
        try:
            return TypeAdapter(gives).validate_json(response.content)
        except ValidationError as error:
            raise NotReachable(
                f"what answers at {self.url} is not the API of this version ({error.error_count()} fields differ)"
            ) from error


def open_api(url: str | None, token: str | None, data_dir: Path | None, *, timeout: float = 20.0) -> Api:
    """The API by option or environment, else that of the live stack of the data directory.

    Raises ``NotReachable`` when there is none, ``InvalidDocument`` when no token is known for a given URL.
    """
    directory = (data_dir or get_settings().data_dir).expanduser().absolute()
    stack = read_stack(directory)
    if url is None and stack is not None:
        return Api(stack.api_url, token if token and data_dir is None else stack.api_token, timeout=timeout)
    if url is None:
        raise NotReachable(
            f"no stack is running on {directory}. Start one with orderwright up, name another with --data-dir,"
            " or name an API with --api-url (ORDERWRIGHT_API_URL)."
        )
    if not token and stack is not None and stack.api_url == url.rstrip("/"):
        token = stack.api_token
    if not token:
        raise bad_input("--token", f"is missing: the API at {url} asks for it; or set ORDERWRIGHT_API_TOKEN")
    return Api(url, token, timeout=timeout)


def paged(
    limit: int, page: Callable[[str | None, int], tuple[Sequence[Row], str | None]]
) -> tuple[list[Row], bool]:
    """Up to ``limit`` rows, and whether there are more; ``page(cursor, size)`` gives rows and the next cursor."""
    found: list[Row] = []
    cursor: str | None = None
    while len(found) < limit:
        rows, cursor = page(cursor, min(limit - len(found), 100))
        found += rows
        if cursor is None:
            break
    return found, cursor is not None


def error_of(response: httpx.Response) -> OrderwrightError:
    """Our own error for an error answer of the API (RFC 9457 problem details)."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or "code" not in body:
        return NotReachable(
            f"what answers at {response.url.copy_with(path='/')} is no Orderwright API (HTTP {response.status_code})"
        )
    code, detail = str(body["code"]), str(body.get("detail", ""))
    problems = _problems(body.get("problems"))
    if problems and response.status_code in (400, 422):
        return InvalidDocument(problems)
    kinds: dict[int, type[OrderwrightError]] = {
        401: Unauthorised,
        408: NotReachable,
        429: NotReachable,
        404: NotFound,
        413: DocumentTooLarge,
        502: NotReachable,
        503: NotReachable,
        504: NotReachable,
    }
    if response.status_code == 422:
        return InvalidDocument((Problem(path="", code=code, message=detail),))
    if response.status_code == 409:
        return Conflict(detail) if code == Conflict.code else Refused(detail)
    if response.status_code == 401:
        detail = f"the API at {response.url.copy_with(path='/')} does not accept the token: {detail}"
    return kinds.get(response.status_code, OrderwrightError)(detail or f"HTTP {response.status_code}")


def path_part(identifier: str) -> str:
    """An id as one part of a path, whatever a person typed; ``.`` and ``..`` would otherwise change the path."""
    if not identifier.strip() or identifier in (".", ".."):
        raise bad_input("ID", f"{identifier!r} is no id; an order's is CHANNEL:NUMBER, such as web:1001")
    return quote(identifier, safe=":")


# Whom our image runs as (Dockerfile).
SERVICE_USER = "service"
# Users of a system that tell nothing about who sits there. Not root: whoever logs in as root is at least no process of
# ours, and a machine of one's own has often nobody else.
_NOBODY = RESERVED_ACTORS | {SERVICE_USER, "nobody", ""}


def acting_as(actor: str | None) -> str:
    """Who acts: the given name, or the user of the operating system if that is somebody."""
    if actor is not None:
        if not actor.strip():
            raise bad_input("--actor", "is empty: say who you are")
        return actor.strip()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    if user.casefold() in _NOBODY:
        known = f"the user here, {user}, is nobody in particular" if user else "the user here has no name"
        raise bad_input("--actor", f"is missing: say who you are, for the record ({known})")
    return user


def needs_reason(reason: str) -> str:
    """A reason that says something."""
    if not reason.strip():
        raise bad_input("--reason", "is empty: say why, it goes on record")
    return reason.strip()


def message(
    contract: type[Message], options: Mapping[str, str] = MappingProxyType({}), /, **fields: object
) -> Message:
    """A message to the API from what a person typed. Raises ``InvalidDocument`` naming the options that do not fit.

    ``options``: by what option a field is given, where that is not its own name.
    """
    try:
        return contract.model_validate(fields)
    except ValidationError as error:
        raise InvalidDocument(
            tuple(
                Problem(
                    path=options.get(str(item["loc"][0]) if item["loc"] else "")
                    or "--" + ".".join(str(part) for part in item["loc"]).replace("_", "-"),
                    code=item["type"],
                    message=item["msg"][:1].lower() + item["msg"][1:],
                )
                for item in error.errors(include_url=False)
            )
        ) from None


def bad_input(where: str, message: str) -> InvalidDocument:
    """What a person typed cannot be used."""
    return InvalidDocument((Problem(path=where, code="bad_input", message=message),))


def _problems(value: Any) -> tuple[Problem, ...]:
    try:
        return TypeAdapter(tuple[Problem, ...]).validate_python(value or ())
    except ValidationError:
        return ()
