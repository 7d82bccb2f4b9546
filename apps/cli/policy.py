"""``orderwright policy``: what people decide once for all orders; one proposes it, another one approves it."""

import json
import tomllib
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from apps.api.contracts import PolicyDecisionRequest, PolicyProposalRequest
from apps.cli.output import console, facts, listing, plain, print_json, when
from apps.cli.remote import (
    Actor,
    Api,
    ApiUrl,
    AsJson,
    DataDir,
    Reason,
    Token,
    acting_as,
    bad_input,
    needs_reason,
    open_api,
)
from models.errors import InvalidDocument, Problem
from models.policy import BUILT_IN, PolicyEntry, PolicyHistory, PolicyState, PolicyView
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
    """What a version or a file says otherwise than the policy in force, or than another version."""
    document = None if new.isdecimal() else _document(Path(new))
    with open_api(api_url, token, data_dir) as api:
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
    document = _document(file)
    sent = _checked(
        {
            "request_id": request_id or f"cli-{uuid.uuid4()}",
            "actor": acting_as(actor),
            "reason": needs_reason(reason),
            "replaces": replaces,
            "document": document,
        },
        file,
    )
    with open_api(api_url, token, data_dir) as api:
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


def _document(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise bad_input(str(file), f"cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise bad_input(str(file), "is no policy: its keys are described in docs/policy.md")
    return {name: _without_times(value) for name, value in found.items()}


def _without_times(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _checked(fields: Mapping[str, Any], file: Path) -> PolicyProposalRequest:
    """The proposal. Raises ``InvalidDocument`` with every problem of the document, by where it is in the file."""
    try:
        return PolicyProposalRequest.model_validate(fields)
    except ValidationError as error:
        raise InvalidDocument(
            tuple(
                Problem(
                    path=f"{file.name}: {'.'.join(str(part) for part in item['loc']).removeprefix('document.')}",
                    code=item["type"],
                    message=item["msg"][:1].lower() + item["msg"][1:],
                )
                for item in error.errors(include_url=False)
            )
        ) from None


def _print_decided(view: PolicyView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    if view.entry is not None:
        console().print(_stands(view.entry))


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
