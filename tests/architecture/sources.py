"""The committed files of this repository and what each Python module of it imports."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("models", "policies", "workflows", "activities", "workers", "apps")


@dataclass(frozen=True)
class Import:
    """One import of a module of ours: where it stands and the full dotted name that it asks for."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@lru_cache(maxsize=1)
def files() -> tuple[Path, ...]:
    """Every file that is, or is about to be, committed; relative paths."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return tuple(Path(name) for name in listed.split("\0") if name and (REPOSITORY / name).is_file())


def modules(*rooms: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and relative path of each Python module of the given rooms."""
    for path in files():
        if path.suffix == ".py" and path.parts[0] in rooms:
            parts = path.with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(name: str, path: Path) -> Iterator[Import]:
    """The imports of our own modules that the file makes, at any depth, those for type checkers included."""
    tree = ast.parse((REPOSITORY / path).read_text(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            asked = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # "from a import b" may ask for the module a.b: judged as such.
            asked = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for imported in asked:
            if imported.partition(".")[0] in (*ROOMS, "tests"):
                yield Import(name, imported, node.lineno)


def within(imported: str, allowed: str) -> bool:
    """Whether ``imported`` is ``allowed`` or lies below it."""
    return imported == allowed or imported.startswith(allowed + ".")
