"""``Dockerfile`` and ``.dockerignore``: what can be known of the image without a Docker to build it."""

import json
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from apps.cli.remote import SERVICE_USER
from models.journal import RESERVED_ACTORS
from workers.settings import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    text = (REPOSITORY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
    ]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def ignored(path: str) -> bool:
    """Whether ``.dockerignore`` keeps ``path`` (relative, of a file) out: the last rule that fits decides."""
    out = False
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        keeps = rule.startswith("!")
        pattern = rule.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        beginnings = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        anywhere = [*beginnings, *parts] if rule.removeprefix("!").startswith("**/") else beginnings
        if any(fnmatch(beginning, pattern) for beginning in anywhere):
            out = not keeps
    return out


def test_what_runs_is_built_elsewhere_and_is_not_root() -> None:
    build, final = stages()
    users = [rest for word, rest in final if word == "USER"]
    assert users, "the image says whom it runs as"
    assert users[-1].partition(":")[0] not in ("0", "root")
    assert [word for word, _ in final].index("USER") < [word for word, _ in final].index("ENTRYPOINT")
    assert not any("pip install" in rest for word, rest in final if word == "RUN")
    assert all(rest.startswith("--from=build ") for word, rest in final if word == "COPY")
    assert build[0] == ("FROM", "python:3.13-slim AS build")
    assert final[0] == ("FROM", "python:3.13-slim"), "a virtual environment moves between equal Pythons only"


def test_the_images_user_is_one_that_no_decision_is_recorded_under() -> None:
    _, final = stages()
    (made,) = [rest for word, rest in final if word == "RUN"]
    words = made.partition("&&")[0].split()
    assert words[0] == "useradd"
    assert words[-1] == SERVICE_USER
    assert SERVICE_USER not in RESERVED_ACTORS
    (uid,) = [words[n + 1] for n, word in enumerate(words) if word == "--uid"]
    assert ("USER", f"{uid}:{uid}") in final
    assert f"-o {SERVICE_USER} -g {SERVICE_USER}" in made


def test_everything_is_installed_by_hash() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    installs = [command for run in runs for command in run.split("&&") if "pip install" in command]
    assert len(installs) == 2
    locked, project = installs
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(locked.split())
    assert locked.split()[-2:] == ["-r", "requirements.lock"]
    assert {"--no-build-isolation", "--no-deps", "-e"} <= set(project.split()), "nothing else is fetched"
    named = (REPOSITORY / "requirements.lock").read_text()
    assert "\nsetuptools==" in named, "what builds the project is locked, too"


def test_the_image_starts_our_command() -> None:
    (entrypoint,) = [json.loads(rest) for word, rest in instructions() if word == "ENTRYPOINT"]
    assert entrypoint[0] in PROJECT["scripts"]


def test_the_image_gets_what_it_runs_and_nothing_of_ours_that_is_private() -> None:
    for needed in (
        "requirements.lock",
        "pyproject.toml",
        PROJECT["readme"],
        *PROJECT["license-files"],
        "workers/settings.py",
        "models/tables/migrations/versions/0001_start.py",
        "policies/risk.py",
        "workflows/order.py",
        "activities/store/store.py",
        "apps/cli/__main__.py",
        "examples/network.toml",
        "examples/centroids.csv",
        "examples/online_retail/stock.parquet",
    ):
        assert (REPOSITORY / needed).is_file()
        assert not ignored(needed), f"{needed} is missing in the image"
    for private in (
        ".env",
        ".git/config",
        "tests/conftest.py",
        ".venv/bin/python",
        "workers/__pycache__/x.pyc",
    ):
        assert ignored(private), f"{private} has no place in the image"
