"""How one effect at a neighbour is done exactly once: intend, ask (or look up), confirm.

1. One transaction writes what the workflow carried and the intention, under the effect's idempotency key.
2. An effect that may have happened already is looked up by its key before it is asked for again.
3. One transaction writes the answer, and what follows from it in our own tables.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import operations
from activities.store.operations import Operation, Standing
from activities.store.record import record
from activities.store.store import Store
from models.base import Contract
from models.errors import NeighbourRefused, NeighbourUnavailable, OutcomeUnknown, Refused
from models.journal import Carried
from models.operations import OperationState

Out = TypeVar("Out", bound=Contract)


@dataclass(frozen=True)
class Meaning:
    """What an answer means for the operation. ``amount_minor``: where only the answer tells how much it was."""

    state: OperationState = OperationState.CONFIRMED
    provider_ref: str | None = None
    amount_minor: int | None = None


async def _nothing_follows(_session: AsyncSession, _answer: Contract) -> None:
    """Most answers change nothing else in our tables."""


@dataclass(frozen=True)
class Effect(Generic[Out]):
    """One effect.

    Attributes:
        operation: what is asked of the neighbour, under its idempotency key.
        carried: what the workflow wants written down with it.
        gives: the answer's type.
        ask: does it at the neighbour, under the operation's key.
        means: what an answer means for the operation.
        look_up: finds the answer under the key; None where asking again under the same key is the look-up.
        follows: what else the answer changes in our tables, in the same transaction; run once.
        undo: takes the effect back; needed where it can be called off while it is under way.
        by_hand: what a person did instead; the neighbour is then not asked, and this stands as its answer.
    """

    operation: Operation
    carried: Carried
    gives: type[Out]
    ask: Callable[[], Awaitable[Out]]
    means: Callable[[Out], Meaning]
    look_up: Callable[[], Awaitable[Out | None]] | None = None
    follows: Callable[[AsyncSession, Out], Awaitable[None]] = _nothing_follows
    undo: Callable[[Out], Awaitable[None]] | None = None
    by_hand: dict[str, Any] | None = None


async def carry_out(store: Store, effect: Effect[Out]) -> Out:
    """Do ``effect`` once, however often this is called, and answer as the neighbour did.

    Raises ``Refused`` when it was called off, or is said to be done by hand and may have been done under the key as
    well, and the port's errors: after ``OutcomeUnknown`` or ``NeighbourUnavailable`` it may be called again.
    """
    async with store.transaction() as session:
        await record(session, effect.operation.order_id, effect.carried)
        standing, before = await operations.intend(session, effect.operation)
    _refuse_if_called_off(standing)
    if standing.state in operations.ANSWERED:
        return effect.gives.model_validate(standing.answer)
    if effect.by_hand is not None:
        if before:
            await _refuse_what_was_done(effect)
        return await _confirm(store, effect, effect.gives.model_validate(effect.by_hand))
    answer = await _look_up(effect) if before else None
    if answer is None:
        answer = await _ask(store, effect)
    return await _confirm(store, effect, answer)


async def _refuse_what_was_done(effect: Effect[Out]) -> None:
    """An answer that was lost may have come back within reach: done by hand as well it would be done twice.

    A neighbour that refuses the look-up for good will never tell: then the word of the person counts, who has looked
    there. One that is away will tell later, and until then nobody knows.
    """
    found = None
    try:
        with suppress(NeighbourRefused):
            found = await _look_up(effect)
    except (NeighbourUnavailable, OutcomeUnknown) as away:
        raise Refused(
            "the neighbour cannot be asked just now whether it was done under our own key, and it may have been: "
            f"finish again once it answers ({away.message})"
        ) from away
    if found is not None:
        raise Refused(
            "the neighbour has done it under our own key: take back what was done by hand, then try again"
        )


async def _look_up(effect: Effect[Out]) -> Out | None:
    return None if effect.look_up is None else await effect.look_up()


async def _ask(store: Store, effect: Effect[Out]) -> Out:
    try:
        return await effect.ask()
    except OutcomeUnknown:
        found = await _look_up(effect)
        if found is None:
            raise
        return found
    except NeighbourRefused:
        # It may be refused because an earlier try, whose answer was lost, was taken.
        with suppress(NeighbourRefused, NeighbourUnavailable):
            if (found := await _look_up(effect)) is not None:
                return found
        async with store.transaction() as session:
            await operations.answer(session, effect.operation, state=OperationState.REFUSED, content=None)
        raise


async def _confirm(store: Store, effect: Effect[Out], answer: Out) -> Out:
    meaning = effect.means(answer)
    async with store.transaction() as session:
        standing, ours = await operations.answer(
            session,
            effect.operation,
            state=meaning.state,
            content=answer.model_dump(mode="json"),
            provider_ref=meaning.provider_ref,
            amount_minor=meaning.amount_minor,
        )
        if ours:
            await effect.follows(session, answer)
    if standing.state in operations.ANSWERED:
        return effect.gives.model_validate(standing.answer)
    if effect.undo is not None and meaning.state is OperationState.CONFIRMED:
        # Called off while the request was under way: what came of it is taken back at once.
        await effect.undo(answer)
    _refuse_if_called_off(standing)
    return answer


def _refuse_if_called_off(standing: Standing) -> None:
    if standing.state is OperationState.CALLED_OFF:
        raise Refused(f"operation {standing.key} was called off")
