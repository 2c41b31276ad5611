"""The precision of a run when the user leaves it open."""

from __future__ import annotations

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


def _cpu_has_bf16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in probes)
