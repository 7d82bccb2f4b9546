"""Reading request bodies: as bytes, never more of them than allowed, and all that is wrong with them at once."""

import asyncio
from email.message import Message
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from apps.api.problems import InvalidRequest, TooSlow, UnsupportedMediaType, problems_of
from models.errors import DocumentTooLarge, InvalidDocument
from policies import strict_json

JSON = "application/json"

# A message to a run: an actor, a reason, an event. A hundred times what the longest honest one needs.
MAX_MESSAGE_BYTES = 64 * 1024

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, refused as soon as it is known to be longer than ``limit`` bytes or takes longer than ``seconds``.

    Raises ``DocumentTooLarge``: by the announced length at once, else while reading; ``TooSlow``;
    ``UnsupportedMediaType`` for a body that is said to be no JSON, or to be compressed.
    """
    _check_media_type(request)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {seconds:g} s: send it again") from None
    except ClientDisconnect:
        # Half a document must not be taken for a whole one; nobody is there to read the answer.
        return b""
    return bytes(body)


async def read_message(request: Request, contract: type[Body], seconds: float) -> Body:
    """A small JSON body as ``contract``. Raises as ``read_body`` and ``parse_message`` do."""
    return parse_message(await read_body(request, MAX_MESSAGE_BYTES, seconds), contract)


def parse_message(raw: bytes, contract: type[Body]) -> Body:
    """``raw`` JSON as ``contract``. Raises ``InvalidRequest`` with every problem."""
    try:
        # Only to refuse what the contract's own parser would let pass: a key twice, NaN, thousands of levels.
        strict_json.parse(raw)
    except InvalidDocument as not_acceptable:
        raise InvalidRequest(not_acceptable.problems) from None
    try:
        return contract.model_validate_json(raw)
    except ValidationError as invalid:
        raise InvalidRequest(problems_of(invalid)) from None


def body_of(contract: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of a body that a handler reads itself. ``examples`` are by name."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {"$ref": f"#/components/schemas/{contract.__name__}"},
                    "examples": {name: {"value": value} for name, value in examples.items()},
                }
            },
        }
    }


def _check_media_type(request: Request) -> None:
    """A body without a type is taken for JSON; one that says to be something else is not looked into."""
    sent = Message()
    sent["Content-Type"] = request.headers.get("content-type", JSON)
    if sent.get_content_type() != JSON or sent.get_content_charset("utf-8") != "utf-8":
        raise UnsupportedMediaType(f"send JSON in UTF-8, with Content-Type: {JSON}")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("send the body as it is, without Content-Encoding")


def _too_large(limit: int) -> DocumentTooLarge:
    return DocumentTooLarge(f"the body is larger than the {limit:,} bytes that are accepted here")
