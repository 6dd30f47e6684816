"""Downloads against a small hub of our own: planned, interrupted, resumed, refused, verified."""

import dataclasses
import errno
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, FILES, REPO, WEIGHTS, FakeHub, HubServer, empty_computer, remote

from acestep.checkpoints import download as downloads
from acestep.checkpoints.catalogue import Entry
from acestep.checkpoints.download import DownloadPlan, DownloadProgress, download, plan, verify
from acestep.checkpoints.hub import HuggingFace, Listing, RemoteFile
from acestep.checkpoints.locate import Checkpoints
from acestep.checkpoints.manifest import Manifest
from acestep.errors import Cancelled, CheckpointError, DownloadError, ModelMissing

CONFIG = FILES["vae/config.json"]


@pytest.fixture
def places(tmp_path: Path) -> Checkpoints:
    return empty_computer(tmp_path)


def fetch(planned: DownloadPlan, hub: FakeHub) -> list[DownloadProgress]:
    seen: list[DownloadProgress] = []
    download(planned, seen.append, hub, retry_seconds=0)
    return seen


def row(places: Checkpoints, name: str, **changes: object) -> Checkpoints:
    """The same places with one catalogue row changed."""
    entry: Entry = places.catalogue.models[name].model_copy(update=changes)
    models = {**places.catalogue.models, name: entry}
    catalogue = places.catalogue.model_copy(update={"models": models})
    return Checkpoints(places.root, catalogue=catalogue, cache=Path("/nowhere"))


class TestPlan:
    def test_a_dit_comes_with_the_companions_it_lacks(self, places: Checkpoints) -> None:
        planned = plan("acestep-v15-turbo", places, FakeHub())
        names = {str(file.target.relative_to(places.root)) for file in planned.files}
        skipped = {"modeling_acestep_v15_turbo.py", "pytorch_model.bin", "README.md", "extra"}
        assert names == {path for path in FILES if not skipped & set(path.split("/"))}
        assert planned.size == planned.missing == sum(len(FILES[name]) for name in names)
        assert planned.present == planned.cached == 0
        assert planned.free > 0
        assert planned.folder == places.root / "acestep-v15-turbo"

    def test_a_branch_is_resolved_to_its_commit(self, places: Checkpoints) -> None:
        (model,) = plan("vae", row(places, "vae", revision="main"), FakeHub()).models
        assert model.commit == COMMIT

    def test_a_hub_that_answers_with_another_commit_is_refused(self, places: Checkpoints) -> None:
        with pytest.raises(DownloadError, match=rf"commit {COMMIT[:12]} of {REPO}, but aaaaaaaaaa"):
            plan("vae", row(places, "vae", revision="a" * 40), FakeHub())

    def test_a_hub_that_tells_no_checksum_is_refused(self, places: Checkpoints) -> None:
        class Careless(FakeHub):
            def listing(self, repo: str, revision: str) -> Listing:
                files = (RemoteFile(path, len(data), None, None) for path, data in FILES.items())
                return Listing(COMMIT, tuple(files))

        with pytest.raises(DownloadError, match=r"no checksum of vae/config\.json"):
            plan("vae", places, Careless())

    def test_companions_that_are_here_are_not_fetched_again(self, places: Checkpoints) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        models = plan("acestep-v15-turbo", places, FakeHub()).models
        assert [model.name for model in models] == ["acestep-v15-turbo", "Qwen3-Embedding-0.6B"]

    def test_what_is_here_and_what_is_in_the_cache_is_counted(
        self, places: Checkpoints, tmp_path: Path
    ) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        (places.root / "vae" / "config.json").unlink()
        hub = FakeHub()
        hub.cache["vae/config.json"] = tmp_path
        planned = plan("vae", places, hub)
        assert planned.present == len(WEIGHTS)
        assert planned.cached == planned.missing == len(FILES["vae/config.json"])

    def test_offline_says_which_files_go_where_and_what_to_run(self, places: Checkpoints) -> None:
        with pytest.raises(DownloadError) as caught:
            plan("acestep-v15-turbo", places, FakeHub(reachable=False))
        sentence = str(caught.value)
        assert "cannot be reached (no route to host)" in sentence
        assert "Put config.json, silence_latent.pt and model.safetensors (or its parts" in sentence
        assert f"into {places.root / 'acestep-v15-turbo'}" in sentence
        assert "ACE-Step/Ace-Step1.5/acestep-v15-turbo (commit 19671f4" in sentence
        assert "`acestep models download acestep-v15-turbo`" in sentence

    def test_what_ships_is_not_downloaded(self, places: Checkpoints) -> None:
        with pytest.raises(DownloadError, match="ships with the program"):
            plan("acestep-v15-nano-turbo", places, FakeHub())

    def test_an_unknown_name_gets_the_nearest_known_one(self, places: Checkpoints) -> None:
        with pytest.raises(ModelMissing, match="Did you mean acestep-v15-base"):
            plan("acestep-v15-bse", places, FakeHub())

    def test_a_repository_without_safetensors_is_refused(self, places: Checkpoints) -> None:
        empty = row(places, "vae", subfolder="acestep-v15-turbo/extra")
        with pytest.raises(DownloadError, match="holds no safetensors weights"):
            plan("vae", empty, FakeHub())


class TestDownload:
    def test_a_fresh_download_is_complete_recorded_and_usable(self, places: Checkpoints) -> None:
        planned = plan("acestep-v15-turbo", places, FakeHub())
        seen = fetch(planned, FakeHub())
        assert [p.done for p in seen] == sorted(p.done for p in seen)
        assert (seen[-1].done, seen[-1].total) == (planned.size, planned.size)
        folder = places.resolve("acestep-v15-turbo", "dit")
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert not list(places.root.rglob("*.part")) and not list(places.root.rglob("*.py"))
        assert places.companions(folder).vae == places.root / "vae"
        manifest = Manifest.read(folder)
        assert manifest is not None and (manifest.repo, manifest.commit) == (REPO, COMMIT)
        assert manifest.files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert set(manifest.files) == {"config.json", "model.safetensors", "silence_latent.pt"}
        assert verify(folder, places) == []

    def test_lost_connections_are_taken_up_where_they_broke(self, places: Checkpoints) -> None:
        hub = FakeHub(breaks_after=90_000)
        fetch(plan("vae", places, hub), hub)
        starts = [start for path, start in hub.requests if path.endswith(".safetensors")]
        assert starts == [0, 90_000, 180_000]
        assert places.resolve("vae", "vae").is_dir()

    def test_a_cancelled_download_goes_on_from_the_bytes_that_arrived(
        self, places: Checkpoints
    ) -> None:
        def cancel(progress: DownloadProgress) -> None:
            if progress.done > 100_000:
                raise Cancelled("Cancelled.")

        hub = FakeHub()
        with pytest.raises(Cancelled):
            download(plan("vae", places, hub), cancel, hub)
        part = places.root / "vae" / "diffusion_pytorch_model.safetensors.part"
        arrived = part.stat().st_size
        assert 0 < arrived < len(WEIGHTS)
        again = plan("vae", places, hub)
        assert again.present == arrived + len(FILES["vae/config.json"])
        hub.requests.clear()
        fetch(again, hub)
        assert hub.requests == [("vae/diffusion_pytorch_model.safetensors", arrived)]
        assert verify(places.root / "vae", places) == []

    def test_what_was_fetched_is_told_from_what_was_only_checked(self, places: Checkpoints) -> None:
        part = places.root / "vae" / "diffusion_pytorch_model.safetensors.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(WEIGHTS[:150_000])
        planned = plan("vae", places, FakeHub())
        seen = fetch(planned, FakeHub())
        checked = [p for p in seen if p.file in part.name and p.fetched == len(CONFIG)]
        assert checked[-1].done == len(CONFIG) + 150_000
        assert checked[-1].missing == planned.missing - len(CONFIG)
        assert (seen[-1].fetched, seen[-1].missing) == (planned.missing, 0)

    def test_a_part_that_is_thrown_away_is_missing_again(self, places: Checkpoints) -> None:
        part = places.root / "vae" / "diffusion_pytorch_model.safetensors.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"x" * 150_000)
        seen = fetch(plan("vae", places, FakeHub()), FakeHub())
        assert max(p.missing for p in seen if p.file in part.name) > len(WEIGHTS) - 20_000
        assert seen[-1].fetched == len(CONFIG) + len(WEIGHTS) - 150_000 + len(WEIGHTS)
        assert seen[-1].missing == 0

    def test_a_download_that_hangs_can_be_cancelled_between_attempts(
        self, places: Checkpoints
    ) -> None:
        def cancel(progress: DownloadProgress) -> None:
            raise Cancelled("Cancelled.")

        hub = FakeHub(breaks_after=0)
        with pytest.raises(Cancelled):
            download(plan("vae", places, hub), cancel, hub, retry_seconds=0)
        assert len(hub.requests) == 1

    def test_a_connection_lost_for_good_says_how_far_it_came(self, places: Checkpoints) -> None:
        hub = FakeHub(breaks_after=0)
        planned = plan("vae", places, hub)
        with pytest.raises(DownloadError, match=r"Stopped at 0\.0 MB of 0\.2 MB.*connection reset"):
            fetch(planned, hub)
        assert len(hub.requests) == downloads.RETRIES + 1

    def test_a_file_with_the_wrong_hash_is_thrown_away(self, places: Checkpoints) -> None:
        hub = FakeHub()
        hub.sends["vae/diffusion_pytorch_model.safetensors"] = bytes(len(WEIGHTS))
        with pytest.raises(DownloadError, match="does not match its checksum"):
            fetch(plan("vae", places, hub), hub)
        assert [path.name for path in (places.root / "vae").iterdir()] == ["config.json"]

    def test_a_file_that_does_not_end_is_cut_off(self, places: Checkpoints) -> None:
        class Endless(FakeHub):
            def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
                while True:
                    yield bytes(10_000)

        with pytest.raises(DownloadError, match=r"config\.json does not match its checksum"):
            fetch(plan("vae", places, FakeHub()), Endless())

    def test_small_files_are_checked_by_gits_hash(self, places: Checkpoints) -> None:
        hub = FakeHub()
        hub.sends["vae/config.json"] = FILES["vae/config.json"].replace(b"2", b"3")
        with pytest.raises(DownloadError, match=r"config\.json does not match its checksum"):
            fetch(plan("vae", places, hub), hub)

    def test_the_catalogues_hash_outweighs_the_hubs(self, places: Checkpoints) -> None:
        pinned = row(places, "vae", sha256={"diffusion_pytorch_model.safetensors": "0" * 64})
        with pytest.raises(DownloadError, match="does not match its checksum"):
            fetch(plan("vae", pinned, FakeHub()), FakeHub())

    def test_a_part_of_another_commit_is_fetched_anew(self, places: Checkpoints) -> None:
        folder = places.root / "vae"
        folder.mkdir(parents=True)
        (folder / "diffusion_pytorch_model.safetensors.part").write_bytes(b"other" * 100)
        hub = FakeHub()
        seen = fetch(plan("vae", places, hub), hub)
        assert ("vae/diffusion_pytorch_model.safetensors", 0) in hub.requests
        assert seen[-1].done == seen[-1].total
        assert verify(folder, places) == []

    def test_downloading_again_mends_a_corrupt_file_and_fetches_only_it(
        self, places: Checkpoints
    ) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        path = places.root / "vae" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(WEIGHTS[:-1] + b"x")
        hub = FakeHub()
        fetch(plan("vae", places, hub), hub)
        assert hub.requests == [("vae/diffusion_pytorch_model.safetensors", 0)]
        assert path.read_bytes() == WEIGHTS

    def test_what_the_hub_cache_has_is_copied(self, places: Checkpoints, tmp_path: Path) -> None:
        cached = tmp_path / "blob"
        cached.write_bytes(WEIGHTS)
        hub = FakeHub()
        hub.cache["vae/diffusion_pytorch_model.safetensors"] = cached
        fetch(plan("vae", places, hub), hub)
        assert hub.requests == [("vae/config.json", 0)]
        assert verify(places.root / "vae", places) == []

    def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
        self, places: Checkpoints
    ) -> None:
        hub = FakeHub()
        planned = dataclasses.replace(plan("vae", places, hub), free=1000)
        with pytest.raises(DownloadError, match=r"not enough room in .*: 0\.2 MB are needed"):
            fetch(planned, hub)
        assert hub.requests == [] and not places.root.exists()

    def test_a_disk_that_fills_up_says_how_much_more_is_needed(self, places: Checkpoints) -> None:
        class FullDisk(FakeHub):
            def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
                raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(DownloadError, match=r"Stopped at 0\.0 MB: no space left in .*needs"):
            fetch(plan("vae", places, FakeHub()), FullDisk())

    def test_weights_that_arrive_as_published_but_are_none_are_refused(
        self, places: Checkpoints
    ) -> None:
        class Wrong(FakeHub):
            def listing(self, repo: str, revision: str) -> Listing:
                path = "vae/diffusion_pytorch_model.safetensors"
                return Listing(COMMIT, (remote("vae/config.json", b"{}"), remote(path, b"zip")))

        hub = Wrong()
        hub.sends |= {
            "vae/config.json": b"{}",
            "vae/diffusion_pytorch_model.safetensors": b"zip",
        }
        with pytest.raises(DownloadError, match="arrived, but cannot be used"):
            fetch(plan("vae", places, hub), hub)


class TestVerify:
    def test_changed_and_missing_files_are_named(self, places: Checkpoints) -> None:
        fetch(plan("Qwen3-Embedding-0.6B", places, FakeHub()), FakeHub())
        folder = places.root / "Qwen3-Embedding-0.6B"
        (folder / "merges.txt").unlink()
        (folder / "tokenizer.json").write_text("[]")
        assert sorted(verify(folder, places)) == [
            "merges.txt is missing.",
            "tokenizer.json does not match its checksum. Download it again.",
        ]

    def test_a_folder_that_came_another_way_is_checked_against_the_catalogue(
        self, places: Checkpoints
    ) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        folder = places.root / "vae"
        (folder / ".acestep.json").unlink()
        assert verify(folder, places) == []
        other = row(places, "vae", sha256={"diffusion_pytorch_model.safetensors": "0" * 64})
        (problem,) = verify(folder, other)
        assert problem.startswith("diffusion_pytorch_model.safetensors does not match")

    def test_without_any_record_the_headers_are_checked(self, places: Checkpoints) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        folder = (places.root / "vae").rename(places.root / "mine")
        (folder / ".acestep.json").unlink()
        assert verify(folder, places) == []
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(WEIGHTS[:-4])
        (problem,) = verify(folder, places)
        assert "is cut off" in problem

    def test_a_record_that_points_outside_its_folder_is_refused(self, places: Checkpoints) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        path = places.root / "vae" / ".acestep.json"
        record = json.loads(path.read_text())
        record["files"]["../../secret"] = {"size": 1, "sha256": "0"}
        path.write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match="outside its folder"):
            verify(path.parent, places)
        path.write_text("{")
        with pytest.raises(CheckpointError, match="is damaged"):
            verify(path.parent, places)


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_the_real_client_plans_resumes_and_verifies(
    places: Checkpoints, hub: HuggingFace, server: HubServer, ignores_ranges: bool
) -> None:
    server.ignores_ranges = ignores_ranges
    folder = places.root / "vae"
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model.safetensors.part").write_bytes(WEIGHTS[:70_001])
    planned = plan("vae", places, hub)
    assert planned.models[0].commit == COMMIT
    download(planned, None, hub, retry_seconds=0)
    assert server.ranges == [None, "bytes=70001-"]
    assert (folder / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS
    assert verify(folder, places) == []
