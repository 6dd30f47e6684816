"""Finished files get names that nothing has, however many workers write at once."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.errors import AudioError, InvalidRequest
from acestep.library.output_paths import SLUG_LENGTH, Destination, next_path, slug
from acestep.media.files import write_file

TODAY = date(2026, 11, 22)


def path_for(folder: Path, caption: str = "warm lo-fi beat") -> Path:
    return next_path(folder, "text2music", caption, "flac", TODAY)


def test_a_name_says_day_number_task_and_caption(tmp_path: Path) -> None:
    expected = tmp_path / "outputs" / "2026-11-22" / "0001_text2music_warm-lo-fi-beat.flac"
    assert path_for(tmp_path / "outputs") == expected
    assert not expected.exists()


@pytest.mark.parametrize("format", ["wav", "wav24", "wav32"])
def test_the_kinds_of_wav_share_a_suffix(tmp_path: Path, format: str) -> None:
    path = next_path(tmp_path, "cover", "jazz", format, TODAY)  # pyright: ignore[reportArgumentType]
    assert path.name == "0001_cover_jazz.wav"


def test_numbers_go_on_over_every_kind_of_file(tmp_path: Path) -> None:
    day = tmp_path / "2026-11-22"
    day.mkdir()
    for name in ("0003_cover_x.flac", "0007_repaint_y.json", "0041.txt", "x0099_z.flac"):
        (day / name).touch()
    assert path_for(tmp_path).name.startswith("0008_")
    (day / "9999_text2music_z.mp3").touch()
    assert path_for(tmp_path).name.startswith("10000_")
    assert next_path(tmp_path, "cover", "x", "flac", date(2026, 11, 23)).name == "0001_cover_x.flac"


def test_a_name_given_out_is_not_given_again_before_it_is_used(tmp_path: Path) -> None:
    first, second = path_for(tmp_path), path_for(tmp_path, "something else")
    assert (first.name[:4], second.name[:4]) == ("0001", "0002")


def test_claims_are_tidied_once_their_files_are_there(tmp_path: Path) -> None:
    for _ in range(5):
        write_file(path_for(tmp_path), b"song")
    names = sorted(p.name for p in (tmp_path / "2026-11-22").iterdir())
    assert [name[:4] for name in names if not name.startswith(".")] == [
        f"{n:04d}" for n in range(1, 6)
    ]
    assert len([name for name in names if name.startswith(".")]) == 1


def test_concurrent_writers_never_share_a_number(tmp_path: Path) -> None:
    def save(worker: int) -> str:
        path = path_for(tmp_path, f"song of worker {worker}")
        if worker % 3:  # some die between the name and the file
            write_file(path, b"song")
        return path.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(save, range(120)))
    assert len({name.split("_")[0] for name in names}) == 120


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(AudioError, match=r"^Songs cannot be saved in .*\.$"):
        path_for(tmp_path / "outputs")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Café del Mar, 120 BPM!", "cafe-del-mar-120-bpm"),
        ("温暖的低保真节拍", "song"),
        ("🎹🎷", "song"),
        ("", "song"),
        ("../../etc/passwd", "etc-passwd"),
        (
            "an upbeat synth pop song with a very long caption",
            "an-upbeat-synth-pop-song-with-a-very",
        ),
        ("x" * 99, "x" * 40),
    ],
)
def test_slugs_are_plain_and_short(caption: str, expected: str) -> None:
    assert slug(caption) == expected


@given(st.text(max_size=200))
def test_any_caption_has_a_slug(caption: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(caption))
    assert len(slug(caption)) <= SLUG_LENGTH


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert write_file(path, b"{}") == path and path.read_bytes() == b"{}"
    with pytest.raises(AudioError, match=r"^a\.json exists already and was not overwritten\.$"):
        write_file(path, b"other")
    assert path.read_bytes() == b"{}"
    write_file(path, b"other", overwrite=True)
    assert path.read_bytes() == b"other"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "a.flac").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AudioError, match="exists already"):
        write_file(tmp_path / "a.flac", b"song")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / "a.flac").mkdir()
    with pytest.raises(AudioError, match=r"^a\.flac cannot be saved in "):
        write_file(tmp_path / "a.flac", b"song", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.flac"]


def test_a_name_too_long_for_the_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="file name too long"):
        write_file(tmp_path / ("x" * 300 + ".flac"), b"song")
    assert not any(tmp_path.iterdir())


def test_of_many_writers_to_one_name_exactly_one_wins(tmp_path: Path) -> None:
    def save(worker: int) -> bool:
        try:
            write_file(tmp_path / "a.flac", bytes([worker]) * 100_000)
        except AudioError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(save, range(40)))
    assert sum(wins) == 1
    assert (tmp_path / "a.flac").read_bytes() == bytes([wins.index(True)]) * 100_000


@pytest.mark.parametrize("out", ["songs", "songs/", "songs/one.flac"])
def test_a_folder_that_cannot_be_made_is_refused_before_rendering(tmp_path: Path, out: str) -> None:
    (tmp_path / "songs").write_text("a file")
    with pytest.raises(InvalidRequest, match=r"^Nothing can be saved in .*songs\.$"):
        Destination.parse(f"{tmp_path / out}").reserve(1)


def test_a_day_that_cannot_be_written_to_is_refused_before_rendering(tmp_path: Path) -> None:
    (tmp_path / date.today().isoformat()).write_text("a file")
    with pytest.raises(InvalidRequest, match=rf"^Nothing can be saved in {tmp_path}\.$"):
        Destination.parse(str(tmp_path)).reserve(1)


def test_a_folder_that_is_not_there_yet_is_no_obstacle(tmp_path: Path) -> None:
    Destination.parse(f"{tmp_path / 'a' / 'b'}/").reserve(3)
    assert not (tmp_path / "a").exists()
