"""What is not paid for until it is used: torch, Gradio and the hub take seconds to import."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch", "torch._dynamo", "sympy", "gradio", "transformers", "xgrammar", "huggingface_hub",
    "numpy", "diffusers", "rich",
}  # fmt: skip
COMPILER = {"torch._dynamo", "sympy"}  # PyTorch's, and what it calculates with
THINKING = {"xgrammar", "transformers"}
MAIN = "from acestep.cli import main; main()"
# Last on stdout, whatever ended the program: processor seconds, and the modules it imported. A
# statement may set `start` to count from there.
REPORT = """
import atexit, sys, time
start = 0.0
atexit.register(lambda: print(time.process_time() - start, *sys.modules))
"""


def measure(statement: str, *arguments: str) -> tuple[float, set[str]]:
    """Processor seconds of a fresh interpreter (the machine may be busy), and what it imported."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT + statement, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seconds, *modules = done.stdout.splitlines()[-1].split()
    return float(seconds), HEAVY.intersection(modules)


def quickest(enough: float, statement: str, *arguments: str) -> float:
    """The least of up to ten runs, for a busy machine makes any one of them look slow."""
    least = float("inf")
    for _ in range(10):
        least = min(least, measure(statement, *arguments)[0])
        if least < enough:
            break
    return least


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["version"],
        ["generate", "--help"],
        ["ui", "--help"],
        ["models", "--help"],
        ["config", "--help"],
    ],
    ids=" ".join,
)
def test_what_only_informs_imports_nothing_heavy(arguments: list[str]) -> None:
    assert measure(MAIN, *arguments)[1] == set()


@pytest.mark.parametrize("arguments", [["--help"], ["version"]], ids=" ".join)
def test_help_and_version_answer_within_half_a_second(arguments: list[str]) -> None:
    assert quickest(0.5, MAIN, *arguments) < 0.5


def test_importing_the_package_costs_next_to_nothing() -> None:
    assert measure("import acestep")[1] == set()
    nothing = quickest(0.0, "pass")
    assert quickest(nothing + 0.1, "import acestep") < nothing + 0.1


def test_a_request_needs_no_torch() -> None:
    assert measure("import acestep; acestep.Text2Music(caption='x')")[1] == set()


LOAD = """
import torch
from acestep import MusicService, Text2Music
start = time.process_time()
service = MusicService.load(device="cpu")
"""
SONG = LOAD + "service.run(Text2Music(caption='x', duration=10, steps=1, think={think}))"


def test_loading_imports_neither_a_compiler_nor_what_only_thinking_needs() -> None:
    assert measure(LOAD)[1] == {"torch", "numpy"}


def test_the_nano_models_are_loaded_within_one_processor_second() -> None:
    assert quickest(1.0, LOAD) < 1.0


@pytest.mark.parametrize(("think", "needed"), [(False, set()), (True, THINKING)])
def test_a_song_imports_no_compiler_and_the_planners_grammar_only_to_think(
    think: bool, needed: set[str]
) -> None:
    assert measure(SONG.format(think=think))[1] & (COMPILER | THINKING) == needed
