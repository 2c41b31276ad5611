"""Stored features: what was written is read back, and nothing else is."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from butppg_lightning.data.features import (
    FeatureFile,
    Layout,
    folder_bytes,
    free_bytes,
    remove_features,
    stored_features,
)

ROWS = torch.arange(60.0).view(10, 3, 2)
LAYOUT = Layout((10, 3, 2), torch.float32)


def store(folder: Path, key: str = "key", rows: torch.Tensor = ROWS) -> FeatureFile:
    file, layout = FeatureFile(folder, key), Layout(tuple(rows.shape), rows.dtype)
    file.begin(layout)
    for row in (4, 0, 8):  # pieces come in any order
        file.write(rows[row : row + 4], row, layout)
    file.finish(layout, {"depth": 2})
    return file


def test_a_layout_counts_bytes() -> None:
    assert (LAYOUT.row_bytes, LAYOUT.bytes) == (24, 240)
    assert Layout((10, 3, 2), torch.bfloat16).bytes == 120
    assert Layout((7,), torch.float64).row_bytes == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_written_is_read(dtype: torch.dtype, mapped: bool, tmp_path: Path) -> None:
    rows = torch.randn(10, 3, 2).to(dtype)
    file = store(tmp_path, rows=rows)
    assert file.exists()
    assert file.layout() == Layout((10, 3, 2), dtype)
    assert torch.equal(file.load(file.layout(), mapped=mapped), rows)
    assert {path.name for path in tmp_path.iterdir()} == {"key.features", "key.json"}
    assert folder_bytes(tmp_path) == rows.numel() * rows.element_size()


def test_the_description_tells_what_it_is(tmp_path: Path) -> None:
    stored = json.loads(store(tmp_path).description.read_text())
    assert stored["depth"] == 2
    assert stored["shape"] == [10, 3, 2]


def test_slices_and_transposed_rows_are_written_too(tmp_path: Path) -> None:
    assert torch.equal(
        store(tmp_path, rows=ROWS.transpose(1, 2)).load(Layout((10, 2, 3), torch.float32), mapped=False),
        ROWS.transpose(1, 2),
    )


def test_changing_what_was_loaded_does_not_change_the_file(tmp_path: Path) -> None:
    file = store(tmp_path)
    for mapped in (True, False):
        file.load(LAYOUT, mapped=mapped).zero_()
    assert torch.equal(file.load(file.layout(), mapped=False), ROWS)


def test_nothing_is_valid_before_its_end(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path, "key")
    assert not file.exists()
    file.begin(LAYOUT)
    file.write(ROWS, 0, LAYOUT)
    assert not file.exists()
    with pytest.raises(ValueError, match="cannot be read"):
        file.layout()


def describe(file: FeatureFile, **changes: object) -> None:
    stored = {**json.loads(file.description.read_text()), **changes}
    file.description.write_text(json.dumps(stored))


DAMAGE = {
    "truncated": lambda file: os.truncate(file.data, 100),
    "longer": lambda file: file.data.write_bytes(file.data.read_bytes() + b"\0" * 24),
    "empty": lambda file: file.data.write_bytes(b""),
    "flipped bit": lambda file: file.data.write_bytes(
        bytes([file.data.read_bytes()[0] ^ 1]) + file.data.read_bytes()[1:]
    ),
    "flipped bit at the end": lambda file: file.data.write_bytes(file.data.read_bytes()[:-1] + b"\x7f"),
    "no data": lambda file: file.data.unlink(),
    "a folder for data": lambda file: (file.data.unlink(), file.data.mkdir()),
    "no JSON": lambda file: file.description.write_text("shape"),
    "binary JSON": lambda file: file.description.write_bytes(b"\xff\xfe\0"),
    "a list": lambda file: file.description.write_text("[1, 2]"),
    "nested": lambda file: file.description.write_text("[" * 100_000),
    "another shape": lambda file: describe(file, shape=[5, 3, 2]),
    "no shape": lambda file: describe(file, shape=None),
    "negative shape": lambda file: describe(file, shape=[-10, -3, 2]),
    "infinite shape": lambda file: describe(file, shape=[float("inf"), 3, 2]),
    "no extent": lambda file: describe(file, shape=[]),
    "another type": lambda file: describe(file, dtype="torch.float64"),
    "unknown type": lambda file: describe(file, dtype="builtins.eval"),
    "type of no text": lambda file: describe(file, dtype=["torch.float32"]),
    "no checksum": lambda file: describe(file, crc32=None),
    "another checksum": lambda file: describe(file, crc32=1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed(damage: str, tmp_path: Path) -> None:
    file = store(tmp_path)
    DAMAGE[damage](file)
    with pytest.raises(ValueError, match=r"\w"):
        file.layout()


def test_a_file_that_may_not_be_read_is_damaged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store(tmp_path)
    opened = Path.open

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path.suffix == ".features":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"\w"):
        file.layout()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=json_values, dtype=json_values | st.just("torch.float32"), crc32=json_values)
def test_any_description_is_read_or_refused(shape: object, dtype: object, crc32: object, tmp_path: Path) -> None:
    file = store(tmp_path)
    describe(file, shape=shape, dtype=dtype, crc32=crc32)
    with pytest.raises(ValueError, match=r"\w"):
        file.layout()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 239), value=st.integers(1, 255))
def test_any_flipped_byte_is_noticed(place: int, value: int, tmp_path: Path) -> None:
    file = store(tmp_path)
    content = bytearray(file.data.read_bytes())
    content[place] ^= value
    file.data.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        file.layout()


def test_two_runs_that_share_a_folder_do_not_spoil_each_others_file(tmp_path: Path) -> None:
    """Both compute the same features at the same time; what the first declares valid must be whole."""
    one, other = FeatureFile(tmp_path, "key"), FeatureFile(tmp_path, "key")
    one.begin(LAYOUT)
    one.write(ROWS[:4], 0, LAYOUT)
    one.write(ROWS[4:8], 4, LAYOUT)
    other.begin(LAYOUT)
    other.write(ROWS[:4], 0, LAYOUT)
    one.write(ROWS[8:], 8, LAYOUT)
    one.finish(LAYOUT, {})
    assert torch.equal(one.load(one.layout(), mapped=False), ROWS)


def test_discarding_removes_everything_of_a_key(tmp_path: Path) -> None:
    store(tmp_path, "one").discard()
    store(tmp_path, "two")
    half = FeatureFile(tmp_path, "one")
    half.begin(LAYOUT)
    half.discard()
    half.discard()
    assert {path.name for path in tmp_path.iterdir()} == {"two.features", "two.json"}


def test_what_is_being_written_counts_and_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    store(tmp_path, "whole")
    FeatureFile(tmp_path, "half", "living").begin(LAYOUT)
    FeatureFile(tmp_path, "half", "killed").begin(LAYOUT)
    os.utime(tmp_path / "half.killed.part", (0, 0))
    folder_bytes(tmp_path)
    assert folder_bytes(tmp_path) == 2 * LAYOUT.bytes
    assert {path.name for path in tmp_path.glob("*.part")} == {"half.living.part"}


def test_what_was_used_longest_ago_comes_first(tmp_path: Path) -> None:
    for age, key in enumerate(("new", "old", "older")):
        os.utime(store(tmp_path, key).data, (0, 1000 - age))
    FeatureFile(tmp_path, "old").note_use()
    assert [file.data.stem for file in stored_features(tmp_path)] == ["older", "new", "old"]
    assert stored_features(tmp_path)[0].bytes == LAYOUT.bytes


def test_removing_takes_features_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    store(folder, "one")
    FeatureFile(folder, "two").begin(LAYOUT)
    (folder / "notes.txt").write_text("mine")
    (folder / "settings.json").write_text("{}")
    remove_features(folder)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "settings.json"}
    for path in folder.iterdir():
        path.unlink()
    store(folder, "three")
    remove_features(folder)
    assert not folder.exists()
    remove_features(folder)


def test_free_space_keeps_a_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, left in ((2**28 + 5, 5), (1000, 0)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda path, usage=usage: usage)
        assert free_bytes(tmp_path / "made") == left
    assert (tmp_path / "made").is_dir()
