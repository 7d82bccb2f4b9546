"""``orderwright route``: why an order goes this way, what if it did not, and would it again."""

import time
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from apps.api.contracts import RefreshValues, ValuesAsked
from apps.cli.app import REFUSED
from apps.cli.output import console, facts, listing, plain, print_json, when
from apps.cli.policy_files import document_in, moment_of, print_backtest
from apps.cli.remote import Api, ApiUrl, AsJson, DataDir, Token, bad_input, message, open_api, path_part
from models.base import Contract
from models.errors import NotReachable
from models.money import Money
from models.plan import Plan
from models.policy import BacktestReport, BacktestRequest
from models.routing import CostTerm, RouteAnswer, RouteExplanation, RouteQuestion, RouteReplay
from models.values import StockValuePage

app = typer.Typer(no_args_is_help=True)

Order = Annotated[str, typer.Argument(metavar="ORDER", help="CHANNEL:NUMBER, such as web:1001.")]
_PlanId = Annotated[
    str | None, typer.Option("--plan", help="One of the order's plans, such as web:1001:p1; else the last.")
]


class _Nothing(Contract):
    pass


@app.command()
def explain(
    order_id: Order,
    *,
    plan_id: _PlanId = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The parcels of an order's plan, what it costs, how far it is proven, and what it was preferred to."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get(_path(order_id, plan_id), RouteExplanation)
    if as_json:
        print_json(found)
        return
    plan = found.plan
    target = console()
    target.print(
        facts(
            ("plan", f"{found.plan_id}, made {when(found.made_at)} by {plan.router}"),
            ("promised", when(plan.promised_at)),
            ("proof", _proof(plan)),
            *(("why" if place == 0 else "", reason) for place, reason in enumerate(plan.reasons)),
        )
    )
    print_plan(plan, found.terms)
    if plan.alternatives:
        ahead = any(other.look_ahead is not None for other in plan.alternatives)
        credited = any(other.markdown is not None for other in plan.alternatives)
        table = listing(
            "instead",
            "cost",
            "more",
            *(("look-ahead",) if ahead else ()),
            *(("markdown",) if credited else ()),
            "promised",
            "",
            right=("cost", "more", "look-ahead", "markdown"),
        )
        for other in plan.alternatives:
            more = None if other.cost is None else other.cost - plan.cost
            table.add_row(
                plain(other.what),
                str(other.cost or ""),
                str(more or ""),
                *((str(other.look_ahead or ""),) if ahead else ()),
                *((str(other.markdown or ""),) if credited else ()),
                when(other.promised_at) if other.promised_at else "",
                plain(other.why_not or ""),
            )
        target.print()
        target.print(table)


@app.command(name="what-if")
def what_if(
    order_id: Order,
    *,
    force: Annotated[str | None, typer.Option("--force", help="Everything from this node.")] = None,
    without: Annotated[str | None, typer.Option("--without", help="Nothing from this node.")] = None,
    split_penalty: Annotated[
        int | None, typer.Option("--split-penalty", help="What a second parcel counts, in minor units.")
    ] = None,
    late_day: Annotated[
        int | None, typer.Option("--late-day", help="What a day too late counts, in minor units.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="A TOML file with split_penalty_minor and late_day_minor, or a policy's."
        ),
    ] = None,
    plan_id: _PlanId = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """The plan that would have been made of what was known then; nothing acts on it. Exit code 1: there is none."""
    asked: dict[str, Any] = {} if weights is None else _weights_in(weights)
    asked |= {
        "plan_id": plan_id,
        "force": force,
        "without": without,
    }
    asked |= {
        name: value
        for name, value in (("split_penalty_minor", split_penalty), ("late_day_minor", late_day))
        if value is not None
    }
    question = message(RouteQuestion, **{name: value for name, value in asked.items() if value is not None})
    with open_api(api_url, token, data_dir) as api:
        answer = api.post(f"/v1/orders/{path_part(order_id)}/route/what-if", question, RouteAnswer)
    if as_json:
        print_json(answer)
    else:
        _print_answer(answer)
    if answer.plan is None:
        raise typer.Exit(REFUSED)


@app.command()
def replay(
    order_id: Order,
    *,
    plan_id: _PlanId = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Decide again from all that the router looked at. Exit code 1: today it decides otherwise."""
    with open_api(api_url, token, data_dir) as api:
        answer = api.post(_path(order_id, plan_id, "/replay"), _Nothing(), RouteReplay)
    if as_json:
        print_json(answer)
    elif answer.identical:
        console().print(Text(plain(f"{answer.plan_id}: {answer.router} decides the same again")))
    else:
        console().print(Text(plain(f"{answer.plan_id}: {answer.router} decides otherwise now")))
        for difference in answer.differences:
            console().print(Text(plain(f"  {difference}")))
    if not answer.identical:
        raise typer.Exit(REFUSED)


def _weights_in(file: Path) -> dict[str, Any]:
    found = document_in(file)
    found = found.get("routing", {} if "schema_version" in found else found)
    if not isinstance(found, dict) or not found.keys() <= _WEIGHTS | {"max_parcels", "budget_ms"}:
        raise bad_input(
            str(file), f"may say {' and '.join(sorted(_WEIGHTS))}, by themselves or under [routing]"
        )
    return {name: value for name, value in found.items() if name in _WEIGHTS}


_WEIGHTS = {"split_penalty_minor", "late_day_minor"}


@app.command()
def backtest(
    *,
    policy: Annotated[
        str,
        typer.Option(
            "--policy", metavar="FILE|VERSION", help="A TOML or JSON file, or a version of the policy."
        ),
    ],
    since: Annotated[
        str | None, typer.Option("--since", help="Orders planned since then, such as 2026-11-01.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=2_000, help="At most so many, the last first.")
    ] = 500,
    carbon: Annotated[
        int | None,
        typer.Option("--carbon", min=1, help="Grams of CO2 that a tonne carried a kilometre weighs."),
    ] = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What another policy would have made of orders that were planned; nothing acts on it."""
    asked: dict[str, Any] = {"limit": limit, "carbon_g_per_tonne_km": carbon}
    if policy.isdecimal():
        asked["version"] = int(policy)
    else:
        asked["document"] = document_in(Path(policy))
    if since is not None:
        asked["since"] = moment_of("--since", since)
    question = message(BacktestRequest, **asked)
    with open_api(api_url, token, data_dir, timeout=60.0) as api:
        report = api.post("/v1/policy/backtest", question, BacktestReport)
    if as_json:
        print_json(report)
        return
    print_backtest(report)


@app.command()
def values(
    *,
    sku: Annotated[str | None, typer.Option("--sku", help="Only this SKU.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Work them out now, and wait for it.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="At most so many SKUs.")] = 50,
    wait: Annotated[float, typer.Option("--wait", min=1, help="Seconds to wait for --refresh.")] = 120.0,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What stock is worth where it lies: to orders that are still to come, and where too much of it lies."""
    with open_api(api_url, token, data_dir) as api:
        if refresh:
            _refresh_values(api, wait)
        found = api.get("/v1/routing/values", StockValuePage, sku=sku, limit=limit)
    if as_json:
        print_json(found)
    else:
        _print_values(found)


def _refresh_values(api: Api, wait: float) -> None:
    deadline = time.monotonic() + wait
    asked = api.post(
        "/v1/routing/values/refresh", RefreshValues(request_id=f"cli-{uuid.uuid4()}"), ValuesAsked
    )
    while True:
        run = api.get("/v1/routing/values", StockValuePage, limit=1).run
        if run is not None and run.run_id == asked.run_id:
            return
        if time.monotonic() >= deadline:
            raise NotReachable(f"{asked.run_id} is not through after {wait:g} s: are the workers up?")
        time.sleep(_LOOK_EVERY)


_LOOK_EVERY = 0.3


def _print_values(found: StockValuePage) -> None:
    target = console()
    run = found.run
    if run is None:
        target.print(Text("no values of stock were worked out yet: --refresh works them out now"))
        return
    left_out = f"; {run.left_out:,} SKUs were too many to look at" if run.left_out else ""
    target.print(
        facts(
            ("worked out", f"{when(run.worked_out_at)} by {run.method}, under {run.policy} ({run.run_id})"),
            ("from", f"{run.orders:,} orders of {run.window_days} days"),
            (
                "priced",
                f"{run.priced:,} of {run.skus:,} SKUs, those with {run.least_lines} order lines{left_out}",
            ),
        )
    )
    columns = ("price", "now", "sold", "on hand", "sell-through", "weeks", "credit")
    table = listing("SKU", "node", *columns, right=columns)
    for one in found.values:
        table.add_row(
            plain(one.sku),
            plain(one.node),
            "" if one.price_mills is None else _per_unit(one.price_mills, found.currency),
            _per_unit(one.look_ahead_mills, found.currency) if one.look_ahead_mills else "",
            "new" if one.sold is None else f"{one.sold:,}",
            f"{one.on_hand:,}",
            "" if one.sell_through_percent is None else f"{one.sell_through_percent} %",
            "" if one.weeks_of_supply is None else f"{one.weeks_of_supply:,.1f}",
            _per_unit(one.markdown_mills, found.currency) if one.markdown_mills else "",
        )
    target.print()
    target.print(table)
    if found.next_cursor is not None:
        target.print(Text("there are more: ask for one with --sku, or for more with --limit"))


def _per_unit(mills: int, currency: str | None) -> str:
    return str(Money(minor=round(mills / 1000), currency=currency or "GBP"))


def _path(order_id: str, plan_id: str | None, then: str = "") -> str:
    asked = "" if plan_id is None else f"?plan={path_part(plan_id)}"
    return f"/v1/orders/{path_part(order_id)}/route{then}{asked}"


def _print_answer(answer: RouteAnswer) -> None:
    target = console()
    if answer.plan is None:
        target.print(Text(f"no plan of this kind instead of {plain(answer.plan_id)}:"))
        for reason in answer.reasons:
            target.print(Text(f"  {plain(reason)}"))
        for line in answer.missing:
            target.print(
                Text(plain(f"  it would take {line.quantity} more of {line.sku} (line {line.line_id})"))
            )
        return
    more = answer.difference
    said = (
        "the same cost"
        if more is None or not more.minor
        else f"{more} more"
        if more.minor > 0
        else f"{-more} less"
    )
    target.print(Text(plain(f"{said} than {answer.plan_id}; promised {when(answer.plan.promised_at)}")))
    print_plan(answer.plan, answer.terms)


def print_plan(plan: Plan, terms: tuple[CostTerm, ...]) -> None:
    """The parcels of a plan, and what it costs, term by term."""
    target = console()
    far = any(one.distance_km is not None for one in plan.shipments)
    ahead = any(one.look_ahead is not None for one in plan.shipments)
    credited = any(one.markdown is not None for one in plan.shipments)
    table = listing(
        "parcel",
        "from",
        "by",
        "units",
        "weight",
        "handling",
        "freight",
        *(("look-ahead",) if ahead else ()),
        *(("markdown",) if credited else ()),
        *(("km",) if far else ()),
        "promised",
        right=("units", "weight", "handling", "freight", "look-ahead", "markdown", "km"),
    )
    for one in plan.shipments:
        table.add_row(
            str(one.number),
            plain(one.node),
            plain(f"{one.carrier}/{one.service}"),
            f"{sum(line.quantity for line in one.lines):,}",
            f"{one.weight_g / 1000:,.2f} kg",
            str(one.handling),
            str(one.freight),
            *((str(one.look_ahead or ""),) if ahead else ()),
            *((str(one.markdown or ""),) if credited else ()),
            *(("" if one.distance_km is None else f"{one.distance_km:,}",) if far else ()),
            when(one.promised_at),
        )
    target.print()
    target.print(table)
    costs = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    costs.add_column(style="dim", no_wrap=True)
    costs.add_column(justify="right", no_wrap=True)
    for term in terms:
        costs.add_row(plain(term.term), str(term.amount))
    costs.add_row("cost", str(plan.cost))
    target.print()
    target.print(costs)


def _proof(plan: Plan) -> str:
    if plan.proof is None:
        return "none: a simple rule, not the optimiser"
    if plan.proof.proven:
        return f"the cheapest there is ({plan.proof.method})"
    return (
        f"at most {plan.proof.objective_minor - plan.proof.bound_minor} minor units above the cheapest"
        f" ({plan.proof.method}{', the quick plan' if plan.proof.fallback else ''})"
    )
