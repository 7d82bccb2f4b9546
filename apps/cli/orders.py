"""``orderwright orders``: submit, show, list, amend and cancel orders."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from activities.store.views import OrderSummary, OrderView, Page, TimelineView
from apps.api.contracts import (
    AmendmentTaken,
    AmendRequest,
    CancelRequest,
    CancelTaken,
    OrderAccepted,
    Queued,
    TenderRequest,
    TenderTaken,
)
from apps.cli.amending import latest, line_change, print_amendments, print_preview
from apps.cli.app import exit_code
from apps.cli.output import (
    console,
    day,
    error_json,
    facts,
    listing,
    plain,
    print_error,
    print_json,
    state,
    when,
)
from apps.cli.remote import (
    Actor,
    Api,
    ApiUrl,
    AsJson,
    DataDir,
    Token,
    acting_as,
    bad_input,
    message,
    needs_reason,
    open_api,
    paged,
    path_part,
)
from models.amendment import AmendmentPreview, AmendmentView
from models.errors import InvalidDocument, NotReachable, OrderwrightError
from models.messages import AmendOutcome
from models.money import Money
from models.order import MAX_DOCUMENT_BYTES, CustomerType, TenderKind
from models.states import OrderState
from policies.intake import check_document
from policies.strict_json import parse

app = typer.Typer(no_args_is_help=True)

SHOWN_LINES = 20


@app.command()
def submit(
    files: Annotated[
        list[Path], typer.Argument(help="JSON order documents; - reads one from standard input.")
    ],
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Hand over order documents. The same document again changes nothing.

    Exit code 0: all accepted, now or before. Else the code of the worst: 3 not reachable, 2 bad input, 1 refused.
    """
    answers: list[dict[str, Any]] = []
    worst = 0
    api: Api | None = None
    told, complained = console(), console(to_stderr=True)
    try:
        for file in files:
            try:
                document = _read(file)
                _require_json(document)
                api = api or open_api(api_url, token, data_dir)
                accepted, is_new = _submit(api, document)
            except OrderwrightError as error:
                worst = max(worst, exit_code(error))
                answers.append({"file": str(file), "error": error_json(error)})
                if not as_json:
                    print_error(complained, error, about=str(file))
                if isinstance(error, NotReachable):
                    answers += [{"file": str(left), "not_sent": True} for left in files[len(answers) :]]
                    break
                continue
            answers.append({"file": str(file), "new": is_new, **accepted.model_dump(mode="json")})
            if not as_json:
                word = "accepted" if is_new else "already there"
                told.print(Text(plain(f"{file}: {word}: {accepted.order_id} ({accepted.state})")))
    finally:
        if api is not None:
            api.__exit__(None, None, None)
    unsent = sum("not_sent" in answer for answer in answers)
    if as_json:
        print_json(answers)
    elif unsent:
        complained.print(f"{unsent} more files were not sent")
    if worst:
        raise typer.Exit(worst)


@app.command()
def show(
    order_id: Annotated[str, typer.Argument(metavar="ID", help="CHANNEL:NUMBER, such as web:1001.")],
    *,
    all_lines: Annotated[
        bool, typer.Option("--all-lines", help=f"More than {SHOWN_LINES} lines, too.")
    ] = False,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Everything about one order: state, lines, money, shipments, reviews and what happened so far."""
    with open_api(api_url, token, data_dir) as api:
        path = f"/v1/orders/{path_part(order_id)}"
        order = api.get(path, OrderView)
        timeline = api.get(f"{path}/timeline", list[TimelineView])
        amendments = api.get(f"{path}/amendments", list[AmendmentView])
    if as_json:
        print_json({**order.model_dump(mode="json"), "amendments": amendments, "timeline": timeline})
        return
    target = console()
    _print_order(target, order, SHOWN_LINES if not all_lines else len(order.lines))
    print_amendments(target, amendments)
    _print_timeline(target, timeline)


@app.command(name="list")
def list_orders(
    *,
    in_state: Annotated[OrderState | None, typer.Option("--state", help="Only these.")] = None,
    channel: Annotated[str | None, typer.Option(help="Only of this channel.")] = None,
    customer_type: Annotated[CustomerType | None, typer.Option(help="Only of these customers.")] = None,
    needs_review: Annotated[
        bool | None, typer.Option("--needs-review/--needs-no-review", help="Waiting for a person, or not.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, newest first.")] = 50,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Orders, newest first."""
    with open_api(api_url, token, data_dir) as api:

        def page(cursor: str | None, size: int) -> tuple[Sequence[OrderSummary], str | None]:
            gives = api.get(
                "/v1/orders",
                Page,
                state=in_state,
                channel=channel,
                customer_type=customer_type,
                needs_review=None if needs_review is None else str(needs_review).lower(),
                cursor=cursor,
                limit=size,
            )
            return gives.orders, gives.next_cursor

        found, more = paged(limit, page)
    if as_json:
        print_json(found)
        return
    _print_list(console(), found, more=more)


@app.command()
def tender(
    order_id: Annotated[str, typer.Argument(metavar="ID", help="The order that awaits its customer.")],
    *,
    card_token: Annotated[
        str | None,
        typer.Option("--card-token", help="The payment provider's token of the other card; no number."),
    ] = None,
    account: Annotated[str | None, typer.Option(help="Or the id of the account that is to pay.")] = None,
    gift_card: Annotated[str | None, typer.Option(help="Or the code of a gift card.")] = None,
    store_credit: Annotated[str | None, typer.Option(help="Or the code of a store credit.")] = None,
    actor: Actor = None,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repeat of this very request harmless; default: a new one.")
    ] = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Pay the part of an order that was declined in another way, as its customer says on the phone."""
    ways = {
        ("--card-token", TenderKind.CARD): card_token,
        ("--account", TenderKind.ON_ACCOUNT): account,
        ("--gift-card", TenderKind.GIFT_CARD): gift_card,
        ("--store-credit", TenderKind.STORE_CREDIT): store_credit,
    }
    said = [(option, kind, value) for (option, kind), value in ways.items() if value is not None]
    if len(said) != 1:
        raise bad_input(
            "--card-token", "or --account, --gift-card or --store-credit: say one means of payment"
        )
    ((option, kind, value),) = said
    offer = message(
        TenderRequest,
        {"token": option},
        kind=kind,
        token=value,
        actor=acting_as(actor),
        request_id=request_id or f"cli-{uuid.uuid4()}",
    )
    with open_api(api_url, token, data_dir) as api:
        answer: TenderTaken | Queued = api.post(
            f"/v1/orders/{path_part(order_id)}/tenders",
            offer,
            TenderTaken | Queued,  # type: ignore[arg-type] # a union is a type to pydantic, not to mypy
        )
    if as_json:
        print_json(answer)
        return
    if isinstance(answer, Queued):
        console().print(
            f"{order_id}: kept as {answer.request_id}: its run could not be asked, and tries it once it can"
        )
    else:
        console().print(Text(plain(f"{order_id}: tender {answer.tender}: {answer.message}")), soft_wrap=True)


@app.command()
def cancel(
    order_id: Annotated[str, typer.Argument(metavar="ID", help="CHANNEL:NUMBER, such as web:1001.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "no reason was given",
    actor: Actor = None,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repeat of this very request harmless; default: a new one.")
    ] = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Call an order off. What has not left is undone; what has left is said."""
    request = message(
        CancelRequest,
        actor=acting_as(actor),
        reason=needs_reason(reason),
        request_id=request_id or f"cli-{uuid.uuid4()}",
    )
    with open_api(api_url, token, data_dir) as api:
        answer: CancelTaken | Queued = api.post(
            f"/v1/orders/{path_part(order_id)}/cancel",
            request,
            CancelTaken | Queued,  # type: ignore[arg-type] # a union is a type to pydantic, not to mypy
        )
    if as_json:
        print_json(answer)
        return
    if isinstance(answer, Queued):
        console().print(
            f"{order_id}: queued as {answer.request_id}: no worker answered, it is read once one is up"
        )
    else:
        console().print(Text(plain(f"{order_id}: {answer.outcome}: {answer.message}")), soft_wrap=True)


@app.command()
def amend(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="CHANNEL:NUMBER, such as web:1001.")],
    *,
    line: Annotated[
        list[str] | None,
        typer.Option(
            "--line",
            metavar="SKU=QTY[@PRICE]",
            help="So many units of a SKU (or, as line:ID=QTY, of a line); 0 removes it. A new SKU needs its price, "
            "such as 6@2.55. May be given several times.",
        ),
    ] = None,
    ship_to: Annotated[
        Path | None, typer.Option("--ship-to", help="JSON file with the new address; - reads standard input.")
    ] = None,
    service: Annotated[
        str | None, typer.Option("--service", metavar="CARRIER/SERVICE", help="What to send it by.")
    ] = None,
    promise_by: Annotated[
        str | None,
        typer.Option(
            "--promise-by", metavar="DATE", help="Latest delivery: 2026-03-09, or a time with a zone."
        ),
    ] = None,
    charges: Annotated[
        Path | None,
        typer.Option(
            "--charges",
            help="JSON file with a list of all charges; without it taxes and discounts follow the goods.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "no reason was given",
    do: Annotated[
        bool | None, typer.Option("--apply/--preview", help="Do it, or only show what it would do.")
    ] = None,
    actor: Actor = None,
    request_id: Annotated[
        str | None, typer.Option(help="Makes a repeat of this very request harmless; default: a new one.")
    ] = None,
    base_version: Annotated[
        int | None, typer.Option(help="Refuse unless the order's document is of this version.")
    ] = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change an order: lines, address, service, delivery date or charges. Look at --preview, then --apply.

    What is packed or on its way goes on as it is; the rest is called off and planned anew.
    """
    if do is None:
        raise bad_input("--preview or --apply", "is missing: look at it first, then do it")
    with open_api(api_url, token, data_dir) as api:
        path = f"/v1/orders/{path_part(order_id)}"
        currency = api.get(path, OrderView).total.currency
        request = message(
            AmendRequest,
            request_id=request_id or f"cli-{uuid.uuid4()}",
            actor=acting_as(actor),
            reason=needs_reason(reason),
            lines=[line_change(text, currency) for text in line or ()],
            ship_to=_json_in(ship_to, "--ship-to"),
            service=service,
            promise_by=latest(promise_by),
            charges=_json_in(charges, "--charges"),
            base_version=base_version,
        )
        if not do:
            shown = api.post(f"{path}/amendments?preview=true", request, AmendmentPreview)
        else:
            answer: AmendmentTaken | Queued = api.post(
                f"{path}/amendments",
                request,
                AmendmentTaken | Queued,  # type: ignore[arg-type] # as above
            )
    if as_json:
        print_json(answer if do else shown)
    elif not do:
        print_preview(console(), shown)
    elif isinstance(answer, Queued):
        console().print(
            f"{order_id}: queued as {answer.request_id}: no worker answered, it is looked at once one is up"
        )
    else:
        console().print(
            Text(plain(f"{answer.amendment_id}: {answer.outcome}: {answer.message}")), soft_wrap=True
        )
        if answer.outcome is AmendOutcome.APPLYING:
            console().print(f"orderwright orders show {order_id} tells what becomes of it")


# --- Submitting ---
def _read(file: Path) -> bytes:
    if str(file) == "-":
        return typer.get_binary_stream("stdin").read(MAX_DOCUMENT_BYTES + 1)
    try:
        with file.open("rb") as opened:
            # One byte more than is allowed tells that it is too much, without reading all of it.
            return opened.read(MAX_DOCUMENT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise bad_input("file", f"cannot be read: {reason}") from error


def _json_in(file: Path | None, option: str) -> Any:
    """What a file of JSON holds, or None without one."""
    if file is None:
        return None
    try:
        return parse(_read(file))
    except InvalidDocument as error:
        (problem, *_) = error.problems
        raise bad_input(option, f"{file}: {problem.message}") from None


def _require_json(document: bytes) -> None:
    """Say at once what no API could read. Whether it is an order, the API judges: its version may be another."""
    try:
        check_document(document)
    except InvalidDocument as error:
        if any(problem.code == "not_json" for problem in error.problems):
            raise


def _submit(api: Api, document: bytes) -> tuple[OrderAccepted, bool]:
    response = api.post_bytes("/v1/orders", document)
    return OrderAccepted.model_validate_json(response.content), response.status_code == 202


# --- Printing ---
def _print_order(target: Console, order: OrderView, shown_lines: int) -> None:
    head = Text.assemble((order.order_id, "bold"), "  ", state(order.state))
    if order.needs_review:
        head.append("  needs a person", style="bold yellow")
    target.print(head)
    target.print(
        facts(
            ("customer", order.customer_type.upper() if order.customer_type else "not yet classified"),
            ("ships to", order.ship_country),
            ("placed", when(order.placed_at)),
            ("received", f"{when(order.received_at)} by {order.source}"),
            ("promised", when(order.promised_at) if order.promised_at else None),
            ("closed", when(order.closed_at) if order.closed_at else None),
            ("because", order.exit_reason),
            ("version", str(order.document_version) if order.document_version > 1 else None),
            ("plan", order.plan_id),
            ("Temporal run", order.workflow_id),
        )
    )
    _print_lines(target, order, shown_lines)
    _print_money(target, order)
    _print_shipments(target, order)
    for task in order.reviews:
        target.print()
        target.print(Text.assemble(("Review ", "bold"), (task.task_id, "bold"), "  ", state(task.state)))
        target.print(
            facts(
                ("what", task.what_happened),
                ("why", "; ".join(flag.reason for flag in task.why_flagged) or None),
                ("recommended", f"{task.recommended}: {task.recommendation}"),
                (
                    "decided",
                    f"{task.verdict} by {task.decided_by} at {when(task.decided_at)}: {task.reason}"
                    if task.verdict
                    else None,
                ),
            )
        )


def _print_lines(target: Console, order: OrderView, shown: int) -> None:
    table = listing("line", "SKU", "description", "units", "price", "sum", right=("units", "price", "sum"))
    for line in order.lines[:shown]:
        table.add_row(
            plain(line.line_id),
            plain(line.sku),
            plain(line.description),
            f"{line.quantity:,}",
            str(line.unit_price),
            str(line.unit_price * line.quantity),
        )
    target.print()
    target.print(table)
    if len(order.lines) > shown:
        target.print(f"... and {len(order.lines) - shown:,} more lines (--all-lines)")


def _print_money(target: Console, order: OrderView) -> None:
    money = order.money
    charges = order.total - order.goods
    amounts: list[tuple[str, Money]] = [
        ("goods", order.goods),
        ("charges", charges),
        ("total", order.total),
        ("authorised", money.authorised),
        ("captured", money.captured),
        ("refunded", money.refunded),
        ("given back unused", money.voided),
        ("held now", money.held),
    ]
    always = {"goods", "charges", "total", "captured"}
    table = listing("money", "amount", right=("amount",))
    for name, amount in amounts:
        if amount.minor or name in always:
            table.add_row(name, str(amount))
    target.print()
    target.print(table)
    if money.unclear:
        target.print(Text(f"{money.unclear} payment requests without an answer so far", style="yellow"))


def _print_shipments(target: Console, order: OrderView) -> None:
    if not order.shipments:
        return
    table = listing(
        "shipment", "state", "from", "with", "units", "share", "promised", "delivered", "tracking",
        right=("units", "share"),
    )  # fmt: skip
    for shipment in order.shipments:
        told = state(shipment.state)
        if shipment.late:
            told.append(" late", style="bold yellow")
        table.add_row(
            str(shipment.number),
            told,
            shipment.node,
            f"{shipment.carrier}/{shipment.service}",
            f"{shipment.units:,}",
            str(shipment.amount),
            day(shipment.promised_at),
            day(shipment.delivered_at),
            plain(shipment.tracking or "-"),
        )
    target.print()
    target.print(table)


def _print_timeline(target: Console, timeline: list[TimelineView]) -> None:
    table = listing("business time (UTC)", "who", "what happened")
    for entry in sorted(timeline, key=_told_order):
        what = plain(entry.what)
        if entry.shipment_id:
            what = f"[{entry.shipment_id.rpartition(':')[2]}] {what}"
        told = Text(what)
        if entry.why:
            told.append(f"  ({plain(entry.why)})", style="dim")
        table.add_row(f"{entry.business_at:%Y-%m-%d %H:%M}", plain(entry.actor), told)
    target.print()
    target.print(table)


def _told_order(entry: TimelineView) -> tuple[datetime, int]:
    return entry.at, entry.position


def _print_list(target: Console, orders: list[OrderSummary], *, more: bool) -> None:
    if not orders:
        target.print("no such orders")
        return
    table = listing("order", "state", "type", "lines", "total", "to", "promised", right=("lines", "total"))
    for order in orders:
        told = state(order.state)
        if order.needs_review:
            told.append(" !", style="bold yellow")
        table.add_row(
            order.order_id,
            told,
            order.customer_type.upper() if order.customer_type else "-",
            f"{order.line_count:,}",
            str(order.total),
            order.ship_country,
            day(order.promised_at),
        )
    target.print(table)
    if more:
        target.print(f"{len(orders):,} orders shown, there are more: --limit")
