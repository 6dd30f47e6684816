"""The literal texts the models were trained with, and the cut of a reference recording."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acestep.request import MusicRequest, Plan, Preset, Text2Music
from acestep.tasks.conditioning import (
    FILL_MASK,
    FOLLOW_CODES,
    REPAINT,
    caption_prompt,
    lyrics_prompt,
    reference_clips,
)

FRAME = 1920
PRESET = Preset(
    name="nano-turbo", steps=8, max_steps=20, shift=3.0, guidance_scale=1.0, is_turbo=True,
    duration=20.0, rewrite_caption=False, dcw="off",
)  # fmt: skip


def resolved(**fields: object) -> MusicRequest:
    return Text2Music.model_validate(fields).resolve(PRESET).asked


def test_the_caption_prompt_is_the_trained_template() -> None:
    request = resolved(caption="warm lo-fi", bpm=96, key_scale="E minor", time_signature=4)
    assert caption_prompt(request, FILL_MASK, 12.9) == (
        "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n"
        "# Caption\nwarm lo-fi\n\n"
        "# Metas\n- bpm: 96\n- timesignature: 4\n- keyscale: E minor\n- duration: 12 seconds\n"
        "<|endoftext|>\n"
    )


def test_metadata_nobody_knows_is_written_as_not_available() -> None:
    prompt = caption_prompt(resolved(caption="lo-fi"), FILL_MASK, 30)
    assert "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 30 seconds\n" in prompt


@pytest.mark.parametrize(
    ("rewrite", "planned", "caption"),
    [(True, "a dusty loop", "a dusty loop"), (True, "", "lo-fi"), (False, "a dusty loop", "lo-fi")],
)
def test_the_plans_caption_is_read_where_it_was_to_be_rewritten(
    rewrite: bool, planned: str, caption: str
) -> None:
    plan = Plan(caption=planned, codes=((1,) * 50,))
    request = Text2Music(caption="lo-fi", plan=plan, rewrite_caption=rewrite).resolve(PRESET)
    prompt = caption_prompt(request.asked, FOLLOW_CODES, 10, request.caption)
    assert prompt.startswith(
        "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n"
        f"# Caption\n{caption}\n\n"
    )


def test_the_instructions_are_those_of_the_training() -> None:
    ending = "based on the given conditions:"
    assert f"Fill the audio semantic mask {ending}" == FILL_MASK
    assert f"Generate audio semantic tokens {ending}" == FOLLOW_CODES
    assert f"Repaint the mask area {ending}" == REPAINT


def test_the_lyrics_prompt_names_the_language() -> None:
    request = resolved(lyrics="[Verse]\nla la", vocal_language="en")
    assert lyrics_prompt(request) == ("# Languages\nen\n\n# Lyric\n[Verse]\nla la<|endoftext|>")


@given(st.integers(1, 5000))
def test_a_reference_of_any_length_becomes_the_frames_asked_for(samples: int) -> None:
    assert reference_clips(torch.randn(1, 2, samples), frames=6).shape == (1, 2, 6 * FRAME)


def test_a_long_reference_lends_the_middle_of_each_third() -> None:
    waveform = torch.arange(9 * FRAME, dtype=torch.float32).expand(1, 2, -1)
    clips = reference_clips(waveform, frames=3)
    starts = clips[0, 0, ::FRAME].tolist()
    assert starts == pytest.approx([1 * FRAME, 4 * FRAME, 7 * FRAME])
