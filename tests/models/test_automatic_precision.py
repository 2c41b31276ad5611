"""Which precision a machine gets, and the reason that the log gives."""

import pytest
import torch

from butppg_lightning.models.prediction import automatic_precision, precision_reason


@pytest.mark.parametrize(
    ("amx", "avx512", "precision", "reason"),
    [
        (True, True, "bf16-mixed", "the CPU has AMX"),
        (False, True, "bf16-mixed", "the CPU has AVX-512 BF16"),
        (False, False, "32-true", "the CPU has neither AMX nor AVX-512 BF16, and would emulate bf16"),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_has_the_arithmetic(
    amx: bool, avx512: bool, precision: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert precision_reason("cpu") == (precision, reason)
    assert automatic_precision("cpu") == precision
