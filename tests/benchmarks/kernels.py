"""Single steps timed in a process of their own; each prints its figures as JSON.

``python kernels.py products|pretraining --windows train.npz [--count N] [--rounds N]``, or
``python kernels.py scoring|reading --recording FILE [--models FILE ...] [--rounds N]``.
The sides of a comparison take turns, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import AllPatches, template_match
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.encoder import PatchTransformer
from butppg_lightning.models.freezing import set_trainable
from butppg_lightning.models.heads import LinearHead
from butppg_lightning.models.network import QualityNetwork
from butppg_lightning.models.prediction import automatic_precision, predict
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.shipped import locate
from butppg_lightning.sources.recordings import read_recording
from butppg_lightning.sources.recordings.windowing import Windows
from butppg_lightning.tasks.pretrainer import MaskedPretrainer
from butppg_lightning.training.optimizers import build_optimizer, parameter_groups
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS, read_windows

TRAIN_BATCH = 32
BLOCKS = 2  # that train in stage 2, beside the final norm and the head
CLIP = 1.0
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


def half(enabled: bool = True) -> torch.autocast:
    """Return the autocast that `butppg` chooses on this machine, or none."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and automatic_precision("cpu") == "bf16-mixed")


def take_turns(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each, done in turn after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def quality_network() -> QualityNetwork:
    encoder = PatchTransformer(CHANNELS)
    return QualityNetwork(Preprocess(CHANNELS), encoder, LinearHead(encoder.width)).eval()


class Classifying:
    """Training steps of the quality network: of stage 2 from stored features, as the cache serves them, or of all."""

    def __init__(self, signals: np.ndarray, blocks: int | None, enabled: bool) -> None:
        self.network, self.half = quality_network(), enabled
        windows = torch.from_numpy(signals[:TRAIN_BATCH])
        self.target = torch.arange(len(windows)).remainder(2).float()
        if blocks is None:
            self.network.train()
            self.work = lambda: self.network(windows)
        else:
            depth = len(self.network.encoder.blocks) - blocks  # type: ignore[arg-type]
            with torch.no_grad(), half(enabled):
                features = self.network.run(self.network.prepare(windows), "prepared", depth)
            set_trainable(self.network, blocks)
            self.work = lambda: self.network.run(features, depth, "logits")
        groups = parameter_groups(self.network.named_parameters(), lr=2e-5, weight_decay=0.01)
        self.optimizer = build_optimizer(None, groups, torch.device("cpu"))

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.optimizer.zero_grad()
            with half(self.half):
                logits = self.work()
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), self.target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
            self.optimizer.step()


class RecordProducts(TorchDispatchMode):
    """Counts the matrix products that run: name, and shape, strides and type of each operand."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _PRODUCTS:
            self.found[(name, *((tuple(x.shape), x.stride(), x.dtype) for x in args if isinstance(x, Tensor)))] += 1
        return func(*args, **(kwargs or {}))


def products(signals: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Arithmetic of training steps, and how fast their matrix products run when nothing else does.

    Each product of a real step (forward and backward: all that autograd needs, and no more) is repeated alone, with
    operands of the same shape, strides and type. Stage 2 in the automatic precision, the others in fp32 too.
    """
    makers: dict[str, Callable[[bool], Any]] = {
        "fit": lambda enabled: Classifying(signals, None, enabled),
        "pretrain": lambda enabled: Pretraining(signals, everything=False, enabled=enabled),
    }
    found = {"stage 2": _products(Classifying(signals, BLOCKS, True), rounds)}
    for name, make in makers.items():
        found |= {f"{name}, {kind}": _products(make(kind == "bf16"), rounds) for kind in ("bf16", "fp32")}
    return found


def _products(side: Any, rounds: int) -> dict[str, float]:
    side.steps(1)
    with RecordProducts() as record:
        side.steps(1)
    work = seconds = 0.0
    for (name, *operands), count in record.found.items():
        tensors = [torch.empty_strided(size, stride, dtype=kind).zero_() for size, stride, kind in operands]
        first, second = operands[-2][0], operands[-1][0]
        work += count * 2.0 * np.prod(first) * second[-1]
        seconds += count * _fastest(getattr(torch, name), tensors, rounds)
    return {"flops": work, "seconds": seconds, "products": sum(record.found.values())}


def _fastest(product: Callable, tensors: list[Tensor], rounds: int, repeats: int = 20) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(repeats):
            product(*tensors)
        best = min(best, time.perf_counter() - begin)
    return best / repeats


class Pretraining:
    """Training steps of MaskedPretrainer with its optimizer, on visible patches or on all."""

    def __init__(self, signals: np.ndarray, everything: bool, enabled: bool) -> None:
        torch.manual_seed(0)
        self.module = MaskedPretrainer()
        if everything:
            self.module.network = AllPatches.like(self.module)
        self.half = enabled
        self.module.train()
        names = self.module.network.named_parameters()
        groups = parameter_groups(names, lr=1e-3, weight_decay=0.01)
        self.optimizer = build_optimizer(None, groups, torch.device("cpu"), (0.9, 0.95))
        present = torch.ones(TRAIN_BATCH, len(PRETRAIN_CHANNELS), dtype=torch.bool)
        columns = [CHANNELS.index(name) for name in PRETRAIN_CHANNELS]
        self.batch = {"signals": torch.from_numpy(signals[:TRAIN_BATCH, columns]), "present": present}

    def steps(self, count: int) -> None:
        for number in range(count):
            self.optimizer.zero_grad()
            with half(self.half):
                loss = self.module.training_step(self.batch, number)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
            self.optimizer.step()


def pretraining(signals: np.ndarray, rounds: int, steps: int = 5) -> dict[str, float]:
    """Windows per second of pretraining: ours, and all patches in fp32."""
    sides = {"ours": Pretraining(signals, False, True), "reference": Pretraining(signals, True, False)}
    found = take_turns({name: lambda side=side: side.steps(steps) for name, side in sides.items()}, rounds)
    return {name: steps * TRAIN_BATCH / statistics.median(seconds) for name, seconds in found.items()}


def scoring(recording: Path, models: list[str], rounds: int) -> dict[str, list[float]]:
    """Windows per second: reading, windowing and scoring a recording, and neurokit2's template match of its PPG."""
    ppg = np.concatenate([batch["signals"][:, 0] for batch in Windows(read_recording(recording), ["PPG"])])
    networks = {name: restore_network(locate(name))[0] for name in models}

    def score(name: str) -> None:
        network = networks[name]
        predict(network, Windows(read_recording(recording), network.channels), compare=True)

    refused: list[float] = []
    works: dict[str, Callable[[], Any]] = {name: lambda name=name: score(name) for name in models}
    found = take_turns({**works, "neurokit2": lambda: refused.append(template_match(ppg.astype(np.float64)))}, rounds)
    return {name: [len(ppg) / one for one in seconds] for name, seconds in found.items()} | {"refused": refused}


def reading(recording: Path, models: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds that it takes to read a recording."""
    return take_turns({"reading": lambda: read_recording(recording)}, rounds)


WORKS = {work.__name__: work for work in (products, pretraining)}
LONG = {work.__name__: work for work in (scoring, reading)}


def _keep_freed_memory() -> None:
    # in a bare loop glibc hands every buffer back to the kernel and takes page faults to get it again; in a real run,
    # with more in use above them, it does not
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=[*WORKS, *LONG])
    parser.add_argument("--windows", type=Path)
    parser.add_argument("--recording", type=Path)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=TRAIN_BATCH)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.work in LONG:
        print(json.dumps(LONG[options.work](options.recording, options.models, options.rounds)))
        return
    _keep_freed_memory()
    signals = np.array(read_windows(options.windows, labelled=False).signals[: options.count])
    print(json.dumps(WORKS[options.work](signals, options.rounds)))


if __name__ == "__main__":
    main()
