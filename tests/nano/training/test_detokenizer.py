"""The detokenizer's own training: what a code sounds like on average."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acestep.models.acestep import AceStep
from scripts.nano.data import codes
from scripts.nano.data.score import compose
from scripts.nano.training.detokenizer import CodeMeans, DetokenizerObjective, source_latents
from scripts.nano.training.trainer import Training, train

SECONDS = 4.0


def test_source_latents_are_what_the_product_makes_of_codes(small_acestep: AceStep) -> None:
    wanted = torch.tensor([codes.score_codes(compose(seed, SECONDS)) for seed in range(2)])
    quantizer = small_acestep.tokenizer.quantizer
    expected = small_acestep.detokenizer(quantizer.decode(wanted))
    torch.testing.assert_close(source_latents(small_acestep, quantizer.unfold(wanted)), expected)


def test_the_detokenizer_learns_the_mean_of_what_a_code_was_written_for(
    small_acestep: AceStep, tmp_path: Path
) -> None:
    score = compose(1, SECONDS)
    rng = np.random.default_rng(0)
    pairs = [(score, rng.standard_normal((100, 64))) for _ in range(2)]
    means = CodeMeans.of(pairs, 64)
    code = codes.score_codes(score)[3]
    places = [i for i, other in enumerate(codes.score_codes(score)) if other == code]
    frames = [song[5 * i : 5 * i + 5] for _, song in pairs for i in places]
    (row,) = (means.codes == code).nonzero().flatten().tolist()
    np.testing.assert_allclose(means.latents[row], np.mean(frames, axis=0), atol=1e-5)
    assert means.counts[row] == len(frames)

    before = {name: weight.clone() for name, weight in small_acestep.state_dict().items()}
    detokenizer = DetokenizerObjective(small_acestep, means)
    seen: list[float] = []

    def loss_of(step: int) -> dict[str, Tensor]:
        found = detokenizer.losses(step)
        seen.append(float(found["means"].detach()))
        return found

    train(detokenizer, loss_of, Training(minutes=10, learning_rate=1e-2, steps=40), tmp_path)
    assert seen[-1] < 0.5 * seen[0]
    moved = {
        name
        for name, weight in small_acestep.state_dict().items()
        if not weight.equal(before[name])
    }
    assert moved and all("detokenizer" in n or "project_out" in n for n in moved)
