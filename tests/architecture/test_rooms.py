"""The rooms of the house: which folders there are, and which way imports may point."""

import re
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY, ROOMS, Import, files, imports_of, modules, within

FOLDERS = {*ROOMS, "tests", "docs", "examples", "benchmarks", ".ci"}

# The last column of the table of rooms; the longest matching importer decides.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "models": ("models",),
    "policies": ("models", "policies"),
    "workflows": ("models", "policies", "workflows"),
    "activities": ("models", "policies", "workflows.steps", "activities"),
    "workers": ("models", "policies", "workflows", "activities", "workers"),
    # Besides client and settings: how a process logs, is watched, and ends.
    "apps": (
        "models",
        "policies",
        "activities.store",
        "workers.client",
        "workers.settings",
        "workers.logging",
        "workers.telemetry",
        "workers.exit",
    ),
    "apps.api": ("apps.api",),
    "apps.console": ("apps.console",),
    "apps.cli": (*ROOMS,),
    "apps.simulators": ("models", "apps.simulators"),
}
# The simulators stand for somebody else's systems: what the other apps may use, they may not.
STANDS_ALONE = {"apps.simulators"}

TABLES = "models.tables"
MAY_IMPORT_TABLES = ("models.tables", "activities.store", "apps")


def allowed_for(importer: str) -> tuple[str, ...]:
    room, _, rest = importer.partition(".")
    part = f"{room}.{rest.partition('.')[0]}"
    own = MAY_IMPORT.get(part, ())
    return own if part in STANDS_ALONE else (*MAY_IMPORT[room], *own)


def every_import() -> list[Import]:
    return [found for name, path in modules(*ROOMS) for found in imports_of(name, path)]


def test_imports_only_point_up_the_table_of_rooms() -> None:
    wrong = [
        str(found)
        for found in every_import()
        if not any(within(found.imported, allowed) for allowed in allowed_for(found.importer))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_store_and_the_apps_import_the_tables() -> None:
    wrong = [
        str(found)
        for found in every_import()
        if within(found.imported, TABLES)
        and not any(within(found.importer, allowed) for allowed in MAY_IMPORT_TABLES)
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_outside_the_tests_imports_the_tests() -> None:
    wrong = [str(found) for found in every_import() if within(found.imported, "tests")]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_other_top_level_folders() -> None:
    assert {path.parts[0] for path in files() if len(path.parts) > 1} <= FOLDERS


def test_every_package_has_an_init_file_and_each_is_empty() -> None:
    inits = {path for path in files() if path.name == "__init__.py"}
    packages = {
        path.parent for path in files() if path.suffix == ".py" and path.parts[0] in (*ROOMS, "tests")
    }
    # Alembic runs a migrations folder's files by path; they form no package.
    packages = {package for package in packages if "migrations" not in package.parts}
    assert packages <= {path.parent for path in inits}
    assert [str(path) for path in inits if (REPOSITORY / path).stat().st_size] == []


# Written so that this file does not contain what it looks for.
NAMES_A_REGISTRY = re.compile(
    r"https?://[^\s\"']*/sim"
    + r"ple\b|https?://[^\s\"']*\.wh"
    + r"l\b|--(?:extra-)?index"
    + r"-url|files\.python"
    r"hosted"
)
READABLE = {".py", ".toml", ".txt", ".lock", ".md", ".yml", ".yaml", ".cfg", ".ini", ".sh", ".json", ""}


@pytest.mark.parametrize("path", [path for path in files() if path.suffix in READABLE], ids=str)
def test_no_committed_file_names_a_package_index(path: Path) -> None:
    named = [
        found.group() for found in NAMES_A_REGISTRY.finditer((REPOSITORY / path).read_text(errors="replace"))
    ]
    assert named == []
