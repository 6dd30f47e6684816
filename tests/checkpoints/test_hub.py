"""The hub's real client against a server of this test."""

from pathlib import Path

import pytest
from fake_hub import COMMIT, REPO

from acestep.checkpoints.hub import HuggingFace, Unreachable
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
