"""Ten thousand damaged files: each ends in a result or in one line, soon, and without much memory."""

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_windows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from butppg_lightning.data.store import StoreWriter, read_store
from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.sources.recordings import read_recording
from butppg_lightning.window import CHANNELS, read_windows

LONGEST = 10_000  # milliseconds
MOST_MEMORY = 2 * 1024**2  # KiB
CASES = 2500  # of each kind; four kinds


def npz(folder: Path) -> list[Path]:
    windows = make_windows(2)
    np.savez(folder / "w.npz", signals=windows.signals, labels=windows.labels, subjects=windows.subjects)
    return [folder / "w.npz"]


def store(folder: Path) -> list[Path]:
    windows = make_windows(4)
    with StoreWriter(folder / "w.store", CHANNELS, dtype="float32") as writer:
        writer.add(windows.signals, subjects=windows.subjects)
    return sorted((folder / "w.store").iterdir())


def table(folder: Path) -> list[Path]:
    rows = (f"{row / 50:.2f},{np.sin(row / 5):.4f},{np.cos(row / 9):.4f}" for row in range(600))
    (folder / "night.csv").write_text("\n".join(["time,PPG,ECG", *rows]))
    return [folder / "night.csv"]


def checkpoint(folder: Path) -> list[Path]:
    content = {"state_dict": {"a": torch.zeros(3, 4), "b": torch.ones(5)}, "epoch": 3, "hyper_parameters": {"lr": 0.1}}
    torch.save(content, folder / "m.pt")
    return [folder / "m.pt"]


KINDS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[Path], object]]] = {
    "npz": (npz, lambda folder: read_windows(folder / "w.npz", labelled=True)),
    "store": (store, lambda folder: read_store(folder / "w.store")),
    "csv": (table, lambda folder: read_recording(folder / "night.csv")),
    "checkpoint": (checkpoint, lambda folder: read_checkpoint(folder / "m.pt")),
}


def spoil(content: bytes, data: st.DataObject) -> bytes:
    spoilt = bytearray(content)
    # headers decide more than samples do: half of the damage goes to the ends of the file
    ends = st.integers(0, min(400, len(spoilt) - 1)).flatmap(lambda place: st.sampled_from([place, -1 - place]))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.one_of(st.integers(0, len(spoilt) - 1), ends))
        spoilt[place] = data.draw(st.integers(0, 255))
    kind = data.draw(st.sampled_from(["as it is", "cut", "longer", "twice", "inserted"]))
    place = data.draw(st.integers(0, len(spoilt)))
    if kind == "cut":
        return bytes(spoilt[:place])
    if kind == "longer":
        return bytes(spoilt) + data.draw(st.binary(max_size=64))
    if kind == "twice":
        return bytes(spoilt) + bytes(spoilt[:place])
    if kind == "inserted":
        return bytes(spoilt[:place]) + data.draw(st.binary(min_size=1, max_size=16)) + bytes(spoilt[place:])
    return bytes(spoilt)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_damage_ends_in_a_result_or_one_line(kind: str, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    originals = {path: path.read_bytes() for path in write(tmp_path)}
    before = sorted(tmp_path.rglob("*"))

    @settings(max_examples=CASES, deadline=LONGEST, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def end_cleanly(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(list(originals)))
        path.write_bytes(spoil(originals[path], data))
        try:
            read(tmp_path)
        except UserError as error:
            told = str(error)
        else:
            told = ""
        finally:
            path.write_bytes(originals[path])
        assert "\n" not in told

    end_cleanly()
    assert sorted(tmp_path.rglob("*")) == before  # nothing was executed that leaves a trace
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_MEMORY
