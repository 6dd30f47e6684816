"""Adapters against PEFT's own merged result, and every reason to refuse one: files are written by
PEFT, LyCORIS and diffusers, never by the reader's own idea of them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from lycoris import LycorisNetwork, create_lycoris
from random_checkpoints import TINY_2B, TINY_XL, diffusers_weights
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from acestep.errors import CheckpointError, ModelMissing
from acestep.models.dit import DiT
from acestep.models.load import load_acestep
from acestep.models.quantize import Int8Linear, dense_weight
from acestep.runtime.adapter_effect import adapter_effect, forward_change, weight_change
from acestep.runtime.adapter_files import judge_adapter, read_adapter
from acestep.runtime.adapter_folder import available_adapters, find_adapter
from acestep.runtime.adapter_keys import base_width, linear_shapes
from acestep.runtime.adapters import LoadedAdapter, attached, load_adapter
from acestep.runtime.offload import StreamedLayers

TOLERANCE = 1e-5  # relative L2
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
OTHERS = ["condition_embedder", "linear_1", "linear_2", "time_proj"]
LYCORIS_PRESET = {"enable_conv": False, "target_module": ["Attention", "SwiGLU"]}

Q = "layers.0.self_attn.q_proj"

Checkpoints = Callable[[Mapping[str, Any]], Path]


@pytest.fixture(scope="module")
def folder(random_acestep: Checkpoints) -> Path:
    return random_acestep(TINY_2B)


@pytest.fixture(scope="module")
def dit(folder: Path) -> DiT:
    """The plain DiT; every test leaves it as it was."""
    return load_acestep(folder).decoder


@torch.inference_mode()
def velocity(dit: nn.Module, *, with_keys: bool = False) -> Tensor:
    """Of one fixed input; `with_keys` projects the conditions beforehand, as the sampler does."""

    def drawn(*shape: int, seed: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    t = torch.tensor([0.7, 0.3])
    states = drawn(2, 12, 64, seed=1)
    given = dit.keys_values(states) if with_keys else states  # pyright: ignore[reportCallIssue]
    return dit(drawn(2, 18, 8, seed=0), t, t, given, drawn(2, 18, 16, seed=2))


def adapted(dit: DiT, *adapters: tuple[LoadedAdapter, float], **options: Any) -> Tensor:
    with attached(dit, adapters):
        return velocity(dit, **options)


def error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def peft_model(dit: DiT, seed: int = 0, **settings: Any) -> peft.PeftModel:
    """A LoRA with random numbers by PEFT, small beside the weights it changes."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ATTENTION} | settings
    config = peft.LoraConfig(init_lora_weights=False, **settings)
    return peft.get_peft_model(deepcopy(dit), config)  # pyright: ignore[reportArgumentType]


def by_peft(dit: DiT, path: Path, **settings: Any) -> tuple[Path, Tensor]:
    """A folder that PEFT saved, and the velocity of PEFT's own merged network."""
    model = peft_model(dit, **settings)
    model.save_pretrained(str(path))
    return path, velocity(model.merge_and_unload())  # pyright: ignore[reportCallIssue]


def loaded(path: Path, dit: DiT) -> LoadedAdapter:
    return load_adapter(read_adapter(path), dit)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ATTENTION + MLP + OTHERS},
        {"use_rslora": True},
        {
            "rank_pattern": {"q_proj": 2, r"layers\.1\.cross_attn\.k_proj": 3},
            "alpha_pattern": {"cross_attn.v_proj": 20},
        },
        {"use_dora": True, "target_modules": ATTENTION + MLP + OTHERS},
    ],
    ids=["attention", "every linear", "rslora", "patterns", "dora"],
)
def test_a_folder_by_peft_acts_as_pefts_merged_network(
    dit: DiT, tmp_path: Path, settings: dict[str, Any]
) -> None:
    path, merged = by_peft(dit, tmp_path / "warm", **settings)
    adapter = loaded(path, dit)
    plain = velocity(dit)
    assert error(merged, plain) > 0.1
    assert error(adapted(dit, (adapter, 1.0)), merged) <= TOLERANCE
    assert error(adapted(dit, (adapter, 1.0), with_keys=True), merged) <= TOLERANCE
    assert torch.equal(velocity(dit), plain)
    assert adapter.adapter.name == "warm"
    assert adapter.adapter.width == 64


def single_file(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    save_file(dict(tensors), path, metadata=metadata or None)
    return path


def respelled(path: Path, prefix: str, *, down: str, up: str, alpha: float | None) -> Path:
    """What PEFT saved, under the keys that another program gives the same numbers."""
    tensors = {}
    for key, tensor in load_file(path / "adapter_model.safetensors").items():
        bare = key.removeprefix("base_model.model.").removesuffix(".weight")
        layer, _, part = bare.rpartition(".")
        name = f"{prefix}{layer}"
        tensors[f"{name}.{ {'lora_A': down, 'lora_B': up}[part] }.weight"] = tensor
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return single_file(path.parent / "single.safetensors", tensors)


@pytest.mark.parametrize(
    ("prefix", "down", "up", "style"),
    [
        ("diffusion_model.", "lora_down", "lora_up", "ComfyUI"),
        ("diffusion_model.decoder.", "lora_A", "lora_B", "ComfyUI"),
        ("", "lora_down", "lora_up", "bare"),
        ("base_model.model.", "lora_A.default", "lora_B.default", "PEFT"),
    ],
)
def test_a_single_file_acts_as_pefts_merged_network(
    dit: DiT, tmp_path: Path, prefix: str, down: str, up: str, style: str
) -> None:
    path, merged = by_peft(dit, tmp_path / "warm", target_modules=ATTENTION + MLP)
    adapter = loaded(respelled(path, prefix, down=down, up=up, alpha=6.0), dit)
    assert adapter.adapter.style == style
    assert adapter.adapter.name == "single.safetensors"
    assert error(adapted(dit, (adapter, 1.0)), merged) <= TOLERANCE


def test_without_an_alpha_the_factor_is_1_as_in_comfyui(dit: DiT, tmp_path: Path) -> None:
    path, merged = by_peft(dit, tmp_path / "warm", lora_alpha=4)
    single = respelled(path, "diffusion_model.", down="lora_down", up="lora_up", alpha=None)
    assert read_adapter(single).alpha is None
    assert error(adapted(dit, (loaded(single, dit), 1.0)), merged) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_and_alphas_may_be_stored_in_half(
    dit: DiT, tmp_path: Path, dtype: torch.dtype
) -> None:
    path, merged = by_peft(dit, tmp_path / "warm")
    single = respelled(path, "diffusion_model.", down="lora_down", up="lora_up", alpha=6.0)
    single_file(single, {key: tensor.to(dtype) for key, tensor in load_file(single).items()})
    adapter = loaded(single, dit)
    assert adapter.adapter.alpha == 6
    assert error(adapted(dit, (adapter, 1.0)), merged) <= 1e-2


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_file_by_diffusers_acts_as_diffusers_network(
    folder: Path, dit: DiT, tmp_path: Path
) -> None:
    accepted = AceStepTransformer1DModel.__init__.__annotations__
    theirs = AceStepTransformer1DModel(**{k: v for k, v in TINY_2B.items() if k in accepted})
    theirs.load_state_dict(diffusers_weights(folder, "decoder."), strict=True)
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0"],
        init_lora_weights=False,
    )  # fmt: skip
    theirs.eval().add_adapter(config)
    AceStepLoraLoaderMixin.save_lora_weights(
        str(tmp_path),
        transformer_lora_layers=peft.get_peft_model_state_dict(theirs),  # pyright: ignore
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    with torch.inference_mode():
        expected = velocity_of_theirs(theirs)
    (file,) = tmp_path.glob("*.safetensors")
    adapter = loaded(file, dit)
    assert (adapter.adapter.style, adapter.adapter.alpha) == ("diffusers", 6)
    assert error(adapted(dit, (adapter, 1.0)), expected) <= TOLERANCE


def velocity_of_theirs(theirs: Any) -> Tensor:
    class Unpacked(nn.Module):
        def forward(self, *inputs: Any) -> Tensor:
            return theirs(*inputs).sample

    return velocity(Unpacked())


def by_lycoris(dit: DiT, path: Path, **settings: Any) -> tuple[Path, Tensor]:
    """A file that LyCORIS saved, and the velocity of the network that it trained."""
    torch.manual_seed(0)
    theirs = deepcopy(dit)
    LycorisNetwork.apply_preset(LYCORIS_PRESET)
    settings = {"algo": "lokr", "linear_dim": 4, "linear_alpha": 6, "factor": 4} | settings
    network = create_lycoris(theirs, 1.0, **settings)
    network.apply_to()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_magnitude = name.endswith("dora_scale")
            new = torch.rand_like(parameter) + 0.5 if is_magnitude else None
            parameter.copy_(parameter * new if new is not None else torch.randn_like(parameter) / 3)
    network.save_weights(str(path), None, {"modelspec.trigger_phrase": "warmtape"})
    return path, velocity(theirs)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"linear_dim": 1, "decompose_both": True, "factor": 8},
        {"linear_dim": 1000},
        {"linear_dim": 1000, "full_matrix": True},
        {"rs_lora": True},
        {"dora_wd": True},
        {"algo": "lora"},
        {"algo": "lora", "dora_wd": True},
    ],
    ids=["w2 of two", "both of two", "whole", "full", "rslora", "dora", "lora", "lora dora"],
)
def test_a_file_by_lycoris_acts_as_lycoris_network(
    dit: DiT, tmp_path: Path, settings: dict[str, Any]
) -> None:
    path, expected = by_lycoris(dit, tmp_path / "warm.safetensors", **settings)
    adapter = loaded(path, dit)
    assert adapter.adapter.style == "LyCORIS"
    assert adapter.adapter.trigger_words == "warmtape"
    assert error(expected, velocity(dit)) > 0.05
    assert error(adapted(dit, (adapter, 1.0)), expected) <= TOLERANCE


def test_lokr_by_peft_is_divided_by_the_rank_that_was_asked(dit: DiT, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = peft.LoKrConfig(r=4, alpha=6, target_modules=ATTENTION, init_weights=False)
    model = peft.get_peft_model(deepcopy(dit), config)  # pyright: ignore[reportArgumentType]
    model.save_pretrained(str(tmp_path / "kron"))
    merged = velocity(model.merge_and_unload())  # pyright: ignore[reportCallIssue]
    assert error(adapted(dit, (loaded(tmp_path / "kron", dit), 1.0)), merged) <= TOLERANCE


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_the_strength_multiplies_what_is_added(dit: DiT, tmp_path: Path, strength: float) -> None:
    adapter = loaded(by_peft(dit, tmp_path / "warm")[0], dit)
    merged = velocity(peft_model(dit, lora_alpha=6 * strength).merge_and_unload())  # pyright: ignore
    ours = adapted(dit, (adapter, strength))
    assert torch.equal(ours, velocity(dit)) if strength == 0 else error(ours, merged) <= TOLERANCE


def test_half_a_dora_is_halfway_between_the_weights(dit: DiT, tmp_path: Path) -> None:
    model = peft_model(dit, use_dora=True)
    model.save_pretrained(str(tmp_path / "dora"))
    halfway = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    weights = dit.state_dict()
    halfway.load_state_dict({k: (v + weights[k]) / 2 for k, v in halfway.state_dict().items()})
    ours = adapted(dit, (loaded(tmp_path / "dora", dit), 0.5))
    assert error(ours, velocity(halfway)) <= TOLERANCE


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_several_adapters_add_up_and_leave_nothing_behind(dit: DiT, tmp_path: Path) -> None:
    plain = {key: tensor.clone() for key, tensor in dit.state_dict().items()}
    before = velocity(dit)
    paths = [
        by_peft(dit, tmp_path / "a")[0],
        by_peft(dit, tmp_path / "b", seed=1, r=2, target_modules=ATTENTION + MLP)[0],
        by_peft(dit, tmp_path / "c", seed=2, use_dora=True)[0],
        by_lycoris(dit, tmp_path / "d.safetensors")[0],
    ]
    weighted = [
        (loaded(path, dit), strength)
        for path, strength in zip(paths, (1, 0.5, 0.8, 1.5), strict=True)
    ]
    merged = deepcopy(dit)
    with torch.no_grad():
        for adapter, strength in weighted:
            for layer, delta in adapter.deltas.items():
                weight = dit.get_submodule(layer).weight
                merged.get_submodule(layer).weight += strength * delta.dense(weight)  # pyright: ignore
    assert error(adapted(dit, *weighted), velocity(merged)) <= TOLERANCE
    assert torch.equal(velocity(dit), before)
    assert all(torch.equal(tensor, plain[key]) for key, tensor in dit.state_dict().items())
    assert not any(module._forward_hooks for module in dit.modules())

    layers = {layer for adapter, _ in weighted for layer in adapter.deltas}
    weights, changed = dit.state_dict(), merged.state_dict()
    moved = sum((changed[f"{n}.weight"] - weights[f"{n}.weight"]).square().sum() for n in layers)
    whole = sum(weights[f"{layer}.weight"].square().sum() for layer in layers)
    assert weight_change(dit, weighted) == pytest.approx(float((moved / whole) ** 0.5), rel=1e-4)


def test_a_failing_run_leaves_nothing_behind_either(dit: DiT, tmp_path: Path) -> None:
    adapter = loaded(by_peft(dit, tmp_path / "warm")[0], dit)
    with pytest.raises(RuntimeError, match="cut"), attached(dit, [(adapter, 1.0)]):
        raise RuntimeError("cut")
    assert not any(module._forward_hooks for module in dit.modules())


def test_in_bf16_it_computes_in_bf16(dit: DiT, tmp_path: Path) -> None:
    path, merged = by_peft(dit, tmp_path / "warm")
    half = deepcopy(dit).bfloat16()
    ours = adapted(half, (loaded(path, half), 1.0))
    assert error(ours, merged) <= 3e-2


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_it_acts_on_int8_weights(folder: Path, dit: DiT, tmp_path: Path) -> None:
    quantized = load_acestep(folder, int8=True).decoder
    assert isinstance(quantized.get_submodule(Q), Int8Linear)
    merged = deepcopy(dit)  # what the INT8 weights stand for, and then the change
    weighted = [
        (loaded(by_peft(dit, tmp_path / "a", target_modules=ATTENTION + MLP)[0], quantized), 1.0),
        (loaded(by_peft(dit, tmp_path / "b", use_dora=True)[0], quantized), 0.5),
        (loaded(by_lycoris(dit, tmp_path / "c.safetensors")[0], quantized), 0.5),
    ]
    for name, module in quantized.named_modules():
        if isinstance(module, Int8Linear):
            merged.get_submodule(name).weight.copy_(dense_weight(module))  # pyright: ignore
    before = velocity(quantized)
    rounding = error(before, velocity(merged))  # of the INT8 products, which an adapter cannot help
    for adapter, strength in weighted:
        for layer, delta in adapter.deltas.items():
            exact = dense_weight(quantized.get_submodule(layer))  # pyright: ignore[reportArgumentType]
            merged.get_submodule(layer).weight += strength * delta.dense(exact)  # pyright: ignore
    assert error(adapted(quantized, *weighted), velocity(merged)) <= 3 * rounding + TOLERANCE
    assert torch.equal(velocity(quantized), before)
    assert 0 < weight_change(quantized, weighted) < 1


def test_it_acts_on_streamed_layers(folder: Path, dit: DiT, tmp_path: Path) -> None:
    adapter = loaded(by_peft(dit, tmp_path / "warm", target_modules=ATTENTION + MLP)[0], dit)
    streamed = load_acestep(folder).decoder
    streamed.layers = StreamedLayers(streamed.layers, torch.device("cpu"))
    assert torch.equal(adapted(streamed, (adapter, 1.0)), adapted(dit, (adapter, 1.0)))
    assert torch.equal(velocity(streamed), velocity(dit))
    assert weight_change(streamed, [(adapter, 1.0)]) == weight_change(dit, [(adapter, 1.0)])


@pytest.mark.parametrize("config", [TINY_2B, TINY_XL], ids=["2B", "XL"])
def test_the_sizes_name_every_linear_layer(
    random_acestep: Checkpoints, config: Mapping[str, Any]
) -> None:
    network = load_acestep(random_acestep(config)).decoder
    shapes = {
        name: (module.out_features, module.in_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert linear_shapes(network.config) == shapes
    assert {base_width({name: shape}) for name, shape in shapes.items()} == {config["hidden_size"]}


# --- what it is said to do ---


def test_the_effect_is_told_in_a_sentence(dit: DiT, tmp_path: Path) -> None:
    path, _ = by_peft(dit, tmp_path / "warm")
    single = respelled(path, "diffusion_model.", down="lora_down", up="lora_up", alpha=0.5)
    single_file(single, load_file(single), trigger_word="warmtape")
    adapter = loaded(single, dit)
    effect = adapter_effect(dit, adapter)
    assert effect.sentence.startswith("single.safetensors: LoRA rank 4, 32 of 32 layers, changes")
    assert effect.sentence.endswith("Trigger words: warmtape.")
    half = adapter_effect(dit, adapter, 0.5)
    assert half.weight_change == pytest.approx(effect.weight_change / 2)
    assert 0.3 < half.output_change / effect.output_change < 0.7
    assert half.output_change == forward_change(dit, [(adapter, 0.5)])
    assert "at strength 0.5." in half.sentence


def test_an_adapter_at_strength_0_is_off(dit: DiT, tmp_path: Path) -> None:
    adapter = loaded(by_peft(dit, tmp_path / "warm")[0], dit)
    assert adapter_effect(dit, adapter, 0.0).sentence.endswith(
        "32 of 32 layers, off at strength 0."
    )


def test_an_adapter_of_zeros_says_that_it_changes_nothing(dit: DiT, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=ATTENTION)
    peft.get_peft_model(deepcopy(dit), config).save_pretrained(str(tmp_path / "new"))  # pyright: ignore
    effect = adapter_effect(dit, loaded(tmp_path / "new", dit))
    assert (effect.weight_change, effect.output_change) == (0, 0)
    assert "changes nothing: every number that it would add is 0." in effect.sentence


def test_the_fingerprint_is_of_numbers_and_factors_wherever_they_lie(
    dit: DiT, tmp_path: Path
) -> None:
    path, _ = by_peft(dit, tmp_path / "warm")
    copy = shutil.copytree(path, tmp_path / "elsewhere")
    assert read_adapter(path).fingerprint == read_adapter(copy).fingerprint
    rewrite(copy, lora_alpha=7)
    assert read_adapter(path).fingerprint != read_adapter(copy).fingerprint


# --- refusals ---


def rewrite(folder: Path, **settings: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def refusal(path: Path, dit: DiT | None = None) -> str:
    """The one sentence with which reading, or loading for a DiT, ends."""
    with pytest.raises(CheckpointError) as caught:
        adapter = read_adapter(path)
        if dit is not None:
            load_adapter(adapter, dit)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def lora(layer: str, *, rank: int = 2, out: int = 96, into: int = 64) -> dict[str, Tensor]:
    return {
        f"diffusion_model.{layer}.lora_down.weight": torch.ones(rank, into),
        f"diffusion_model.{layer}.lora_up.weight": torch.ones(out, rank),
    }


def test_another_size_is_refused_with_the_count_and_the_width(
    random_acestep: Checkpoints, dit: DiT, tmp_path: Path
) -> None:
    other = load_acestep(random_acestep(TINY_XL)).decoder
    path, _ = by_peft(other, tmp_path / "xl")
    assert refusal(path, dit) == (
        "xl does not fit this model: 0 of 32 layers match; it was made for a width of 48, and this "
        "model's is 64."
    )
    assert judge_adapter(read_adapter(path), other.config).fits


def test_a_deeper_model_is_refused_with_the_count(dit: DiT, tmp_path: Path) -> None:
    deep = lora(Q) | lora("layers.31.self_attn.q_proj")
    assert refusal(single_file(tmp_path / "x.safetensors", deep), dit) == (
        "x.safetensors does not fit this model: 1 of 2 layers match; it changes "
        "'layers.31.self_attn.q_proj', which is beyond this model's 4 layers."
    )


def test_other_heads_are_refused_with_their_shape(dit: DiT, tmp_path: Path) -> None:
    file = single_file(tmp_path / "x.safetensors", lora(Q, out=128))
    assert "'layers.0.self_attn.q_proj' is [128, 64] in it and [96, 64]" in refusal(file, dit)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_never_opened(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"\x80\x02.")
    assert refusal(tmp_path / f"x{suffix}") == (
        f"x{suffix} was ignored: pickle files can run code. Convert it to .safetensors."
    )


def test_a_folder_with_only_a_pickle_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm/adapter_model.bin").write_bytes(b"\x80\x02.")
    assert refusal(tmp_path / "warm").startswith("warm/adapter_model.bin was ignored: pickle")


def test_a_pickle_under_another_name_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    torch.save(lora(Q), file)
    assert "a pickle archive, which could run code" in refusal(file)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(dit: DiT, tmp_path: Path, bad: float) -> None:
    tensors = lora(Q)
    tensors[f"diffusion_model.{Q}.lora_up.weight"][3, 1] = bad
    file = single_file(tmp_path / "x.safetensors", tensors)
    assert refusal(file, dit) == (
        f"x.safetensors is damaged: 'diffusion_model.{Q}.lora_up.weight' holds numbers that are "
        "not finite."
    )


def test_an_alpha_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    tensors = lora(Q) | {f"diffusion_model.{Q}.alpha": torch.tensor(float("nan"))}
    assert "alpha' is nan" in refusal(single_file(tmp_path / "x.safetensors", tensors))


def test_an_absurd_rank_is_refused_by_the_header_alone(tmp_path: Path) -> None:
    rank, down, up = 1_000_000, f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
    sizes = {down: [rank, 64], up: [96, rank]}
    table, begin = {}, 0
    for key, shape in sizes.items():
        end = begin + 4 * shape[0] * shape[1]
        table[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(table).encode()
    file = tmp_path / "x.safetensors"
    with file.open("wb") as sparse:  # 640 MB that take no room
        sparse.write(len(header).to_bytes(8, "little") + header)
        sparse.truncate(8 + len(header) + begin)
    assert refusal(file) == (
        f"x.safetensors: '{Q}' has rank 1,000,000, and a matrix of 96 × 64 has at most 64."
    )


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    file = single_file(tmp_path / "x.safetensors", lora(Q))
    file.write_bytes(file.read_bytes()[:-8])
    assert "is cut off" in refusal(file)


def test_a_foreign_model_is_refused_with_its_first_key(tmp_path: Path) -> None:
    key = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"
    file = single_file(tmp_path / "x.safetensors", {key: torch.ones(2, 4)})
    assert refusal(file) == (
        "x.safetensors is no LoRA of this kind of music model: 0 of its 1 tensors belong to one; "
        f"the first is '{key}'."
    )


@pytest.mark.parametrize(
    "key",
    [
        "diffusion_model.layers.0.self_attn.q_proj.hada_w1_a",
        "diffusion_model.layers.0.self_attn.q_proj.diff_b",
        "diffusion_model.layers.0.self_attn.q_norm.lora_up.weight",
        "diffusion_model.proj_in.1.lora_up.weight",
        "text_encoder.layers.0.self_attn.q_proj.lora_up.weight",
        "lycoris_layers_0_self_attn_q_proj.lokr_t2",
    ],
)
def test_a_key_left_over_is_named_never_dropped(tmp_path: Path, key: str) -> None:
    tensors = lora("layers.0.self_attn.k_proj") | {key: torch.ones(2, 2)}
    sentence = refusal(single_file(tmp_path / "x.safetensors", tensors))
    assert sentence.startswith(f"x.safetensors holds '{key}', which cannot be applied here")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({f"{Q}.lora_up.weight": None}, "lacks the matrix 'up' of its LoRA"),
        ({f"{Q}.lora_up.weight": torch.ones(96, 3)}, "[96, 3] and [2, 64], do not multiply"),
        ({f"{Q}.lokr_w1": torch.ones(2, 2)}, "is a LoRA and has 'lokr_w1' as well"),
        ({f"{Q}.lora_A.weight": torch.ones(2, 64)}, f"changes '{Q}' twice"),
        ({f"{Q}.dora_scale": torch.ones(1, 64)}, "'dora_scale' of '" + Q + "' is [1, 64]"),
        ({f"{Q}.alpha": torch.ones(3)}, "holds [3] numbers where one is needed"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], said: str
) -> None:
    tensors: dict[str, Tensor | None] = {**lora(Q)}
    tensors |= {f"diffusion_model.{key}": tensor for key, tensor in change.items()}
    kept = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    assert said in refusal(single_file(tmp_path / "x.safetensors", kept))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "LOHA"}, "an adapter of type LOHA, which is not known here"),
        ({"init_lora_weights": "pissa"}, "which changed the model's own weights too"),
        ({"use_qalora": True}, "was made with 'use_qalora'"),
        ({"r": 8}, "has rank 4, but its settings say 8"),
        ({"lora_alpha": "much"}, "its settings say 'much' for lora_alpha"),
        ({"alpha_pattern": {"(a+)+": 1}}, "the pattern '(a+)+' is too intricate to follow"),
        ({"use_dora": True}, "is a DoRA by its settings, but"),
    ],
)
def test_settings_that_change_what_numbers_mean_are_refused(
    dit: DiT, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    path, _ = by_peft(dit, tmp_path / "warm")
    rewrite(path, **settings)
    assert said in refusal(path)


def test_settings_without_a_type_are_a_lora_s(dit: DiT, tmp_path: Path) -> None:
    path, merged = by_peft(dit, tmp_path / "warm")
    rewrite(path, peft_type=None)
    assert error(adapted(dit, (loaded(path, dit), 1.0)), merged) <= TOLERANCE


# --- the folder of adapters ---


def test_the_folder_lists_what_can_be_used_and_why_the_rest_cannot(
    dit: DiT, tmp_path: Path
) -> None:
    by_peft(dit, tmp_path / "warm")
    single_file(tmp_path / "deep.safetensors", lora("layers.9.self_attn.q_proj"))
    (tmp_path / "old.ckpt").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("warm is the best")
    listed = {each.name: each.problem for each in available_adapters(tmp_path, dit.config)}
    assert list(listed) == ["deep.safetensors", "old.ckpt", "warm"]
    assert listed["warm"] == ""
    assert "0 of 1 layers match" in listed["deep.safetensors"]
    assert listed["old.ckpt"].startswith("old.ckpt was ignored")
    assert available_adapters(tmp_path / "none") == ()


def test_a_name_is_a_path_or_stands_in_the_folder(tmp_path: Path) -> None:
    loras = tmp_path / "loras"
    loras.mkdir()
    file = single_file(loras / "warm.safetensors", lora(Q))
    assert find_adapter(str(file), tmp_path) == file
    assert find_adapter("warm.safetensors", loras) == file
    assert find_adapter("warm", loras) == file
    with pytest.raises(ModelMissing, match=r"'cold' is not on this computer; .* warm.safetensors"):
        find_adapter("cold", loras)


def test_judging_a_file_needs_no_torch(tmp_path: Path) -> None:
    single_file(tmp_path / "warm.safetensors", lora(Q) | {f"{Q}.alpha": torch.tensor(2.0)})
    statement = (
        "import sys; from pathlib import Path; "
        "from acestep.runtime.adapter_folder import available_adapters; "
        f"print([each.name for each in available_adapters(Path({str(tmp_path)!r}))]); "
        "assert not {'torch', 'numpy', 'peft', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warm.safetensors" in done.stdout
