"""How another policy comes to be: one person proposes it, another one approves it."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import warehouse
from activities.store.policies import active_row, row_of, view_of
from models.errors import Conflict, InvalidDocument, Problem, Refused
from models.policy import PolicyDecision, PolicyDocument, PolicyProposal, PolicyState, PolicyView
from models.stock import MOST_LINES, CountedUnits, SafetyStock
from models.tables.policies import PolicyRow
from models.tables.stock import NodeRow, StockRow
from policies import policy_reading
from policies.document import Policy, problems_of, skus_in

# Any number that no other lock has: of the first letters of what it is for.
_LOCK = 0x6F77706F


async def propose(session: AsyncSession, proposal: PolicyProposal) -> PolicyView:
    """Store a policy that somebody else is to approve; the one in force stays.

    Sent again it answers what became of the first. Raises ``InvalidDocument`` with every problem, ``Conflict`` for an
    id that stands for something else and where ``replaces`` is not in force.
    """
    await _alone(session)
    document = proposal.document.model_dump(mode="json", exclude_defaults=True)
    fingerprint = _fingerprint(document)
    known = await session.scalar(select(PolicyRow).where(col(PolicyRow.request_id) == proposal.request_id))
    if known is not None:
        if known.document_hash != fingerprint or known.proposed_by != proposal.actor:
            raise Conflict(
                f"request_id {proposal.request_id} was used for version {known.version}, which says something else: "
                "an id is used for one request"
            )
        return view_of(known)
    in_force = await active_row(session)
    before = 0 if in_force is None else in_force.version
    if proposal.replaces not in (None, before):
        raise Conflict(
            f"version {before} is in force, not {proposal.replaces}: look at it, and propose yours again"
        )
    await check(session, proposal.document)
    last = await session.scalar(select(func.max(col(PolicyRow.version))))
    row = PolicyRow(
        version=(last or 0) + 1,
        request_id=proposal.request_id,
        base_version=before,
        document=document,
        document_hash=fingerprint,
        reason=proposal.reason,
        proposed_by=proposal.actor,
        proposed_at=datetime.now(UTC),
    )
    session.add(row)
    await session.flush()
    return view_of(row)


async def approve(session: AsyncSession, version: int, decision: PolicyDecision) -> PolicyView:
    """Put a proposed version in force, with its safety stock, in one transaction.

    It is checked anew: the network may have changed since. Approved again by the same person nothing changes. Raises
    ``Refused`` for who proposed it and for a version that was decided otherwise, ``Conflict`` where another version
    came into force since, ``InvalidDocument``, ``NotFound``.
    """
    await _alone(session)
    row = await row_of(session, version)
    if row.state == PolicyState.ACTIVE and row.decided_by == decision.actor:
        return view_of(row)
    _require_open(row)
    if decision.actor.strip().casefold() == row.proposed_by.strip().casefold():
        raise Refused(f"version {version} was proposed by {row.proposed_by}: somebody else has to approve it")
    before = await active_row(session)
    in_force = 0 if before is None else before.version
    if row.base_version != in_force:
        raise Conflict(
            f"version {version} was written when {row.base_version} was in force, and {in_force} is now: it would undo "
            "what that one says. Compare them, and propose it anew"
        )
    document = PolicyDocument.model_validate(row.document)
    await check(session, document)
    now = datetime.now(UTC)
    if before is not None:
        before.state, before.replaced_at = PolicyState.REPLACED, now
        await session.flush()
    _decide(row, PolicyState.ACTIVE, decision, now)
    await session.flush()
    await _keep_back(session, row, document, decision.actor)
    return view_of(row)


async def refuse(session: AsyncSession, version: int, decision: PolicyDecision) -> PolicyView:
    """Turn a proposed version down, which its author may do as well. Raises ``Refused`` and ``NotFound``."""
    await _alone(session)
    row = await row_of(session, version)
    if row.state == PolicyState.REFUSED and row.decided_by == decision.actor:
        return view_of(row)
    _require_open(row)
    _decide(row, PolicyState.REFUSED, decision, datetime.now(UTC))
    await session.flush()
    return view_of(row)


async def _keep_back(session: AsyncSession, row: PolicyRow, document: PolicyDocument, actor: str) -> None:
    """What the policy says of safety stock, as documents of the warehouse: by node, once for each version."""
    policy = Policy(version=row.version, document=document)
    stocked = await _stocked(session, document)
    units: dict[str, dict[str, int]] = {}
    for one in document.safety_stock:
        for node in policy.nodes_named((one.at,)):
            if (node, one.sku) in stocked:
                units.setdefault(node, {})[one.sku] = one.units
    for node, kept in sorted(units.items()):
        lines = [CountedUnits(sku=sku, quantity=quantity) for sku, quantity in sorted(kept.items())]
        for start in range(0, len(lines), MOST_LINES):
            await warehouse.keep_back(
                session,
                SafetyStock(
                    # With a part that nobody can have guessed and used for a document of another one's.
                    document_id=f"{policy.label}:{node}:{start}:{row.document_hash[:12]}",
                    actor=actor,
                    reason=f"{policy.label}: {row.reason}"[:1000],
                    node=node,
                    lines=tuple(lines[start : start + MOST_LINES]),
                ),
            )


async def problems_in(session: AsyncSession, raw: Mapping[str, Any]) -> tuple[Problem, ...]:
    """All that is wrong with a document as somebody wrote it, as far as it can be read. See ``policy_reading``."""
    reading = policy_reading.read(raw)
    stocked = await _stocked(session, reading.document)
    return policy_reading.problems_in(reading, nodes=await _nodes(session), stocked=stocked)


async def check(session: AsyncSession, document: PolicyDocument) -> None:
    """Raise ``InvalidDocument`` with all that makes no sense in a document, as the network and the stock are now."""
    known = await _nodes(session)
    if problems := problems_of(document, nodes=known, stocked=await _stocked(session, document)):
        raise InvalidDocument(problems)


async def _nodes(session: AsyncSession) -> dict[str, bool]:
    nodes = await session.execute(select(col(NodeRow.node_id), col(NodeRow.active)))
    return {str(node): bool(is_active) for node, is_active in nodes}


async def _stocked(session: AsyncSession, document: PolicyDocument) -> frozenset[tuple[str, str]]:
    rows = await session.execute(
        select(col(StockRow.node), col(StockRow.sku)).where(col(StockRow.sku).in_(skus_in(document)))
    )
    return frozenset((node, sku) for node, sku in rows)


def _require_open(row: PolicyRow) -> None:
    if row.state != PolicyState.PROPOSED:
        raise Refused(
            f"version {row.version} is {row.state} by {row.decided_by} already: propose its document anew to have it "
            "decided again"
        )


def _decide(row: PolicyRow, state: PolicyState, decision: PolicyDecision, now: datetime) -> None:
    row.state, row.decided_by, row.decided_at = state, decision.actor, now
    row.decided_because = decision.reason


async def _alone(session: AsyncSession) -> None:
    """Policies are proposed and decided one after the other."""
    await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _fingerprint(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
