"""The precision of a run or a prediction when the user leaves it open."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def automatic_precision(accelerator: str) -> str:
    """Return ``16-mixed`` on CUDA, ``bf16-mixed`` on a CPU with bf16 arithmetic, else ``32-true``.

    On CPUs with AVX-512 BF16 or AMX a bf16 matrix product runs several times faster than one in fp32; on others it
    is emulated and slower.

    Args:
        accelerator: The trainer's accelerator option.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "16-mixed"
    if accelerator in ("auto", "cpu") and _cpu_has_bf16():
        return "bf16-mixed"
    return "32-true"


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass computes as Lightning's trainer does at this precision.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed`` (which means bf16 on a CPU).
    """
    if not precision.endswith("-mixed"):
        return nullcontext()
    half = torch.float16 if precision.startswith("16") and device == "cuda" else torch.bfloat16
    return torch.autocast(device, dtype=half)


def _cpu_has_bf16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in probes)
