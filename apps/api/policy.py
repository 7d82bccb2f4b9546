"""The policy over HTTP: what is in force, what was, and how another one comes to be."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Path, Request
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import policies, proposing
from apps.api import examples
from apps.api.bodies import body_of, parse_message, read_body, read_message
from apps.api.contracts import PolicyDecisionRequest, PolicyProposalRequest
from apps.api.parts import Parts, PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from models.policy import MAX_POLICY_BYTES, PolicyDecision, PolicyHistory, PolicyView

router = APIRouter(prefix="/v1/policy", tags=["policy"], dependencies=[Depends(only_known_parameters)])

_Version = Annotated[
    int, Path(ge=0, le=2**31 - 1, description="The version; 0 is what is built in", examples=[1])
]
_SHOWN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": examples.POLICY}}}
}


@router.get("", summary="Look at the policy in force", responses=answers(401, 503) | _SHOWN)
async def show_policy(parts: PartsOf) -> PolicyView:
    """The document that holds, and every rule that comes of it."""
    async with parts.store.transaction() as session:
        return await policies.view(session)


@router.get(
    "/versions",
    summary="List the versions of the policy",
    responses=answers(401, 503)
    | {200: {"content": {"application/json": {"example": examples.POLICY_HISTORY}}}},
)
async def list_policies(parts: PartsOf) -> PolicyHistory:
    """Every version that was ever proposed, by whom, why, and what became of it; the last first."""
    async with parts.store.transaction() as session:
        return await policies.history(session)


@router.get(
    "/versions/{version}",
    summary="Look at a version of the policy",
    responses=answers(401, 404, 422, 503) | _SHOWN,
)
async def show_policy_version(version: _Version, parts: PartsOf) -> PolicyView:
    """Any version, in force or not."""
    async with parts.store.transaction() as session:
        return await policies.view(session, version)


@router.post(
    "/versions",
    summary="Propose a policy",
    openapi_extra=body_of(PolicyProposalRequest, {"a sale": examples.POLICY_PROPOSAL}),
    responses=answers(401, 409, 413, 422, 503) | _SHOWN,
)
async def propose_policy(request: Request, parts: PartsOf) -> PolicyView:
    """A whole document; what it does not say is as built in. It holds once somebody else has approved it.

    It is refused as a whole with every problem that it has, and the policy in force stays.
    """
    raw = await read_body(request, MAX_POLICY_BYTES, parts.settings.api_body_seconds)
    proposal = parse_message(raw, PolicyProposalRequest)
    structlog.contextvars.bind_contextvars(actor=proposal.actor)
    async with parts.store.transaction() as session:
        return await proposing.propose(session, proposal)


@router.post(
    "/versions/{version}/approve",
    summary="Approve a policy",
    openapi_extra=body_of(PolicyDecisionRequest, {"by somebody else": examples.POLICY_DECISION}),
    responses=answers(401, 404, 409, 413, 422, 503) | _SHOWN,
)
async def approve_policy(version: _Version, request: Request, parts: PartsOf) -> PolicyView:
    """From now on it holds, for whatever is decided from now on. Its author cannot approve it."""
    return await _decided(parts, request, version, proposing.approve)


@router.post(
    "/versions/{version}/refuse",
    summary="Refuse a policy",
    openapi_extra=body_of(PolicyDecisionRequest, {"by anybody": examples.POLICY_DECISION}),
    responses=answers(401, 404, 409, 413, 422, 503) | _SHOWN,
)
async def refuse_policy(version: _Version, request: Request, parts: PartsOf) -> PolicyView:
    """It will never hold. Its author may take it back like this."""
    return await _decided(parts, request, version, proposing.refuse)


async def _decided(
    parts: Parts,
    request: Request,
    version: int,
    decide: Callable[[AsyncSession, int, PolicyDecision], Awaitable[PolicyView]],
) -> PolicyView:
    decision = await read_message(request, PolicyDecisionRequest, parts.settings.api_body_seconds)
    structlog.contextvars.bind_contextvars(actor=decision.actor)
    async with parts.store.transaction() as session:
        return await decide(session, version, decision)
