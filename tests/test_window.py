import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_windows
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from butppg_lightning.errors import UserError
from butppg_lightning.npz import read_npz
from butppg_lightning.window import CHANNELS, WindowSet, read_windows


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    windows = make_windows(10)
    windows.present = np.ones((10, 5), dtype=bool)
    windows.signals[3, :3] = 0
    windows.present[3, :3] = False
    windows.hr_ref = np.linspace(60, 90, 10)
    windows.soft_labels = np.linspace(0, 1, 10).astype(np.float32)
    windows.weights = np.full(10, 2.0, dtype=np.float32)
    windows.extras = {"motion": np.array(["walk"] * 10)}
    windows.save(tmp_path / "w.npz")
    again = read_windows(tmp_path / "w.npz", labelled=True)
    assert again.channels == CHANNELS
    for key in ("signals", "labels", "subjects", "present", "hr_ref", "soft_labels", "weights"):
        assert np.array_equal(getattr(again, key), getattr(windows, key)), key
    assert np.array_equal(again.extras["motion"], windows.extras["motion"])


def test_uncompressed_is_mapped_and_compressed_is_read(tmp_path: Path) -> None:
    windows = make_windows(4)
    np.savez(tmp_path / "a.npz", signals=windows.signals, labels=windows.labels)
    np.savez_compressed(tmp_path / "b.npz", signals=windows.signals, labels=windows.labels)
    mapped, read = (read_windows(tmp_path / name, labelled=True) for name in ("a.npz", "b.npz"))
    assert isinstance(mapped.signals, np.memmap)
    assert not isinstance(read.signals, np.memmap)
    assert np.array_equal(mapped.signals, read.signals)


@settings(max_examples=30, deadline=None)
@given(
    values=arrays(
        st.sampled_from(["f4", "f2", "f8", ">f4", "i2", "u1", "u2", "i8", "?"]),
        st.sampled_from([(3, 2), (0,), (2, 1, 4)]),
    ),
    order=st.sampled_from(["C", "F"]),
)
def test_any_array_reads_as_numpy_reads_it(tmp_path_factory, values: np.ndarray, order: str) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, x=np.asarray(values, order=order), y=np.arange(3))
    expected = np.load(path)
    found = read_npz(path)
    assert found["x"].dtype == expected["x"].dtype
    assert np.array_equal(found["x"], expected["x"], equal_nan=values.dtype.kind == "f")
    assert np.array_equal(found["y"], expected["y"])


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order'[ False, 'shape': (2, 5, 1250), }",  # an unclosed bracket
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 5, 1250",
        b"{'descr': ''', 'fortran_order': False, 'shape': (2,), }",
        b"  {'descr': '<f4'",
        b"{'descr': [('a', 3)], 'fortran_order': False, 'shape': (2,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
        b"{'descr': {}, 'fortran_order': False, 'shape': (2,), }",
        b"(" * 5000,
        b"\x00",
        b"",
    ],
)
def test_a_damaged_header_is_one_line(tmp_path: Path, header: bytes) -> None:
    body = header + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("signals.npy", b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + bytes(400))
    with pytest.raises(UserError) as error:
        read_npz(tmp_path / "a.npz")
    assert "signals" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_a_result_or_one_line(tmp_path_factory, write, data) -> None:
    folder = tmp_path_factory.mktemp("damage")
    windows = make_windows(2)
    write(folder / "w.npz", signals=windows.signals, labels=windows.labels, subjects=windows.subjects)
    content = bytearray((folder / "w.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    (folder / "w.npz").write_bytes(content[:cut] if data.draw(st.booleans()) else content)
    try:
        outcome = read_windows(folder / "w.npz", labelled=True)
    except UserError as error:
        outcome = str(error)
    assert isinstance(outcome, WindowSet) or "\n" not in outcome


def test_a_flipped_bit_in_a_mapped_array_is_noticed(tmp_path: Path) -> None:
    make_windows(4).save(tmp_path / "w.npz")
    content = bytearray((tmp_path / "w.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(UserError, match="'signals' does not match its checksum"):
        read_windows(tmp_path / "w.npz", labelled=True)


def test_absurd_shapes_are_refused_by_their_declared_size(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 5, 1250), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("signals.npy", header.ljust(127) + b"\n")
    with pytest.raises(UserError, match="declares shape"):
        read_npz(tmp_path / "a.npz")


def test_channels_without_names_are_the_standard_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", signals=np.zeros((2, 2, 1250)))
    assert read_windows(tmp_path / "a.npz", labelled=False).channels == ("PPG", "ECG")


def test_an_absent_channel_must_hold_zeros(tmp_path: Path) -> None:
    windows = make_windows(3)
    windows.present = np.ones((3, 5), dtype=bool)
    windows.present[1, 4] = False
    windows.save(tmp_path / "w.npz")
    with pytest.raises(UserError, match="window 1 is absent but not 0"):
        read_windows(tmp_path / "w.npz", labelled=True)
