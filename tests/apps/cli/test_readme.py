"""Every ``orderwright …`` line that a page shows is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from apps.cli.app import build
from tests.apps.cli.conftest import REPOSITORY

_IN_A_CONTAINER = re.compile(r"^docker compose exec (?:-T )?[\w-]+ ")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def shown() -> Iterator[tuple[str, str]]:
    """Each command with the page it is on, from blocks of shell and from running text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"^```(?:sh|bash|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        lines = [line.strip() for line in blocks.replace("\\\n", " ").splitlines()]
        prose = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        for line in [*lines, *prose]:
            # In a container it is the same command.
            command = _IN_A_CONTAINER.sub("", line).partition(" < ")[0]
            if command.startswith("orderwright "):
                yield page.name, command


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The innermost command that ``words`` name, and what is left for it."""
    # Any: a typer that brings click along has classes of its own, with the same members.
    command: Any = typer.main.get_command(build())
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), sorted(set(shown())))
def test_a_command_that_a_page_shows_is_taken(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    line, _, remark = line.partition(" #")
    command, arguments = command_of(shlex.split(line)[1:])
    if not hasattr(command, "commands"):
        command.make_context(line, arguments)  # raises what the user would be told
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[\w-]+", remark)) <= options


def test_the_pages_show_commands_of_every_group() -> None:
    assert {shlex.split(line)[1] for page, line in shown() if page == "README.md"} >= {
        *("up", "doctor", "orders", "review", "simulators", "worker"),
    }
