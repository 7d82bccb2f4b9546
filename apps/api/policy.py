"""The policy over HTTP: what is in force, what was, and how another one comes to be."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Path, Request
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import plans, policies, proposing
from activities.store.network import network
from activities.store.plans import Past
from activities.store.problems import under
from apps.api import examples
from apps.api.bodies import Body, body_of, parse_message, read_body, read_message
from apps.api.contracts import PolicyDecisionRequest, PolicyProposalRequest
from apps.api.parts import Parts, PartsOf
from apps.api.problems import MAX_PROBLEMS, InvalidRequest, answers
from apps.api.queries import only_known_parameters
from models.errors import InvalidDocument
from models.network import Network
from models.policy import (
    MAX_POLICY_BYTES,
    BacktestReport,
    BacktestRequest,
    PolicyCheck,
    PolicyDecision,
    PolicyHistory,
    PolicyProblems,
    PolicyView,
)
from policies import strict_json
from policies.document import Policy
from policies.routing.problem import RoutingProblem

router = APIRouter(prefix="/v1/policy", tags=["policy"], dependencies=[Depends(only_known_parameters)])

_Version = Annotated[
    int, Path(ge=0, le=2**31 - 1, description="The version; 0 is what is built in", examples=[1])
]
_BACKTEST_SECONDS = 15.0
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
    proposal = await _parsed(parts, raw, PolicyProposalRequest)
    structlog.contextvars.bind_contextvars(actor=proposal.actor)
    async with parts.store.transaction() as session:
        return await proposing.propose(session, proposal)


@router.post(
    "/check",
    summary="See what is wrong with a policy",
    openapi_extra=body_of(PolicyCheck, {"one that makes no sense": examples.POLICY_CHECK}),
    responses=answers(401, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.POLICY_PROBLEMS}}}},
)
async def check_policy(request: Request, parts: PartsOf) -> PolicyProblems:
    """Everything that a proposal of this document would be refused for. Nothing is stored."""
    raw = await read_body(request, MAX_POLICY_BYTES, parts.settings.api_body_seconds)
    asked = parse_message(raw, PolicyCheck)
    async with parts.store.transaction() as session:
        found = await proposing.problems_in(session, asked.document)
    return PolicyProblems(problems=found[:MAX_PROBLEMS])


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


@router.post(
    "/backtest",
    summary="Try a policy on orders of the past",
    openapi_extra=body_of(BacktestRequest, {"a proposed one": examples.BACKTEST_REQUEST}),
    responses=answers(401, 404, 409, 413, 422, 503)
    | {200: {"content": {"application/json": {"example": examples.BACKTEST}}}},
)
async def try_policy(request: Request, parts: PartsOf) -> BacktestReport:
    """What another policy would have made of orders that were planned: cost, parcels, fill, days, distance, each with
    how sure that is. Nothing acts on it. It takes up to fifteen seconds, and says how many orders it got through. One
    runs at a time: meanwhile another one is answered with 409 `backtest_running`.

    Of a version that nobody decided yet it is kept, for whoever is to approve it.
    """
    raw = await read_body(request, MAX_POLICY_BYTES, parts.settings.api_body_seconds)
    asked = await _parsed(parts, raw, BacktestRequest)
    return await parts.backtests.run(lambda: _tried(parts, asked))


async def _tried(parts: Parts, asked: BacktestRequest) -> BacktestReport:
    async with parts.store.transaction() as session:
        if asked.document is not None:
            await proposing.check(session, asked.document)
            policy = Policy(version=0, document=asked.document)
        else:
            policy = await policies.of_version(session, asked.version or 0)
        in_force = await policies.active(session)
        past = await plans.decisions_since(session, asked.since, asked.limit)
        known = await network(session)
        happened = await plans.happened_since(session, asked.since)
    report = await asyncio.to_thread(
        _backtest, asked, policy, in_force=in_force, past=past, known=known, happened=happened
    )
    if asked.version:
        async with parts.store.transaction() as session:
            await policies.keep_backtest(session, asked.version, report)
    return report


async def _parsed(parts: Parts, raw: bytes, contract: type[Body]) -> Body:
    """``raw`` as ``contract``. Raises ``InvalidRequest``: also with what makes no sense in the rest of its document."""
    try:
        return parse_message(raw, contract)
    except InvalidRequest as refused:
        if not isinstance(document := _document_in(raw), dict):
            raise
        problems = list(refused.problems)
        known = {problem.path for problem in problems}
    async with parts.store.transaction() as session:
        for problem in await proposing.problems_in(session, document):
            path = f"document.{problem.path}" if problem.path else "document"
            if path not in known:
                problems.append(problem.model_copy(update={"path": path}))
    raise InvalidRequest(problems)


def _document_in(raw: bytes) -> Any:
    try:
        sent = strict_json.parse(raw)
    except InvalidDocument:
        return None
    return sent.get("document") if isinstance(sent, dict) else None


def _backtest(
    asked: BacktestRequest,
    policy: Policy,
    *,
    in_force: Policy,
    past: Sequence[Past],
    known: Network,
    happened: Mapping[str, float],
) -> BacktestReport:
    # The optimiser's libraries are large, and the API rarely needs them.
    from policies.routing.backtest import Decided, backtest  # noqa: PLC0415
    from policies.routing.exact import ExactRouter  # noqa: PLC0415

    valued = 0

    def decisions() -> Iterator[Decided]:
        nonlocal valued
        for one in past:
            if (problem := one.read_problem()) is not None:
                valued += problem.values is not None
                yield Decided(
                    one.read_plan(), under(policy, one.asker, _as_the_network_has_it(problem, known))
                )

    found = backtest(
        decisions(),
        ExactRouter(),
        seconds=_BACKTEST_SECONDS,
        carbon_g_per_tonne_km=asked.carbon_g_per_tonne_km,
    )
    kept = sum(one.problem is not None for one in past)
    notes = []
    if found.tried < kept:
        notes.append(
            f"time ran out after {found.tried} of {kept} orders: ask for fewer, or again with a later since"
        )
    if policy.look_ahead.percent or policy.markdowns:
        notes.append(
            f"values of stock were known for {valued} of {found.tried} orders; cost is money alone, and what later"
            " orders gain from stock that is spared is not in it"
        )
    if found.figures and not any(one.figure == "distance" for one in found.figures):
        notes.append("no distances: nodes or postcodes have no coordinates")
    return BacktestReport(
        policy="the document" if asked.document is not None else policy.label,
        against=in_force.label,
        since=asked.since,
        asked=len(past),
        skipped=len(past) - kept,
        happened=happened,
        made_at=datetime.now(UTC),
        notes=tuple(notes),
        **found._asdict(),
    )


def _as_the_network_has_it(problem: RoutingProblem, known: Network) -> RoutingProblem:
    """Without what the policy of that time put on top."""
    return problem.model_copy(update={"split_penalty_minor": known.split_penalty_minor})


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
