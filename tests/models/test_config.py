"""What a `config.json` may and may not say."""

import json
from pathlib import Path

import pytest

from acestep.errors import CheckpointError
from acestep.models.config import FULL, SLIDING, AceStepConfig, Qwen3Config, VaeConfig

ACESTEP = {
    "model_type": "acestep",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "use_sliding_window": True,
    "sliding_window": 128,
    "attention_bias": False,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "patch_size": 2,
    "text_hidden_dim": 1024,
    "num_lyric_encoder_hidden_layers": 8,
    "num_timbre_encoder_hidden_layers": 4,
    "timbre_hidden_dim": 64,
    "timbre_fix_frame": 750,
    "pool_window_size": 5,
    "num_attention_pooler_hidden_layers": 2,
    "fsq_dim": 2048,
    "fsq_input_levels": [8, 8, 8, 5, 5, 5],
    "fsq_input_num_quantizers": 1,
    "is_turbo": True,
    "model_version": "turbo",
}
XL = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "encoder_hidden_size": 2048,
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
}
VAE = {
    "_class_name": "AutoencoderOobleck",
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48000,
}
QWEN3 = {
    "vocab_size": 151669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
}


def test_2b_encoder_has_the_size_of_the_dit_and_no_timbre_token() -> None:
    config = AceStepConfig.from_dict(ACESTEP)
    assert config.encoder == config
    assert not config.prepends_timbre_token
    assert not config.is_xl
    assert config.is_turbo
    assert config.context_channels == 128
    assert config.codebook_size == 64000


def test_xl_encoder_has_its_own_size_and_the_timbre_token() -> None:
    config = AceStepConfig.from_dict(ACESTEP | XL)
    encoder = config.encoder
    assert (config.hidden_size, config.num_attention_heads) == (2560, 32)
    assert (encoder.hidden_size, encoder.intermediate_size) == (2048, 6144)
    assert (encoder.num_attention_heads, encoder.num_key_value_heads) == (16, 8)
    assert config.prepends_timbre_token


def test_a_2b_file_that_names_the_encoders_size_has_no_timbre_token() -> None:
    config = AceStepConfig.from_dict(ACESTEP | {"encoder_hidden_size": 2048})
    assert not config.prepends_timbre_token and not config.is_xl
    assert config.encoder == AceStepConfig.from_dict(ACESTEP)


def test_layers_alternate_between_window_and_everywhere_when_the_file_does_not_say() -> None:
    config = AceStepConfig.from_dict(ACESTEP)
    assert config.layer_types == (SLIDING, FULL) * 12
    assert [config.window(i) for i in range(4)] == [128, None, 128, None]


def test_layer_types_in_the_file_decide() -> None:
    config = AceStepConfig.from_dict(ACESTEP | {"layer_types": [FULL, SLIDING] * 12})
    assert [config.window(i) for i in range(3)] == [None, 128, None]


def test_every_layer_looks_everywhere_when_the_window_is_off() -> None:
    config = AceStepConfig.from_dict(ACESTEP | {"use_sliding_window": False})
    assert {config.window(i) for i in range(24)} == {None}


def test_a_file_without_is_turbo_is_not_turbo() -> None:
    values = {key: value for key, value in ACESTEP.items() if key != "is_turbo"}
    assert not AceStepConfig.from_dict(values).is_turbo


def test_vae_hop_is_the_product_of_its_ratios() -> None:
    assert VaeConfig.from_dict(VAE).hop == 1920


@pytest.mark.parametrize("home", ["rope_parameters", "rope_scaling"])
def test_rope_theta_is_found_where_transformers_5_puts_it(home: str) -> None:
    values = {key: value for key, value in QWEN3.items() if key != "rope_theta"}
    values[home] = {"rope_type": "default", "rope_theta": 10000}
    assert Qwen3Config.from_dict(values).rope_theta == 10000.0


@pytest.mark.parametrize(
    ("cls", "values"), [(AceStepConfig, ACESTEP), (VaeConfig, VAE), (Qwen3Config, QWEN3)]
)
def test_a_missing_key_is_named_with_the_file(cls: type, values: dict, tmp_path: Path) -> None:
    key = next(name for name in values if name in cls.__annotations__)
    left = {name: value for name, value in values.items() if name != key}
    (tmp_path / "config.json").write_text(json.dumps(left))
    with pytest.raises(CheckpointError, match=f"{tmp_path}/config.json has no '{key}'"):
        cls.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden_size": "2048"}, "hidden_size is '2048', but must be a whole number above 0"),
        ({"head_dim": 0}, "head_dim is 0, but must be a whole number above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, but must be a whole number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan, but must be a number above 0"),
        ({"is_turbo": 1}, "is_turbo is 1, but must be true or false"),
        ({"fsq_input_levels": [8, -5]}, "fsq_input_levels is -5, but must be a whole number"),
        ({"fsq_input_levels": 8}, "fsq_input_levels is 8, but must be a list of whole numbers"),
        ({"model_version": 3}, "model_version is 3, but must be text"),
        ({"layer_types": [SLIDING]}, "layer_types names 1 layers, but the deepest network has 24"),
        ({"layer_types": ["local"] * 24}, "layer_types holds 'local'"),
        ({"fsq_input_num_quantizers": 2}, "only one quantizer"),
        ({"num_key_value_heads": 5}, "16 attention heads cannot share 5"),
        ({"head_dim": 127}, "head_dim is 127; rotary positions need an even one"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
        ({"attention_bias": True}, "attention_bias is True; only False is supported"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling asks for 'yarn'"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(change: dict, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        AceStepConfig.from_dict(ACESTEP | change)


def test_a_vae_needs_one_width_per_ratio() -> None:
    with pytest.raises(CheckpointError, match="downsampling_ratios has 5 numbers"):
        VaeConfig.from_dict(VAE | {"channel_multiples": [1, 2]})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "is missing"),
        ("<html>not found</html>", "cannot be read as JSON"),
        ("[1, 2]", "does not hold a JSON object"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
    ids=["missing", "html", "list", "nested"],
)
def test_a_folder_without_a_usable_config_is_refused(
    text: str | None, complaint: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"config.json {complaint}"):
        AceStepConfig.read(tmp_path)
