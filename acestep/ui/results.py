"""What a run shows: where it is while it works, a player for each take when it is done."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from acestep.progress import Progress, Stage
from acestep.request import Text2Music
from acestep.request.schema import bounds
from acestep.ui.worker import SavedTake

STAGE_WORDS: dict[Stage, str] = {
    "loading": "Loading the model",
    "reading": "Reading the audio",
    "planning": "Planning the song",
    "conditioning": "Reading caption and lyrics",
    "rendering": "Rendering",
    "decoding": "Decoding",
    "checking": "Checking",
    "saving": "Saving",
}
UNIT_OF_STAGE: dict[Stage, str] = {"planning": "token", "rendering": "step", "decoding": "tile"}
MAX_TAKES = int(bounds(Text2Music.model_fields["takes"])[1] or 1)


@dataclass(frozen=True)
class Slot:
    """Where one take is shown."""

    group: gr.Group
    player: gr.Audio
    facts: gr.HTML
    song: gr.DownloadButton
    recipe: gr.DownloadButton
    sends: dict[str, gr.Button]  # by task: puts the take into that tab as its source


class Results:
    """A fixed row of slots, hidden until a run fills them.

    Args:
        edits: the tasks a take can be sent to, by name with the words on the button.
    """

    def __init__(self, edits: Mapping[str, str]) -> None:
        self.slots = [_slot(number, edits) for number in range(1, MAX_TAKES + 1)]

    def show(self, takes: Sequence[SavedTake]) -> dict[Block, Any]:
        """Updates that put these takes into the slots and hide the rest."""
        updates: dict[Block, Any] = {}
        for slot, take in zip(self.slots, [*takes, *[None] * MAX_TAKES], strict=False):
            updates[slot.group] = gr.update(visible=take is not None)
            if take is None:
                updates[slot.player] = None
                continue
            updates[slot.player] = gr.update(value=str(take.path), label=take.path.name)
            updates[slot.facts] = facts(take)
            updates[slot.song] = gr.update(
                value=str(take.path), label=f"Download {take.path.suffix[1:].upper()}"
            )
            recipe = recipe_path(take.path)
            updates[slot.recipe] = gr.update(value=str(recipe), visible=recipe.is_file())
        return updates

    @property
    def components(self) -> list[Block]:
        """What `show` may update."""
        return [
            part
            for slot in self.slots
            for part in (slot.group, slot.player, slot.facts, slot.song, slot.recipe)
        ]


def _slot(number: int, edits: Mapping[str, str]) -> Slot:
    with gr.Group(visible=False, elem_classes="take") as group:
        player = gr.Audio(
            type="filepath",
            interactive=False,
            label=f"Take {number}",
            elem_id=f"take-{number}",
            buttons=[],
        )
        details = gr.HTML(elem_classes="facts", padding=True)
        with gr.Row():
            song = gr.DownloadButton(
                "Download", size="sm", elem_id=f"download-{number}", elem_classes="save"
            )
            recipe = gr.DownloadButton(
                "Recipe (JSON)", size="sm", elem_id=f"recipe-{number}", elem_classes="save"
            )
        with gr.Row():
            sends = {
                task: gr.Button(
                    words, size="sm", elem_id=f"{task}-this-{number}", elem_classes="save"
                )
                for task, words in edits.items()
            }
    return Slot(group, player, details, song, recipe, sends)


def recipe_path(song: Path) -> Path:
    """The recipe that was saved beside a song."""
    return song.with_suffix(".json")


def facts(take: SavedTake) -> str:
    """Seed, length, seconds of work, what an edit did and warnings of a take, as HTML."""
    work = " · ".join(f"{stage} {seconds:.1f} s" for stage, seconds in take.seconds.items())
    lines = [
        f"<strong>Take {take.take + 1}</strong> · seed <code>{take.seed}</code> · "
        f"{take.duration:.1f} s of music in {sum(take.seconds.values()):.1f} s",
        f"<small>{html.escape(work)}</small>",
        *(html.escape(text) for text in take.report),
        *(f'<span class="warning">Note: {html.escape(text)}</span>' for text in take.warnings),
        f"<small>Saved as <code>{html.escape(str(take.path))}</code></small>",
    ]
    return "".join(f"<p>{line}</p>" for line in lines)


def sentence(progress: Progress | None, *, ahead: int = 0, is_loading: bool = False) -> str:
    """Where a run is, in words: `ahead` runs are before it, or its service still loads."""
    if is_loading:
        return STAGE_WORDS["loading"]
    if ahead:
        return f"Waiting: {ahead} {'run' if ahead == 1 else 'runs'} before this one"
    if progress is None:
        return "Starting"
    words = STAGE_WORDS[progress.stage]
    unit = UNIT_OF_STAGE.get(progress.stage)
    if unit is None or progress.total <= 1:
        return words
    return f"{words}: {unit} {progress.done:,} of {progress.total:,}"


def bar(words: str, progress: Progress | None, seconds: float) -> str:
    """A sentence, the seconds since the start and a bar for the stage, as HTML."""
    value = f' value="{progress.done}" max="{max(progress.total, 1)}"' if progress else ""
    return (
        f'<div class="running"><span role="status">{html.escape(words)}</span>'
        f"<span>{seconds:.0f} s</span>"
        f'<progress aria-label="Progress of this stage"{value}></progress></div>'
    )


def ended(words: str) -> str:
    """A closing sentence, as HTML; on a phone it leads down to the first take."""
    return f'<p role="status"><a href="#take-1">{html.escape(words)}</a></p>'
