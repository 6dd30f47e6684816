"""The arrows of allowed imports (README, "How it is cut"), read from the code's own imports.

A file may import what stands further down, and only what its row allows. Nothing imports the page
or the command line.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "acestep"

LEAVES = {"errors", "types", "schema", "request", "seeds", "progress", "audio", "health", "recipe", "naming"}
ALLOWED = {
    "models": {"models", "errors", "types"},
    "diffusion": {"diffusion", "types", "seeds", "request"},
    "planner": {"planner", "models", "errors", "types", "schema", "request", "seeds", "progress"},
    "runtime": {"runtime", "models", "errors"},
    "checkpoints": {"errors", "request"},
    "download": {"checkpoints", "errors"},
    "doctor": {"checkpoints", "runtime", "audio", "errors"},
    "conditioning": {"models", *LEAVES},
    "store": {"models", "planner", "checkpoints", "runtime", *LEAVES},
    "track": LEAVES,
    "pipeline": {"conditioning", "diffusion", "planner", "store", "track", *LEAVES},
    "service": {"pipeline", "store", "track", "checkpoints", "runtime", "", *LEAVES},
    "ui": {"ui", "service", "track", "checkpoints", "", *LEAVES},
    "cli": {"cli", "ui", "service", "track", "checkpoints", "download", "doctor", "runtime", "", *LEAVES},
    "": {"service", "track", "request", "errors"},
    "__main__": {"cli"},
}  # fmt: skip


def part(module: str) -> str:
    """`acestep.models.dit` → `models`; the package itself is the empty string."""
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


def imported_parts(path: Path) -> set[str]:
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            parts |= {part(alias.name) for alias in node.names if alias.name.split(".")[0] == "acestep"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "acestep":
                names = {alias.name for alias in node.names}
                parts |= {n if (PACKAGE / n).is_dir() or (PACKAGE / f"{n}.py").exists() else "" for n in names}
            elif node.module and node.module.startswith("acestep."):
                parts.add(part(node.module))
    return parts


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py").replace("__init__", "")
    forbidden = imported_parts(path) - ALLOWED.get(own, LEAVES)
    assert not forbidden, f"{relative} must not import {sorted(forbidden)}"
