"""Many thousand damaged files: each ends in a result or in one line, soon, and without much memory."""

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_windows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from butppg_lightning.data.store import StoreWriter, read_store
from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.sources.recordings import read_recording
from butppg_lightning.window import CHANNELS, read_windows

LONGEST = 10_000  # milliseconds
MOST_MEMORY = 2 * 1024**2  # KiB
CASES = 2500  # of each kind
FEWER = {"mat": 60, "mat 7.3": 60}  # a process each


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


def recording(folder: Path) -> list[Path]:
    samples = np.arange(900.0)
    np.savez(folder / "night.npz", ppg=samples, acc=np.ones((900, 3)), fs=64, t=samples / 64, start_time="2024-01-31")
    return [folder / "night.npz"]


def wfdb(folder: Path) -> list[Path]:
    for name in ("one", "two"):
        (np.arange(1800) % 250).astype("<i2").tofile(folder / f"{name}.dat")
        lines = [
            f"{name}.dat 16 1000(0)/{unit} 16 0 0 0 0 {label}" for unit, label in (("NU", "PLETH"), ("g", "acc_x"))
        ]
        (folder / f"{name}.hea").write_text("\n".join([f"{name} 2 50 900 22:15:00 31/01/2024", *lines, ""]))
    (folder / "night.hea").write_text("night/3 2 50 1900 22:15:00 31/01/2024\none 900\n~ 100\ntwo 900\n")
    return [folder / name for name in ("night.hea", "one.hea", "two.hea", "one.dat")]


def edf(folder: Path) -> list[Path]:
    edfio = pytest.importorskip("edfio")
    signals = [edfio.EdfSignal(np.sin(np.arange(1000) / 8), 50, label=label) for label in ("PPG", "ECG II")]
    edfio.Edf(signals, data_record_duration=1, annotations=[]).write(folder / "night.edf")
    return [folder / "night.edf"]


def mat(folder: Path) -> list[Path]:
    savemat(folder / "night.mat", {"data": {"ppg": np.arange(900.0), "fs": 64, "start_time": "2024-01-31"}})
    return [folder / "night.mat"]


def mat_of_hdf5(folder: Path) -> list[Path]:
    with pytest.importorskip("h5py").File(folder / "night.mat", "w") as file:
        file["data/ppg"] = np.arange(900.0)
        file["data/fs"] = 64
    return [folder / "night.mat"]


def checkpoint(folder: Path) -> list[Path]:
    content = {"state_dict": {"a": torch.zeros(3, 4), "b": torch.ones(5)}, "epoch": 3, "hyper_parameters": {"lr": 0.1}}
    torch.save(content, folder / "m.pt")
    return [folder / "m.pt"]


KINDS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[Path], object]]] = {
    "npz": (npz, lambda folder: read_windows(folder / "w.npz", labelled=True)),
    "store": (store, lambda folder: read_store(folder / "w.store")),
    "csv": (table, lambda folder: read_recording(folder / "night.csv")),
    "recording": (recording, lambda folder: read_recording(folder / "night.npz")),
    "wfdb": (wfdb, lambda folder: read_recording(folder / "night.hea")),
    "edf": (edf, lambda folder: read_recording(folder / "night.edf")),
    "mat": (mat, lambda folder: read_recording(folder / "night.mat")),
    "mat 7.3": (mat_of_hdf5, lambda folder: read_recording(folder / "night.mat")),
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

    @settings(max_examples=FEWER.get(kind, CASES), deadline=LONGEST, suppress_health_check=list(HealthCheck))
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
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        assert resource.getrusage(who).ru_maxrss < MOST_MEMORY
