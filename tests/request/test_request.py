"""The request schema: what it fills in, what it refuses, and the sentence it says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.errors import InvalidRequest
from acestep.request import TASKS, Cover, Plan, Preset, Repaint, Text2Music, parse_request
from acestep.request.schema import bounds, choices, group, unit
from acestep.request.values import CODE_RATE, INSTRUMENTAL, KEY_SCALES, LANGUAGES
from acestep.seeds import MAX_SEED

INF, NAN = float("inf"), float("nan")
TURBO = Preset(
    name="turbo",
    steps=8,
    max_steps=20,
    shift=3,
    guidance_scale=1,
    is_turbo=True,
    duration=120,
    rewrite_caption=False,
    dcw="double",
)
BASE = Preset(
    name="base",
    steps=50,
    max_steps=200,
    shift=1,
    guidance_scale=7,
    is_turbo=False,
    duration=120,
    rewrite_caption=True,
    dcw="off",
)


def refusal(**fields: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_request({"caption": "lo-fi", **fields})
    return caught.value


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("bpm", 12, "BPM must be a whole number from 30 to 300 (you gave 12)."),
        ("bpm", 120.5, "BPM must be a whole number from 30 to 300 (you gave 120.5)."),
        ("bpm", "fast", "BPM must be a whole number from 30 to 300 (you gave fast)."),
        ("duration", 3, "Audio Duration must be a number from 10 to 600 s (you gave 3)."),
        ("duration", INF, "Audio Duration must be a number from 10 to 600 s (you gave inf)."),
        ("duration", NAN, "Audio Duration must be a number from 10 to 600 s (you gave nan)."),
        ("lm_cfg_scale", 9, "CFG Scale must be a number from 1 to 7 (you gave 9)."),
        ("lm_temperature", -1, "LM Temperature must be a number from 0 to 2 (you gave -1)."),
        ("lm_top_p", 0, "Top-P must be a number from above 0 to 1 (you gave 0)."),
        ("steps", 0, "Steps must be a whole number from 1 to 200 (you gave 0)."),
        ("seed", -2, "Seed must be a whole number from 0 to 4,294,967,295 (you gave -2)."),
        ("takes", 9, "Takes must be a whole number from 1 to 8 (you gave 9)."),
        ("solver", "rk4", "Solver must be one of euler, heun, sde (you gave rk4)."),
        (
            "dcw",
            "on",
            "Wavelet Correction must be one of off, low, high, double, pix (you gave on).",
        ),
        ("dcw_wavelet", "sym8", "Wavelet must be one of haar, db2, db3, db4 (you gave sym8)."),
        ("think", "maybe", "Think must be true or false (you gave maybe)."),
        ("caption", "x" * 513, "Music Caption is 513 characters; the limit is 512."),
        ("lyrics", "x" * 4210, "Lyrics is 4,210 characters; the limit is 4,096."),
        ("key_scale", "H minor", "Key 'H minor' is not known. Try 'B minor'."),
        ("time_signature", "5/4", "Choose 2/4, 3/4, 4/4 or 6/8 (you gave '5/4')."),
        ("vocal_language", "xx", "Unknown language code 'xx'."),
        ("timesteps", [0.5, 0.9], "Timesteps must fall from one to the next."),
        ("timesteps", [2.0], "Timesteps must all be numbers from above 0 to 1 (you gave 2.0)."),
        ("temperature", 1, "Text2Music has no field 'temperature'. Did you mean 'lm_temperature'?"),
        ("task", "remix", "Task must be one of text2music, repaint, cover (you gave 'remix')."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_field_value_and_range(
    field: str, value: object, sentence: str
) -> None:
    error = refusal(**{field: value})
    assert (error.field, str(error), error.exit_code) == (field, sentence, 4)


def test_an_empty_request_asks_for_words() -> None:
    with pytest.raises(InvalidRequest, match="Describe the music you want, or write lyrics"):
        Text2Music()


def test_editing_tasks_need_a_source_and_a_cover_needs_a_caption() -> None:
    assert str(refusal(task="repaint")) == "Choose the song to change first."
    assert str(refusal(task="cover", source_audio="")) == "Choose the song to cover first."
    with pytest.raises(InvalidRequest, match="Say what it should become"):
        parse_request({"task": "cover", "source_audio": "song.wav"})


@pytest.mark.parametrize("nothing", ["", "  ", "[inst]", "[Instrumental]", "[INSTRUMENTAL]", None])
def test_no_lyrics_means_instrumental(nothing: str | None) -> None:
    request = Text2Music(caption="lo-fi", lyrics=nothing)  # pyright: ignore[reportArgumentType]
    assert request.lyrics == INSTRUMENTAL and request.is_instrumental


def test_minus_one_is_a_seed_nobody_chose() -> None:
    assert Text2Music(caption="lo-fi", seed=-1).seed is None


@given(st.sampled_from(KEY_SCALES), st.sampled_from(LANGUAGES), st.sampled_from(["3/4", 3, "3"]))
def test_keys_languages_and_time_signatures_have_one_spelling(
    key: str, language: str, waltz: object
) -> None:
    request = parse_request(
        {
            "caption": "waltz",
            "key_scale": f"  {key.lower().replace(' ', '   ')}",
            "vocal_language": language,
            "time_signature": waltz,
        }
    )
    assert (request.key_scale, request.time_signature) == (key, 3)


def test_timesteps_may_end_at_zero_or_before_it() -> None:
    ended, open_ended = (Text2Music(caption="a", timesteps=t) for t in ((1, 0.5, 0), (1, 0.5)))
    assert ended.timesteps == open_ended.timesteps == (1.0, 0.5)
    assert Text2Music(caption="a", timesteps=()).timesteps is None


def test_text_is_read_where_numbers_are_listed() -> None:
    written = {"caption": "a", "timesteps": "1, 0.75,0"}
    assert Text2Music.model_validate(written).timesteps == (1.0, 0.75)
    regions = {"source_audio": "song.flac", "regions": "12:20, 40.5 to 48"}
    assert Repaint.model_validate(regions).regions == ((12, 20), (40.5, 48))


def test_every_task_has_a_verb_and_a_title_of_its_own() -> None:
    assert [task.verb for task in TASKS.values()] == ["generate", "repaint", "cover"]
    assert [task.title for task in TASKS.values()] == ["Text2Music", "Repaint", "Cover"]
    assert {task.argument for task in TASKS.values()} <= {None, "source_audio"}


def test_control_characters_and_decomposed_accents_are_cleaned() -> None:
    request = Text2Music(caption="cafe\u0301\x00 jazz\r\n")
    assert request.caption == "café jazz"


def test_resolving_fills_every_choice_from_the_preset() -> None:
    resolved = Text2Music(caption="lo-fi").resolve(BASE)
    assert (resolved.steps, resolved.shift, resolved.guidance_scale) == (50, 1, 7)
    asked = resolved.asked
    assert (resolved.duration, resolved.codes, asked.vocal_language) == (120, (), "unknown")
    assert 0 <= resolved.seed <= MAX_SEED
    assert (asked.steps, asked.shift, asked.guidance_scale) == (50, 1, 7)
    assert (asked.duration, asked.think, asked.seed) == (120, False, resolved.seed)


def test_resolving_changes_nothing_the_user_chose() -> None:
    chosen = {
        "bpm": 96, "key_scale": "E minor", "time_signature": 6, "duration": 12.0, "seed": 0,
        "steps": 7, "shift": 2.0, "guidance_scale": 1.0, "vocal_language": "en", "think": False,
    }  # fmt: skip
    resolved = (
        Text2Music(
            caption="lo-fi", plan=Plan(bpm=120, key_scale="C major", duration=30.0), **chosen
        )
        .resolve(BASE)
        .asked
    )
    assert {name: getattr(resolved, name) for name in chosen} == chosen


def test_a_plan_fills_what_the_user_left_open_and_codes_set_the_length() -> None:
    plan = Plan(bpm=120, key_scale="C major", vocal_language="no", codes=(tuple(range(60)),))
    resolved = Text2Music(caption="lo-fi", plan=plan).resolve(TURBO).asked
    assert (resolved.bpm, resolved.key_scale, resolved.vocal_language) == (120, "C major", "no")
    assert resolved.duration == 60 / CODE_RATE


@pytest.mark.parametrize(
    ("preset", "chosen", "rewrites"),
    [(TURBO, None, False), (BASE, None, True), (TURBO, True, True), (BASE, False, False)],
)
def test_captions_are_rewritten_as_the_preset_says_where_nobody_chose(
    preset: Preset, chosen: bool | None, rewrites: bool
) -> None:
    plan = Plan(caption="a dusty loop")
    request = Text2Music(caption="lo-fi", plan=plan, rewrite_caption=chosen)
    resolved = request.resolve(preset)
    assert request.rewrites(preset) is resolved.asked.rewrite_caption is rewrites
    assert resolved.caption == ("a dusty loop" if rewrites else "lo-fi")
    assert resolved.asked.caption == "lo-fi"


@pytest.mark.parametrize(
    ("preset", "chosen", "dcw"),
    [
        (TURBO, None, "double"), (TURBO, "", "double"), (BASE, None, "off"), (TURBO, "off", "off"),
        (BASE, "low", "low"),
    ],
)  # fmt: skip
def test_wavelets_are_corrected_as_the_preset_says_where_nobody_chose(
    preset: Preset, chosen: str | None, dcw: str
) -> None:
    resolved = parse_request({"caption": "lo-fi", "dcw": chosen}).resolve(preset)
    assert resolved.dcw == resolved.asked.dcw == dcw


def test_the_users_length_stands_and_codes_must_fit_it() -> None:
    def length(duration: float | None, codes: int) -> float | None:
        plan = Plan(duration=99, codes=((7,) * codes,))
        request = Text2Music(caption="lo-fi", duration=duration, plan=plan)
        return request.resolve(TURBO).duration

    assert (length(12.5, 63), length(12.0, 60), length(None, 63)) == (12.5, 12.0, 12.6)
    with pytest.raises(InvalidRequest, match=r"codes last 12\.6 s, but Audio Duration is 20 s"):
        length(20, 63)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"steps": 50}, "Turbo models take 1–20 steps"),
        ({"timesteps": tuple(1 - i / 30 for i in range(21))}, "at most 20 timesteps"),
        ({"guidance_scale": 5.0}, "no effect on turbo models"),
        ({"think": True}, "Think needs a 5Hz LM"),
    ],
)
def test_what_a_turbo_checkpoint_cannot_do_is_refused_not_clamped(
    fields: dict, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        Text2Music(caption="lo-fi", **fields).check(TURBO, has_planner=False)


def test_a_plan_of_a_few_codes_is_too_short_for_a_song() -> None:
    with pytest.raises(InvalidRequest, match="10 to 600 s, which is 50 to 3000 codes"):
        Plan(codes=((1, 2, 3),))


def test_a_plan_has_one_row_of_codes_for_all_takes_or_one_for_each() -> None:
    row = (7,) * 50
    asked = Text2Music.model_validate({"caption": "a", "plan": {"codes": list(row)}, "takes": 3})
    assert asked.plan == Plan(codes=(row,))
    assert Text2Music(caption="a", plan=Plan(codes=(row, row)), takes=2).takes == 2
    with pytest.raises(InvalidRequest, match="2 rows of codes for 3 takes"):
        Text2Music(caption="a", plan=Plan(codes=(row, row)), takes=3)
    with pytest.raises(InvalidRequest, match="same length"):
        Plan(codes=(row, row[:-1] * 2))


@pytest.mark.parametrize("request_class", [Text2Music, Repaint, Cover])
def test_every_field_has_a_label_a_group_and_help(request_class: type) -> None:
    for name, field in request_class.model_fields.items():
        if name != "task":
            assert field.title and field.description and group(field), name
            assert field.description.endswith("."), name


def test_field_facts_reach_sliders_and_help() -> None:
    fields = Text2Music.model_fields
    assert bounds(fields["duration"]) == (10, 600) and unit(fields["duration"]) == "s"
    assert choices(fields["solver"]) == ("euler", "heun", "sde")
    assert choices(fields["dcw"]) == ("off", "low", "high", "double", "pix")
    assert choices(fields["bpm"]) == ()


def test_a_resolved_request_survives_json() -> None:
    plan = Plan(caption="a: 'quoted'\ncaption", codes=((0, 63_999) * 25,))
    resolved = Text2Music(caption="日本語", lyrics="[Verse]\nlá", plan=plan).resolve(TURBO).asked
    assert parse_request(json.loads(resolved.model_dump_json())) == resolved


def test_misspelt_section_tags_are_pointed_out() -> None:
    request = Text2Music(lyrics="[Chrous]\nla la\n[Verse 2]\nla\n[Chorus - anthemic]\n[whispered]")
    assert request.warnings() == ["Unknown tag [Chrous] — did you mean [Chorus]?"]
