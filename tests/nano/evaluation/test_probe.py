"""The feature probe itself; how often it is right is measured where its VAE is."""

import torch
from safetensors.torch import load_file

from scripts.nano.data.score import compose
from scripts.nano.evaluation.probe import EVENTS, PROBE_WEIGHTS, STYLES, FeatureProbe
from scripts.nano.training.train_probe import event_labels


def test_labels_are_where_the_score_has_its_events() -> None:
    score = compose(3, 10.0, genre="folk", drums=True, voice=True)
    wanted = event_labels(score)
    assert wanted.shape == (len(EVENTS), 250)
    syllable, voice, drum = wanted
    assert syllable.sum() == len({int(note.start * 25) for note in score.syllables})
    assert drum.sum() == len({int(hit.start * 25) for hit in score.hits})
    assert (voice >= syllable).all()


def test_an_instrumental_without_drums_has_no_events() -> None:
    assert not event_labels(compose(3, 10.0, genre="ambient", drums=False, voice=False)).any()


def test_the_kept_probe_fits_and_answers() -> None:
    probe = FeatureProbe()
    probe.load_state_dict(load_file(PROBE_WEIGHTS))
    noise = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    found = probe.float().eval().features(noise)
    assert found.style in STYLES
    assert 0 <= found.voice_seconds <= 4
    assert found.hits_per_second <= 25
