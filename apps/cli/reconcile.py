"""What ``orderwright ledger reconcile`` and ``stock reconcile`` share: start runs, wait, show what differs."""

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from activities.store.reconciliation import DifferencePage, DifferenceView, RunView
from apps.api.contracts import ReconciliationAsked, ReconciliationRequest
from apps.cli.app import REFUSED
from apps.cli.output import console, listing, plain, print_json, when
from apps.cli.remote import Api, open_api, paged
from models.errors import NotFound, NotReachable
from models.reconciliation import Area, DifferenceState, RunState, Side

Everything = Annotated[
    bool,
    typer.Option(
        "--all", help="Compare all there ever was; default: what moved since the day before the last run."
    ),
]
Wait = Annotated[float, typer.Option(min=1, help="Seconds to wait for the end of the run.")]
_LOOK_EVERY = 0.5
_SHOWN = 100_000


def reconcile(
    areas: Sequence[Area],
    *,
    everything: bool,
    wait: float,
    api_url: str | None,
    token: str | None,
    data_dir: Any,
    as_json: bool,
) -> None:
    """Reconcile ``areas`` now. Exits with 1 when a difference waits for a person, 3 when a run does not end well."""
    with open_api(api_url, token, data_dir) as api:
        asked = [_start(api, area, everything=everything) for area in areas]
        deadline = time.monotonic() + wait
        runs = [_until_ended(api, one, deadline, wait) for one in asked]
        found = [difference for area in areas for difference in _open_differences(api, area)]
    if as_json:
        print_json({"open": len(found), "runs": runs, "differences": found})
    else:
        _print(console(), runs, found)
    failed = [run for run in runs if run.state is RunState.FAILED]
    if failed:
        raise NotReachable("; ".join(f"{run.area} could not be reconciled: {run.failure}" for run in failed))
    if found:
        raise typer.Exit(REFUSED)


def _start(api: Api, area: Area, *, everything: bool) -> ReconciliationAsked:
    # Sent again by the same command it would be the same run.
    request = ReconciliationRequest(area=area, everything=everything, request_id=f"cli-{uuid.uuid4()}")
    return api.post("/v1/reconciliation/runs", request, ReconciliationAsked)


def _until_ended(api: Api, asked: ReconciliationAsked, deadline: float, wait: float) -> RunView:
    while True:
        run = None
        with suppress(NotFound):
            run = api.get(f"/v1/reconciliation/runs/{asked.run_id}", RunView)
        if run is not None and run.state is not RunState.RUNNING:
            return run
        if time.monotonic() >= deadline:
            what = "no worker has begun it: are the workers up?" if run is None else "it goes on by itself"
            raise NotReachable(f"{asked.run_id} is not through after {wait:g} s; {what}")
        time.sleep(_LOOK_EVERY)


def _open_differences(api: Api, area: Area) -> list[DifferenceView]:
    def page(cursor: str | None, size: int) -> tuple[Sequence[DifferenceView], str | None]:
        gives = api.get(
            "/v1/reconciliation/differences",
            DifferencePage,
            state=DifferenceState.OPEN,
            area=area,
            cursor=cursor,
            limit=size,
        )
        return gives.differences, gives.next_cursor

    return paged(_SHOWN, page)[0]


def _print(target: Console, runs: Sequence[RunView], found: Sequence[DifferenceView]) -> None:
    table = listing("area", "since", "checked", "matched", "under way", "healed", "gone", "open")
    for run in runs:
        table.add_row(
            run.area,
            when(run.since) if run.since.year > 1970 else "ever",
            f"{run.checked:,}",
            f"{max(run.checked - run.differing - run.under_way, 0):,}",
            f"{run.under_way:,}",
            f"{run.healed:,}",
            f"{run.gone:,}",
            f"{run.left_open:,}",
        )
    target.print(table)
    for difference in found:
        target.print()
        target.print(Text.assemble((difference.kind, "bold yellow"), "  ", plain(difference.what)))
        target.print(_sides(difference))
        if difference.task_id is not None:
            target.print(Text(f"  orderwright review show {difference.task_id}"), soft_wrap=True)
        else:
            target.print(Text("  its mending was approved: the next run does it"))
    if not found:
        target.print("both sides agree, or were made to: nothing waits for a person")


def _sides(difference: DifferenceView) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=True, header_style="dim")
    for side in (difference.ours, difference.theirs):
        table.add_column(side.of, overflow="fold", ratio=1)
    table.add_row(_side(difference.ours), _side(difference.theirs))
    return table


def _side(side: Side) -> Text:
    if not side.found:
        return Text("nothing", style="dim")
    return Text(plain("\n".join(", ".join(f"{k} {_value(v)}" for k, v in row.items()) for row in side.found)))


def _value(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"minor", "currency"}:
        return f"{value['minor']} {value['currency']}"
    return str(value)
