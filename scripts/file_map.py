"""The README's list of files, written from the first sentence of every module's docstring.

uv run python -m scripts.file_map           # writes it into the README; a test compares
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- file map: begin -->", "<!-- file map: end -->"
# Rooms in the order of the house: doors first, leaves last.
ROOMS = (
    "cli", "ui", "engine", "doctor", "service", "pipeline", "tasks", "runtime", "planner",
    "diffusion", "models", "library", "media", "checkpoints", "config", "request",
    "progress", "types", "seeds", "errors",
)  # fmt: skip


def first_sentence(path: Path) -> str:
    """What a module's docstring begins with."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0].rstrip(".")


def lines() -> Iterator[str]:
    """One line per room or module, and one per file of a room."""
    for name in ROOMS:
        folder = ROOT / "acestep" / name
        if not folder.is_dir():
            yield f"- **`{name}.py`** {first_sentence(folder.with_suffix('.py'))}"
            continue
        yield f"- **`{name}/`** {first_sentence(folder / '__init__.py')}"
        for path in sorted(folder.rglob("*.py")):
            if path.name != "__init__.py":
                yield f"  - `{path.relative_to(folder).as_posix()}` {first_sentence(path)}"


def file_map() -> str:
    return "\n".join([BEGIN, *lines(), END])


def main() -> None:
    text = README.read_text(encoding="utf-8")
    start, end = text.index(BEGIN), text.index(END) + len(END)
    README.write_text(text[:start] + file_map() + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
