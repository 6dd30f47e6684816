"""The arrows of allowed imports (design: the house), read from the code's own imports.

A file may import what stands in a lower row and, inside its own row, what stands to its right.
Importing `acestep` itself is for its version alone.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "acestep"

ROWS = (
    ("__main__",),
    ("cli", "ui"),
    ("engine",),
    ("doctor",),
    ("service",),
    ("pipeline",),
    ("tasks",),
    ("runtime",),
    ("planner",),
    ("diffusion",),
    ("models",),
    ("library",),
    ("media",),
    ("checkpoints",),
    ("config",),
    ("request",),
    ("progress", "types", "seeds", "errors"),
)
PLACES = {
    name: (row, column) for row, names in enumerate(ROWS) for column, name in enumerate(names)
}


def part(module: str) -> str:
    """`acestep.models.dit` → `models`; the package itself is the empty string."""
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


def imported_parts(path: Path) -> set[str]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules += names if node.module == "acestep" else [node.module]
    inside = [module for module in modules if module.split(".")[0] == "acestep"]
    return {name if is_file(name := part(module)) else "" for module in inside}


def is_file(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def own_part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    own = own_part(path)
    back = {
        name
        for name in imported_parts(path) - {own, ""}
        if PLACES[name][0] < PLACES[own][0]
        or (PLACES[name][0] == PLACES[own][0] and PLACES[name][1] < PLACES[own][1])
    }
    assert not back, f"{path.relative_to(PACKAGE)} must not import {sorted(back)}"


def test_every_part_has_its_row() -> None:
    assert {own_part(path) for path in FILES} <= set(PLACES)
