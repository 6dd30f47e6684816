"""The ear itself; how well it hears is measured where its VAE is."""

import torch

from scripts.nano.data.score import compose
from scripts.nano.evaluation import probe as listener
from scripts.nano.evaluation.probe import EVENTS, STYLES, Ear


def test_labels_are_where_the_score_has_its_events() -> None:
    score = compose(3, 10.0, genre="folk", drums=True, voice=True)
    wanted = listener.labels(score)
    assert wanted.shape == (len(EVENTS), 250)
    syllable, voice, drum = wanted
    assert syllable.sum() == len({int(note.start * 25) for note in score.syllables})
    assert drum.sum() == len({int(hit.start * 25) for hit in score.hits})
    assert (voice >= syllable).all()


def test_an_instrumental_without_drums_has_nothing_to_hear() -> None:
    assert not listener.labels(compose(3, 10.0, genre="ambient", drums=False, voice=False)).any()


def test_the_kept_ear_fits_and_answers() -> None:
    ear = Ear()
    ear.load_state_dict(listener.load_file(listener.WEIGHTS))
    noise = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    heard = ear.float().eval().judge(noise)
    assert heard.style in STYLES
    assert 0 <= heard.voice_seconds <= 4
    assert heard.hits_per_second <= 25
