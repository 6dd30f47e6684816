"""The Oobleck VAE against diffusers, against itself in tiles, and against its published sizes."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acestep.errors import AudioError, Cancelled, CheckpointError
from acestep.models.config import VaeConfig
from acestep.models.load import load_vae
from acestep.models.vae import TILE_FRAMES, Conv, Vae, _layers, _shares

# diffusers still uses torch's old weight_norm, which is what the published layout comes from.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

OFFICIAL = VaeConfig(
    encoder_hidden_size=128,
    downsampling_ratios=(2, 4, 4, 6, 10),
    channel_multiples=(1, 2, 4, 8, 16),
    decoder_channels=128,
    decoder_input_channels=64,
    audio_channels=2,
    sampling_rate=48000,
)
TINY = replace(
    OFFICIAL,
    encoder_hidden_size=8,
    channel_multiples=(1, 2, 2, 3, 4),
    decoder_channels=6,
    decoder_input_channels=4,
)
HOP = 1920


def randomize(module: torch.nn.Module) -> None:
    """Move every tensor away from its neutral start, so that none can be forgotten unseen."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.add_(0.2 * noise * (parameter if name.endswith("_g") else 1))


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


def tiny(seed: int = 0, config: VaeConfig = TINY) -> Vae:
    torch.manual_seed(seed)
    vae = Vae(config)
    randomize(vae)
    return vae.fold()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[AutoencoderOobleck, Path]:
    """diffusers' network with random weights, and the folder it writes."""
    torch.manual_seed(0)
    reference = AutoencoderOobleck(
        encoder_hidden_size=TINY.encoder_hidden_size,
        downsampling_ratios=list(TINY.downsampling_ratios),
        channel_multiples=list(TINY.channel_multiples),
        decoder_channels=TINY.decoder_channels,
        decoder_input_channels=TINY.decoder_input_channels,
        audio_channels=TINY.audio_channels,
        sampling_rate=TINY.sampling_rate,
    ).eval()
    randomize(reference)
    folder = tmp_path_factory.mktemp("vae")
    reference.save_pretrained(folder)
    return reference, folder


@pytest.mark.parametrize("samples", [4 * HOP, 5 * HOP + 777])
def test_encode_equals_the_posterior_mean_of_diffusers(published, samples):
    reference, folder = published
    vae = load_vae(folder, torch.float32, "cpu")
    waveform = torch.randn(2, 2, samples)
    with torch.no_grad():
        expected = reference.encode(waveform).latent_dist.mean.transpose(1, 2)
    assert relative_error(vae.encode(waveform), expected) <= 1e-5


def test_decode_equals_diffusers(published):
    reference, folder = published
    vae = load_vae(folder, torch.float32, "cpu")
    latents = torch.randn(2, 7, 4)
    with torch.no_grad():
        expected = reference.decode(latents.transpose(1, 2)).sample
    assert relative_error(vae.decode(latents), expected) <= 1e-5


def test_loading_folds_the_weights_and_folding_changes_nothing(published):
    reference, folder = published
    vae = load_vae(folder, torch.float32, "cpu")
    assert not [key for key in vae.state_dict() if key.endswith(("_g", "_v", "alpha", "beta"))]

    plain = Vae(TINY)
    plain.load_state_dict(reference.state_dict())
    latents = torch.randn(1, 3, 4)
    torch.testing.assert_close(plain.decode(latents), vae.decode(latents))
    torch.testing.assert_close(plain.fold().fold().decode(latents), vae.decode(latents))


def test_bf16_weights_are_folded_before_they_are_rounded(published):
    _, folder = published
    exact = load_vae(folder).state_dict()
    rounded = load_vae(folder, torch.bfloat16, "cpu").state_dict()
    assert all(torch.equal(rounded[key], exact[key].bfloat16()) for key in exact)


def test_bf16_takes_and_returns_fp32_and_stays_close(published):
    _, folder = published
    exact = load_vae(folder, torch.float32, "cpu")
    rounded = load_vae(folder, torch.bfloat16, "cpu")
    latents, waveform = torch.randn(1, 4, 4), torch.randn(1, 2, 4 * HOP)
    for ours, reference in (
        (rounded.decode(latents), exact.decode(latents)),
        (rounded.encode(waveform), exact.encode(waveform)),
    ):
        assert ours.dtype == torch.float32
        assert 0 < relative_error(ours, reference) < 0.1


def test_the_published_network_has_365_tensors_and_168_695_426_parameters():
    with torch.device("meta"):
        vae = Vae(OFFICIAL)
    shapes = {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()}
    assert len(shapes) == 365
    assert sum(parameter.numel() for parameter in vae.encoder.parameters()) == 84_281_344
    assert sum(parameter.numel() for parameter in vae.decoder.parameters()) == 84_414_082
    assert shapes["encoder.conv2.weight_v"] == (128, 2048, 3)
    assert shapes["decoder.block.0.conv_t1.weight_v"] == (2048, 1024, 20)
    assert shapes["decoder.block.0.conv_t1.weight_g"] == (2048, 1, 1)
    assert "decoder.conv2.bias" not in shapes


def test_the_published_strides_need_a_halo_of_9_and_7_frames():
    vae = tiny()
    assert (vae.hop, vae.decoder_halo, vae.encoder_halo) == (HOP, 9, 7)


RATIOS = [(2, 4, 4, 6, 10), (10, 6, 4, 4, 2), (4, 2), (6,)]


@pytest.mark.parametrize("ratios", RATIOS)
def test_the_halo_is_what_the_decoder_reaches_and_not_a_frame_more(ratios):
    vae = tiny(config=narrow(ratios)).double()
    halo, frames = vae.decoder_halo, 2 * vae.decoder_halo + 7
    middle = frames // 2
    latents = torch.randn(1, 4, frames, dtype=torch.float64, requires_grad=True)
    vae.decoder(latents)[..., middle * vae.hop : (middle + 1) * vae.hop].sum().backward()
    assert latents.grad is not None
    (reached,) = latents.grad.abs().sum((0, 1)).nonzero(as_tuple=True)
    assert max(middle - int(reached.min()), int(reached.max()) - middle) == halo


@pytest.mark.parametrize("ratios", RATIOS)
def test_the_halo_is_what_the_encoder_reaches_and_not_a_frame_more(ratios):
    vae = tiny(config=narrow(ratios)).double()
    halo, frames = vae.encoder_halo, 2 * vae.encoder_halo + 7
    middle = frames // 2
    waveform = torch.randn(1, 2, frames * vae.hop, dtype=torch.float64, requires_grad=True)
    vae.encoder(waveform)[..., middle].sum().backward()
    assert waveform.grad is not None
    (reached,) = waveform.grad.abs().sum((0, 1)).nonzero(as_tuple=True)
    first, last = int(reached.min()) // vae.hop, int(reached.max()) // vae.hop
    assert max(middle - first, last - middle) == halo


def narrow(ratios: tuple[int, ...]) -> VaeConfig:
    return replace(TINY, downsampling_ratios=ratios, channel_multiples=(1,) * len(ratios))


def test_a_halo_one_frame_smaller_is_heard():
    vae = tiny().double()
    latents = torch.randn(1, 26, 4, dtype=torch.float64)
    waveform = torch.randn(1, 2, 26 * HOP, dtype=torch.float64)
    sound, encoded = vae.decode(latents), vae.encode(waveform)
    # In fp64 nothing but the halo can differ by more than the last bit of the fp32 result.
    assert relative_error(vae.decode(latents, tile_frames=13), sound) < 1e-9
    assert relative_error(vae.encode(waveform, tile_frames=13), encoded) < 1e-9
    vae.decoder_halo -= 1
    vae.encoder_halo -= 1
    assert relative_error(vae.decode(latents, tile_frames=13), sound) > 1e-8
    assert relative_error(vae.encode(waveform, tile_frames=13), encoded) > 1e-8


@settings(max_examples=8, deadline=None)
@given(frames=st.integers(1, 30), tile_frames=st.integers(2, 25))
def test_decoding_in_tiles_equals_decoding_in_one_piece(frames, tile_frames):
    vae = tiny()
    latents = torch.randn(1, frames, 4)
    whole = vae.decode(latents)
    assert whole.shape == (1, 2, frames * HOP)
    tiled = vae.decode(latents, tile_frames=tile_frames)
    assert relative_error(tiled, whole) < 1e-6


@settings(max_examples=8, deadline=None)
@given(frames=st.integers(1, 30), remainder=st.integers(0, HOP - 1), tile_frames=st.integers(2, 25))
def test_encoding_in_tiles_equals_encoding_in_one_piece(frames, remainder, tile_frames):
    vae = tiny()
    waveform = torch.randn(1, 2, frames * HOP + remainder)
    whole = vae.encode(waveform)
    assert whole.shape == (1, frames, 4)
    tiled = vae.encode(waveform, tile_frames=tile_frames)
    assert relative_error(tiled, whole) < 1e-6


@pytest.mark.parametrize("tile_frames", [4, 5, 20])
def test_progress_runs_from_0_to_100_through_every_tile(tile_frames):
    vae = tiny()
    for run, sound in ((vae.decode, torch.randn(1, 10, 4)), (vae.encode, torch.randn(1, 2, 19200))):
        told: list[tuple[int, int]] = []
        run(sound, tile_frames=tile_frames, on_progress=lambda *now, told=told: told.append(now))
        done = [now for now, _ in told]
        assert {total for _, total in told} == {100}
        assert done[0] == 0 and done[-1] == 100 and done == sorted(done)
        assert max(later - before for before, later in pairwise(done)) <= 20
    assert TILE_FRAMES == 512


@pytest.mark.parametrize("config", [TINY, OFFICIAL], ids=["tiny", "official"])
def test_no_layer_is_more_than_a_sixth_of_the_work(config):
    with torch.device("meta"):
        vae = Vae(config)
    for network in (vae.encoder, vae.decoder):
        done = [0.0, *_shares(_layers(network))]
        assert done[-1] == 1
        assert max(after - before for before, after in pairwise(done)) < 1 / 6


def test_shares_count_multiplications_at_every_position():
    """8·4·20 at one position, 4·4·16 at ten, 4·8·20 at one again: 640, 2560, 640."""
    up = Conv(8, 4, 20, stride=10, padding=5, transposed=True)
    down = Conv(4, 8, 20, stride=10, padding=5)
    assert _shares([up, Conv(4, 4, 16), down]) == pytest.approx([1 / 6, 5 / 6, 1])


def test_a_run_is_cancelled_in_the_middle_of_a_tile():
    vae, passed = tiny(), []
    for network in (vae.encoder, vae.decoder):
        network.conv2.register_forward_hook(lambda *_: passed.append("the last layer"))

    def cancel(done: int, total: int) -> None:
        if done >= 50:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        vae.decode(torch.randn(1, 10, 4), on_progress=cancel)
    with pytest.raises(Cancelled):
        vae.encode(torch.randn(1, 2, 19200), on_progress=cancel)
    assert not passed


def test_audio_shorter_than_a_frame_is_refused():
    with pytest.raises(AudioError, match="1919 samples; the VAE needs at least"):
        tiny().encode(torch.zeros(1, 2, HOP - 1))


def test_an_odd_stride_is_refused():
    with pytest.raises(CheckpointError, match="must all be even"):
        Vae(narrow((3, 4)))


def test_a_tile_without_frames_is_refused():
    with pytest.raises(ValueError, match="tile_frames is 0"):
        tiny().decode(torch.zeros(1, 2, 4), tile_frames=0)
