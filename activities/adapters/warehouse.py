"""The warehouse over HTTP."""

from typing import Annotated, Literal, Self

import httpx
from pydantic import AwareDatetime, Field, model_validator

from activities.adapters.http import HttpNeighbour, UndoneAnswer, Wire
from activities.ports import PickLine
from models.effects import PickRequested, Undone
from models.messages import MissingUnits, SaidRefusal, WmsEvent

# As many as a shipment may have lines.
_MOST_MISSING = 1_000
Id = Annotated[str, Field(min_length=1)]


class HttpWarehouse:
    """``activities.ports.Warehouse`` over HTTP. A refused pick (409) is an answer."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self._warehouse = HttpNeighbour("warehouse", base_url, client)

    async def request_pick(
        self,
        *,
        key: str,
        node: str,
        shipment_id: str,
        lines: tuple[PickLine, ...],
        business_now: AwareDatetime,
    ) -> PickRequested:
        """Ask ``node`` to pick; ``POST /picks``."""
        answer = await self._warehouse.act(
            "/picks",
            key=key,
            body={
                "node": node,
                "shipment_id": shipment_id,
                # A warehouse that knows no lots is told of none.
                "lines": [line.model_dump(mode="json", exclude_defaults=True) for line in lines],
                "business_now": business_now.isoformat(),
            },
            gives=_Pick,
            also_answers={409: _Refused},
        )
        return answer.meant()

    async def find_pick(self, *, key: str) -> PickRequested | None:
        """What was accepted or refused under ``key``."""
        answer = await self._warehouse.look_up("/picks", key=key, gives=_Pick)
        return None if answer is None else answer.meant()

    async def progress_of_pick(self, *, key: str) -> tuple[WmsEvent, ...]:
        """The ``events`` of ``GET /picks``."""
        answer = await self._warehouse.look_up("/picks", key=key, gives=_Progress)
        return () if answer is None else answer.events

    async def cancel_pick(self, *, key: str, pick_key: str) -> Undone:
        """Call a pick off, also one that never arrived; ``POST /picks/cancel``."""
        answer = await self._warehouse.act(
            "/picks/cancel", key=key, body={"pick_key": pick_key}, gives=UndoneAnswer
        )
        return answer.meant()


class _Pick(Wire):
    accepted: bool
    pick_id: Id | None
    reason: str
    refusal: SaidRefusal = None
    missing: tuple[MissingUnits, ...] = Field(default=(), max_length=_MOST_MISSING)

    @model_validator(mode="after")
    def _an_accepted_pick_has_an_id(self) -> Self:
        if self.accepted and self.pick_id is None:
            raise ValueError("accepted without a pick_id")
        return self

    def meant(self) -> PickRequested:
        return PickRequested(
            accepted=self.accepted,
            pick_id=self.pick_id,
            reason=self.reason,
            refusal=None if self.accepted else self.refusal,
            missing=() if self.accepted else self.missing,
        )


class _Progress(Wire):
    events: tuple[WmsEvent, ...]


class _Refused(_Pick):
    accepted: Literal[False]
