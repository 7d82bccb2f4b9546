"""A stand-in message gateway: takes messages over and keeps them instead of sending them to anybody."""

from http import HTTPStatus
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.routing import Route

from apps.simulators.ledger import Effect, wall_time
from apps.simulators.serving import Answer, Asked, Body, Desk, effect_route, look_up_route, new_id
from models.base import Document
from models.effects import Audience, Template

Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class MessageRequest(Document):
    """``POST /messages``: which message, to whom, with which facts. The words are the gateway's."""

    audience: Audience
    template: Template
    to: Text
    facts: dict[str, str] = Field(default_factory=dict)


def routes(desk: Desk) -> list[Route]:
    """The gateway's HTTP surface."""
    return [
        effect_route(desk, "/messages", MessageRequest, send),
        look_up_route(desk, "/messages", "message", _message_body),
    ]


def send(desk: Desk, asked: Asked[MessageRequest]) -> Answer:
    """Keep the message as sent. Its statement names the template; the address stays in the file."""
    body = asked.body
    message = desk.ledger.record(
        Effect(
            effect_id=new_id("msg"),
            kind="message",
            key=asked.key,
            reference=body.template,
            state="sent",
            at=wall_time(),
            details={"audience": body.audience, "to": body.to, "facts": body.facts},
        )
    )
    return Answer(HTTPStatus.CREATED, _message_body(message))


def _message_body(message: Effect) -> Body:
    return {
        "message_id": message.effect_id,
        "template": message.reference,
        "audience": (message.details or {})["audience"],
    }
