"""Repaint, extend and cover, from a file to finished tracks, through the real networks, tiny."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from acestep import pipeline
from acestep.diffusion import sampler
from acestep.diffusion.context import Conditioning
from acestep.diffusion.noise import draw_noise
from acestep.diffusion.schedule import timesteps
from acestep.errors import AceStepError, AudioError, InvalidRequest, Unavailable, UnsoundResult
from acestep.library.recipe import read_recipe
from acestep.library.source import read_source
from acestep.library.track import Track
from acestep.media import audio
from acestep.models.vae import Vae
from acestep.progress import Reporter
from acestep.request import Cover, MusicRequest, Repaint, Text2Music, parse_request
from acestep.request.resolved import ResolvedRequest
from acestep.runtime.codec import Codec
from acestep.runtime.denoiser import EagerDenoiser
from acestep.runtime.store import ModelStore
from acestep.service import MusicService
from acestep.tasks import ROOMS

TURBO, BASE = "acestep-v15-nano-turbo", "acestep-v15-nano-base"
REPORT = Reporter()


@pytest.fixture(scope="module")
def turbo(tiny_models: Path) -> MusicService:
    return MusicService.load(TURBO, lm=None, device="cpu", checkpoints=tiny_models)


@pytest.fixture(scope="module")
def base(tiny_models: Path) -> MusicService:
    return MusicService.load(BASE, lm=None, device="cpu", checkpoints=tiny_models)


def record(
    path: Path, seconds: float = 6.0, rate: int = 48_000, channels: int = 2, subtype: str = "PCM_24"
) -> Path:
    """A recording: a few tones that come and go, and some noise."""
    random = np.random.default_rng(round(seconds * 100) + rate + channels)
    t = np.arange(round(seconds * rate)) / rate
    pitches = np.array([[220], [330], [523]]) * 2 * np.pi
    tones = (np.sin(pitches * t) * np.sin(pitches / 800 * t)).sum(axis=0)
    song = 0.1 * tones[:, None] + 0.02 * random.normal(size=(len(t), channels))
    soundfile.write(path, song, rate, subtype=subtype)
    return path


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("songs") / "song.wav")


def repaint(song: Path, **fields: object) -> Repaint:
    asked = {"source_audio": song, "caption": "choir", "seed": 3, "steps": 2, **fields}
    request = parse_request({"task": "repaint", **asked})
    assert isinstance(request, Repaint)
    return request


def cover(song: Path, **fields: object) -> Cover:
    asked = {"source_audio": song, "caption": "jazz trio", "seed": 3, "steps": 4, **fields}
    request = parse_request({"task": "cover", **asked})
    assert isinstance(request, Cover)
    return request


def outside(track: Track, source: Tensor, *regions: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """What the track and the source have outside the regions (seconds of the source)."""
    lead = max(0, -round(min(start for start, _ in regions) * 48_000))
    kept = torch.ones(source.shape[-1], dtype=torch.bool)
    for start, end in regions:
        kept[max(0, round(start * 48_000)) : max(0, round(end * 48_000))] = False
    found = track.waveform[:, lead : lead + source.shape[-1]]
    return found[:, kept], source[0][:, kept]


# ---------------------------------------------------------------------------------- bit-identity


@pytest.mark.parametrize("case", range(12))
def test_any_length_any_regions_any_rate_leave_the_rest_bit_identical(
    turbo: MusicService, tmp_path: Path, case: int
) -> None:
    random = np.random.default_rng(case)
    seconds = float(random.uniform(0.02, 9))
    rate = int(random.choice([8000, 22_050, 44_100, 48_000, 48_000, 96_000]))
    path = record(tmp_path / "s.wav", seconds, rate, int(random.choice([1, 2, 2, 3])))
    source = audio.read(path)
    length = source.shape[-1] / 48_000
    edges = np.sort(random.uniform(0, length, size=2 * int(random.integers(1, 4))))
    wanted = [(float(a), float(max(b, a + 0.05))) for a, b in edges.reshape(-1, 2)]
    if case % 3 == 1:
        wanted[0] = (-float(random.uniform(0.1, 3)), wanted[0][1] * 0.5)
    if case % 3 == 2:
        wanted[-1] = (wanted[-1][0], length + float(random.uniform(0.1, 3)))
    mode = ["balanced", "conservative", "aggressive"][case % 3]
    crossfade = float(random.choice([0, 0.04, 1]))
    request = repaint(path, regions=wanted, mode=mode, crossfade=crossfade)
    try:
        regions = request.regions_of(length)
    except InvalidRequest as error:
        assert "longer than the song" in str(error)
        return
    track = turbo.run(request)[0]
    assert torch.equal(*outside(track, source, *regions))
    added = max(0, -regions[0][0]) + max(0, regions[-1][1] - length)
    assert track.waveform.shape[-1] == pytest.approx(source.shape[-1] + added * 48_000, abs=1.01)
    report = track.report
    assert report is not None and report.samples_changed_outside == 0
    assert all(0 <= seam <= 1 for seam in report.seams) and track.health.problem() is None


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_of_the_result_holds_the_sources_own_integers(
    turbo: MusicService, tmp_path: Path, subtype: str
) -> None:
    path = record(tmp_path / "s.wav", 3.0, subtype=subtype)
    track = turbo.run(repaint(path, repainting_start=1, repainting_end=2))[0]
    saved = track.save(tmp_path / "out.flac")
    before, _ = soundfile.read(path, dtype="int32")
    after, _ = soundfile.read(saved, dtype="int32")
    region = slice(48_000, 96_000)
    assert len(before) == len(after) and (before[region] != after[region]).any()
    assert (np.delete(before, region, 0) == np.delete(after, region, 0)).all()
    assert track.report is not None
    assert track.report.source == "The rest is the file's own samples."
    assert track.report.notes == () and read_recipe(saved)["report"] == track.report.to_dict()


def test_a_lossy_format_says_what_it_does_to_the_rest(turbo: MusicService, song: Path) -> None:
    report = turbo.run(repaint(song, repainting_end=1, format="mp3"))[0].report
    assert report is not None and report.samples_changed_outside == 0
    assert report.notes == (
        "Saved as mp3, the rest is only nearly the same: flac or wav32 keeps it.",
    )


def test_the_level_is_changed_inside_only_and_follows_the_song(
    turbo: MusicService, tmp_path: Path
) -> None:
    path = record(tmp_path / "s.wav")
    quiet = tmp_path / "quiet.wav"
    held, rate = soundfile.read(path)
    soundfile.write(quiet, held / 8, rate, subtype="FLOAT")
    matched = turbo.run(repaint(quiet, repainting_start=2, repainting_end=4))[0]
    plain = turbo.run(repaint(quiet, repainting_start=2, repainting_end=4, normalize=False))[0]
    source = audio.read(quiet)
    for track in (matched, plain):
        assert torch.equal(*outside(track, source, (2, 4)))
        assert track.waveform.abs().max() <= 1
    middle = slice(110_000, 180_000)
    ratio = matched.waveform[:, middle] / plain.waveform[:, middle]
    assert ratio.std() < 1e-3 * ratio.mean().abs()  # one gain for all of it
    assert not torch.equal(matched.waveform, plain.waveform)


# ------------------------------------------------------------------------------- repaint, extend


def test_new_words_change_what_the_dit_is_told_and_what_is_heard(
    turbo: MusicService, song: Path
) -> None:
    one, again, other = (
        repaint(song, repainting_start=2, repainting_end=4, lyrics=f"[Verse]\n{words}")
        for words in ("la la la", "la la la", "oh no")
    )
    told = [conditioning(turbo, request) for request in (one, again, other)]
    assert torch.equal(told[0].states, told[1].states)
    assert told[0].states.shape != told[2].states.shape or not torch.equal(
        told[0].states, told[2].states
    )
    assert torch.equal(told[0].context, told[2].context)
    first, second, third = (turbo.run(request)[0] for request in (one, again, other))
    assert torch.equal(first.waveform, second.waveform)
    assert first.recipe["sha256"] == second.recipe["sha256"]
    inside = slice(100_000, 190_000)
    assert not torch.equal(first.waveform[:, inside], third.waveform[:, inside])


def conditioning(service: MusicService, request: MusicRequest) -> Conditioning:
    """What the DiT is told first."""
    assert request.source_file is not None
    source = read_source(request.source_file, "")
    resolved, task, store = request.resolve(service.preset), ROOMS[request.name], networks(service)
    with torch.inference_mode():
        timeline = task.timeline(resolved, source)
        latents = pipeline.place_source(source, timeline, store, REPORT)
        guides = task.guides(resolved, timeline, latents, Codec(store))
        return pipeline.build_conditionings(resolved, guides, timeline, store, REPORT)[0]


def networks(service: MusicService) -> ModelStore:
    return service._networks()


def test_the_dit_sees_the_source_outside_and_silence_inside(
    turbo: MusicService, song: Path
) -> None:
    told = conditioning(turbo, repaint(song, repainting_start=2, repainting_end=4))
    silence = networks(turbo).silence
    window = slice(50, 100)
    assert told.context.shape == (1, 150, 128)
    assert torch.equal(told.context[:, window, :64], silence[:, window])
    with networks(turbo).vae() as vae:
        latents = vae.encode(audio.read(song))
    assert torch.allclose(told.context[:, 100:, :64], latents[:, 100:], atol=1e-5)
    assert told.context[0, :, 64:].mean(dim=1).tolist() == [0] * 50 + [1] * 50 + [0] * 50


def test_takes_of_a_repaint_share_the_source_and_differ_inside(
    turbo: MusicService, song: Path
) -> None:
    one, two = turbo.run(repaint(song, repainting_start=2, repainting_end=3, takes=2))
    source = audio.read(song)
    assert all(torch.equal(*outside(track, source, (2, 3))) for track in (one, two))
    inside = slice(100_000, 140_000)
    assert not torch.equal(one.waveform[:, inside], two.waveform[:, inside])
    assert [track.seed for track in (one, two)] == [3, 4]


@pytest.mark.parametrize(
    ("start", "end", "samples"),
    [(-2.5, None, 408_000), (6.0, 9.5, 456_000), (-0.01 - 1, 0.5, 336_480), (5.0, 8.0, 384_000)],
)
def test_extending_adds_exactly_what_was_asked(
    turbo: MusicService, song: Path, start: float, end: float | None, samples: int
) -> None:
    track = turbo.run(repaint(song, repainting_start=start, repainting_end=end))[0]
    assert track.waveform.shape == (2, samples)
    source = audio.read(song)
    assert torch.equal(*outside(track, source, (start, 0 if end is None else end)))
    added = track.waveform[:, :48_000] if start < 0 else track.waveform[:, -48_000:]
    assert added.abs().max() > 0.01
    report = track.report
    assert report is not None and len(report.seams) == 1
    assert (report.change_inside_db is None) == (end in (None, 9.5))


def test_a_reference_recording_changes_repaints_and_covers(
    turbo: MusicService, song: Path, tmp_path: Path
) -> None:
    timbre = record(tmp_path / "timbre.wav", 2.0, 44_100, 1)
    for make in (repaint, cover):
        plain, tinted = (
            turbo.run(make(song, reference_audio=reference))[0] for reference in (None, timbre)
        )
        assert not torch.equal(plain.waveform, tinted.waveform)


def test_our_own_latents_are_used_again_and_a_song_moved_alone_is_encoded(
    turbo: MusicService, tmp_path: Path
) -> None:
    asked = Text2Music(caption="lo-fi", duration=10.02, seed=3, steps=2)
    made = turbo.run(asked)[0]
    path = made.save(tmp_path / "a.flac")
    (tmp_path / "moved").mkdir()
    moved = Path(shutil.copy(path, tmp_path / "moved"))
    request = repaint(path, repainting_start=4, repainting_end=6)
    kept, encoded = (
        turbo.run(request.model_copy(update={"source_audio": file}))[0] for file in (path, moved)
    )
    assert kept.recipe["source"]["latents"] == "kept"
    assert encoded.recipe["source"]["latents"] == "encoded"
    assert kept.latents is not None and made.latents is not None and encoded.latents is not None
    assert torch.equal(kept.latents[:, :50], made.latents[:, :50])
    assert not torch.equal(encoded.latents[:, :50], made.latents[:, :50])
    again = turbo.run(repaint(kept.save(tmp_path / "b.flac"), repainting_end=1))[0]
    assert again.recipe["source"]["latents"] == "kept"
    with pytest.raises(AudioError, match=r"a\.safetensors exists already"):
        (tmp_path / "a.json").unlink()
        made.save(tmp_path / "a.wav")


def test_a_saved_repaint_replays_from_its_recipe(
    turbo: MusicService, song: Path, tmp_path: Path
) -> None:
    track = turbo.run(repaint(song, regions=[[1, 2], [3, 4.5]], strength=0.3))[0]
    recipe = read_recipe(track.save(tmp_path / "out.flac"))
    assert "duration" not in recipe["request"] and recipe["source"]["seconds"] == 6
    again = turbo.run(parse_request(json.loads(json.dumps(recipe["request"]))))[0]
    assert again.recipe["sha256"] == recipe["sha256"]


# ----------------------------------------------------------------------------------------- cover


@pytest.mark.parametrize("seconds", [0.5, 5.12, 6.0, 7.77])
def test_a_cover_is_as_long_as_its_source(
    turbo: MusicService, tmp_path: Path, seconds: float
) -> None:
    path = record(tmp_path / "s.wav", seconds)
    track = turbo.run(cover(path))[0]
    assert track.waveform.shape == (2, round(seconds * 48_000))
    assert track.report is not None and track.report.samples_changed_outside == 0
    assert track.health.problem() is None and len(track.report.sentences()) >= 3


def test_every_cover_control_changes_the_sound(turbo: MusicService, song: Path) -> None:
    variants = [
        {},
        {"audio_cover_strength": 0.5},
        {"audio_cover_strength": 0.0},
        {"cover_noise_strength": 0.2},
        {"cover_noise_strength": 1.0},
        {"quantize": False},
        {"caption": "brass band"},
    ]
    hashes = [turbo.run(cover(song, **fields))[0].recipe["sha256"] for fields in variants]
    assert len(set(hashes)) == len(variants)
    assert turbo.run(cover(song))[0].recipe["sha256"] == hashes[0]


def test_at_strength_zero_a_cover_is_text2music_of_the_sources_length(
    turbo: MusicService, tmp_path: Path
) -> None:
    path = record(tmp_path / "s.wav", 12.0)
    covered = turbo.run(cover(path, audio_cover_strength=0))[0]
    made = turbo.run(Text2Music(caption="jazz trio", seed=3, steps=4, duration=12))[0]
    assert torch.equal(covered.waveform, made.waveform)


@pytest.mark.parametrize("name", ["turbo", "base"])
@pytest.mark.parametrize(("strength", "noise_strength"), [(0.6, 0.0), (0.5, 0.45), (1.0, 0.3)])
def test_the_switch_and_the_noisy_start_equal_the_reference_formulas(
    name: str,
    strength: float,
    noise_strength: float,
    song: Path,
    request: pytest.FixtureRequest,
) -> None:
    service: MusicService = request.getfixturevalue(name)
    asked = cover(
        song, steps=5, audio_cover_strength=strength, cover_noise_strength=noise_strength,
        guidance_rule="cfg", takes=2,
    )  # fmt: skip
    source = read_source(song, "")
    rendering = pipeline.generate(
        asked, ROOMS["cover"], service.preset, networks(service), REPORT, source
    )
    expected = restated(service, asked.resolve(service.preset), source)
    error = (rendering.latents - expected).norm() / expected.norm()
    assert error <= 1e-5


@torch.inference_mode()
def restated(service: MusicService, request: ResolvedRequest[Cover], source: Any) -> Tensor:
    """docs/model.md in plain words: one loop, one switch, plain guidance."""
    asked, store = request.asked, networks(service)
    frames = 150
    with store.vae() as vae:
        src = vae.encode(source.waveform)
    silence = store.silence[:, :frames]
    with store.conditioner() as parts:
        quantized, _ = parts.tokenizer(src, store.silence)
        hints = parts.detokenizer(quantized)[:, :frames]
        states = []
        for sentence in (
            "Generate audio semantic tokens based on the given conditions:",
            "Fill the audio semantic mask based on the given conditions:",
        ):
            prompt = (
                f"# Instruction\n{sentence}\n\n# Caption\njazz trio\n\n# Metas\n- bpm: N/A\n"
                "- timesignature: N/A\n- keyscale: N/A\n- duration: 6 seconds\n<|endoftext|>\n"
            )
            with store.text_encoder() as texts:
                text, text_mask = texts.encode_caption(prompt)
                words = "# Languages\nunknown\n\n# Lyric\n[Instrumental]<|endoftext|>"
                lyrics, lyrics_mask = texts.embed_lyrics(words)
            reference = store.silence[:, : store.config.timbre_fix_frame]
            order = torch.zeros(1, dtype=torch.long)
            packed, _ = parts.encoder(text, text_mask, lyrics, lyrics_mask, reference, order)
            states.append(packed)
    noise = draw_noise([3, 4], frames, 64)
    grid = list(timesteps(is_turbo=service.preset.is_turbo, steps=5, shift=request.shift))
    x = noise
    if asked.cover_noise_strength > 0:
        level = 1 - asked.cover_noise_strength
        start = min(grid[:-1], key=lambda t: abs(t - level))
        grid = grid[grid.index(start) :]
        x = start * noise + (1 - start) * src
    steps = len(grid) - 1
    cover_steps = int(steps * asked.audio_cover_strength)
    with store.dit() as dit:
        for i in range(steps):
            switched = i >= cover_steps
            context = torch.cat([silence if switched else hints, torch.ones_like(silence)], dim=-1)
            context = context.expand(2, -1, -1)
            text = states[switched].expand(2, -1, -1)

            def velocity(states: Tensor, x: Tensor, t: float, context: Tensor) -> Tensor:
                times = torch.full((2,), t)
                return dit(x, times, times, dit.keys_values(states), context)

            v = velocity(text, x, grid[i], context)
            if request.guidance_scale > 1:
                v_null = velocity(store.null_condition(text), x, grid[i], context)
                v = v_null + request.guidance_scale * (v - v_null)
            x = x - (grid[i] - grid[i + 1]) * v
    return x


def test_a_heun_step_is_told_one_thing_in_both_of_its_looks(
    turbo: MusicService, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    velocity = EagerDenoiser.velocity

    def counted(
        self: EagerDenoiser, latents: Tensor, t: float, conditioning: Conditioning
    ) -> Tensor:
        told.append(conditioning.context[0, 0, 0].item())
        return velocity(self, latents, t, conditioning)

    monkeypatch.setattr(EagerDenoiser, "velocity", counted)
    turbo.run(cover(song, solver="heun", audio_cover_strength=0.5))
    assert told == [told[0]] * 4 + [told[-1]] * 3 and told[0] != told[-1]


# --------------------------------------------------------------------------------- what is refused


def nan(path: Path) -> None:
    soundfile.write(path, np.full((9600, 2), np.nan), 48_000, subtype="FLOAT")


def truncated(path: Path) -> None:
    record(path)
    path.write_bytes(path.read_bytes()[:200_000])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "not audio": (lambda path: path.write_text("hello"), "s.wav is not audio."),
    "truncated": (truncated, "s.wav is damaged after 0:00."),
    "0 s": (lambda path: soundfile.write(path, np.zeros((0, 2)), 48_000), "s.wav holds no sound"),
    "11 minutes": (
        lambda path: soundfile.write(path, np.zeros(660 * 8000, np.int16), 8000),
        "s.wav is 11 min long; at most 10 min are supported.",
    ),
    "NaN": (nan, "s.wav has samples that are not numbers"),
    "silent": (
        lambda path: soundfile.write(path, np.zeros((9600, 2)), 48_000),
        "s.wav is silent: there is nothing to change.",
    ),
    "missing": (lambda path: None, "s.wav does not exist."),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("make", [repaint, cover])
def test_a_bad_source_is_refused_in_one_sentence_and_nothing_is_written(
    turbo: MusicService, tmp_path: Path, kind: str, make: Callable[..., MusicRequest]
) -> None:
    write, sentence = BAD[kind]
    path = tmp_path / "s.wav"
    write(path)
    before = set(tmp_path.iterdir())
    with pytest.raises(AudioError) as caught:
        turbo.run(make(path))
    assert str(caught.value).startswith(sentence) and caught.value.exit_code == 4
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"repainting_start": 8}, "The region begins at 0:08.0, but the song ends at 0:06.0"),
        ({"repainting_start": 0, "repainting_end": 700}, "The song would become 700 s long"),
        ({"repainting_start": 0, "repainting_end": 7}, "The region is longer than the song"),
        ({"steps": 50}, "Turbo models take 1–20 steps"),
    ],
)
def test_a_region_that_does_not_fit_is_refused_before_anything_is_computed(
    turbo: MusicService, song: Path, fields: dict[str, object], sentence: str
) -> None:
    stages: list[str] = []
    with pytest.raises(AceStepError) as caught:
        turbo.run(repaint(song, **fields), on_progress=lambda p: stages.append(p.stage))
    assert str(caught.value).startswith(sentence) and caught.value.exit_code == 4
    assert set(stages) <= {"reading"}


def test_planning_an_edit_is_refused_and_understanding_needs_a_planner(
    turbo: MusicService, song: Path
) -> None:
    with pytest.raises(InvalidRequest, match="plans new songs only"):
        turbo.plan(repaint(song))
    with pytest.raises(Unavailable, match="needs a 5Hz LM"):
        turbo.understand(song)


def test_a_recording_is_understood_the_same_way_every_time(tiny_models: Path, song: Path) -> None:
    service = MusicService.load(TURBO, device="cpu", checkpoints=tiny_models)
    networks(service)._planner._caption_tokens = 8  # pyright: ignore[reportOptionalMemberAccess]
    networks(service)._planner._lyrics_tokens = 8  # pyright: ignore[reportOptionalMemberAccess]
    heard = service.understand(song)
    assert heard == service.understand(song)
    assert heard.duration == 6 and heard.codes == () and heard.bpm
    track = service.run(cover(song, bpm=heard.bpm))[0]  # the planner has no part in edits
    assert track.seconds.keys().isdisjoint({"planning"})


def test_a_change_that_nobody_hears_is_said(
    turbo: MusicService, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = audio.read(song)

    def unchanged(self: object, latents: Tensor, **_: object) -> Tensor:
        return waveform.clone()

    monkeypatch.setattr(Vae, "decode", unchanged)
    report = turbo.run(repaint(song, repainting_start=1, repainting_end=2))[0].report
    assert report is not None and report.sentences()[0] == "Nothing audible changed."
    assert report.change_inside_db == pytest.approx(0, abs=0.01)


def test_a_silent_region_is_a_failure_even_in_a_loud_song(
    turbo: MusicService, song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = audio.read(song)
    waveform[..., 48_000:96_000] = 0

    def hole(self: object, latents: Tensor, **_: object) -> Tensor:
        return waveform.clone()

    monkeypatch.setattr(Vae, "decode", hole)
    with pytest.raises(UnsoundResult, match="silent"):
        turbo.run(repaint(song, repainting_start=1, repainting_end=2))


@pytest.mark.parametrize("solver", sorted(sampler.SAMPLERS))
def test_repaints_work_with_every_solver(turbo: MusicService, song: Path, solver: str) -> None:
    track = turbo.run(repaint(song, repainting_start=1, repainting_end=2, solver=solver))[0]
    assert torch.equal(*outside(track, audio.read(song), (1, 2)))


def test_guided_repaints_and_covers_work_on_base_models(base: MusicService, song: Path) -> None:
    for request in (repaint(song, repainting_end=1), cover(song, audio_cover_strength=0.5)):
        guided = base.run(request.model_copy(update={"guidance_scale": 5.0, "takes": 2}))
        plain = base.run(request.model_copy(update={"guidance_scale": 1.0, "takes": 2}))
        assert not torch.equal(guided[0].waveform, plain[0].waveform)
