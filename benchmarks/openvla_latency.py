"""Latency of the OpenVLA-7B architecture with random weights: decoding `ar` against `parallel`, on a GPU.

    python benchmarks/openvla_latency.py [--runs 50] [--prompt-tokens 24] [--architecture 7b|tiny] [--modes ...]

Modes: `eager`; `compile`: the blocks that all layers share (vision blocks, MLPs, norms) by torch.compile; `graph`: the
whole inference in one CUDA graph; `compile+graph`. Timed from the image's pixels in main memory to the action in main
memory, greedy. floor_ms: the weights that one inference must read, over the bandwidth that a copy reaches on the
device; over_floor: latency_p50_ms over it. chunk1_hz: inferences per second, actions_per_s: times the chunk. image_ms:
JPEG to pixels, on the CPU. The goal is 10 Hz for chunk 1, the paper's limit was 4 Hz (upstream on an RTX 4090: 4.4).
Without a GPU the tiny architecture runs, eager: a check of this harness, no measurement of OpenVLA. Writes
out/bench/openvla_latency.json.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _report import report
from torch import Tensor

from rldg_core.image_codec import encode_jpeg
from rldg_policy.openvla.config import ACTION_DIM, OpenVLAConfig
from rldg_policy.openvla.model import L1Head, OpenVLA, ar_tokens, empty_model, parallel_prediction, parameter_count
from rldg_policy.openvla.processing import BOS, SPACE, pixel_values, serving_view, with_slots

MODES = ("eager", "compile", "graph", "compile+graph")
GOAL_HZ = 10.0
WARM_UP = 5


@dataclass(frozen=True)
class Case:
    """decoding, head: as in DecodingConfig; chunk: actions per inference."""

    decoding: str
    head: str
    chunk: int


CASES = (
    Case("ar", "bins", 1),
    Case("parallel", "bins", 1),
    Case("parallel", "l1", 1),
    Case("parallel", "bins", 8),
    Case("parallel", "l1", 8),
)


def random_model(config: OpenVLAConfig, device: str) -> OpenVLA:
    """Return a model on the device, bfloat16 on a GPU, with an L1 head that only some cases use."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = empty_model(config, l1_head=True, dtype=dtype, device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02, generator=generator)
    return model


def compile_regions(model: OpenVLA) -> None:
    """Compile the repeated modules once for all layers: one block of each vision tower, one MLP, one norm."""
    towers = (model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer)
    blocks = [block for tower in towers for block in tower.blocks]
    parts = [
        part
        for layer in model.language_model.model.layers
        for part in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)
    ]
    for module in [*blocks, *parts]:
        module.compile(dynamic=False)


def weight_bytes(model: OpenVLA, case: Case) -> int:
    """Return the bytes of weights that one inference reads: `ar` goes through the language model seven times.

    The embedding's rows, the unused last block of each tower and SigLIP's pooling are left out; parallel decoding
    reads 256 rows of lm_head, or the L1 head.
    """
    size = model.projector.fc1.weight.element_size()
    towers = (model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer)
    vision = sum(parameter_count(tower.patch_embed) + parameter_count(tower.blocks[:-1]) for tower in towers)
    layers = parameter_count(model.language_model.model.layers)
    lm_head = model.language_model.lm_head.weight
    once = vision + parameter_count(model.projector)
    if case.decoding == "ar":
        return size * (once + ACTION_DIM * (layers + lm_head.numel()))
    answer = 256 * lm_head.shape[1] if model.action_head is None else parameter_count(model.action_head)
    return size * (once + layers + answer)


def inference(model: OpenVLA, case: Case, prompt_tokens: int, pixels: Tensor) -> Callable[[], Tensor]:
    """Return a function without arguments that maps `pixels` to the answer, both on the device."""
    ids = np.array([BOS, *range(300, 300 + prompt_tokens - 2), SPACE], dtype=np.int64)
    ids, slots = with_slots(ids, case.chunk if case.decoding == "parallel" else 0)
    input_ids, slot_mask = (torch.from_numpy(x[None]).to(pixels.device) for x in (ids, slots))
    if case.decoding == "ar":
        return lambda: ar_tokens(model, input_ids, pixels)
    return lambda: parallel_prediction(model, input_ids, pixels, slot_mask, case.chunk)


def captured(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return `function` as one CUDA graph; its result is always in the same tensor."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = function()

    def replay() -> Tensor:
        graph.replay()
        return answer

    return replay


def timed(function: Callable[[], Tensor], pixels: Tensor, host_pixels: Tensor, runs: int) -> list[float]:
    """Return the latencies [ms] of copying the pixels in, inferring and copying the action out."""
    found = []
    for number in range(WARM_UP + runs):
        if pixels.is_cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        pixels.copy_(host_pixels, non_blocking=True)
        function().cpu()  # waits for it
        if number >= WARM_UP:
            found.append(1e3 * (time.perf_counter() - begin))
    return found


def bandwidth(device: str) -> float:
    """Return the memory bandwidth [bytes/s], read plus write, of a large copy."""
    count = 2**30 if device == "cuda" else 2**25
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * count / best


def image_ms(runs: int) -> float:
    """Return the median time from JPEG to pixel values on this CPU [ms]."""
    rng = np.random.default_rng(0)
    jpeg = encode_jpeg(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8), 90)
    found = []
    for _ in range(runs):
        begin = time.perf_counter()
        pixel_values([serving_view(jpeg, True)])
        found.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(found))


def measure(model: OpenVLA, modes: list[str], prompt_tokens: int, runs: int, device: str) -> Iterator[dict[str, Any]]:
    """Return one row per mode and case; compiled modes come last, since compiling modifies the model."""
    host_pixels = torch.randn(1, 6, 224, 224, generator=torch.Generator().manual_seed(1))
    host_pixels = host_pixels.to(model.projector.fc1.weight.dtype)
    host_pixels = host_pixels.pin_memory() if device == "cuda" else host_pixels
    pixels = host_pixels.to(device, copy=True)
    speed = bandwidth(device)
    head = model.action_head
    assert isinstance(head, L1Head)
    for mode in sorted(modes, key=lambda mode: "compile" in mode):
        if mode == "compile" or ("compile" in mode and "compile" not in modes):
            compile_regions(model)
        for case in CASES:
            model.action_head = head if case.head == "l1" else None
            function = inference(model, case, prompt_tokens, pixels)
            if "graph" in mode:
                function = captured(function)
            latency_ms = timed(function, pixels, host_pixels, runs)
            p50, p99 = (float(np.percentile(latency_ms, q)) for q in (50, 99))
            floor_ms = 1e3 * weight_bytes(model, case) / speed
            yield {
                "decoding": case.decoding,
                "head": case.head,
                "chunk": case.chunk,
                "mode": mode,
                "latency_p50_ms": round(p50, 2),
                "latency_p99_ms": round(p99, 2),
                "chunk1_hz": round(1e3 / p50, 2),
                "actions_per_s": round(1e3 * case.chunk / p50, 2),
                "floor_ms": round(floor_ms, 3),
                "over_floor": round(p50 / floor_ms, 2),
            }
    model.action_head = head


def main() -> None:
    """Run from the command line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50 if device == "cuda" else 10)
    parser.add_argument("--prompt-tokens", type=int, default=24, help="Of <s>, prompt and 29871.")
    parser.add_argument("--architecture", choices=("7b", "tiny"), default="7b" if device == "cuda" else "tiny")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES) if device == "cuda" else ["eager"])
    args = parser.parse_args()
    if device == "cpu" and any("graph" in mode for mode in args.modes):
        parser.error("a CUDA graph needs a GPU")
    if device == "cpu":
        torch.set_num_threads(1)
    with torch.inference_mode():
        model = random_model(OpenVLAConfig.seven_b() if args.architecture == "7b" else OpenVLAConfig.tiny(), device)
        rows = list(measure(model, args.modes, args.prompt_tokens, args.runs, device))
    single = [row["chunk1_hz"] for row in rows if row["chunk"] == 1]
    measured = device == "cuda" and args.architecture == "7b"
    report(
        "openvla_latency",
        {
            "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, one thread ({platform.machine()})",
            "architecture": args.architecture,
            "note": "random weights" if measured else "harness check: no measurement of OpenVLA-7B",
            "parameters": parameter_count(model) - parameter_count(model.action_head or torch.nn.Identity()),
            "dtype": str(model.projector.fc1.weight.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "prompt_tokens": args.prompt_tokens,
            "bandwidth_gb_s": round(bandwidth(device) / 1e9, 1),
            "image_ms": round(image_ms(20), 2),
            "goal_hz": GOAL_HZ,
            "best_chunk1_hz": max(single),
            "goal_met": bool(max(single) >= GOAL_HZ) if measured else None,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
