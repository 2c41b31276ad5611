"""The one way from raw windows to probabilities and verdicts, whoever asks: every command, the study, notebooks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from butppg_lightning.errors import UserError
from butppg_lightning.models.freezing import evaluating
from butppg_lightning.models.training_range import Outside, range_indices
from butppg_lightning.threads import ahead
from butppg_lightning.window import WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

_Batch = tuple[Tensor, Tensor | None]  # signals and present
_Scored = tuple[Tensor, Tensor, Any]  # logits, faults, deviations or None
_MOST_THREADS = 8  # beyond which they wait for Python's lock

GOOD, POOR, NO_PPG = "good", "poor", "no_ppg"
"""The verdicts. ``no_ppg``: the network takes PPG, and the window's is absent, flat or railed: nothing to judge."""
BATCH_SIZE = 64
"""Windows per forward pass: on CPUs small ones stay in the cache."""
EXACT = "32-true"
"""The precision of predictions unless the user asks for another: half precision moves a probability by 0.002 on average
and by up to 0.03, and not by the same on every machine and in every batch, so that verdicts would depend on both."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network makes of N windows."""

    channels: tuple[str, ...]  # names of the network's C channels
    logits: Array  # [N] float32, as the network computes them; above 0 good is likelier
    probabilities: Array  # [N] float32 in 0..1, calibrated probability of good quality
    faults: Array  # [N, C] int8, why a channel cannot be used: an index into usable_channels.FAULTS, 0 where it can
    precision: str  # what was computed in: 32-true, bf16-mixed or 16-mixed
    deviations: Array | None = None  # [N, 2, K], as TrainingRange returns them; None where not compared
    range_names: Sequence[str] = ()  # of the K indices

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def judged(self) -> Array:
        """``[N]`` bool: windows with a usable PPG, or all of them for a network that takes none."""
        if "PPG" not in self.channels:
            return np.ones(len(self), dtype=bool)
        judged: Array = self.faults[:, self.channels.index("PPG")] == 0
        return judged

    def verdicts(self, threshold: float) -> Array:
        """Return ``[N]`` strings: ``good`` from ``threshold`` on, ``poor`` below, ``no_ppg`` where not judged."""
        called = np.where(self.probabilities >= threshold, GOOD, POOR)
        return np.where(self.judged, called, NO_PPG)

    def outside(self, threshold: float) -> Outside | None:
        """Return which windows are unlike the training windows of their verdict; None if they were not compared."""
        if self.deviations is None:
            return None
        called = (self.probabilities >= threshold).astype(int)
        return Outside(self.range_names, self.deviations[np.arange(len(self)), called], self.judged)


def predict(
    network: QualityNetwork,
    batches: Iterable[Mapping[str, Any]],
    *,
    batch_size: int = BATCH_SIZE,
    prior: float | None = None,
    precision: str = EXACT,
    compare: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Score any number of raw windows, in eval mode, leaving the user's mode as it was.

    The network is moved to a CUDA device if there is one.

    Args:
        network: The network. On CPUs several threads run it at once, so it may keep nothing of a batch in itself.
        batches: Mappings with ``signals [b, C, 1250]`` (array or tensor, unfiltered and unscaled, possibly
            memory-mapped; channels in the order of ``network.channels``) and ``present [b, C]`` (bool, or None when
            every channel is there), of any lengths b.
        batch_size: Windows per forward pass.
        prior: Share of good windows where the model is used; None for the one it was calibrated at.
        precision: ``32-true``, ``bf16-mixed``, ``16-mixed``, or ``auto``: half precision where the hardware has it.
        compare: Whether to compare windows with those of training too, which takes 0.1 ms each, or nothing where the
            head needs the same indices.
        progress: Called with the number of windows done since the last call.

    Raises:
        UserError: If the shape does not fit, or the prior needs a calibration that is not there.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    precision = automatic_precision(device) if precision == "auto" else precision
    logits: list[Tensor] = []
    faults: list[Tensor] = []
    deviations: list[Array] = []
    with evaluating(network):
        score = _scorer(network, device, precision, compare)
        for scored, why, apart in _several(score, _rebatched(network.channels, batches, batch_size), device):
            logits.append(scored)
            faults.append(why)
            deviations += [] if apart is None else [apart]
            if progress is not None:
                progress(len(scored))
    scores = torch.cat(logits) if logits else torch.empty(0)
    judged = torch.cat(faults) if faults else torch.empty(0, len(network.channels), dtype=torch.int8)
    probabilities = network.calibration.probabilities(scores, prior)
    known = network.training_range if compare else None
    compared = (np.concatenate(deviations), known.names) if known is not None and deviations else (None, ())
    return Predictions(network.channels, scores.numpy(), probabilities.numpy(), judged.numpy(), precision, *compared)


def _scorer(network: QualityNetwork, device: str, precision: str, compare: bool) -> Callable[[_Batch], _Scored]:
    """Return what scores a batch; what the head and the comparison both need is computed once."""
    known = network.training_range if compare else None
    columns, indices = None, None  # of the side inputs among those of the range
    if known is not None:
        own, indices = network.indices, range_indices(network.channels, known, network.indices).to(device)
        if own is not None and own.polarity == indices.polarity:
            columns = [indices.names.index(name) for name in own.names]

    def score(batch: _Batch) -> _Scored:
        signals, present = batch[0].to(device), None if batch[1] is None else batch[1].to(device)
        with torch.no_grad(), autocast(device, precision):
            prepared = network.prepare(signals, present, side=columns is None)
            side, apart = prepared.side, None
            if known is not None and indices is not None:
                found = indices.known(signals, prepared.usable)
                side = side if columns is None else found[:, columns]
                apart = known.deviations(found, indices.names)
            return network.run(prepared, "prepared", "logits", side).float().cpu(), prepared.faults.cpu(), apart

    return score


def predict_windows(network: QualityNetwork, signals: Any, present: Any = None, **options: Any) -> Predictions:
    """Score the windows of one array ``[N, C, 1250]``; ``options`` are those of :func:`predict`."""
    return predict(network, [{"signals": signals, "present": present}], **options)


def _several(work: Callable[[_Batch], _Scored], batches: Iterable[_Batch], device: str) -> Iterator[_Scored]:
    """Yield what ``work`` makes of batches, in their order; on CPUs of several at a time.

    A batch is a thousand small steps. To share each of them out among the cores costs more than most of them take, and
    stalls whenever a core is busy elsewhere; so a thread computes a batch alone.
    """
    cores = torch.get_num_threads()
    threads = min(cores, _MOST_THREADS) if device == "cpu" else 1
    torch.set_num_threads(max(1, cores // threads))  # of each thread that begins from here on
    try:
        yield from ahead(work, batches, threads)
    finally:
        torch.set_num_threads(cores)


def _rebatched(channels: tuple[str, ...], batches: Iterable[Mapping[str, Any]], batch_size: int) -> Iterator[_Batch]:
    for batch in batches:
        signals, present = batch["signals"], batch.get("present")
        if len(signals.shape) != 3 or tuple(signals.shape[1:]) != (len(channels), WINDOW_SAMPLES):
            raise UserError(
                f"signals have shape {list(signals.shape)}; expected [N, {len(channels)}, {WINDOW_SAMPLES}] "
                f"with channels {', '.join(channels)}"
            )
        for start in range(0, len(signals), batch_size):
            rows = slice(start, start + batch_size)
            yield _tensor(signals[rows]), None if present is None else _tensor(present[rows])


def _tensor(values: Any) -> Tensor:
    # a copy: torch cannot look at read-only memory, which is what a memory-mapped file is
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def automatic_precision(accelerator: str) -> str:
    """Return ``16-mixed`` on CUDA, ``bf16-mixed`` on a CPU with bf16 arithmetic, else ``32-true``.

    ``accelerator`` is the trainer's option. :func:`precision_reason` says why.
    """
    return precision_reason(accelerator)[0]


def precision_reason(accelerator: str) -> tuple[str, str]:
    """Return the automatic precision, and in words why it is that one.

    On CPUs with AVX-512 BF16 or AMX a bf16 matrix product runs several times faster than one in fp32; on others it
    is emulated and slower.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "16-mixed", "a CUDA device computes in half precision"
    if accelerator not in ("auto", "cpu"):
        return "32-true", f"half precision is not tested on {accelerator}"
    probes = {"AMX": "_is_amx_tile_supported", "AVX-512 BF16": "_is_avx512_bf16_supported"}
    for name, probe in probes.items():
        if getattr(torch.cpu, probe, bool)():
            return "bf16-mixed", f"the CPU has {name}"
    return "32-true", "the CPU has neither AMX nor AVX-512 BF16, and would emulate bf16"


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass computes as Lightning's trainer does at this precision."""
    if not precision.endswith("-mixed"):
        return nullcontext()
    half = torch.float16 if precision.startswith("16") and device == "cuda" else torch.bfloat16
    return torch.autocast(device, dtype=half)
