"""The hub's real client against a server of this test."""

from pathlib import Path

import pytest
from fake_hub import COMMIT, REPO, HubServer

from acestep.checkpoints.hub import HuggingFace, Listing, Unreachable
from acestep.errors import DownloadError


def test_a_gated_repository_says_where_to_accept_its_terms(hub: HuggingFace) -> None:
    with pytest.raises(DownloadError, match=r"terms.*huggingface\.co/some/gated.*HF_TOKEN"):
        hub.listing("some/gated", "main")


def test_a_repository_that_is_not_there_says_so(hub: HuggingFace) -> None:
    with pytest.raises(DownloadError, match="some/other is not on the hub"):
        hub.listing("some/other", "main")
    with pytest.raises(DownloadError, match="some/other is not on the hub"):
        next(hub.chunks("some/other", COMMIT, "config.json", 0))


def test_a_busy_or_absent_hub_is_worth_another_try(hub: HuggingFace) -> None:
    with pytest.raises(Unreachable, match="503"):
        next(hub.chunks("some/busy", COMMIT, "config.json", 0))
    absent = HuggingFace("http://127.0.0.1:9")
    with pytest.raises(Unreachable):
        absent.listing(REPO, "main")


def test_the_cache_is_asked_without_network(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--ACE-Step--Ace-Step1.5" / "snapshots" / COMMIT / "vae"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    offline = HuggingFace("http://127.0.0.1:9", cache=tmp_path)
    assert offline.cached(REPO, COMMIT, "vae/config.json") == snapshot / "config.json"
    assert offline.cached(REPO, COMMIT, "vae/other.json") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Please log in to Hotel Wi-Fi</html>",
        b"",
        b"[]",
        b"7",
        b'{"id": "some/model"}',
        b'{"id": "some/model", "sha": 7, "siblings": []}',
        b'{"id": "some/model", "sha": "c", "siblings": {"rfilename": "a"}}',
        b'{"id": "some/model", "sha": "c", "siblings": ["a"]}',
        b'{"id": "some/model", "sha": "c", "siblings": [{"rfilename": ["a"], "size": 1}]}',
        b'{"id": "some/model", "sha": "c", "siblings": [{"rfilename": "a", "size": "big"}]}',
        b'{"id": "some/model", "sha": "c", "siblings": [{"rfilename": "a", "size": [1]}]}',
        b'{"id": "some/model", "sha": "c", "siblings": [{"rfilename": "a", "size": -1}]}',
        b'{"id": "some/model", "sha": "c", "siblings": [{"rfilename": "a", "size": 1, "lfs": 3}]}',
    ],
)
def test_what_is_not_the_hub_is_told_from_it(
    hub: HuggingFace, server: HubServer, answer: bytes
) -> None:
    server.says = answer
    with pytest.raises(Unreachable, match="not the hub; this network may want you to log in"):
        hub.listing("some/model", "main")


def test_a_login_page_is_not_taken_for_a_file(hub: HuggingFace, server: HubServer) -> None:
    server.says = b"<html>Please log in</html>"
    with pytest.raises(Unreachable, match="not the hub"):
        next(hub.chunks("some/model", COMMIT, "config.json", 0))


def test_small_files_and_large_ones_are_listed_with_their_hashes(hub: HuggingFace) -> None:
    listing: Listing = hub.listing(REPO, "main")
    files = {file.path: file for file in listing.files}
    config, weights = files["vae/config.json"], files["vae/diffusion_pytorch_model.safetensors"]
    assert config.sha256 is None and len(config.git_sha1 or "") == 40
    assert len(weights.sha256 or "") == 64 and weights.git_sha1 is None
    assert listing.commit == COMMIT
