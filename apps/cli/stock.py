"""``orderwright stock``: what lies where, what a warehouse has to tell, and whether the books agree."""

import tomllib
import uuid
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from activities.store.stock_books import StockAccount
from apps.api.contracts import (
    AdjustmentRequest,
    AllocationRequest,
    CountRequest,
    DamageRequest,
    ExpectedRequest,
    ReceiptRequest,
    SafetyStockRequest,
    ShortPickRequest,
    TransferRequest,
)
from apps.cli.output import console, facts, listing, plain, print_json, when
from apps.cli.reconcile import Everything, Wait, reconcile
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
)
from models.allocation import EACH_NODE, AllocationView
from models.reconciliation import Area
from models.stock import Movement, NodeStock, StockAnswer, StockView

app = typer.Typer(no_args_is_help=True)

Node = Annotated[str, typer.Argument(metavar="NODE", help="Where, by the id of the node.")]
Lines = Annotated[
    list[str], typer.Argument(metavar="SKU=UNITS", help="What and how much, such as 85123A=48.")
]
DocumentId = Annotated[
    str | None,
    typer.Option("--document", help="The document's id; sent twice it counts once. Default: a new one."),
]
MaybeReason = Annotated[str | None, typer.Option("--reason", help="Why, for the record.")]
New = Annotated[bool, typer.Option("--new", help="The goods are stocked for the first time anywhere.")]
Lot = Annotated[
    str | None,
    typer.Option("--lot", help="The lot that the units are of, as it stands on them; one SKU then."),
]
Expires = Annotated[
    str | None,
    typer.Option(
        "--expires", metavar="DATE", help="The last day on which the lot is good, such as 2027-03-31."
    ),
]


@app.command()
def show(
    sku: Annotated[str, typer.Argument(metavar="SKU", help="As orders name it.")],
    *,
    movements: Annotated[int, typer.Option("--movements", min=0, max=200, help="How many to show.")] = 10,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """A SKU at every node, with its lots, and what happened to it last."""
    if not sku.strip() or sku in (".", ".."):
        raise bad_input("SKU", f"{sku!r} is no SKU")
    with open_api(api_url, token, data_dir) as api:
        view = api.get(f"/v1/stock/{quote(sku, safe='')}", StockView, movements=movements)
    if as_json:
        print_json(view)
        return
    target = console()
    table = listing("node", "on hand", "reserved", "kept back", "available", "on its way", right=_NUMBERS)
    for node in view.nodes:
        kept_back = max(node.on_hand - node.reserved - node.available, 0)
        units = (node.on_hand, node.reserved, kept_back, node.available, node.in_transit)
        table.add_row(node.node, *map(str, units))
    kept_back = max(view.on_hand - view.reserved - view.available, 0)
    everywhere = (view.on_hand, view.reserved, kept_back, view.available, view.in_transit)
    table.add_row(Text("all", style="bold"), *map(str, everywhere))
    target.print(table)
    if any(node.lots for node in view.nodes):
        target.print()
        target.print(_lots(view.nodes))
    if view.movements:
        target.print()
        target.print(_movements(view.movements))


@app.command()
def receive(
    node: Node,
    lines: Lines,
    *,
    lot: Lot = None,
    expires: Expires = None,
    document: DocumentId = None,
    transfer: Annotated[
        str | None, typer.Option("--transfer", help="They come from another node: the transfer's document.")
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", help="No more of that transfer will come; write the rest off.")
    ] = False,
    new: New = False,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Goods arrived at a node and lie on its shelves."""
    sent = message(
        ReceiptRequest,
        **_said(document, actor, reason),
        node=node,
        lines=_of_lot(_quantities(lines), lot, expires),
        transfer_id=transfer,
        last=last,
        new=new,
    )
    _tell("receive", sent, api_url, token, data_dir, as_json=as_json)


@app.command()
def count(
    node: Node,
    lines: Lines,
    *,
    lot: Lot = None,
    expires: Expires = None,
    document: DocumentId = None,
    new: New = False,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Somebody counted: so many units lie there, whatever the books say. Parcels that left are not counted."""
    sent = message(
        CountRequest,
        **_said(document, actor, reason),
        node=node,
        lines=_of_lot(_quantities(lines), lot, expires),
        new=new,
    )
    _tell("count", sent, api_url, token, data_dir, as_json=as_json)


@app.command()
def adjust(
    node: Node,
    lines: Annotated[
        list[str], typer.Argument(metavar="SKU=CHANGE", help="More or fewer, such as 85123A=-2.")
    ],
    *,
    reason: Reason,
    lot: Lot = None,
    document: DocumentId = None,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The books were wrong by so much."""
    sent = message(
        AdjustmentRequest,
        **_said(document, actor, needs_reason(reason)),
        node=node,
        lines=_of_lot(_quantities(lines, "change"), lot),
    )
    _tell("adjust", sent, api_url, token, data_dir, as_json=as_json)


@app.command()
def damage(
    node: Node,
    lines: Lines,
    *,
    reason: Reason,
    lot: Lot = None,
    document: DocumentId = None,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """So many units broke, were stolen or ran out of date."""
    sent = message(
        DamageRequest,
        **_said(document, actor, needs_reason(reason)),
        node=node,
        lines=_of_lot(_quantities(lines), lot),
    )
    _tell("damage", sent, api_url, token, data_dir, as_json=as_json)


@app.command()
def transfer(
    from_node: Annotated[str, typer.Argument(metavar="FROM", help="The node that the goods left.")],
    to_node: Annotated[str, typer.Argument(metavar="TO", help="The node that they go to.")],
    lines: Lines,
    *,
    lot: Lot = None,
    document: DocumentId = None,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Units left one node for another; the other receives them with --transfer."""
    sent = message(
        TransferRequest,
        **_said(document, actor, reason),
        from_node=from_node,
        to_node=to_node,
        lines=_of_lot(_quantities(lines), lot),
    )
    _tell("transfer", sent, api_url, token, data_dir, as_json=as_json)


@app.command()
def allocate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A TOML file with one table of the array `rules` for each: docs/stock.md."
        ),
    ],
    *,
    document: DocumentId = None,
    replaces: Annotated[
        int | None, typer.Option("--replaces", min=0, help="Only if this version is in force.")
    ] = None,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Set who may be promised what: all rules at once, those not in FILE end. What is promised stays promised."""
    sent = message(
        AllocationRequest, **_said(document, actor, reason), replaces=replaces, rules=_rules_of(file)
    )
    with open_api(api_url, token, data_dir) as api:
        view = api.put("/v1/stock/allocation", sent, AllocationView)
    _print_allocation(view, as_json=as_json)


@app.command()
def allocation(
    *,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Who may be promised what, and how much of it they hold or have had."""
    with open_api(api_url, token, data_dir) as api:
        view = api.get("/v1/stock/allocation", AllocationView)
    _print_allocation(view, as_json=as_json)


@app.command()
def expect(
    node: Node,
    lines: Annotated[
        list[str],
        typer.Argument(metavar="SKU=UNITS", help="What and how much; 0 when it will not come after all."),
    ],
    *,
    on: Annotated[str, typer.Option("--on", help="The day on which it comes, such as 2026-03-09.")],
    supply: Annotated[
        str,
        typer.Option("--supply", help="What the delivery is known by, such as a purchase order's number."),
    ],
    document: DocumentId = None,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """A supplier will deliver: it can be promised from that day on. What is said last of a delivery counts."""
    sent = message(
        ExpectedRequest,
        {"expected_on": "--on", "supply_id": "--supply"},
        **_said(document, actor, reason),
        node=node,
        lines=_quantities(lines),
        supply_id=supply,
        expected_on=_day("--on", on),
    )
    _tell("expect", sent, api_url, token, data_dir, as_json=as_json)


@app.command(name="short-pick")
def short_pick(
    shipment: Annotated[
        str, typer.Argument(metavar="SHIPMENT", help="CHANNEL:NUMBER:SHIPMENT, such as web:1001:1.")
    ],
    lines: Lines,
    *,
    document: DocumentId = None,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Who picked a shipment did not find so many units: it loses them, and so does the stock."""
    sent = message(
        ShortPickRequest,
        {"shipment_id": "SHIPMENT"},
        **_said(document, actor, reason),
        shipment_id=shipment,
        lines=_quantities(lines),
    )
    _tell("short-pick", sent, api_url, token, data_dir, as_json=as_json)


@app.command()
def safety(
    lines: Annotated[
        list[str],
        typer.Argument(metavar="SKU=UNITS", help="How many to keep back, such as 85123A=4; 0: none."),
    ],
    *,
    node: Annotated[str, typer.Option("--node", help="Where, by the id of the node.")],
    document: DocumentId = None,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Keep units back: they are promised to nobody new. What is promised already stays so."""
    sent = message(SafetyStockRequest, **_said(document, actor, reason), node=node, lines=_quantities(lines))
    _tell("safety", sent, api_url, token, data_dir, as_json=as_json)


@app.command(name="reconcile")
def reconcile_stock(
    *,
    everything: Everything = False,
    wait: Wait = 120.0,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare reservations with orders, counts with reservations, and labels with shipments and the carrier, now.

    What a rule allows is mended. Exit code 0: both sides agree, or a rule has made them; 1: a person is asked; 3: it
    did not come through. Movements: orderwright stock check.
    """
    reconcile(
        (Area.STOCK, Area.LABELS),
        everything=everything,
        wait=wait,
        api_url=api_url,
        token=token,
        data_dir=data_dir,
        as_json=as_json,
    )


@app.command()
def check(
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Hold rows, lots, movements and reservations against each other; mend nothing. Exit code 1 if something differs,
    or has expired and lies on a shelf.
    """
    with open_api(api_url, token, data_dir) as api:
        account = api.get("/v1/stock", StockAccount)
    if as_json:
        print_json(account)
    else:
        _print_account(account)
    if account.differences:
        raise typer.Exit(1)


_NUMBERS = ("on hand", "reserved", "kept back", "available", "on its way")


def _rules_of(file: Path) -> list[Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise bad_input(str(file), f"cannot be read as TOML: {error}") from None
    if set(found) - {"rules"} or not isinstance(found.get("rules", []), list):
        raise bad_input(str(file), "holds something else than [[rules]]: each rule is a table of that name")
    return [_without_types(rule) for rule in found.get("rules", [])]


def _without_types(rule: Any) -> Any:
    if not isinstance(rule, dict):
        return rule
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in rule.items()}


def _print_allocation(view: AllocationView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    target = console()
    if not view.rules:
        target.print("No rules: whoever comes first is promised what lies there.")
        return
    table = listing("rule", "what", "of", "at", "for", "counted", "holds", right=("counted",))
    for state in view.rules:
        rule = state.rule
        amount = f"{rule.units} units" if rule.units is not None else f"{rule.percent} %"
        group = [*rule.channels, *(f"tier {tier}" for tier in rule.tiers)]
        uses = [f"{use.used}" if rule.sku else f"{use.sku} {use.used}" for use in state.uses[:3]]
        times = [when(moment) if moment else "" for moment in (rule.valid_from, rule.valid_until)]
        table.add_row(
            rule.rule_id,
            f"{rule.kind} {amount}",
            rule.sku or "each SKU",
            "each node" if rule.node == EACH_NODE else rule.node or "all nodes",
            ", ".join(group) or "all",
            ", ".join(uses) + (" …" if len(state.uses) > len(uses) else ""),
            ("now" if state.in_force else "not now") + (f" ({' – '.join(times)})" if any(times) else ""),
        )
    target.print(table)
    target.print(f"version {view.version}, by {view.actor}" + (f": {view.reason}" if view.reason else ""))


def _said(document: str | None, actor: str | None, reason: str | None) -> dict[str, Any]:
    return {
        "document_id": document or f"cli-{uuid.uuid4()}",
        "actor": acting_as(actor),
        "reason": None if reason is None else needs_reason(reason),
    }


def _quantities(lines: Sequence[str], field: str = "quantity") -> list[dict[str, Any]]:
    """``SKU=UNITS`` as lines; a SKU may have an equals sign itself, its units have none."""
    found = []
    for line in lines:
        sku, equals, units = line.rpartition("=")
        if not equals or not sku or not units.removeprefix("-").removeprefix("+").isdecimal():
            raise bad_input(line, "is not SKU=UNITS with a whole number of units, such as 85123A=48")
        found.append({"sku": sku, field: int(units)})
    return found


def _of_lot(lines: list[dict[str, Any]], lot: str | None, expires: str | None = None) -> list[dict[str, Any]]:
    """``lines`` with the lot that the options name."""
    if lot is None and expires is None:
        return lines
    if lot is None:
        raise bad_input("--expires", "is the date of a lot: name it with --lot")
    if len(lines) > 1:
        raise bad_input("--lot", "is for one SKU=UNITS: tell of each lot by a command of its own")
    expires_on = _day("--expires", expires) if expires is not None else None
    return [line | {"lot": lot} | ({"expires_on": expires_on} if expires_on else {}) for line in lines]


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise bad_input(option, f"{text!r} is no day such as 2027-03-31") from None


def _tell(
    what: str,
    document: BaseModel,
    api_url: str | None,
    token: str | None,
    data_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    with open_api(api_url, token, data_dir) as api:
        answer = api.post(f"/v1/stock/{what}", document, StockAnswer)
    if as_json:
        print_json(answer)
        return
    target = console()
    said = " (was taken before; nothing changed)" if answer.repeated else ""
    target.print(Text(plain(f"document {answer.document_id}{said}")))
    table = listing("node", "SKU", "on hand", "reserved", "available", right=_NUMBERS)
    for row in answer.stock:
        table.add_row(row.node, plain(row.sku), str(row.on_hand), str(row.reserved), str(row.available))
    target.print(table)
    for gone in answer.released:
        target.print(
            Text(
                plain(
                    f"released: {gone.quantity} of {gone.sku} that shipment {gone.shipment_id} was promised"
                ),
                style="yellow",
            )
        )


def _lots(nodes: Sequence[NodeStock]) -> Table:
    table = listing("node", "lot", "expires on", "on hand", "reserved", "free", "", right=(*_NUMBERS, "free"))
    for node in nodes:
        for lot in node.lots:
            table.add_row(
                node.node,
                plain(lot.lot) if lot.lot else "unknown",
                f"{lot.expires_on}" if lot.expires_on else "unknown",
                str(lot.on_hand),
                str(lot.reserved),
                str(lot.on_hand - lot.reserved),
                Text("expired", style="red") if lot.expired else "",
            )
    return table


def _movements(movements: Sequence[Movement]) -> Table:
    table = listing(
        "when (UTC)", "node", "what", "on hand", "reserved", "by", "for", right=("on hand", "reserved")
    )
    for moved in movements:
        table.add_row(
            when(moved.at),
            moved.node,
            moved.kind.value.replace("_", " "),
            _came_to(moved.on_hand, moved.on_hand_after),
            _came_to(moved.reserved, moved.reserved_after),
            plain(moved.actor),
            plain(moved.document_id or moved.source or moved.reason or ""),
        )
    return table


def _came_to(change: int, after: int) -> str:
    return f"{change:+d} = {after}" if change else ""


def _print_account(account: StockAccount) -> None:
    target = console()
    target.print(
        facts(
            ("stock rows", f"{account.rows:,}"),
            ("movements", f"{account.movements:,}"),
            (
                "unexplained",
                f"{account.unexplained:,} (changed by hand, or by a version that did not say why)",
            ),
            ("held", f"{account.held:,} reserved lines"),
        )
    )
    if not account.differences:
        target.print(
            "every row is the sum of its movements and its lots, and an open order holds what is reserved"
        )
        return
    table = listing("SKU", "node", "what", "found", "expected", "for", right=("found", "expected"))
    for one in account.differences:
        table.add_row(
            plain(one.sku), one.node, one.what, str(one.found), str(one.expected), plain(one.source)
        )
    target.print(table)
    count = len(account.differences)
    target.print(Text(f"{count} difference{'s' if count > 1 else ''}", style="red"))
