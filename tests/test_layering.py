"""The arrows of allowed imports (README, "How it is cut"), read from the code's own imports.

A file may import what stands further down, and only what its row allows. Nothing imports the page
or the command line.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "acestep"

LEAVES = {
    "errors", "types", "schema", "request", "seeds", "progress",
    "audio", "canvas", "compare", "containers", "edit", "health", "latents", "naming", "recipe",
    "regions", "report", "source", "weights",
}  # fmt: skip
ALLOWED = {
    "models": {"models", "errors", "types", "weights"},
    "diffusion": {"diffusion", "types", "seeds", "request"},
    "planner": {"planner", "models", "errors", "types", "schema", "request", "seeds", "progress"},
    "runtime": {"runtime", "models", "errors", "weights"},
    "checkpoints": {"errors", "request", "weights"},
    "download": {"checkpoints", "errors"},
    "doctor": {"checkpoints", "runtime", "planner", "audio", "errors"},
    "conditioning": LEAVES,
    "store": {"models", "planner", "checkpoints", "runtime", *LEAVES},
    "track": LEAVES,
    "pipeline": {"conditioning", "diffusion", "models", "planner", "store", *LEAVES},
    "service": {"pipeline", "planner", "store", "track", "checkpoints", "runtime", "", *LEAVES},
    "ui": {"ui", "service", "track", "checkpoints", "", *LEAVES},
    "cli": {
        "cli", "ui", "service", "track", "checkpoints", "download", "doctor", "runtime", "", *LEAVES
    },
    "": {"service", "track", "request", "errors"},
    "__main__": {"cli"},
}  # fmt: skip


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


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py").replace("__init__", "")
    forbidden = imported_parts(path) - ALLOWED.get(own, LEAVES)
    assert not forbidden, f"{relative} must not import {sorted(forbidden)}"
