"""The planner's engine on vLLM, in this process: for NVIDIA GPUs, with the extra `vllm`.

How guidance is done is in `vllm_guidance`; here vLLM is started, sized and stopped. It runs in this
process and step by step, so both requests of a take are always added before a step begins.
"""

import gc
import importlib.util
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from acestep.errors import Unavailable
from acestep.models.config import Qwen3Config
from acestep.models.load import load_qwen3
from acestep.models.quantize import WeightForm
from acestep.planner.backends import Continuation, OnToken, read_planner
from acestep.planner.backends.decoder import fitting_dtype
from acestep.planner.backends.vllm_guidance import (
    SLOT,
    Guidance,
    Limits,
    ProcessorV1,
    ProcessorV2,
    Slot,
    processor,
    write_sequences,
)
from acestep.planner.grammar import AudioCodeConstraint
from acestep.planner.sampling import Sampling
from acestep.planner.vocabulary import Vocabulary
from acestep.request.values import CODE_RATE, MAX_TAKES

NETWORK = "AceStepPlanner"  # our name for it among vLLM's networks
USUAL_TOKENS = 4096  # prompt and codes of a song of several minutes
MEMORY_SHARE = 0.25  # for the cache, of what is free at the start; DiT and VAE need the rest
CACHE_BLOCK_TOKENS = 128  # as much as any of vLLM's cache blocks
TRIAL_SECONDS = 300.0  # first start: vLLM's import alone takes up to half a minute
TRIAL = "import sys; from acestep.planner.backends import vllm; vllm.try_out(*sys.argv[1:])"

# vLLM takes these from the environment alone, mostly while it is imported: no messages to its
# makers, no engine in another process, no log lines on standard output, which belongs to --json,
# and no binding of this process's threads to cores.
VLLM_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

logger = logging.getLogger(__name__)


def unavailable(
    device: torch.device, is_installed: bool | None = None, *, weights: WeightForm = "plain"
) -> str | None:
    """Why vLLM cannot be had on this device, in a sentence; None if nothing speaks against it.

    Looks only: importing vLLM takes half a minute and says nothing more. `trial` does.

    Args:
        is_installed: None looks.
        weights: the form that the planner's weights are wanted in.
    """
    if device.type != "cuda" or torch.version.hip is not None:  # PyTorch calls AMD's "cuda", too
        return f"vLLM needs an NVIDIA GPU, and the planner's device is {device.type}."
    if is_installed is None:
        is_installed = importlib.util.find_spec("vllm") is not None
    if not is_installed:
        return "vLLM is not installed; uv sync --extra vllm adds it."
    if weights != "plain":
        return f"vLLM reads the planner's weights as they are, not in {weights.upper()}; pt does."
    return None


@cache
def trial(folder: Path, device: torch.device, dtype: torch.dtype) -> str | None:
    """Whether vLLM starts with these weights and writes; None, or why not.

    Once per checkpoint: what it finds does not change while the program runs.
    """
    return run_trial(["-c", TRIAL, str(folder), str(device), str(dtype)], TRIAL_SECONDS)


def run_trial(arguments: Sequence[str], seconds: float) -> str | None:
    """Run Python in a process of its own, which may hang or crash; None, or why it failed."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"A trial of vLLM did not end within {seconds:g} s."
    if done.returncode == 0:
        return None
    reasons = re.findall(r"^acestep\.errors\.\w+: (.+)$", done.stderr, flags=re.MULTILINE)
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"A trial of vLLM failed: {(reasons or lines)[-1]}"


def try_out(folder: str, device: str, dtype: str) -> None:
    """What the trial does, in its own process: a second of codes, guided."""
    dtypes = {str(dtype): dtype for dtype in (torch.bfloat16, torch.float16, torch.float32)}
    backend = VllmBackend.load(Path(folder), device=device, dtype=dtypes[dtype])
    vocabulary = backend.vocabulary
    continuation = Continuation(
        conditional=vocabulary.encode("A calm piano melody."),
        unconditional=vocabulary.encode("Noise."),
        constraints=[AudioCodeConstraint(vocabulary, count=CODE_RATE)],
        seeds=[0],
        name="planner/trial",
        sampling=Sampling(),
        scale=2.0,
        max_tokens=CODE_RATE + 1,
    )
    backend.generate(continuation, lambda done, total: None)
    backend.close()


class VllmBackend:
    """A `Backend` on vLLM."""

    name = "vllm"

    def __init__(
        self, folder: Path, vocabulary: Vocabulary, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.vocabulary = vocabulary
        self._folder = folder
        self._device = device
        self._dtype = dtype
        self._guidance = Guidance()
        self._engine = self._start(USUAL_TOKENS)

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device | str = "cuda", dtype: torch.dtype | None = None
    ) -> Self:
        """The planner in a checkpoint folder.

        Args:
            device: a GPU; "cpu" works where vLLM was built for it, as the tests have it.
            dtype: None is bfloat16 where the device multiplies in it, else float32.

        Raises:
            CheckpointError: the folder holds something else than a 5 Hz planner.
            Unavailable: vLLM is not installed, or cannot be started.
        """
        device = torch.device(device)
        dtype = dtype or fitting_dtype(device)
        vocabulary, _ = read_planner(folder)
        load_qwen3(folder, dtype, "meta")  # judges the weights, by headers; vLLM would crash
        return cls(folder, vocabulary, device, dtype)

    def generate(self, continuation: Continuation, on_token: OnToken) -> list[list[int]]:
        """What each take wrote; see `Backend.generate`.

        A take is the same alone and among others as far as the GPU's kernels give a row the same
        result in batches of any size; nearly equal tokens may fall the other way.
        """
        longest = (
            max(len(continuation.conditional), len(continuation.unconditional))
            + continuation.max_tokens
        )
        if longest > self._engine.max_tokens:
            self._engine.close()
            self._engine = self._start(2 ** (longest - 1).bit_length())
        # vLLM computes on the current GPU, and every thread has its own.
        on_gpu = self._device.type == "cuda"
        with torch.cuda.device(self._device) if on_gpu else nullcontext():
            return write_sequences(continuation, self._engine, self._guidance, on_token)

    def close(self) -> None:
        """Give the memory back. The engine cannot be used afterwards."""
        self._engine.close()

    def _start(self, max_tokens: int) -> "_Engine":
        os.environ.update(VLLM_ENVIRONMENT)
        logging.getLogger("vllm").setLevel(logging.ERROR)
        config = Qwen3Config.read(self._folder)
        started = time.monotonic()
        try:
            engine = _Engine(
                self._folder, self._device, self._dtype, max_tokens,
                _cache_bytes(config, self._dtype, max_tokens, self._device), self._guidance,
            )  # fmt: skip
        except torch.OutOfMemoryError:
            raise
        except (ImportError, RuntimeError, ValueError, AssertionError, OSError) as error:
            lines = str(error).split("\n")[:2]  # pydantic's first line names no cause
            reason = " ".join(line.strip() for line in lines).strip() or type(error).__name__
            raise Unavailable(f"vLLM could not be started: {reason}") from error
        logger.info("vLLM started in %.1f s.", time.monotonic() - started)
        return engine


class _Engine:
    """vLLM's own engine, as `vllm_guidance.VllmEngine`."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        max_tokens: int,
        cache_bytes: int,
        guidance: Guidance,
    ) -> None:
        from vllm.engine.arg_utils import EngineArgs  # pyright: ignore[reportMissingImports]
        from vllm.v1.engine.llm_engine import LLMEngine  # pyright: ignore[reportMissingImports]
        from vllm.v1.executor import Executor  # pyright: ignore[reportMissingImports]

        config = EngineArgs(
            model=str(folder),
            hf_overrides={"architectures": [_register_network()]},
            generation_config="vllm",  # reads none from the folder
            runner="generate",
            skip_tokenizer_init=True,  # ids come in and go out
            load_format="safetensors",  # never pickle
            use_tqdm_on_load=False,
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=max_tokens,
            max_num_seqs=2 * MAX_TAKES,
            max_num_batched_tokens=2 * max_tokens,  # both prompts of a take in one step
            kv_cache_memory_bytes=cache_bytes,
            gpu_memory_utilization=0.01,  # not used beside the line above, but checked
            enable_prefix_caching=False,  # else a second run would round differently
            async_scheduling=False,  # a token is looked at before the next step begins
            distributed_executor_backend="uni",
            disable_log_stats=True,
            **_device_args(device),
        ).create_engine_config()
        config.model_config.logits_processors = [_processor(config, guidance)]
        self.max_tokens = max_tokens
        self._engine: Any = LLMEngine(
            config, Executor.get_class(config), log_stats=False, multiprocess_mode=False
        )
        cache_config = config.cache_config
        self.limits = Limits(
            sequences=config.scheduler_config.max_num_seqs,
            tokens=config.scheduler_config.max_num_batched_tokens,
            blocks=cache_config.num_gpu_blocks - 1,  # vLLM keeps one for itself
            block_tokens=cache_config.block_size,
        )

    def add(self, request: str, slot: Slot, prompt: Sequence[int], max_tokens: int) -> None:
        from vllm.inputs.engine import tokens_input  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import (  # pyright: ignore[reportMissingImports]
            RequestOutputKind,
            SamplingParams,
        )

        params = SamplingParams(
            temperature=0,  # the processor picks; vLLM only takes what is left
            max_tokens=max_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={SLOT: slot},
        )
        self._engine.add_request(request, tokens_input(list(prompt)), params)

    def step(self) -> Mapping[str, Sequence[int]]:
        outputs = self._engine.step()
        return {output.request_id: output.outputs[0].token_ids for output in outputs}

    def abort(self, requests: Sequence[str]) -> None:
        self._engine.abort_request(list(requests))

    def close(self) -> None:
        if self._engine is not None:
            self._engine.engine_core.shutdown()
        self._engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _device_args(device: torch.device) -> dict[str, Any]:
    """Where to compute, and how steps are repeated.

    Without torch.compile, which takes a minute and writes to the user's cache: vLLM's own kernels
    are fused, and a decoding step is recorded as one CUDA graph for each number of rows.
    """
    if device.type != "cuda":
        return {"enforce_eager": True}
    from vllm.config import CompilationConfig  # pyright: ignore[reportMissingImports]

    graphs = CompilationConfig(
        mode=0,
        cudagraph_mode="FULL_DECODE_ONLY",
        cudagraph_capture_sizes=[1, *range(2, 2 * MAX_TAKES + 1, 2)],
    )
    return {"compilation_config": graphs, "device_ids": [device.index or 0]}


def _processor(config: Any, guidance: Guidance) -> type:
    """For the model runner that vLLM has chosen: V2 on GPUs, V1 elsewhere."""
    if config.use_v2_model_runner:
        from vllm.v1.worker.gpu.sample import (  # pyright: ignore[reportMissingImports]
            logits_processor as v2,
        )

        return processor(ProcessorV2, v2.LogitsProcessor, guidance)
    from vllm.v1.sample import logits_processor as v1  # pyright: ignore[reportMissingImports]

    return processor(ProcessorV1, v1.LogitsProcessor, guidance)


def _register_network() -> str:
    """Make vLLM's Qwen3 read planners with and without `model.` before their keys."""
    from vllm.model_executor.models import ModelRegistry  # pyright: ignore[reportMissingImports]
    from vllm.model_executor.models.qwen3 import (  # pyright: ignore[reportMissingImports]
        Qwen3ForCausalLM,
    )

    class Planner(Qwen3ForCausalLM):
        def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
            return super().load_weights(
                (f"model.{key.removeprefix('model.')}", weight)
                for key, weight in weights
                if key != "lm_head.weight"  # the embedding, again
            )

    if NETWORK not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(NETWORK, Planner)
    return NETWORK


def _cache_bytes(
    config: Qwen3Config, dtype: torch.dtype, max_tokens: int, device: torch.device
) -> int:
    """Room for every take at once where that is a small part of what is free; for one at least."""
    entries = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    # A request holds whole blocks, and vLLM keeps one for itself.
    request = entries * dtype.itemsize * (max_tokens + 2 * CACHE_BLOCK_TOKENS)
    wanted = 2 * MAX_TAKES * request
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        wanted = min(wanted, int(MEMORY_SHARE * free))
    return max(wanted, 2 * request)
