"""``orderwright subscribers``: who is told of what happens, and what one of them did not take."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from activities.store.subscribers import COUNTED, DeadLetter, SubscriberView
from apps.api.contracts import (
    DeadLetters,
    DropRequest,
    NewSecret,
    NewSubscriber,
    ReplayRequest,
    Retried,
    RetryRequest,
    SecretRequest,
    SubscriberAdded,
    Subscribers,
)
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
    message,
    needs_reason,
    open_api,
    path_part,
)
from models.outbox import Topic

app = typer.Typer(no_args_is_help=True)
dead_letters = typer.Typer()
app.add_typer(dead_letters, name="dead-letters", help="List what was not taken, try it again, or drop it.")

SubscriberId = Annotated[str, typer.Argument(metavar="ID", help="The subscriber, such as erp.")]
SecretFile = Annotated[
    Path | None,
    typer.Option(help="A file with a secret of your own, of 32 or more characters; default: one is made."),
]


@app.command()
def add(
    subscriber_id: SubscriberId,
    *,
    url: Annotated[str, typer.Option(help="Where it is posted to: http(s), without user and password.")],
    topic: Annotated[list[Topic], typer.Option(help="What of; may be given several times.")],
    name: Annotated[str | None, typer.Option(help="What to call it in lists; default: the id.")] = None,
    secret_file: SecretFile = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Have events posted to an address from now on. The secret that signs them is shown once."""
    request = message(
        NewSubscriber,
        subscriber_id=subscriber_id,
        name=name,
        url=url,
        topics=topic,
        secret=_secret(secret_file),
    )
    with open_api(api_url, token, data_dir) as api:
        added = api.post("/v1/subscribers", request, SubscriberAdded)
    if as_json:
        print_json(added)
        return
    told = console()
    _print_one(told, added.subscriber)
    told.print(Text(f"secret (not shown again): {added.secret}"), soft_wrap=True)


@app.command(name="list")
def list_subscribers(
    api_url: ApiUrl = None, token: Token = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Who is told of what, and what waits for each."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get("/v1/subscribers", Subscribers).subscribers
    if as_json:
        print_json(found)
        return
    target = console()
    if not found:
        target.print("nobody subscribes")
        return
    table = listing(
        "subscriber", "topics", "state", "position", "waiting", "oldest", "dead", "url",
        right=("position", "waiting", "oldest", "dead"),
    )  # fmt: skip
    for one in found:
        table.add_row(
            one.subscriber_id,
            " ".join(one.topics),
            _state(one),
            f"{one.position:,}",
            _count(one.waiting),
            f"{one.oldest_seconds:,.0f} s" if one.waiting else "-",
            str(one.dead_letters),
            plain(one.url),
        )
    target.print(table)


@app.command()
def show(
    subscriber_id: SubscriberId,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """How far one of them has come, what waits for it, and why."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get(_path(subscriber_id), SubscriberView)
    _print(found, as_json=as_json)


@app.command()
def pause(
    subscriber_id: SubscriberId,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send it nothing for a while; what happens meanwhile waits for it."""
    with open_api(api_url, token, data_dir) as api:
        found = _post(api, subscriber_id, "pause")
    _print(found, as_json=as_json)


@app.command()
def resume(
    subscriber_id: SubscriberId,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send it what has waited, and what comes."""
    with open_api(api_url, token, data_dir) as api:
        found = _post(api, subscriber_id, "resume")
    _print(found, as_json=as_json)


@app.command()
def remove(
    subscriber_id: SubscriberId,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Forget it, its secret, and everything that waits for it."""
    with open_api(api_url, token, data_dir) as api:
        api.delete(_path(subscriber_id))
    if as_json:
        print_json({"removed": subscriber_id})
        return
    console().print(Text(plain(f"{subscriber_id} is removed")))


@app.command()
def secret(
    subscriber_id: SubscriberId,
    *,
    secret_file: SecretFile = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Sign with another secret from now on. Have the receiver accept both before."""
    request = message(SecretRequest, secret=_secret(secret_file))
    with open_api(api_url, token, data_dir) as api:
        changed = api.post(f"{_path(subscriber_id)}/secret", request, NewSecret)
    if as_json:
        print_json(changed)
        return
    console().print(Text(f"secret (not shown again): {changed.secret}"), soft_wrap=True)


@app.command()
def replay(
    subscriber_id: SubscriberId,
    *,
    start: Annotated[
        int, typer.Option("--from", min=0, metavar="POSITION", help="The first event to send again.")
    ],
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send everything from a position on once more, under the ids that it had."""
    request = message(ReplayRequest, position=start)
    with open_api(api_url, token, data_dir) as api:
        found = _post(api, subscriber_id, "replay", request)
    _print(found, as_json=as_json)


@dead_letters.command(name="list")
def list_dead_letters(
    subscriber_id: SubscriberId,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What a subscriber did not take; what comes behind it of the same key waits."""
    with open_api(api_url, token, data_dir) as api:
        found = api.get(f"{_path(subscriber_id)}/dead-letters", DeadLetters).dead_letters
    if as_json:
        print_json(found)
        return
    _print_letters(console(), subscriber_id, found)


@dead_letters.command()
def retry(
    subscriber_id: SubscriberId,
    *,
    position: Annotated[
        int | None, typer.Option(min=0, help="Only the one at this position; default: all of them.")
    ] = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Try dead letters again at once."""
    request = message(RetryRequest, position=position)
    with open_api(api_url, token, data_dir) as api:
        done = api.post(f"{_path(subscriber_id)}/dead-letters/retry", request, Retried)
    if as_json:
        print_json(done)
        return
    console().print(f"{done.retried:,} dead letters are tried again")


@dead_letters.command()
def drop(
    subscriber_id: SubscriberId,
    position: Annotated[
        int, typer.Argument(min=0, metavar="POSITION", help="The event; see dead-letters list.")
    ],
    *,
    reason: Reason,
    actor: Actor = None,
    api_url: ApiUrl = None,
    token: Token = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Never send this event; its key goes on with what comes behind it."""
    request = message(DropRequest, actor=acting_as(actor), reason=needs_reason(reason))
    with open_api(api_url, token, data_dir) as api:
        found = _post(api, subscriber_id, f"dead-letters/{position}/drop", request)
    _print(found, as_json=as_json)


class _Nothing(BaseModel):
    """A request that says all by its path."""


def _post(api: Api, subscriber_id: str, what: str, request: BaseModel | None = None) -> SubscriberView:
    return api.post(f"{_path(subscriber_id)}/{what}", request or _Nothing(), SubscriberView)


def _path(subscriber_id: str) -> str:
    return f"/v1/subscribers/{path_part(subscriber_id)}"


def _secret(file: Path | None) -> str | None:
    """From a file: an option would stand in the shell's history and in the list of processes."""
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise bad_input(
            "--secret-file", f"cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


# --- Printing ---
def _print(found: SubscriberView, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    _print_one(console(), found)


def _print_one(target: Console, one: SubscriberView) -> None:
    target.print(Text.assemble((one.subscriber_id, "bold"), "  ", _state(one)))
    target.print(
        facts(
            ("name", one.name if one.name != one.subscriber_id else None),
            ("posted to", one.url),
            ("topics", ", ".join(one.topics)),
            ("has come to", f"position {one.position:,}"),
            (
                "waiting",
                f"{_count(one.waiting)}, the oldest for {one.oldest_seconds:,.0f} s" if one.waiting else None,
            ),
            ("failing", f"{one.failing_keys:,} keys are tried again" if one.failing_keys else None),
            (
                "dead letters",
                f"{one.dead_letters:,}: orderwright subscribers dead-letters list {one.subscriber_id}"
                if one.dead_letters
                else None,
            ),
            (
                "last failure",
                f"{one.last_failure}, failing since {when(one.failing_since)}" if one.last_failure else None,
            ),
        )
    )


def _print_letters(target: Console, subscriber_id: str, letters: tuple[DeadLetter, ...]) -> None:
    if not letters:
        target.print(Text(plain(f"{subscriber_id} has no dead letters")))
        return
    table = listing("position", "key", "type", "event id", "tried", "failure", "dead since", "behind")
    for letter in letters:
        table.add_row(
            str(letter.position),
            plain(letter.event.key),
            plain(letter.event.type),
            plain(letter.event.event_id),
            str(letter.attempts),
            plain(letter.failure),
            when(letter.dead_at),
            str(letter.behind),
        )
    target.print(table)
    target.print(
        f"Mended? orderwright subscribers dead-letters retry {subscriber_id}\n"
        f'Not to be sent: orderwright subscribers dead-letters drop {subscriber_id} POSITION --reason "..."'
    )


def _state(one: SubscriberView) -> Text:
    if not one.active:
        return Text("paused", style="yellow")
    if one.dead_letters:
        return Text("dead letters", style="bold red")
    return (
        Text("failing", style="yellow")
        if one.failing_since or one.failing_keys
        else Text("ok", style="green")
    )


def _count(number: int) -> str:
    return f"{number:,}" + ("+" if number >= COUNTED else "")
