"""``orderwright review``: what waits for a person, and the person's answer."""

import json
import uuid
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from activities.store.views import ReviewPage
from apps.api.contracts import DecisionRequest, DecisionTaken, Queued
from apps.cli.output import console, day, facts, listing, plain, print_json, state, when
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
    paged,
    path_part,
)
from models.reconciliation import Side
from models.review import ReviewKind, ReviewTask, Verdict

app = typer.Typer(no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task, such as web:1001:r1; see review list.")]
RequestIdOption = Annotated[
    str | None, typer.Option(help="Makes a repeat of this very request harmless; default: a new one.")
]


class WhichReviews(StrEnum):
    """Which tasks to list."""

    OPEN = "open"
    DECIDED = "decided"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    ALL = "all"


@app.command(name="list")
def list_reviews(
    *,
    in_state: Annotated[WhichReviews, typer.Option("--state", help="Which tasks.")] = WhichReviews.OPEN,
    kind: Annotated[ReviewKind | None, typer.Option(help="Only of this kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, oldest first.")] = 200,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What waits for a person, oldest first."""
    with open_api(api_url, token, data_dir) as api:

        def page(cursor: str | None, size: int) -> tuple[Sequence[ReviewTask], str | None]:
            gives = api.get("/v1/reviews", ReviewPage, state=in_state, kind=kind, cursor=cursor, limit=size)
            return gives.reviews, gives.next_cursor

        found, more = paged(limit, page)
    if as_json:
        print_json(found)
        return
    _print_list(console(), found, more=more)


@app.command()
def show(
    task_id: TaskId,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """One task: what happened, why it was flagged, what is recommended, what each answer does."""
    with open_api(api_url, token, data_dir) as api:
        task = api.get(f"/v1/reviews/{path_part(task_id)}", ReviewTask)
    if as_json:
        print_json(task)
        return
    _print_task(console(), task)


@app.command()
def approve(
    task_id: TaskId,
    *,
    reason: Reason,
    actor: Actor = None,
    request_id: RequestIdOption = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Approve: what that does stands in the task's options."""
    request = _request(Verdict.APPROVE, actor, reason, request_id)
    _decide(task_id, request, api_url=api_url, token=token, data_dir=data_dir, as_json=as_json)


@app.command()
def reject(
    task_id: TaskId,
    *,
    reason: Reason,
    actor: Actor = None,
    request_id: RequestIdOption = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Reject: what that does stands in the task's options."""
    request = _request(Verdict.REJECT, actor, reason, request_id)
    _decide(task_id, request, api_url=api_url, token=token, data_dir=data_dir, as_json=as_json)


@app.command()
def finish(
    task_id: TaskId,
    *,
    reason: Reason,
    answer: Annotated[
        str | None,
        typer.Option(help="What came of it, as JSON; review show has its form. Not needed to close books."),
    ] = None,
    actor: Actor = None,
    request_id: RequestIdOption = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say that what a step could not do was done by hand, and what came of it."""
    request = _request(Verdict.FINISH, actor, reason, request_id, _json_object(answer))
    _decide(task_id, request, api_url=api_url, token=token, data_dir=data_dir, as_json=as_json)


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise bad_input("--answer", f"is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise bad_input("--answer", "must be a JSON object")
    return content


def _request(
    verdict: Verdict,
    actor: str | None,
    reason: str,
    request_id: str | None,
    answer: dict[str, Any] | None = None,
) -> DecisionRequest:
    return message(
        DecisionRequest,
        verdict=verdict,
        actor=acting_as(actor),
        reason=needs_reason(reason),
        request_id=request_id or f"cli-{uuid.uuid4()}",
        answer=answer,
    )


def _decide(
    task_id: str,
    request: DecisionRequest,
    *,
    api_url: ApiUrl,
    token: Token,
    data_dir: DataDir,
    as_json: bool,
) -> None:
    with open_api(api_url, token, data_dir) as api:
        answer: DecisionTaken | Queued = api.post(
            f"/v1/reviews/{path_part(task_id)}/decision",
            request,
            DecisionTaken | Queued,  # type: ignore[arg-type] # a union is a type to pydantic, not to mypy
        )
    if as_json:
        print_json(answer)
        return
    if isinstance(answer, Queued):
        console().print(
            f"{task_id}: queued as {answer.request_id}: no worker answered, the run reads it as soon as one is up"
        )
    else:
        console().print(Text(plain(f"{answer.task_id}: {answer.verdict}: {answer.message}")), soft_wrap=True)


def _print_list(target: Console, tasks: list[ReviewTask], *, more: bool) -> None:
    if not tasks:
        target.print("nothing waits for a person")
        return
    table = listing("task", "kind", "state", "advice", "decides itself", "why")
    for task in tasks:
        table.add_row(
            task.task_id,
            task.kind,
            state(task.state),
            task.recommended,
            day(task.deadline_at) if task.deadline_at else "never",
            plain("; ".join(flag.reason for flag in task.why_flagged) or task.what_happened),
        )
    target.print(table)
    if more:
        target.print("there are more: --limit N shows them")
    target.print(f'{len(tasks):,} tasks. Answer one: orderwright review approve ID --reason "..."')


def _print_task(target: Console, task: ReviewTask) -> None:
    target.print(Text.assemble((task.task_id, "bold"), "  ", task.kind, "  ", state(task.state)))
    target.print(
        facts(
            ("order", task.order_id),
            ("what happened", task.what_happened),
            ("why flagged", "\n".join(f"{flag.code}: {flag.reason}" for flag in task.why_flagged) or None),
            ("recommended", f"{task.recommended}: {task.recommendation}"),
            *((side.of, _side(side)) for side in task.sides),
            *((f"to {verdict}", meaning) for verdict, meaning in task.options.items()),
            ("opened", when(task.opened_at)),
            ("reminders", f"{task.reminders}, escalated" if task.escalated else str(task.reminders)),
            (
                "decides itself",
                f"{task.on_deadline} at {when(task.deadline_at)}"
                if task.deadline_at and task.on_deadline
                else "never: it waits for a person",
            ),
            ("policy", task.policy_version),
            (
                "decided",
                f"{task.verdict} by {task.decided_by} at {when(task.decided_at)}: {task.reason}"
                if task.verdict
                else None,
            ),
        )
    )


def _side(side: Side) -> str:
    if not side.found:
        return "nothing"
    return "\n".join(", ".join(f"{name} {value}" for name, value in row.items()) for row in side.found)
