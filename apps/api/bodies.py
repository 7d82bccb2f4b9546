"""Reading request bodies: as bytes, never more of them than allowed, and all that is wrong with them at once."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from apps.api.problems import InvalidRequest, problems_of
from models.errors import DocumentTooLarge

# A message to a run: an actor, a reason, an event. A hundred times what the longest honest one needs.
MAX_MESSAGE_BYTES = 64 * 1024

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be longer than ``limit`` bytes.

    Raises ``DocumentTooLarge``: by the announced length at once, else while reading.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        # Half a document must not be taken for a whole one; nobody is there to read the answer.
        return b""
    return bytes(body)


async def read_message(request: Request, contract: type[Body]) -> Body:
    """A small JSON body as ``contract``. Raises ``DocumentTooLarge`` or ``InvalidRequest``."""
    return parse_message(await read_body(request, MAX_MESSAGE_BYTES), contract)


def parse_message(raw: bytes, contract: type[Body]) -> Body:
    """``raw`` JSON as ``contract``. Raises ``InvalidRequest`` with every problem."""
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
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{contract.__name__}"},
                    "examples": {name: {"value": value} for name, value in examples.items()},
                }
            },
        }
    }


def _too_large(limit: int) -> DocumentTooLarge:
    return DocumentTooLarge(f"the body is larger than the {limit:,} bytes that are accepted here")
