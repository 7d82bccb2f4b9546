"""A stand-in message gateway: takes messages over and keeps them instead of sending them to anybody.

Where a fault script says so it also plays the customer who is asked for another means of payment: after some hours of
business time a token that the simulated provider approves is posted to the link in the message.
"""

import json
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints
from starlette.routing import Route

from apps.simulators.chance import between, fraction
from apps.simulators.ledger import Effect, wall_time
from apps.simulators.serving import Answer, Asked, Body, Desk, effect_route, look_up_route, new_id
from models.base import Document
from models.effects import Audience, Template

# From seeing the message to having another card at hand.
PAYS_AT_THE_EARLIEST = timedelta(hours=1)
PAYS_AT_THE_LATEST = timedelta(hours=30)

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
    _answer_as_the_customer(desk, asked, message)
    return Answer(HTTPStatus.CREATED, _message_body(message))


def _answer_as_the_customer(desk: Desk, asked: Asked[MessageRequest], message: Effect) -> None:
    link = asked.body.facts.get("pay_link", "")
    # A shop's own page is for people: only what is our API's can be posted to.
    if asked.body.template is not Template.PAYMENT_DECLINED or "/v1/pay/" not in urlsplit(link).path:
        return
    if desk.faults.customer_pays(asked.key):
        drawn = fraction(desk.settings.seed, asked.key, "until the customer pays")
        desk.courier.plan_post(
            f"{message.effect_id}:pays",
            url=link,
            body=json.dumps({"token": f"tok_another_{message.effect_id}"}),
            after=between(PAYS_AT_THE_EARLIEST, PAYS_AT_THE_LATEST, drawn),
        )


def _message_body(message: Effect) -> Body:
    return {
        "message_id": message.effect_id,
        "template": message.reference,
        "audience": (message.details or {})["audience"],
    }
