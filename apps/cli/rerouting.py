"""``orderwright route``, where people say what is not to be planned with, or from where an order is to come."""

import re
import uuid
from typing import Annotated, Any

import typer
from rich.text import Text

from apps.api.contracts import NoticeLiftRequest, NoticeRequest, SetPlanRequest
from apps.cli.app import REFUSED
from apps.cli.output import console, listing, plain, print_json, when
from apps.cli.policy_files import moment_of
from apps.cli.remote import (
    Actor,
    ApiUrl,
    AsJson,
    DataDir,
    Reason,
    Token,
    acting_as,
    bad_input,
    message,
    needs_reason,
    open_api,
    path_part,
)
from apps.cli.route import Order, app, print_plan
from models.rerouting import Notice, SetPlanAnswer

_LINE = re.compile(r"(?P<line_id>[^=]+)=(?P<node>[^=:]+)(:(?P<quantity>[0-9]+))?")


@app.command()
def notice(
    *,
    node: Annotated[str | None, typer.Option("--node", help="It is closed.")] = None,
    carrier: Annotated[str | None, typer.Option("--carrier", help="It is out.")] = None,
    service: Annotated[
        str | None, typer.Option("--service", help="Only this service of the carrier.")
    ] = None,
    country: Annotated[str | None, typer.Option("--country", help="Nothing goes there.")] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Only to postcodes that begin so, such as LS or LS1.")
    ] = None,
    delay: Annotated[
        int | None, typer.Option("--delay", min=1, help="Parcels go there all the same, so many days late.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", help="When it is over, such as 2026-12-01; else once it is lifted."),
    ] = None,
    reason: Reason,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Plan with a node, a carrier or a region no more; orders that are planned with it are planned anew."""
    asked: dict[str, Any] = {
        "node": node,
        "carrier": carrier,
        "service": service,
        "country": country,
        "prefix": prefix,
        "delay_days": delay,
        "ends_at": None if until is None else moment_of("--until", until),
    }
    wish = message(
        NoticeRequest,
        request_id=f"cli-{uuid.uuid4()}",
        actor=acting_as(actor),
        reason=needs_reason(reason),
        **{name: value for name, value in asked.items() if value is not None},
    )
    with open_api(api_url, token, data_dir) as api:
        posted = api.post("/v1/routing/notices", wish, Notice)
    _print_notices([posted], as_json=as_json)


@app.command()
def notices(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The notices that hold now."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get("/v1/routing/notices", list[Notice], every=every or None)
    _print_notices(found, as_json=as_json)


@app.command()
def lift(
    notice_id: Annotated[int, typer.Argument(metavar="NOTICE", min=1, help="As notices has it.")],
    *,
    reason: Reason,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End a notice before its time."""
    word = message(NoticeLiftRequest, actor=acting_as(actor), reason=needs_reason(reason))
    with open_api(api_url, token, data_dir) as api:
        lifted = api.post(f"/v1/routing/notices/{notice_id}/lift", word, Notice)
    _print_notices([lifted], as_json=as_json)


@app.command(name="set")
def set_plan(
    order_id: Order,
    *,
    node: Annotated[
        str | None, typer.Option("--from", help="The node that all comes from which --line does not name.")
    ] = None,
    lines: Annotated[
        list[str] | None,
        typer.Option("--line", metavar="LINE=NODE[:UNITS]", help="Where a line comes from; may be repeated."),
    ] = None,
    service: Annotated[
        str | None, typer.Option("--service", metavar="CARRIER/SERVICE", help="By this one alone.")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview/--apply", help="Only what it would cost; or hand it to the order.")
    ] = True,
    reason: Reason,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Set by hand where what is not packed yet of an order comes from. Exit code 1: it cannot come from there."""
    asked: dict[str, Any] = {"node": node, "carrier_service": service}
    wish = message(
        SetPlanRequest,
        request_id=f"cli-{uuid.uuid4()}",
        actor=acting_as(actor),
        reason=needs_reason(reason),
        units=[_units_in(line) for line in lines or ()],
        **{name: value for name, value in asked.items() if value is not None},
    )
    path = f"/v1/orders/{path_part(order_id)}/route{'?preview=true' if preview else ''}"
    with open_api(api_url, token, data_dir) as api:
        answer = api.post(path, wish, SetPlanAnswer)
    if as_json:
        print_json(answer)
    else:
        _print_set(answer)
    if answer.plan is None:
        raise typer.Exit(REFUSED)


def _units_in(line: str) -> dict[str, Any]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise bad_input("--line", f"{line!r} is not LINE=NODE or LINE=NODE:UNITS, such as 1=gb-south:4")
    units: dict[str, Any] = {"line_id": found["line_id"], "node": found["node"]}
    if found["quantity"] is not None:
        units["quantity"] = int(found["quantity"])
    return units


def _print_set(answer: SetPlanAnswer) -> None:
    target = console()
    if answer.plan is None:
        target.print(Text("it cannot be sent so:"))
        for reason in answer.reasons:
            target.print(Text(f"  {plain(reason)}"))
        return
    said = "the router finds no plan of its own"
    if answer.difference is not None:
        more = answer.difference
        said = (
            f"{more} more than"
            if more.minor > 0
            else f"{-more} less than"
            if more.minor
            else "the same cost as"
        )
        said = f"{said} the router's own plan"
    target.print(Text(plain(f"{said}; promised {when(answer.plan.promised_at)}")))
    print_plan(answer.plan, answer.terms)
    target.print()
    target.print(
        Text("Nothing was done: --apply hands it to the order.")
        if answer.set_plan_id is None
        else Text(
            plain(
                f"The order is planned so as soon as what is not packed has stopped ({answer.set_plan_id})."
            )
        )
    )


def _print_notices(found: list[Notice], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    if not found:
        console().print("No notice holds now.")
        return
    table = listing("notice", "what", "why", "by", "since", "until", "orders", right=("notice", "orders"))
    for one in found:
        until = one.lifted_at or one.ends_at
        table.add_row(
            str(one.notice_id),
            plain(one.about),
            plain(one.reason),
            plain(one.actor),
            when(one.posted_at),
            f"{'lifted ' if one.lifted_at else ''}{when(until)}" if until else "",
            f"{one.orders:,}",
        )
    console().print(table)
