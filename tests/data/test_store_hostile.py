"""A damaged store, or one from a stranger, is read or refused in one line; nothing else happens."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_windows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import believe, change, stored, with_absent

from butppg_lightning.cli import main
from butppg_lightning.data.store import StoreWriter, read_store
from butppg_lightning.errors import UserError
from butppg_lightning.window import CHANNELS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to pretrain on: two shards to train, an npz file to validate."""
    stored(tmp_path / "train_windows.store", with_absent(12), per_shard=6)
    make_windows(4, subjects="v").save(tmp_path / "val_windows.npz")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "a.store"
    stored(folder, with_absent(12), per_shard=6)
    return folder


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Pretrain on a folder and return the line it is refused with."""
    output = folder / "run"
    words = ["pretrain", "--config=pretrain.yaml", "--config=tiny.yaml", f"--data.root={folder}"]
    assert main([*words, f"--output_dir={output}", "--trainer.max_epochs=1", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("butppg: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def shorten(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


DAMAGE = {
    "signals-00001.npy is truncated: it has 150,127 of 150,128 bytes": lambda store: shorten(
        store / "signals-00001.npy", 1
    ),
    "signals-00000.npy is truncated: it has 0 of": lambda store: (store / "signals-00000.npy").write_bytes(b""),
    "present-00001.npy is too long": lambda store: (store / "present-00001.npy").write_bytes(b"x" * 10**6),
    "subjects-00000.npy cannot be read (No such file": lambda store: (store / "subjects-00000.npy").unlink(),
    "signals-00001.npy does not match its checksum": lambda store: change(store, "signals-00001.npy", b"\x40", 70_000),
    "subjects-00001.npy does not match its checksum": lambda store: change(store, "subjects-00001.npy", b"\x01", -4),
    "signals-00000.npy does not begin as": lambda store: change(store, "signals-00000.npy", b"(7, ", 58),
    "no manifest.json": lambda store: (store / "manifest.json").unlink(),
    "manifest.json is damaged": lambda store: shorten(store / "manifest.json", 50),
    "is no folder": lambda store: (shutil.rmtree(store), store.write_text("x")),
}


@pytest.mark.parametrize("words", DAMAGE)
def test_damage_is_one_line_that_names_the_shard(words: str, folder: Path, capsys) -> None:
    DAMAGE[words](folder / "train_windows.store")
    line = refused(folder, capsys)
    assert words in line
    assert str(folder / "train_windows.store") in line


def test_checksums_need_not_be_verified(folder: Path, capsys) -> None:
    change(folder / "train_windows.store", "signals-00001.npy", b"\x40", 70_000)
    words = ["pretrain", "--config=pretrain.yaml", "--config=tiny.yaml", f"--data.root={folder}"]
    flags = ["--trainer.max_epochs=1", "--data.verify_checksums=false"]
    assert main([*words, f"--output_dir={folder / 'run'}", *flags]) == 0
    shorten(folder / "train_windows.store" / "signals-00001.npy", 1)
    assert "signals-00001.npy is truncated" in refused(folder, capsys, *flags, "--overwrite")


def test_two_forms_of_the_same_split_are_refused(folder: Path, capsys) -> None:
    make_windows(4).save(folder / "train_windows.npz")
    assert "both train_windows.npz and train_windows.store" in refused(folder, capsys)


def test_a_folder_without_either_form_says_what_is_missing(folder: Path, capsys) -> None:
    shutil.rmtree(folder / "train_windows.store")
    assert "train_windows.npz not found, nor train_windows.store" in refused(folder, capsys)


def test_a_store_without_windows_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a.store", CHANNELS) as writer:
        assert len(writer) == 0
    with pytest.raises(UserError, match="holds no windows"):
        read_store(tmp_path / "a.store")


@pytest.mark.parametrize("name", ["subjects-00000.npy", "present-00000.npy"])
def test_impossible_values_are_refused_though_the_checksum_fits(name: str, whole: Path, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "a.store")
    change(store, name, b"\x77", -1)
    believe(store, name)
    with pytest.raises(UserError, match=f"{name} holds"):
        read_store(store)


def test_a_link_to_no_file_is_not_read(whole: Path, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "a.store")
    (store / "signals-00000.npy").unlink()
    (store / "signals-00000.npy").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"signals-00000.npy"):
        read_store(store)


def edited(whole: Path, target: Path, *steps) -> Path:
    store = shutil.copytree(whole, target)
    manifest = json.loads((store / "manifest.json").read_text())
    place = manifest
    for step in steps[:-2]:
        place = place[step]
    place[steps[-2]] = steps[-1]
    (store / "manifest.json").write_text(json.dumps(manifest))
    return store


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["format", "zarr"], "not that of a window store"),
        (["version", 2], "version 2, but version 1 is read"),
        (["version", True], "'version' of the manifest is missing or not int"),
        (["fs", 100], "1250 samples at 125 Hz"),
        (["dtype", "object"], "dtype is 'object'"),
        (["dtype", "|O"], "dtype is"),
        (["channels", ["PPG", "EEG", "ECG", "ACC_X", "ACC_Y"]], "unknown channel names"),
        (["channels", [1]], "no name"),
        (["channels", ["PPG"]], "cannot have"),
        (["subjects", {"a": 1}], "'subjects'"),
        (["shards", {}], "'shards'"),
        (["shards", []], "holds no windows"),
        (["shards", [None]], "'windows' of shard 0"),
        (["shards", 0, "windows", -6], "shard 0 has -6 windows"),
        (["shards", 0, "windows", 0], "shard 0 has 0 windows"),
        (["shards", 1, "windows", 10**30], "shard 1 has"),
        (["shards", 1, "windows", 2**38], "signals of shard 1 cannot have"),
        (["shards", 0, "files", {}], "'signals' of shard 0"),
        (["shards", 0, "files", "signals", "bytes", -1], "cannot have -1 bytes"),
        (["shards", 0, "files", "signals", "bytes", 10**18], "cannot have"),
        (["shards", 0, "files", "signals", "crc32", "../../etc"], "has no CRC-32"),
        (["shards", 0, "notes", "x"], "'notes' of shard 0"),
        (["about", []], "'about'"),
    ],
)
def test_an_impossible_manifest_is_one_line(steps: list, words: str, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words.replace("|", r"\|")) as error:
        read_store(edited(whole, tmp_path / "a.store", *steps))
    assert "\n" not in str(error.value)


def test_no_name_in_the_manifest_leads_out_of_the_store(whole: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.npy"
    np.save(outside, np.zeros((6, 5, 1250), dtype=np.float32))
    for key in ("name", "path", "file"):
        store = edited(whole, tmp_path / f"{key}.store", "shards", 0, "files", "signals", key, "../outside.npy")
        assert read_store(store).signals[:6].any(), "an unknown key is left alone, and no file but the shard's is read"


@pytest.mark.parametrize(
    "text", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 10**5, b'{"format":' * 10**5, b"1" * 10**5]
)
def test_a_manifest_that_is_none_is_one_line(text: bytes, whole: Path, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "a.store")
    (store / "manifest.json").write_bytes(text)
    with pytest.raises(UserError, match=r"manifest\.json") as error:
        read_store(store)
    assert "\n" not in str(error.value)


def test_an_enormous_manifest_is_refused_unread(whole: Path, tmp_path: Path) -> None:
    store = shutil.copytree(whole, tmp_path / "a.store")
    with (store / "manifest.json").open("ab") as file:
        file.truncate(10**12)  # a hole: it takes no space
    with pytest.raises(UserError, match="too much for a manifest"):
        read_store(store)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "/etc/passwd", "float16", "|O", 12, 6, 150_128, -1, 2**63]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(node, path: tuple = ()) -> list[tuple]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_of_the_manifest_ends_in_windows_or_in_one_line(data, whole: Path, tmp_path_factory) -> None:
    store = tmp_path_factory.getbasetemp() / "fuzzed.store"
    if not store.exists():
        shutil.copytree(whole, store)
    manifest = json.loads((whole / "manifest.json").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        *steps, last = data.draw(st.sampled_from([place for place in places(manifest) if place]))
        place = manifest
        for step in steps:
            place = place[step]
        if data.draw(st.integers(0, 3)) == 0:
            del place[last]
        else:
            place[last] = copy.deepcopy(data.draw(VALUES))
    (store / "manifest.json").write_text(json.dumps(manifest))
    ends_well(store)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["manifest.json", "signals-00000.npy", "subjects-00001.npy", "present-00000.npy"]),
    at=st.integers(0, 10**6),
    content=st.binary(min_size=1, max_size=30),
    cut=st.booleans(),
)
def test_any_damaged_bytes_end_in_windows_or_in_one_line(
    name: str, at: int, content: bytes, cut: bool, whole: Path, tmp_path_factory
) -> None:
    store = tmp_path_factory.getbasetemp() / "damaged.store"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(whole, store)
    data = bytearray((store / name).read_bytes())
    at %= len(data)
    changed = bytes(data[:at]) + content + (b"" if cut else bytes(data[at + len(content) :]))
    (store / name).write_bytes(changed)
    found = ends_well(store)
    if name != "manifest.json" and changed != bytes(data):
        assert found is None, "a checksum covers every byte"


def ends_well(store: Path):
    """Read a store whole, or return None if it was refused in one line."""
    try:
        found = read_store(store)
        assert found.signals[[0, len(found) - 1]].shape[1:] == (5, 1250)
        assert np.isfinite(found.signals[:]).all()
        assert found.subjects is None or len(found.subjects[:]) == len(found)
    except UserError as error:
        line = str(error)
    else:
        return found
    assert "\n" not in line
    return None
