"""The rules of the house that no single part can keep: read from the code itself."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from scripts.file_map import README, ROOMS, file_map

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "acestep"
FILES = sorted(PACKAGE.rglob("*.py"))
# Every module's own, and what a command and what it does may share.
EVERYWHERE = {"logger", "main"}
TWO_MEANINGS = 9


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_only_tasks_ask_what_kind_a_request_is() -> None:
    asked = re.compile(r"isinstance\(\s*(request|asked|song)\b")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in FILES
        if part(path) != "tasks"
        for match in asked.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_no_part_below_the_rooms_knows_a_task_by_name() -> None:
    written = re.compile(r"[\"'](text2music|repaint|cover)[\"']")
    own = {"request", "tasks", "library"}  # fields, rooms, and recipes of the first version
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in FILES
        if part(path) not in own
        for match in written.finditer(_code(path))
    ]
    assert found == []


def test_a_public_name_has_one_meaning() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        for name in public_names(path):
            homes[name].add(str(path.relative_to(PACKAGE)))
    shared = {name: sorted(where) for name, where in homes.items() if len(where) > 1}
    assert len(shared) <= TWO_MEANINGS, shared


def test_there_is_one_seam_to_the_engine_and_one_fake_of_it() -> None:
    protocols = [
        path for path in FILES for node in classes(path) if node.name == "Engine" and _is(node)
    ]
    assert [path.relative_to(PACKAGE).as_posix() for path in protocols] == ["engine/engine.py"]
    fakes = [
        node.name
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in classes(path)
        if re.fullmatch(r"(Fake|Stub|Mock)\w*(Engine|Service)", node.name)
    ]
    assert sorted(fakes) == ["FakeEngine", "FakeService"]  # the service is what the one fake runs


def test_the_readme_lists_every_file_with_its_own_words() -> None:
    assert set(ROOMS) == {part(path) for path in FILES} - {"__init__", "__main__"}
    assert file_map() in README.read_text(encoding="utf-8"), "python -m scripts.file_map writes it"


def public_names(path: Path) -> Iterator[str]:
    """Functions, classes and constants that stand at the top of a module, type variables left
    out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign) and "TypeVar(" not in ast.unparse(node.value):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            names = []
        yield from (name for name in names if name[0] != "_" and name not in EVERYWHERE)


def classes(path: Path) -> list[ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def _is(node: ast.ClassDef, base: str = "Protocol") -> bool:
    return any(ast.unparse(each).startswith(base) for each in node.bases)


def _code(path: Path) -> str:
    """A file without its docstrings and comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(value=None)
    return ast.unparse(tree)
