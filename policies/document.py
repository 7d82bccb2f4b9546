"""The policy document made into the policies that decide, and what is wrong with one."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from models.base import Contract
from models.effects import Patience
from models.errors import Problem
from models.order import CustomerType
from models.plan import PlanLimits
from models.policy import (
    BUILT_IN,
    AskedBy,
    Group,
    PolicyDocument,
    PriorityRule,
    ReviewPatience,
    RoutingRule,
    Substitution,
)
from models.review import ReviewKind, ReviewTask
from policies.approval import ApprovalPolicy
from policies.cold_start import ColdStartPolicy
from policies.pricing import PricePolicy
from policies.risk import RiskPolicy
from policies.routing.looking import LookAheadPolicy, Markdown
from policies.routing.weights import RoutingWeights
from policies.shortage import ShortagePolicy

_Rules = TypeVar("_Rules", bound=Contract)
# By what a rule says for whom it is.
_WHOM = tuple(Group.model_fields)

_MAX_REROUTES = 3


class Asker(Contract):
    """Of whom an order is, as rules of the policy ask for it."""

    channel: str
    tier: str | None = None
    customer_type: CustomerType | None = None
    country: str | None = None


class Policy(Contract):
    """All rules in force, and the version that they are of: 0 is what is built in."""

    version: int = 0
    document: PolicyDocument = Field(default_factory=PolicyDocument)

    @property
    def label(self) -> str:
        """As plans and assessments name it."""
        return f"policy/{self.version}" if self.version else BUILT_IN

    @property
    def weights(self) -> RoutingWeights:
        """What the optimiser weighs."""
        terms = self.document.routing
        changes: dict[str, Any] = {}
        if terms.late_day_minor is not None:
            changes["late_day_minor"] = terms.late_day_minor
        if terms.budget_ms is not None:
            changes["budget_seconds"] = terms.budget_ms / 1000
        return self._of(RoutingWeights(), changes)

    @property
    def max_reroutes(self) -> int:
        """How often an order is planned anew without a person where it is refused."""
        said = self.document.routing.max_reroutes
        return _MAX_REROUTES if said is None else said

    @property
    def look_ahead(self) -> LookAheadPolicy:
        """How much stock is spared for orders that are still to come."""
        return self._of(LookAheadPolicy(), _said(self.document.look_ahead))

    @property
    def markdowns(self) -> Mapping[str, Markdown]:
        """The nodes whose stock is credited where there is too much of it."""
        return {
            node: Markdown(weeks_of_supply=one.weeks_of_supply, credit_minor=one.credit_minor)
            for one in self.document.markdown
            for node in self.nodes_named((one.at,))
        }

    @property
    def shortage(self) -> ShortagePolicy:
        """What becomes of an order that is short of something."""
        return self._of(ShortagePolicy(), _said(self.document.shortage))

    @property
    def approval(self) -> ApprovalPolicy:
        """Gate B's limits and the terms of reviews."""
        return self._of(ApprovalPolicy(), _said(self.document.plan_review))

    @property
    def plan_limits(self) -> PlanLimits | None:
        """Gate B's limits as a plan carries them; None where they are built in."""
        return self._limits() if _said(self.document.plan_review) else None

    def _limits(self) -> PlanLimits:
        approval = self.approval
        return PlanLimits(
            policy=self.label,
            max_shipments=approval.max_shipments,
            max_cost_percent=approval.max_cost_percent,
            cost_floor_minor=approval.cost_floor_minor,
        )

    def patience(self, task: ReviewTask) -> Patience | None:
        """How long a review that is asked now waits; None where the document says nothing of its kind."""
        said = next(
            (terms for kind, terms in self.document.reviews.items() if kind.value == task.kind.value), None
        )
        return None if said is None else _patience(said, task.kind, task.task_id)

    @property
    def cold_start(self) -> ColdStartPolicy:
        """What is new, and what becomes of it."""
        return self._of(ColdStartPolicy(), _said(self.document.cold_start))

    def limits_for(self, newcomers: tuple[str, ...]) -> PlanLimits | None:
        """Gate B's limits as a plan with ``newcomers`` that a person is to see carries them."""
        if not newcomers:
            return self.plan_limits
        return self._limits().model_copy(update={"newcomers": newcomers})

    @property
    def risk(self) -> RiskPolicy:
        """Gate A's thresholds."""
        changes = _said(self.document.risk_review)
        if "refused_countries" in changes:
            changes["refused_countries"] = frozenset(changes["refused_countries"])
        if "review_value_minor" in changes:
            # Of a kind of customer, or a currency, that it does not name, what is built in holds.
            said = changes["review_value_minor"]
            changes["review_value_minor"] = {
                kind: {**limits, **said.get(kind, {})}
                for kind, limits in RiskPolicy().review_value_minor.items()
            }
        if "guest_abroad_value_minor" in changes:
            changes["guest_abroad_value_minor"] = {
                **RiskPolicy().guest_abroad_value_minor,
                **changes["guest_abroad_value_minor"],
            }
        return self._of(RiskPolicy(), changes)

    @property
    def pricing(self) -> PricePolicy:
        """How far prices may be off."""
        return self._of(PricePolicy(), _said(self.document.price_review))

    @property
    def substitutes(self) -> Mapping[str, tuple[str, ...]]:
        """What may be sent instead of a SKU, the best first."""
        return {one.sku: one.by for one in self.document.substitutes}

    def nodes_named(self, names: Iterable[str]) -> frozenset[str]:
        """The nodes that are meant by names of nodes and of groups."""
        groups = self.document.node_groups
        return frozenset(node for name in names for node in groups.get(name, (name,)))

    def routing_rule(self, asker: Asker) -> RoutingRule | None:
        """The rule that says where an order may come from."""
        return next((rule for rule in self.document.routing_rules if is_of(asker, rule)), None)

    def effective(self) -> dict[str, Any]:
        """Every limit that comes of the document, as plain JSON."""
        gate_b = ("version", "max_shipments", "max_cost_percent", "cost_floor_minor")
        return {
            "routing": _plain(self.weights)
            | _said(self.document.routing, "split_penalty_minor", "max_parcels")
            | {"max_reroutes": self.max_reroutes},
            "look_ahead": _plain(self.look_ahead),
            "shortage": _plain(self.shortage),
            "plan_review": {name: value for name, value in _plain(self.approval).items() if name in gate_b},
            "risk_review": _plain(self.risk),
            "price_review": _plain(self.pricing),
            "cold_start": _plain(self.cold_start),
            "reviews": {kind.value: _in_hours(self._waits(kind)) for kind in AskedBy},
        }

    def _waits(self, kind: AskedBy) -> Patience:
        return _patience(self.document.reviews.get(kind, ReviewPatience()), ReviewKind(kind))

    def _of(self, built_in: _Rules, changes: Mapping[str, Any]) -> _Rules:
        """``built_in`` where the document says nothing of it, under its own version; else changed, under ours."""
        return built_in.model_copy(update={**changes, "version": self.label}) if changes else built_in


def is_of(asker: Asker, group: Group) -> bool:
    """Whether an order is one of a group."""
    return all(
        not asked or is_ in asked
        for asked, is_ in (
            (group.channels, asker.channel),
            (group.tiers, asker.tier),
            (group.customer_types, asker.customer_type),
            (group.countries, asker.country),
        )
    )


def may_substitute(policy: ShortagePolicy, allowed: bool | None) -> bool:
    """Whether goods may be replaced, where the order's document says ``allowed`` of it."""
    if policy.substitute is Substitution.UNLESS_REFUSED:
        return allowed is not False
    return policy.substitute is Substitution.IF_AGREED and allowed is True


def problems_of(
    document: PolicyDocument,
    *,
    nodes: Mapping[str, bool],
    stocked: frozenset[tuple[str, str]],
    groups: frozenset[str] = frozenset(),
) -> tuple[Problem, ...]:
    """Everything in a document that makes no sense.

    Args:
        nodes: every node of the network, and whether it is active.
        stocked: where which SKUs of the document are stocked, as node and SKU.
        groups: names of groups that are meant to be there as well, but could not be read.
    """
    skus = frozenset(sku for _, sku in stocked)
    known = nodes.keys() | document.node_groups.keys() | groups
    return (
        *_of_groups(document, nodes),
        *_of_rules(document, nodes, known),
        *_of_substitutes(document, skus),
        *_of_safety_stock(document, nodes, stocked, known),
        *_of_markdown(document, nodes),
        *_of_names("routing_rules", [rule.rule_id for rule in document.routing_rules]),
        *_of_names("priorities", [rule.rule_id for rule in document.priorities]),
        *_of_whom("routing_rules", document.routing_rules),
        *_of_whom("priorities", document.priorities),
        *_of_reviews(document),
        *_said_twice("cold_start.review", document.cold_start.review or ()),
        *_said_twice("risk_review.refused_countries", document.risk_review.refused_countries or ()),
    )


def skus_in(document: PolicyDocument) -> frozenset[str]:
    """Every SKU that a document names."""
    return frozenset(
        (
            *(sku for one in document.substitutes for sku in (one.sku, *one.by)),
            *(one.sku for one in document.safety_stock),
        )
    )


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs between two documents: path, before, after; None where it is not said."""
    flat_before, flat_after = dict(_flat(before)), dict(_flat(after))
    return [
        (path, flat_before.get(path), flat_after.get(path))
        for path in sorted(flat_before.keys() | flat_after.keys())
        if flat_before.get(path) != flat_after.get(path)
    ]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        # By their names, so that a rule that is put before others does not look as if all of them changed.
        names = [_name_of(inner, place) for place, inner in enumerate(value)]
        yield f"{path} (in this order)", names
        for name, inner in zip(names, value, strict=True):
            yield from _flat(inner, f"{path}[{name}]")
    elif value is not None and value not in ([], ()):
        yield path, value


def _name_of(entry: Mapping[str, Any], place: int) -> str:
    """By what an entry of a list is known: its own name, or the SKU and where it lies."""
    if (named := entry.get("rule_id") or entry.get("sku")) is None:
        return str(entry.get("at", place))
    return f"{named} at {entry['at']}" if "at" in entry else str(named)


def _said(section: BaseModel, *only: str) -> dict[str, Any]:
    """What a section says, without what it leaves out."""
    return {
        name: getattr(section, name)
        for name in only or type(section).model_fields
        if getattr(section, name) is not None
    }


def _plain(value: Any) -> Any:
    """A policy as plain JSON; its mappings cannot be changed, which pydantic does not know how to write."""
    if isinstance(value, BaseModel):
        return {name: _plain(inner) for name, inner in value}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return sorted(value) if isinstance(value, frozenset) else value


def _of_groups(document: PolicyDocument, nodes: Mapping[str, bool]) -> Iterator[Problem]:
    for name, members in document.node_groups.items():
        at = f"node_groups.{name}"
        if name in nodes:
            yield Problem(
                path=at, code="ambiguous_group", message=f"{name} is a node: call the group otherwise"
            )
        if not members:
            yield Problem(
                path=at, code="empty_group", message="names no node: name some, or leave the group out"
            )
        for place, node in enumerate(members):
            if node not in nodes:
                yield _unknown_node(f"{at}[{place}]", node, nodes)
        yield from _said_twice(at, members)


def _of_rules(
    document: PolicyDocument, nodes: Mapping[str, bool], known: Collection[str]
) -> Iterator[Problem]:
    policy = Policy(document=document)
    for place, rule in enumerate(document.routing_rules):
        at = f"routing_rules[{place}]"
        named = [
            (f"{at}.{field}[{number}]", name)
            for field in ("only", "without")
            for number, name in enumerate(getattr(rule, field))
        ] + [
            (f"{at}.sequence[{step}][{number}]", name)
            for step, names in enumerate(rule.sequence)
            for number, name in enumerate(names)
        ]
        unknown = [(path, name) for path, name in named if name not in known]
        for path, name in unknown:
            yield _unknown_node(path, name, nodes)
        allowed = set(allowed_nodes(policy, rule, nodes))
        before: set[str] = set()
        for step, names in enumerate(rule.sequence):
            within = f"{at}.sequence[{step}]"
            meant = policy.nodes_named(names)
            if not names:
                yield Problem(path=within, code="empty_group", message="names no node: leave it out")
            elif not unknown and not meant & allowed:
                yield Problem(
                    path=within,
                    code="empty_step",
                    message="is left no node by only and without of its rule: leave the step out",
                )
            elif not unknown and meant <= before:
                yield Problem(
                    path=within,
                    code="repeated",
                    message="has the nodes of steps before it alone, which are tried with it: leave it out",
                )
            before |= meant
            yield from _said_twice(within, names)
        for field in ("only", "without"):
            yield from _said_twice(f"{at}.{field}", getattr(rule, field))
        if not unknown and not any(nodes[node] for node in allowed_nodes(policy, rule, nodes)):
            yield Problem(
                path=at,
                code="no_active_node",
                message="leaves no active node: its orders could never be filled",
            )
    if not any(nodes.values()):
        yield Problem(
            path="", code="no_active_node", message="the network has no active node: nothing can be routed"
        )


def allowed_nodes(policy: Policy, rule: RoutingRule, nodes: Iterable[str]) -> list[str]:
    """The nodes that a rule lets an order come from."""
    known = list(nodes)
    within = [policy.nodes_named(rule.only)] if rule.only else []
    if rule.sequence:
        within.append(policy.nodes_named(name for step in rule.sequence for name in step))
    barred = policy.nodes_named(rule.without)
    return [node for node in known if node not in barred and all(node in allowed for allowed in within)]


def _of_substitutes(document: PolicyDocument, stocked: frozenset[str]) -> Iterator[Problem]:
    yield from _of_names("substitutes", [one.sku for one in document.substitutes])
    for place, one in enumerate(document.substitutes):
        at = f"substitutes[{place}]"
        for number, other in enumerate(one.by):
            if other == one.sku:
                yield Problem(
                    path=f"{at}.by[{number}]", code="own_substitute", message=f"{other} cannot replace itself"
                )
        yield from _said_twice(f"{at}.by", one.by)
        for path, sku in ((f"{at}.sku", one.sku), *((f"{at}.by[{n}]", sku) for n, sku in enumerate(one.by))):
            if sku not in stocked:
                yield _unknown_sku(path, sku)


def _of_safety_stock(
    document: PolicyDocument,
    nodes: Mapping[str, bool],
    stocked: frozenset[tuple[str, str]],
    known: Collection[str],
) -> Iterator[Problem]:
    policy = Policy(document=document)
    told: dict[tuple[str, str], int] = {}
    for place, one in enumerate(document.safety_stock):
        at = f"safety_stock[{place}]"
        if one.at not in known:
            yield _unknown_node(f"{at}.at", one.at, nodes)
        elif not any((node, one.sku) in stocked for node in policy.nodes_named((one.at,))):
            yield Problem(
                path=f"{at}.sku",
                code="unknown_sku",
                message=f"{one.sku} is not stocked at {one.at}: nothing to keep",
            )
        for node in sorted(policy.nodes_named((one.at,))):
            if (first := told.setdefault((node, one.sku), place)) != place:
                yield Problem(
                    path=at,
                    code="repeated",
                    message=f"safety_stock[{first}] says it of {one.sku} at {node} already: say it once",
                )


def _of_markdown(document: PolicyDocument, nodes: Mapping[str, bool]) -> Iterator[Problem]:
    known = nodes.keys() | document.node_groups.keys()
    policy = Policy(document=document)
    told: dict[str, int] = {}
    for place, one in enumerate(document.markdown):
        at = f"markdown[{place}]"
        if one.at not in known:
            yield _unknown_node(f"{at}.at", one.at, nodes)
        for node in sorted(policy.nodes_named((one.at,))):
            if (first := told.setdefault(node, place)) != place:
                yield Problem(
                    path=at,
                    code="repeated",
                    message=f"markdown[{first}] says it of {node} already: say it once",
                )


def _of_names(section: str, names: Sequence[str]) -> Iterator[Problem]:
    for name, count in Counter(names).items():
        if count > 1:
            yield Problem(
                path=section, code="repeated", message=f"{name} is there {count} times: say it once"
            )


def _of_whom(section: str, rules: Sequence[RoutingRule | PriorityRule]) -> Iterator[Problem]:
    """Rules that no order ever comes to, because all of theirs are of an earlier one; and whom they name twice."""
    for place, rule in enumerate(rules):
        wider = next((earlier for earlier in rules[:place] if _takes_all_of(earlier, rule)), None)
        if wider is not None:
            yield Problem(
                path=f"{section}[{place}]",
                code="never_applies",
                message=f"{rule.rule_id}: all of its orders are of {wider.rule_id} before it: put it first, or leave "
                "it out",
            )
        for field in _WHOM:
            yield from _said_twice(f"{section}[{place}].{field}", getattr(rule, field))


def _takes_all_of(wider: Group, narrower: Group) -> bool:
    return all(
        not of_wider or (of_narrower and set(of_narrower) <= set(of_wider))
        for of_wider, of_narrower in ((getattr(wider, field), getattr(narrower, field)) for field in _WHOM)
    )


def _patience(said: ReviewPatience, kind: ReviewKind, task_id: str = "") -> Patience:
    terms = ApprovalPolicy().terms(kind)
    remind, escalate = said.remind_after_hours, said.escalate_after_hours
    return Patience(
        task_id=task_id,
        remind_after=terms.remind_after if remind is None else timedelta(hours=remind),
        escalate_after=terms.escalate_after if escalate is None else timedelta(hours=escalate),
    )


def _of_reviews(document: PolicyDocument) -> Iterator[Problem]:
    for kind, said in document.reviews.items():
        at = f"reviews.{kind}"
        found = _patience(said, ReviewKind(kind))
        deadline = ApprovalPolicy().terms(ReviewKind(kind)).deadline
        if found.remind_after >= found.escalate_after:
            yield Problem(
                path=at,
                code="no_reminder",
                message=f"is escalated after {_hours(found.escalate_after)} hours, before anybody is reminded "
                f"({_hours(found.remind_after)}): remind earlier",
            )
        if found.escalate_after >= deadline:
            yield Problem(
                path=at,
                code="past_deadline",
                message=f"is escalated after {_hours(found.escalate_after)} hours, and decided by itself after "
                f"{_hours(deadline)}: escalate earlier",
            )


def _in_hours(patience: Patience) -> dict[str, int]:
    return {
        "remind_after_hours": _hours(patience.remind_after),
        "escalate_after_hours": _hours(patience.escalate_after),
    }


def _hours(duration: timedelta) -> int:
    return duration // timedelta(hours=1)


def _said_twice(path: str, names: Sequence[str]) -> Iterator[Problem]:
    for place, name in enumerate(names):
        if name in names[:place]:
            yield Problem(
                path=f"{path}[{place}]", code="repeated", message=f"{name} is there already: say it once"
            )


def _unknown_node(path: str, name: str, nodes: Iterable[str]) -> Problem:
    return Problem(
        path=path,
        code="unknown_node",
        message=f"{name} is no node and no group: nodes are {', '.join(sorted(nodes)) or 'none'}",
    )


def _unknown_sku(path: str, sku: str) -> Problem:
    return Problem(path=path, code="unknown_sku", message=f"{sku} is stocked nowhere: look at its spelling")
