"""``orderwright policy``: what people decide once for all orders; one proposes it, another one approves it."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from apps.api.contracts import PolicyDecisionRequest, PolicyProposalRequest
from apps.cli.output import console, facts, listing, plain, print_json, when
from apps.cli.policy_files import document_in, print_backtest
from apps.cli.remote import (
    Actor,
    Api,
    ApiUrl,
    AsJson,
    DataDir,
    Reason,
    Token,
    acting_as,
    needs_reason,
    open_api,
)
from models.errors import InvalidDocument
from models.policy import (
    BUILT_IN,
    PolicyDocument,
    PolicyEntry,
    PolicyHistory,
    PolicyProblems,
    PolicyState,
    PolicyView,
)
from policies.document import differences

app = typer.Typer(no_args_is_help=True)

_Version = Annotated[int, typer.Argument(metavar="VERSION", min=0, help="As history has it; 0 is built in.")]
_MaybeReason = Annotated[str | None, typer.Option("--reason", help="Why, for the record.")]


@app.command()
def show(
    version: Annotated[
        int | None, typer.Argument(metavar="VERSION", min=0, help="Default: the one in force; 0 is built in.")
    ] = None,
    *,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The policy in force, or a version of it: what it says, and every limit that comes of it."""
    with open_api(api_url, token, data_dir) as api:
        view = _view(api, version)
    _print_view(view, as_json=as_json)


@app.command()
def history(
    *,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Every version that was ever proposed: by whom, why, and what became of it."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get("/v1/policy/versions", PolicyHistory)
    if as_json:
        print_json(found)
        return
    if not found.versions:
        console().print("No policy was ever proposed: all is as built in.")
        return
    table = listing("version", "state", "proposed", "by", "why", "decided", "by", "why", right=("version",))
    for entry in found.versions:
        table.add_row(
            str(entry.version),
            entry.state,
            when(entry.proposed_at),
            plain(entry.proposed_by),
            plain(entry.reason),
            when(entry.decided_at) if entry.decided_at else "",
            plain(entry.decided_by or ""),
            plain(entry.decided_because or ""),
        )
    console().print(table)


@app.command()
def diff(
    new: Annotated[str, typer.Argument(metavar="VERSION|FILE", help="A version, or a TOML or JSON file.")],
    old: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=0, help="Default: the one in force.")
    ] = None,
    *,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What a version or a file says otherwise than the policy in force, or than another version.

    A file that could not be proposed is refused, with all that is wrong with it.
    """
    document = None if new.isdecimal() else document_in(Path(new))
    with open_api(api_url, token, data_dir) as api:
        if document is not None:
            _check(api, document, Path(new))
        before = _view(api, old)
        after = _view(api, int(new)).document if document is None else document
    found = differences(before.document, after)
    if as_json:
        print_json(
            {
                "against": before.version,
                "differences": [{"path": path, "before": was, "after": now} for path, was, now in found],
            }
        )
        return
    if not found:
        console().print(f"It says the same as {_named(before.version)}.")
        return
    table = listing("what", _named(before.version), new)
    for path, was, now in found:
        table.add_row(plain(path), _said(was), _said(now))
    console().print(table)


@app.command()
def propose(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The whole policy, TOML or JSON: docs/policy.md.")
    ],
    *,
    reason: Reason,
    actor: Actor = None,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="Sent twice it counts once. Default: a new one.")
    ] = None,
    replaces: Annotated[
        int | None, typer.Option("--replaces", min=0, help="Only if this version is in force.")
    ] = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Propose FILE as the policy. It holds once somebody else has approved it."""
    document = document_in(file)
    author, why = acting_as(actor), needs_reason(reason)
    with open_api(api_url, token, data_dir) as api:
        _check(api, document, file)
        sent = PolicyProposalRequest(
            request_id=request_id or f"cli-{uuid.uuid4()}",
            actor=author,
            reason=why,
            replaces=replaces,
            document=PolicyDocument.model_validate(document),
        )
        view = api.post("/v1/policy/versions", sent, PolicyView)
    _print_decided(view, as_json=as_json)


@app.command()
def approve(
    version: _Version,
    *,
    actor: Actor = None,
    reason: _MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have a proposed version hold from now on. Whoever proposed it cannot."""
    _decide("approve", version, actor, reason, (api_url, token, data_dir), as_json=as_json)


@app.command()
def refuse(
    version: _Version,
    *,
    actor: Actor = None,
    reason: _MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Turn a proposed version down, or take your own back."""
    _decide("refuse", version, actor, reason, (api_url, token, data_dir), as_json=as_json)


def _decide(
    what: str,
    version: int,
    actor: str | None,
    reason: str | None,
    where: tuple[str | None, str | None, Path | None],
    *,
    as_json: bool,
) -> None:
    sent = PolicyDecisionRequest(
        actor=acting_as(actor), reason=None if reason is None else needs_reason(reason)
    )
    with open_api(*where) as api:
        view = api.post(f"/v1/policy/versions/{version}/{what}", sent, PolicyView)
    _print_decided(view, as_json=as_json)


def _view(api: Api, version: int | None) -> PolicyView:
    return api.get("/v1/policy" if version is None else f"/v1/policy/versions/{version}", PolicyView)


def _check(api: Api, document: Mapping[str, Any], file: Path) -> None:
    """Raise ``InvalidDocument`` with every problem of the document, by where it is in the file."""
    # As it stands there: a model of ours would leave nulls out.
    answer = api.post_bytes("/v1/policy/check", json.dumps({"document": document}).encode())
    found = PolicyProblems.model_validate_json(answer.content)
    if found.problems:
        raise InvalidDocument(
            tuple(
                problem.model_copy(update={"path": f"{file.name}: {problem.path}".removesuffix(": ")})
                for problem in found.problems
            )
        )


def _print_decided(view: PolicyView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    if view.entry is not None:
        console().print(_stands(view.entry))
    if view.backtest is not None:
        console().print()
        print_backtest(view.backtest)
    elif view.entry is not None and view.entry.state is PolicyState.ACTIVE:
        console().print(f"No back test was made of it: orderwright route backtest --policy {view.version}")


def _stands(entry: PolicyEntry) -> str:
    named, decided = f"version {entry.version}", plain(entry.decided_by or "")
    proposed = plain(entry.proposed_by)
    match entry.state:
        case PolicyState.PROPOSED:
            return f"{named} is proposed: it holds once somebody else than {proposed} approves it"
        case PolicyState.ACTIVE:
            return f"{named} is in force, proposed by {proposed}, approved by {decided}"
        case PolicyState.REFUSED:
            return f"{named} was refused by {decided}"
        case PolicyState.REPLACED:
            return f"{named} was in force and is replaced"


def _print_view(view: PolicyView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    target = console()
    if view.entry is None:
        target.print("As built in: no policy is in force.")
    else:
        entry = view.entry
        target.print(facts(("policy", _stands(entry)), ("why", entry.reason)))
    if view.document:
        _print_said(target, "says", differences({}, view.document))
    _print_said(target, "limits", differences({}, view.effective))


def _print_said(target: Console, title: str, said: list[tuple[str, Any, Any]]) -> None:
    table = listing(title, "")
    for path, _, value in said:
        table.add_row(plain(path), _said(value))
    target.print()
    target.print(table)


def _named(version: int) -> str:
    return f"version {version}" if version else BUILT_IN


def _said(value: Any) -> str:
    if value is None:
        return "-"
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
