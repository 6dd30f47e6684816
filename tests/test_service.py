"""From a request to checked tracks, through the real networks at tiny sizes."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from memory_plans import roomy_plan
from safetensors.torch import load_file, save_file

from acestep.config import ServiceConfig
from acestep.errors import (
    AudioError,
    Cancelled,
    CheckpointError,
    InvalidRequest,
    OutOfMemory,
    UnsoundResult,
)
from acestep.library.track import Track
from acestep.media.sound_files import probe
from acestep.planner.backends.pt import PtBackend
from acestep.planner.planner import Planner
from acestep.progress import CancelToken, Progress, Reporter
from acestep.request import Plan, Text2Music, parse_request
from acestep.request.schema import setting
from acestep.runtime.folders import Folders
from acestep.runtime.store import ModelStore, StoreSettings
from acestep.service import MusicService

TURBO, BASE = "acestep-v15-nano-turbo", "acestep-v15-nano-base"


@pytest.fixture(scope="module")
def turbo(tiny_models: Path) -> MusicService:
    return MusicService.load(TURBO, lm=None, device="cpu", checkpoints=tiny_models)


@pytest.fixture(scope="module")
def base(tiny_models: Path) -> MusicService:
    return MusicService.load(BASE, lm=None, device="cpu", checkpoints=tiny_models)


def request(**fields: object) -> Text2Music:
    asked = parse_request({"caption": "lo-fi", "duration": 10, "seed": 3, "steps": 2, **fields})
    assert isinstance(asked, Text2Music)
    return asked


def asked(track: Track) -> Text2Music:
    assert isinstance(track.request, Text2Music)
    return track.request


def same(first: Track, second: Track) -> bool:
    return torch.equal(first.waveform, second.waveform)


def test_a_request_twice_gives_the_same_samples_and_another_seed_others(
    turbo: MusicService,
) -> None:
    first, again, other = (turbo.run(request(seed=seed))[0] for seed in (3, 3, 4))
    assert same(first, again) and first.recipe["sha256"] == again.recipe["sha256"]
    assert not same(first, other) and first.recipe["sha256"] != other.recipe["sha256"]


@pytest.mark.parametrize("duration", [10, 10.01, 12.345])
def test_a_track_is_exactly_as_long_as_asked(turbo: MusicService, duration: float) -> None:
    track = turbo.run(request(duration=duration))[0]
    assert track.waveform.shape == (2, round(duration * 48_000))
    assert track.waveform.dtype == torch.float32 and track.sample_rate == 48_000


def test_takes_share_a_run_and_differ_by_their_seeds(turbo: MusicService) -> None:
    tracks = turbo.run(request(takes=3))
    assert [track.seed for track in tracks] == [3, 4, 5]
    assert not same(tracks[0], tracks[1]) and not same(tracks[1], tracks[2])
    alone = turbo.run(request(seed=5))[0]
    assert torch.allclose(tracks[2].waveform, alone.waveform, atol=1e-3)


@pytest.mark.parametrize("solver", ["heun", "sde"])
def test_other_solvers_reproduce_and_change_the_sound(turbo: MusicService, solver: str) -> None:
    euler = turbo.run(request())[0]
    first, again = (turbo.run(request(solver=solver))[0] for _ in range(2))
    assert same(first, again) and not same(first, euler)


def test_wavelet_correction_and_custom_timesteps_change_the_sound(turbo: MusicService) -> None:
    plain = turbo.run(request(steps=3))[0]
    assert turbo.preset.dcw == plain.request.dcw == "off"
    corrected = [
        turbo.run(request(dcw="double", steps=3, **change))[0]
        for change in ({}, {"dcw_scaler": 0.2}, {"dcw_high_scaler": 0.2}, {"dcw_wavelet": "db4"})
    ]
    for one, other in combinations([plain, *corrected], 2):
        assert not same(one, other)
    assert not same(plain, turbo.run(request(timesteps=[1.0, 0.3]))[0])


def test_guidance_changes_base_and_its_interval_is_obeyed(base: MusicService) -> None:
    plain = base.run(request(guidance_scale=1.0))[0]
    guided = base.run(request(guidance_scale=7.0))[0]
    outside = base.run(request(guidance_scale=7.0, guidance_end=0.0))[0]
    assert not same(plain, guided)
    assert same(plain, outside)


def test_codes_steer_the_sound_and_set_its_length(turbo: MusicService) -> None:
    plans = [Plan(codes=(tuple(range(first, first + 55)),)) for first in (0, 400)]
    one, other = (turbo.run(request(duration=None, plan=plan.model_dump()))[0] for plan in plans)
    assert one.duration == other.duration == 11.0
    assert not same(one, other)


def test_codes_of_another_model_are_refused(turbo: MusicService) -> None:
    with pytest.raises(InvalidRequest, match="code 512, but this checkpoint knows 512"):
        turbo.run(request(plan={"codes": [512] * 50}))


def test_a_reference_recording_changes_the_sound_and_silence_is_refused(
    turbo: MusicService, tmp_path: Path
) -> None:
    tone = np.sin(np.arange(44_100) / 20)[:, None] * [0.5, 0.4]
    soundfile.write(tmp_path / "tone.wav", tone, 44_100)
    soundfile.write(tmp_path / "nothing.wav", 0 * tone, 44_100)
    with_tone = turbo.run(request(reference_audio=tmp_path / "tone.wav"))[0]
    assert not same(with_tone, turbo.run(request())[0])
    with pytest.raises(AudioError, match=r"nothing\.wav is silent"):
        turbo.run(request(reference_audio=tmp_path / "nothing.wav"))


def test_progress_names_every_stage_in_order(turbo: MusicService) -> None:
    seen: list[Progress] = []
    turbo.run(request(), on_progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["conditioning", "rendering", "decoding", "checking"]
    steps = [(p.done, p.total) for p in seen if p.stage == "rendering"]
    assert steps == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("stage", ["conditioning", "rendering", "decoding", "checking"])
def test_cancel_stops_at_the_next_report_and_the_next_run_works(
    turbo: MusicService, stage: str
) -> None:
    token = CancelToken()
    seen: list[str] = []

    def cancel_in(progress: Progress) -> None:
        seen.append(progress.stage)
        if progress.stage == stage:
            token.cancel()

    if stage == "checking":  # the last report of a run comes before nothing that could be stopped
        turbo.run(request(), on_progress=cancel_in, cancel=token)
    else:
        with pytest.raises(Cancelled):
            turbo.run(request(), on_progress=cancel_in, cancel=token)
        assert seen.count(stage) == 1
    assert turbo.run(request())[0].health.problem() is None


def test_what_the_checkpoint_cannot_do_is_refused(turbo: MusicService) -> None:
    with pytest.raises(InvalidRequest, match="1–20 steps"):
        turbo.run(request(steps=50))


def test_level_and_fades_are_what_was_asked(turbo: MusicService) -> None:
    track = turbo.run(request(peak_db=-6.0, fade_in=1.0, fade_out=2.0))[0]
    assert track.waveform.abs().max().item() <= 10 ** (-6 / 20) + 1e-6
    assert track.waveform[:, 0].abs().max() == 0 and track.waveform[:, -1].abs().max() == 0


def test_the_recipe_inside_a_saved_track_makes_it_again(
    turbo: MusicService, tmp_path: Path
) -> None:
    from acestep.library.recipe import read_recipe

    track = turbo.run(request(takes=2, lyrics="[Chrous]\nla"))[1]
    path = track.save(tmp_path / "song.flac")
    recipe = read_recipe(path)
    assert recipe == read_recipe(tmp_path / "song.json")
    assert probe(path).seconds == 10 and probe(path).rate == 48_000
    again = turbo.run(parse_request(recipe["request"]))[recipe["take"]]
    assert same(track, again) and again.recipe["sha256"] == recipe["sha256"]
    assert recipe["models"]["dit"]["name"] == TURBO
    assert track.warnings == ["Unknown tag [Chrous] — did you mean [Chorus]?"]
    with pytest.raises(AudioError, match="exists already"):
        track.save(path)


def test_tracks_saved_in_a_folder_are_numbered_and_never_overwrite(
    turbo: MusicService, tmp_path: Path
) -> None:
    track = turbo.run(request(format="wav"))[0]
    first, second = (track.save_in(tmp_path) for _ in range(2))
    assert [p.name for p in (first, second)] == [
        "0001_text2music_lo-fi.wav",
        "0002_text2music_lo-fi.wav",
    ]


def altered(tiny_models: Path, folder: Path, scale: float) -> Folders:
    """The tiny set with its last VAE convolution scaled."""
    folder.mkdir()
    for file in (tiny_models / "acestep-nano-vae").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    tensors["decoder.conv2.weight_g"] *= scale
    save_file(tensors, weights)
    return Folders(
        dit=tiny_models / TURBO, vae=folder, text_encoder=tiny_models / "acestep-nano-text-encoder"
    )


def service(folders: Folders, turbo: MusicService, dtype: torch.dtype) -> MusicService:
    plan = roomy_plan(folders)
    settings = StoreSettings(folders, device=torch.device("cpu"), dtype=dtype, plan=plan)
    return MusicService(turbo.config, turbo.preset, ModelStore(settings, Reporter()))


@pytest.mark.parametrize(("scale", "sentence"), [(0.0, "silent"), (float("nan"), "not numbers")])
def test_silence_and_nan_are_failures_never_songs(
    turbo: MusicService, tiny_models: Path, tmp_path: Path, scale: float, sentence: str
) -> None:
    broken = service(altered(tiny_models, tmp_path / "vae", scale), turbo, torch.float32)
    with pytest.raises(UnsoundResult, match=sentence):
        broken.run(request())


def test_an_overflow_in_a_short_dtype_is_retried_once_in_float32(
    turbo: MusicService, tiny_models: Path, tmp_path: Path
) -> None:
    """A last convolution that leaves float16's range but not float32's."""
    loud = service(altered(tiny_models, tmp_path / "vae", 1e6), turbo, torch.float16)
    track = loud.run(request())[0]
    assert track.recipe["dtype"] == "float32" and track.health.problem() is None


@pytest.fixture(scope="module")
def thinker(tiny_models: Path) -> MusicService:
    return MusicService.load(TURBO, device="cpu", checkpoints=tiny_models)


def test_thinking_plans_the_song_and_keeps_what_the_user_chose(thinker: MusicService) -> None:
    seen: list[Progress] = []
    chosen = {"bpm": 96, "key_scale": "E minor", "duration": 12.0}
    track = thinker.run(request(**chosen), on_progress=seen.append)[0]
    assert thinker.has_planner and seen[0].stage == "planning"
    plan = asked(track).plan
    assert plan is not None and len(plan.codes[0]) == 60 and track.duration == 12
    assert {name: getattr(track.request, name) for name in chosen} == chosen
    assert plan.caption and track.recipe["models"]["lm"]["name"] == "acestep-5Hz-lm-nano"
    again = thinker.run(request(**chosen))[0]
    assert asked(again).plan == plan and same(track, again)
    assert not same(track, thinker.run(request(think=False, **chosen))[0])


def test_what_think_needs_can_be_prepared_and_changes_nothing(
    thinker: MusicService, turbo: MusicService
) -> None:
    turbo.prepare()  # has no planner, and so nothing to do
    thinker.prepare()
    with thinker._networks().planner() as planner:
        assert "compiler" in vars(planner.backend.vocabulary)
    assert same(thinker.run(request())[0], thinker.run(request())[0])


def test_a_length_between_two_codes_is_kept_to_the_sample(thinker: MusicService) -> None:
    track = thinker.run(request(duration=10.1))[0]
    assert track.waveform.shape[-1] == 484_800
    plan = asked(track).plan
    assert plan is not None and len(plan.codes[0]) == 51


def test_an_edited_plan_is_what_the_dit_gets(thinker: MusicService, turbo: MusicService) -> None:
    given = {"duration": 10, "rewrite_caption": True}
    plan = thinker.plan(request(**given))
    planned = thinker.run(request(plan=plan.model_dump(), **given))[0]
    assert plan.caption and same(planned, thinker.run(request(**given))[0])
    assert same(planned, turbo.run(request(plan=plan.model_dump(), think=True, **given))[0])
    edited = plan.model_copy(update={"codes": (plan.codes[0][::-1],)})
    track = thinker.run(request(plan=edited.model_dump()))[0]
    assert asked(track).plan == edited and not same(track, planned)
    renamed = plan.model_copy(update={"caption": "a loud fanfare"})
    assert not same(planned, thinker.run(request(plan=renamed.model_dump(), **given))[0])
    kept = request(plan=plan.model_dump(), rewrite_caption=False)
    said = kept.model_copy(update={"plan": renamed})
    assert same(thinker.run(kept)[0], thinker.run(said)[0]), "the user's words stand"


def test_a_planner_of_another_codebook_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    shutil.copytree(tiny_models, root)
    tokenizer = root / "acestep-5Hz-lm-nano" / "tokenizer.json"
    data = json.loads(tokenizer.read_text())
    data["added_tokens"] = data["added_tokens"][:-12]
    tokenizer.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="writes 500 different codes"):
        MusicService.load(TURBO, device="cpu", checkpoints=root)


def test_the_planner_runs_in_its_engines_dtype_and_the_retry_in_float32(
    thinker: MusicService,
) -> None:
    folders = thinker._networks().settings.folders
    plan = roomy_plan(folders)
    settings = StoreSettings(
        folders,
        device=torch.device("cpu"),
        dtype=torch.float32,
        plan=plan,
        planner_dtype=torch.bfloat16,
    )
    store = ModelStore(settings, Reporter())

    def planner_dtype(store: ModelStore) -> torch.dtype:
        with store.planner() as planner:
            assert isinstance(planner.backend, PtBackend)
            return planner.backend._decoder.dtype

    assert planner_dtype(store) == torch.bfloat16 and not store.is_float32
    safe = ModelStore(settings.in_float32(plan), Reporter())
    assert planner_dtype(safe) == torch.float32 and safe.is_float32


@pytest.mark.parametrize("call", ["run", "plan", "understand"])
def test_running_out_of_memory_says_what_helps_wherever_it_happens(
    thinker: MusicService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    for method in ("plan", "understand"):
        monkeypatch.setattr(Planner, method, exhausted)
    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(96_000) / 20), 48_000)
    asked = tmp_path / "tone.wav" if call == "understand" else request()
    with pytest.raises(OutOfMemory, match=r"Out of memory on .* Ask for .* shorter"):
        getattr(thinker, call)(asked)


def test_a_new_setting_that_may_change_samples_is_in_the_recipe_by_itself(
    tiny_models: Path,
) -> None:
    class Warmed(ServiceConfig):
        warmth: float = setting(0.5, "models", "Warmth", "How warm.", recorded=True)
        polish: bool = setting(False, "models", "Polish", "Changes no samples.")

    config = Warmed(lm="none", device="cpu", checkpoints=tiny_models, warmth=0.7)
    (track,) = MusicService.load(config).run(request())
    recorded = ServiceConfig(device="cpu").recorded() | {"warmth": 0.7}
    assert track.recipe["service"] == recorded
    assert {"device", "int8", "lora"} <= recorded.keys()
    assert not {"model", "polish", "memory_limit", "checkpoints"} & recorded.keys()


def test_a_retry_that_cannot_be_loaded_says_so_and_the_next_run_loads_again(
    turbo: MusicService, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = service(altered(tiny_models, tmp_path / "vae", 1e6), turbo, torch.float16)
    load = ModelStore.__init__

    def full(self: ModelStore, settings: StoreSettings, report: Reporter) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(ModelStore, "__init__", full)
    with pytest.raises(OutOfMemory, match="Out of memory on"):
        loud.run(request())
    monkeypatch.setattr(ModelStore, "__init__", load)
    assert loud.run(request())[0].health.problem() is None
