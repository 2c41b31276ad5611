"""A store gives back what was written, whatever happened to the writer."""

import json
import pickle
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_windows
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.data.pretrain import PretrainDataModule
from butppg_lightning.data.store import StoredWindows, StoreWriter, read_store, reader
from butppg_lightning.errors import UserError
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS, WindowSet, read_windows

WINDOW_BYTES = 5 * 1250 * 4


def stored(folder: Path, windows: WindowSet, per_shard: int = 7, **options) -> StoredWindows:
    """Write windows three at a time and read them back."""
    options = {"subjects": windows.subjects is not None, "present": windows.present is not None, **options}
    row_bytes = windows.signals[0].size * (2 if options.get("dtype") == "float16" else 4)
    with StoreWriter(folder, windows.channels, shard_bytes=per_shard * row_bytes, **options) as writer:
        for start in range(0, len(windows), 3):
            part = windows.take(np.arange(start, min(start + 3, len(windows))))
            writer.add(part.signals, subjects=part.subjects, present=part.present, note={"start": start})
    return read_store(folder)


def with_absent(count: int = 20) -> WindowSet:
    windows = make_windows(count)
    windows.present = np.ones((count, 5), dtype=bool)
    windows.present[::4, :3] = False
    windows.signals[::4, :3] = 0
    return windows


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    windows = with_absent()
    found = stored(tmp_path / "a.store", windows)
    assert len(found) == 20
    assert found.channels == CHANNELS
    assert found.signals.shape == windows.signals.shape
    assert [shard.windows for shard in found.manifest.shards] == [9, 9, 2]
    assert [note["start"] for shard in found.manifest.shards for note in shard.notes] == list(range(0, 20, 3))
    for key in ("signals", "subjects", "present"):
        assert np.array_equal(np.asarray(getattr(found, key)), getattr(windows, key)), key
    assert found.subject_names == ("s0", "s1", "s2", "s3")
    # any reader of .npy files can have the data
    assert np.array_equal(np.load(tmp_path / "a.store" / "signals-00001.npy"), windows.signals[9:18])


@settings(max_examples=60, deadline=None)
@given(wanted=st.lists(st.integers(-20, 19), max_size=30))
def test_rows_are_indexed_as_numpy_does(tmp_path_factory, wanted: list[int]) -> None:
    folder = tmp_path_factory.getbasetemp() / "rows.store"
    windows = with_absent()
    found = read_store(folder, verify=False) if folder.exists() else stored(folder, windows)
    index = np.array(wanted, dtype=np.int64)
    assert np.array_equal(found.signals[wanted], windows.signals[index])
    assert np.array_equal(found.present[index], windows.present[index])
    assert np.array_equal(found.subjects[index], windows.subjects[index])
    mask = np.isin(np.arange(20), index % 20)
    assert np.array_equal(found.signals[mask], windows.signals[mask])
    part = found.take(mask)
    assert np.array_equal(part.signals, windows.signals[mask])
    assert np.array_equal(part.subjects, windows.subjects[mask])
    low, high = sorted((*wanted, 0, 0)[:2])
    assert np.array_equal(found.signals[low:high], windows.signals[low:high])
    assert np.array_equal(found.signals[high % 20], windows.signals[high % 20])


@pytest.mark.parametrize("row", [20, -21, [3, 20], [-21, 0]])
def test_rows_out_of_range_are_an_error(tmp_path: Path, row: int | list[int]) -> None:
    with pytest.raises(IndexError, match="of 20"):
        stored(tmp_path / "a.store", with_absent()).signals[row]


def test_what_is_read_may_be_changed_and_sent_to_another_process(tmp_path: Path) -> None:
    windows = with_absent()
    found = stored(tmp_path / "a.store", windows)
    found.signals[[0, 1]][:] = 7
    found.signals[:2][:] = 7
    again = pickle.loads(pickle.dumps(WindowDataset(found, CHANNELS)))
    assert len(pickle.dumps(found)) < 5000
    batch = again[torch.tensor([19, 0])]
    assert np.array_equal(batch["signals"].numpy(), windows.signals[[19, 0]])
    assert batch["present"].tolist() == windows.present[[19, 0]].tolist()


def test_what_does_not_fit_into_memory_reads_the_same(tmp_path: Path, monkeypatch) -> None:
    windows = with_absent()
    stored(tmp_path / "a.store", windows)
    monkeypatch.setattr(reader, "_memory_bytes", lambda: 1000.0)
    found = read_store(tmp_path / "a.store")
    assert found.signals._beyond_memory
    assert np.array_equal(found.signals[[19, 3, 3, 8]], windows.signals[[19, 3, 3, 8]])


def test_an_npz_file_of_a_store_is_the_same_again(tmp_path: Path) -> None:
    windows = with_absent()
    stored(tmp_path / "a.store", windows).save(tmp_path / "a.npz")
    again = read_windows(tmp_path / "a.npz", labelled=False)
    for key in ("signals", "subjects", "present"):
        assert np.array_equal(getattr(again, key), getattr(windows, key)), key


def test_float16_keeps_the_pulse_beside_a_large_offset(tmp_path: Path) -> None:
    windows = make_windows(12)
    windows.signals[:, 3] = -254 + 0.2 * (windows.signals[:, 3] - 100)
    found = stored(tmp_path / "a.store", windows, dtype="float16")
    assert found.signals.dtype == np.float16
    assert found.manifest.centred == ("PPG", "ECG")
    read, centred = found.signals[:].astype(np.float64), windows.signals.astype(np.float64)
    centred[:, 3:] -= np.median(centred[:, 3:], axis=-1, keepdims=True)
    error = np.sqrt(((read - centred) ** 2).mean(axis=-1))
    assert (error[:, 3:] < 0.001 * centred[:, 3:].std(axis=-1)).all()
    assert (error[:, :3] < 1e-3).all(), "acceleration keeps its offset, which is gravity"
    assert abs(read[:, 2].mean() - 1) < 0.01


@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_what_float16_would_spoil_is_refused(tmp_path: Path, scale: float) -> None:
    windows = make_windows(3)
    windows.signals[2, 4] *= scale
    with pytest.raises(UserError, match=r"ECG of window 2 does not fit float16.*--dtype float32"):
        stored(tmp_path / "a.store", windows, dtype="float16")
    stored(tmp_path / "b.store", windows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_not_finite_is_refused_when_written_and_when_read(tmp_path: Path, value: float, dtype: str) -> None:
    windows = make_windows(9)
    bad = windows.take(np.arange(9))
    bad.signals[4, 2, 1249] = value
    with pytest.raises(UserError, match="window 4 holds NaN or Inf"):
        stored(tmp_path / "a.store", bad, dtype=dtype)
    stored(tmp_path / "b.store", windows, dtype=dtype)
    change(tmp_path / "b.store", "signals-00000.npy", np.array(value, dtype=dtype).tobytes(), at=-dtype_bytes(dtype))
    with pytest.raises(UserError, match=r"signals-00000.npy does not match its checksum"):
        read_store(tmp_path / "b.store")
    believe(tmp_path / "b.store", "signals-00000.npy")
    with pytest.raises(UserError, match=r"signals-00000.npy holds NaN"):
        read_store(tmp_path / "b.store")


def dtype_bytes(dtype: str) -> int:
    return np.dtype(dtype).itemsize


def change(store: Path, name: str, content: bytes, at: int) -> None:
    data = bytearray((store / name).read_bytes())
    at %= len(data)
    data[at : at + len(content)] = content
    (store / name).write_bytes(data)


def believe(store: Path, name: str) -> None:
    """Put the changed file's checksum into the manifest."""
    manifest = json.loads((store / "manifest.json").read_text())
    kind, number = name.removesuffix(".npy").split("-")
    manifest["shards"][int(number)]["files"][kind]["crc32"] = f"{zlib.crc32((store / name).read_bytes()):08x}"
    (store / "manifest.json").write_text(json.dumps(manifest))


def test_every_finite_number_is_let_through(tmp_path: Path) -> None:
    extremes = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max, -0.0, 1e-45, -1e-45], dtype=np.float32)
    windows = make_windows(3)
    windows.signals[1, 2, :5] = extremes
    assert np.array_equal(stored(tmp_path / "a.store", windows).signals[:], windows.signals)


def test_a_store_is_added_to(tmp_path: Path) -> None:
    windows = make_windows(20)
    for part in (slice(0, 8), slice(8, 20)):
        with StoreWriter(
            tmp_path / "a.store", CHANNELS, shard_bytes=5 * WINDOW_BYTES, about={"rate": (1, 2)}
        ) as writer:
            for row in range(part.start, part.stop):
                writer.add(windows.signals[row : row + 1], subjects=windows.subjects[row : row + 1])
    found = read_store(tmp_path / "a.store")
    assert [shard.windows for shard in found.manifest.shards] == [5, 3, 5, 5, 2]
    assert np.array_equal(found.signals[:], windows.signals)
    assert np.array_equal(found.subjects[:], windows.subjects)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": PRETRAIN_CHANNELS}, "channels"),
        ({"dtype": "float16"}, "dtype float32, not float16"),
        ({"subjects": False}, "with subjects"),
        ({"present": True}, "present False, not True"),
        ({"about": {"seed": 2}}, "seed 1, not 2"),
    ],
)
def test_a_store_of_another_kind_is_not_added_to(tmp_path: Path, options: dict, words: str) -> None:
    about = {"about": {"seed": 1}}
    stored(tmp_path / "a.store", make_windows(3), **about)
    before = {path: path.read_bytes() for path in (tmp_path / "a.store").iterdir()}
    with pytest.raises(UserError, match=words):
        StoreWriter(tmp_path / "a.store", **{"channels": CHANNELS, **about, **options})
    assert {path: path.read_bytes() for path in (tmp_path / "a.store").iterdir()} == before


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"signals": np.zeros((2, 5, 1249), dtype=np.float32)}, "shape"),
        ({"subjects": ["s0"]}, "1 subjects were given for 2 windows"),
        ({"subjects": None}, "0 subjects"),
        ({"present": np.zeros((2, 5), dtype=bool)}, "every channel present"),
    ],
)
def test_what_does_not_fit_is_not_added(tmp_path: Path, part: dict, words: str) -> None:
    good = {"signals": make_windows(2).signals, "subjects": ["s0", "s1"]}
    with StoreWriter(tmp_path / "a.store", CHANNELS) as writer:
        writer.add(**good)
        with pytest.raises(UserError, match=words):
            writer.add(**{**good, **part})
        writer.add(**good)
        writer.add(good["signals"][:0], subjects=[], note="none")
    found = read_store(tmp_path / "a.store")
    assert len(found) == 4
    assert found.manifest.shards[0].notes == ["none"]


WRITE_FOREVER = """
import sys
from pathlib import Path
import numpy as np
from butppg_lightning.data.store import StoreWriter
with StoreWriter(Path(sys.argv[1]), ("PPG", "ECG"), shard_bytes=20_000) as writer:
    for number in range(len(writer), 10**6):
        writer.add(np.full((1, 2, 1250), number, dtype=np.float32), subjects=[str(number % 3)])
"""


def test_a_killed_writer_leaves_what_was_finished(tmp_path: Path) -> None:
    store = tmp_path / "a.store"
    for life in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(store)])
        before = len(read_store(store)) if life else 0
        while not (store / "manifest.json").exists() or f"signals-{before // 2 + 5:05d}.npy" not in names(store):
            time.sleep(0.01)
            assert writer.poll() is None
        time.sleep(0.003 * life)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        found = read_store(store)
        assert len(found) > before
        assert np.array_equal(found.signals[:][:, 1, 7], np.arange(len(found), dtype=np.float32))
        assert found.subjects[-1] == str((len(found) - 1) % 3)
    StoreWriter(store, PRETRAIN_CHANNELS)
    assert not [name for name in names(store) if name.endswith(".tmp")]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_interrupted_writer_keeps_what_was_added(tmp_path: Path) -> None:
    def interrupted() -> None:
        with StoreWriter(tmp_path / "a.store", CHANNELS) as writer:
            writer.add(make_windows(2).signals, subjects=["a", "b"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(read_store(tmp_path / "a.store")) == 2


def test_a_store_without_subjects_says_so(tmp_path: Path) -> None:
    windows = make_windows(4)
    windows.subjects = None
    found = stored(tmp_path / "a.store", windows)
    assert found.subjects is None
    assert found.subject_names is None
    assert names(tmp_path / "a.store") == {"manifest.json", "signals-00000.npy"}


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_serve_a_whole_store_shuffled_and_resume_within_an_epoch(tmp_path: Path, workers: int) -> None:
    windows = make_windows(23)
    stored(tmp_path / "train_windows.store", windows)
    data = PretrainDataModule(str(tmp_path), batch_size=4, num_workers=workers)
    data.setup("fit")
    assert data.val_dataloader() == []
    loader = data.train_dataloader()
    batches = list(loader)
    order = torch.cat([batch["index"] for batch in batches])
    assert sorted(order.tolist()) == list(range(23))
    assert order.tolist() != list(range(23))
    for batch in batches:
        assert np.array_equal(batch["signals"].numpy(), windows.signals[batch["index"].numpy()])
    loader.load_state_dict({"batches": 2})
    assert torch.equal(torch.cat([batch["index"] for batch in loader]), order[8:])
