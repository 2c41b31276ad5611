"""Memory and rate of a window store, against one memory-mapped array of the same windows.

Writes a store of N random windows (PPG and ECG), reads random batches through PretrainDataModule's own dataset and
sampler, and does the same with a plain ``numpy.load(mmap_mode="r")``. Memory is what the process holds for itself
(Anonymous in /proc/self/smaps_rollup); pages of mapped files belong to the system and go when others need them.

    python tests/benchmarks/store_rate.py --windows 1000000 --dtype float16 --folder /data/scratch
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from butppg_lightning.console import print_table
from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.data.module import EpochBatches
from butppg_lightning.data.store import StoreWriter, read_store
from butppg_lightning.window import PRETRAIN_CHANNELS, WINDOW_SAMPLES

STORE, PLAIN = "train_windows.store", "plain.npy"
CHUNK = 500
KINDS = 64  # different windows that are repeated: drawing a million would take longer than everything else


def anonymous_megabytes() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("smaps_rollup has no line 'Anonymous'")


def chunks(count: int) -> itertools.chain:
    generator = np.random.default_rng(0)
    shape = (CHUNK, len(PRETRAIN_CHANNELS), WINDOW_SAMPLES)
    kinds = [generator.normal(size=shape).astype(np.float32) for _ in range(KINDS)]
    sizes = [CHUNK] * (count // CHUNK) + [count % CHUNK]
    return (kinds[row % KINDS][:size] for row, size in enumerate(sizes) if size)


def write(count: int, dtype: str, store: Path, plain: Path) -> float:
    """Write both; return the store's windows per second."""
    parts = chunks(count)
    begin = time.perf_counter()
    with StoreWriter(store, PRETRAIN_CHANNELS, dtype=dtype) as writer:
        for number, part in enumerate(parts):
            writer.add(part, subjects=[str(number)] * len(part))
    rate = count / (time.perf_counter() - begin)
    shape = (count, len(PRETRAIN_CHANNELS), WINDOW_SAMPLES)
    array = np.lib.format.open_memmap(plain, mode="w+", dtype=dtype, shape=shape)
    for number, part in enumerate(chunks(count)):
        array[number * CHUNK : number * CHUNK + len(part)] = part
    array.flush()
    return rate


def rate(batches: list, fetch) -> float:
    """Return windows per second over all batches."""
    begin = time.perf_counter()
    for rows in batches:
        fetch(rows)
    return sum(map(len, batches)) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=2000, help="random batches read in each round")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder if not given")
    parser.add_argument("--read", type=Path, default=None, help=argparse.SUPPRESS)  # the process that only reads
    options = parser.parse_args()
    if options.read:
        measure(options)
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        written = write(options.windows, options.dtype, folder / STORE, folder / PLAIN)
        command = [sys.executable, __file__, "--read", str(folder), "--batch_size", str(options.batch_size)]
        read = subprocess.run([*command, "--batches", str(options.batches)], check=True, stdout=subprocess.PIPE)
    finally:
        shutil.rmtree(folder)
    report(options, written, json.loads(read.stdout))


def measure(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    windows = read_store(options.read / STORE, verify=False)
    opened = time.perf_counter() - begin
    begin = time.perf_counter()
    windows.verify()
    verified = time.perf_counter() - begin
    dataset = WindowDataset(windows, PRETRAIN_CHANNELS)
    sampler = EpochBatches(dataset, options.batch_size, seed=0, shuffle=True)
    epoch = iter(sampler)
    batches = [rows.numpy() for rows in itertools.islice(epoch, options.batches)]
    array = np.load(options.read / PLAIN, mmap_mode="r")
    rates: dict[str, list[float]] = {"store": [], "dataset": [], "plain": []}
    for _ in range(5):  # in turn, so that whatever else the machine does hits all alike; the best round counts
        rates["store"].append(rate(batches, lambda rows: windows.signals[rows]))
        rates["dataset"].append(rate(batches, lambda rows: dataset[rows]))
        rates["plain"].append(rate(batches, lambda rows: array[rows]))
    figures = {name: max(values) for name, values in rates.items()}
    figures |= {"opened": opened, "verified": verified, "anonymous": anonymous_megabytes()}
    size = sum(path.stat().st_size for path in (options.read / STORE).iterdir())
    print(json.dumps({**figures, "bytes": size, "shards": len(windows.manifest.shards), "batches": len(batches)}))


def report(options: argparse.Namespace, written: float, figures: dict) -> None:
    store = f"{figures['bytes'] / 2**30:.2f} GiB in {figures['shards']} shards"
    rows = [
        ("windows", f"{options.windows:,} {options.dtype}, {store}"),
        ("written", f"{written:,.0f} windows/s"),
        ("opened in", f"{1000 * figures['opened']:.0f} ms"),
        ("checksums verified in", f"{figures['verified']:.2f} s"),
        ("plain memmap", f"{figures['plain']:,.0f} windows/s"),
        ("store", f"{figures['store']:,.0f} windows/s, {figures['plain'] / figures['store']:.2f} times slower"),
        ("dataset (as the loader reads)", f"{figures['dataset']:,.0f} windows/s"),
        ("anonymous memory while reading", f"{figures['anonymous']:.1f} MB"),
        ("of which the epoch's order", f"{8 * options.windows / 2**20:.1f} MB"),
    ]
    print_table(f"Batches of {options.batch_size}, best of 5 rounds of {figures['batches']}", None, rows)


if __name__ == "__main__":
    main()
