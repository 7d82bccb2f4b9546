"""The message gateway over HTTP."""

from typing import Annotated

import httpx
from pydantic import Field

from activities.adapters.http import HttpNeighbour, Wire
from activities.ports import SentMessage
from models.effects import Audience, Template


class HttpMessageGateway:
    """``activities.ports.MessageGateway`` over HTTP."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self._gateway = HttpNeighbour("message gateway", base_url, client)

    async def send(
        self, *, key: str, audience: Audience, template: Template, to: str, facts: dict[str, str]
    ) -> SentMessage:
        """Hand one message over; ``POST /messages``."""
        answer = await self._gateway.act(
            "/messages",
            key=key,
            body={"audience": audience, "template": template, "to": to, "facts": facts},
            gives=_Sent,
        )
        return SentMessage(message_id=answer.message_id)


class _Sent(Wire):
    message_id: Annotated[str, Field(min_length=1)]
