"""``orderwright prices``: what business customers pay."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from apps.api.contracts import PriceAssignmentRequest
from apps.cli.output import console, day, facts, listing, plain, print_json, when
from apps.cli.price_files import PriceFile, read_csv, read_toml, start_of, understood
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
)
from models.errors import DocumentTooLarge, NotFound
from models.money import CURRENCY_EXPONENT
from models.order import MAX_DOCUMENT_BYTES
from models.prices import (
    AgreedPrice,
    AssigneeKind,
    PriceListContent,
    PriceListLoaded,
    PriceLists,
    PriceListView,
)

app = typer.Typer(no_args_is_help=True)

ListId = Annotated[str, typer.Argument(metavar="LIST", help="The list's id, such as trade-2026.")]
Customer = Annotated[
    str | None, typer.Option("--customer", help="By the customer_ref of the customer's orders.")
]
Account = Annotated[str | None, typer.Option("--account", help="By the account that pays.")]
MaybeReason = Annotated[str | None, typer.Option("--reason", help="Why, for the record.")]


@app.command()
def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A price list, .csv or .toml.")],
    *,
    list_id: Annotated[
        str | None, typer.Option("--list", help="Of a CSV file: the list's id; default: the file's name.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of a CSV file: what people call it.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Of a CSV file, such as GBP.")] = None,
    valid_from: Annotated[
        str | None, typer.Option("--from", help="Of a CSV file: its first day or moment.")
    ] = None,
    valid_until: Annotated[
        str | None, typer.Option("--until", help="Of a CSV file: the day or moment when it holds no more.")
    ] = None,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Load a price list as a whole: all of it, as its next version, or nothing. Loaded twice it is the same version.

    What is not said of a list that there is already stays as it is. Every problem of the file is listed, with line and
    column.
    """
    said = {"list_id": list_id, "name": name, "currency": currency}
    said |= {
        "valid_from": valid_from and start_of(valid_from),
        "valid_until": valid_until and start_of(valid_until),
    }
    given = {field: value for field, value in said.items() if value is not None}
    whose = {"actor": acting_as(actor), "reason": None if reason is None else needs_reason(reason)}
    text = _text(file)
    with open_api(api_url, token, data_dir) as api:
        if file.suffix.casefold() == ".toml":
            if given:
                raise bad_input(
                    ", ".join(_OPTIONS[field] for field in given), "is for CSV files: this one says it itself"
                )
            read = read_toml(file.name, text)
        else:
            given = _as_it_is(api, given.get("list_id", file.stem)) | given
            read = _read_csv(file, text, given)
        answer = api.post("/v1/price-lists", understood(read, given | whose, _OPTIONS), PriceListLoaded)
    if as_json:
        print_json(answer)
        return
    view = answer.price_list
    became = "is version" if answer.changed else "is like this already, in version"
    console().print(
        Text(plain(f"{view.list_id} {became} {view.version}: {view.prices:,} prices, {_holds(view)}"))
    )


@app.command(name="list")
def list_lists(
    *, api_url: ApiUrl = None, token: Token = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Every price list, when it holds and for whom."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get("/v1/price-lists", PriceLists)
    if as_json:
        print_json(found)
    elif not found.lists:
        console().print("there is no price list: every business pays what its orders say")
    else:
        table = listing(
            "list",
            "name",
            "currency",
            "from",
            "until",
            "version",
            "prices",
            "for",
            right=("version", "prices"),
        )
        for one in found.lists:
            table.add_row(
                one.list_id,
                plain(one.name),
                one.currency,
                day(one.valid_from),
                day(one.valid_until),
                str(one.version),
                f"{one.prices:,}",
                _for_whom(one),
            )
        console().print(table)


@app.command()
def show(
    list_id: Annotated[str | None, typer.Argument(metavar="[LIST]", help="The list's id.")] = None,
    *,
    customer: Customer = None,
    account: Account = None,
    sku: Annotated[str | None, typer.Option("--sku", help="As orders name it.")] = None,
    quantity: Annotated[int | None, typer.Option("--quantity", min=1, help="How many; default: 1.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Of the order.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="When the order is placed; default: now.")] = None,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="An earlier version of LIST.")
    ] = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """A list, or what so many units cost: by LIST, or a customer by the list that holds for them."""
    if list_id is None and sku is None:
        raise bad_input(
            "LIST", "is missing: name a list, or say --sku, and whose price with --customer or --account"
        )
    whose = {"customer": customer, "account": account, "currency": currency, "at": at and start_of(at)}
    if list_id is not None and any(whose.values()):
        raise bad_input(
            "LIST", "says whose price it is already: leave it out, or --customer, --account, --currency, --at"
        )
    with open_api(api_url, token, data_dir) as api:
        if list_id is not None and (sku is None or quantity is None):
            _show_list(api, list_id, sku, version, as_json=as_json)
            return
        if version is not None:
            raise bad_input("--version", "is for looking at a list: leave out --quantity")
        asked = {"price_list": list_id, "sku": sku, "quantity": quantity or 1, **whose}
        price = api.get("/v1/prices", AgreedPrice, **asked)
    if as_json:
        print_json(price)
        return
    console().print(
        facts(
            ("a unit", f"{price.unit_price}, from {price.min_quantity:,} on"),
            (f"{price.quantity:,} units", str(price.amount)),
            (
                "next",
                f"{price.next_break.unit_price} from {price.next_break.min_quantity:,} on"
                if price.next_break
                else None,
            ),
            ("by", f"{price.list_id}, version {price.version}{_by(price.assigned_to)}"),
        )
    )


@app.command()
def assign(
    list_id: ListId,
    *,
    customer: Customer = None,
    account: Account = None,
    every_business: Annotated[
        bool, typer.Option("--every-business", help="Every business that has no list of its own.")
    ] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="It is for them no more.")] = False,
    actor: Actor = None,
    reason: MaybeReason = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say whom a list is for. Nobody can have two of one currency at the same time."""
    chosen = [
        (kind, name)
        for kind, name in (
            (AssigneeKind.CUSTOMER, customer),
            (AssigneeKind.ACCOUNT, account),
            (AssigneeKind.EVERY_BUSINESS, "" if every_business else None),
        )
        if name is not None
    ]
    if len(chosen) != 1:
        raise bad_input("--customer, --account, --every-business", "say one of them")
    kind, name = chosen[0]
    asked = message(
        PriceAssignmentRequest,
        {"assignee": "--customer" if kind is AssigneeKind.CUSTOMER else "--account"},
        kind=kind,
        assignee=None if kind is AssigneeKind.EVERY_BUSINESS else name,
        withdrawn=withdraw,
        actor=acting_as(actor),
        reason=None if reason is None else needs_reason(reason),
    )
    with open_api(api_url, token, data_dir) as api:
        view = api.post(f"{_path(list_id)}/assignments", asked, PriceListView)
    if as_json:
        print_json(view)
    else:
        console().print(Text(plain(f"{view.list_id} is for {_for_whom(view)}, {_holds(view)}")))


_OPTIONS = {
    "list_id": "--list",
    "name": "--name",
    "currency": "--currency",
    "valid_from": "--from",
    "valid_until": "--until",
    "actor": "--actor",
    "reason": "--reason",
}


def _path(list_id: str) -> str:
    if not list_id.strip() or list_id in (".", ".."):
        raise bad_input("LIST", f"{list_id!r} is no id of a price list")
    return f"/v1/price-lists/{quote(list_id, safe='')}"


def _text(file: Path) -> str:
    if file.suffix.casefold() not in (".csv", ".toml"):
        raise bad_input("FILE", f"{file.name} is neither .csv nor .toml")
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise bad_input("FILE", f"{file} cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLarge(f"{file.name} has more than {MAX_DOCUMENT_BYTES:,} bytes: make several lists")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise bad_input(f"{file.name}, line {line}", "is not UTF-8 text: save it as UTF-8") from None


def _as_it_is(api: Api, list_id: str) -> dict[str, Any]:
    """What is known of a list and need not be said again; of a new one, its id alone."""
    try:
        known = api.get(_path(list_id), PriceListContent, limit=1).price_list
    except NotFound:
        return {"list_id": list_id, "name": list_id}
    return {
        "list_id": list_id,
        "name": known.name,
        "currency": known.currency,
        "valid_from": known.valid_from,
        "valid_until": known.valid_until,
    }


def _read_csv(file: Path, text: str, given: dict[str, Any]) -> PriceFile:
    currency = given.get("currency")
    if currency is None:
        raise bad_input(
            "--currency",
            f"is missing: there is no list {given['list_id']} yet, so say its --currency and --from",
        )
    if currency not in CURRENCY_EXPONENT:
        raise bad_input("--currency", f"{currency!r} is none: use an ISO 4217 code such as GBP")
    return read_csv(file.name, text, currency)


def _show_list(api: Api, list_id: str, sku: str | None, version: int | None, *, as_json: bool) -> None:
    """Every price of a list, page by page."""
    pages = [api.get(_path(list_id), PriceListContent, sku=sku, version=version, limit=1_000)]
    while (following := pages[-1].next_sku) is not None:
        pages.append(
            api.get(_path(list_id), PriceListContent, from_sku=following, version=version, limit=1_000)
        )
    prices = tuple(price for page in pages for price in page.prices)
    view = pages[0].price_list
    if as_json:
        print_json(PriceListContent(price_list=view, prices=prices))
        return
    target = console()
    target.print(
        facts(
            ("list", f"{view.list_id}: {view.name}"),
            ("holds", _holds(view)),
            ("for", _for_whom(view)),
            ("version", f"{view.version}, loaded {when(view.loaded_at)} by {view.loaded_by}"),
            ("reason", view.reason),
        )
    )
    table = listing("SKU", "from units", "a unit", right=("from units", "a unit"))
    for price in prices:
        table.add_row(plain(price.sku), f"{price.min_quantity:,}", str(price.unit_price))
    target.print(table)


def _holds(view: PriceListView) -> str:
    until = "" if view.valid_until is None else f" until before {when(view.valid_until)}"
    return f"{view.currency}, from {when(view.valid_from)}{until}"


def _for_whom(view: PriceListView) -> str:
    names = [
        "every business" if one.kind is AssigneeKind.EVERY_BUSINESS else f"{one.kind} {one.assignee}"
        for one in view.assigned_to
    ]
    return plain(", ".join(names)) or "nobody yet"


def _by(kind: AssigneeKind | None) -> str:
    if kind is None:
        return ""
    return ", of every business" if kind is AssigneeKind.EVERY_BUSINESS else f", of the {kind}"
