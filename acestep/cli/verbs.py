"""What the commands that make songs are called: one verb for each task of the request schema."""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import acestep

SCHEMA = "acestep.request"


def verbs() -> dict[str, str]:
    """Each task's verb, and what it does.

    Where the tasks have not been imported they are read, not run: importing the schema takes longer
    than the whole of `acestep --help`.
    """
    schema = sys.modules.get(SCHEMA)
    if schema is None:
        return dict(written_verbs())
    return {task.verb: inspect.getdoc(task) or "" for task in schema.TASKS.values()}


def written_verbs() -> Iterator[tuple[str, str]]:
    """Verb and docstring of the classes that the source of `TASKS` names, in its order."""
    folder = Path(acestep.__path__[0]) / "request"
    package = ast.parse((folder / "__init__.py").read_text("utf-8"))
    homes: dict[str, str] = {}
    tasks: list[str] = []
    for statement in package.body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            homes |= dict.fromkeys((alias.name for alias in statement.names), statement.module)
        elif isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "TASKS":
            assert statement.value is not None
            names = [node.id for node in ast.walk(statement.value) if isinstance(node, ast.Name)]
            tasks += [name for name in names if name in homes]
    for name in tasks:
        module = homes[name].removeprefix(f"{SCHEMA}.")
        yield _verb((folder / f"{module}.py").read_text("utf-8"), name)


def _verb(source: str, name: str) -> tuple[str, str]:
    """Verb and docstring of one class."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            for line in statement.body:
                if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "verb":
                    assert line.value is not None
                    return ast.literal_eval(line.value), ast.get_docstring(statement) or ""
    raise AssertionError(f"{name} has no verb")
