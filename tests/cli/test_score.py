"""`butppg score`: from a file to the table, the summary and the picture, and what it refuses."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from conftest import save_classifier

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.cli import main
from butppg_lightning.evaluation.scores import Scores
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.models.usable_channels import FAULTS, channel_faults
from butppg_lightning.sources.recordings import Selection, read_recording
from butppg_lightning.sources.recordings.windowing import Windows
from butppg_lightning.window import CHANNELS, WINDOW_SAMPLES, WindowSet, read_windows

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib")
SECONDS = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("run") / "best_model.pt")


def draw() -> dict[str, np.ndarray]:
    """Five minutes of five channels: PPG stops after a minute for half a minute, ECG comes a minute late."""
    generator = np.random.default_rng(0)
    times = np.arange(SECONDS * 64) / 64
    ppg = 100 + np.sin(2 * np.pi * 1.2 * times) * (1 + (times > 150)) + 0.05 * generator.normal(size=len(times))
    ppg[(times >= 60) & (times < 90)] = np.nan
    ppg[(times >= 200) & (times < 230)] = 77.0
    acc = np.tile([0.0, 0.6, 0.8], (SECONDS * 50, 1)) + generator.normal(0, 0.01, (SECONDS * 50, 3))
    ecg = generator.normal(size=(SECONDS - 60) * 250)
    return {"PPG": ppg, "acc": acc, "II": ecg, "start_II": 60.0, "fs_PPG": 64, "fs_acc": 50, "fs_II": 250}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "night.npz"
    np.savez(path, **draw(), start_time="2024-02-29T23:58:00+01:00")
    return path


def score(checkpoint: Path, recording: Path, output: Path, *words: str) -> int:
    return main(
        ["score", "--checkpoint", str(checkpoint), "--input", str(recording), "--output-dir", str(output), *words]
    )


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def refuse(capsys: pytest.CaptureFixture[str], code: int, message: str) -> None:
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("butppg: ")
    assert message in printed.err


def test_the_table_summary_and_picture(
    checkpoint: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(checkpoint, recording, tmp_path / "out", "--threshold", "0.4") == 0
    table = rows(tmp_path / "out")
    assert list(table[0]) == [
        "start", "end", "start_time", "end_time", "probability", "verdict", "channels", "reason",
    ]  # fmt: skip
    assert [float(row["start"]) for row in table] == [10.0 * number for number in range(30)]
    assert table[12]["start_time"] == "2024-03-01T00:00:00.000+01:00"
    assert table[12]["end_time"] == "2024-03-01T00:00:10.000+01:00"
    without = [number for number, row in enumerate(table) if row["verdict"] == "no_ppg"]
    assert without == [6, 7, 8, 20, 21, 22]
    assert all((row["probability"] == "") == (number in without) for number, row in enumerate(table))
    assert table[6]["reason"] == "PPG missing"
    assert table[20]["reason"] == "PPG flat"
    assert table[0]["channels"] == "ACC_X ACC_Y ACC_Z PPG"
    assert table[10]["channels"] == "ACC_X ACC_Y ACC_Z PPG ECG"
    for row in table:
        if row["probability"]:
            assert row["verdict"] == ("good" if float(row["probability"]) >= 0.4 else "poor")
    good = [number for number, row in enumerate(table) if row["verdict"] == "good"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["windows"] == 30
    assert (summary["good"], summary["no_ppg"]) == (len(good), 6)
    assert summary["share_usable"] == pytest.approx(len(good) / 30)
    assert summary["hours_usable"] == pytest.approx(len(good) * 10 / 3600)
    assert summary["channels"]["ECG"] == {
        "name_in_file": "II", "rate": 250.0, "present": 0.8, "missing": 0.2, "flat": 0.0, "railed": 0.0,
    }  # fmt: skip
    assert summary["channels"]["PPG"]["flat"] == pytest.approx(0.1)
    assert (tmp_path / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr()
    assert "longest usable stretch" in printed.out
    assert "\x1b" not in printed.out + printed.err
    assert printed.err.splitlines() == ["note: the unit of acceleration is not stated; taken as g (--acc-unit)"]


def test_the_probabilities_are_the_models(
    checkpoint: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows cut by hand at 125 Hz, through the LightningModule."""
    signals = draw()
    rated = {f"fs_{name}": 125 for name in ("PPG", "acc", "ECG")}
    ppg = np.interp(
        np.arange(SECONDS * 125) / 125, np.arange(SECONDS * 64) / 64, np.nan_to_num(signals["PPG"], nan=100)
    )[: 60 * 125]
    acc, ecg = np.random.default_rng(1).normal(size=(3, 60 * 125)), np.random.default_rng(2).normal(size=60 * 125)
    np.savez(tmp_path / "even.npz", PPG=ppg, acc=acc, ECG=ecg, **rated)
    assert score(checkpoint, tmp_path / "even.npz", tmp_path / "out", "--acc-unit", "g", "--batch-size", "2") == 0
    windows = np.concatenate([acc, ppg[None], ecg[None]]).reshape(5, 6, WINDOW_SAMPLES).transpose(1, 0, 2)
    model = PPGQualityClassifier.load_from_checkpoint(checkpoint)
    wanted = model.predict_probabilities(windows.astype(np.float32)).numpy()
    told = [float(row["probability"]) for row in rows(tmp_path / "out")]
    np.testing.assert_allclose(told, wanted, atol=1e-5)
    assert np.ptp(told) > 1e-3


def test_absent_channels_are_absent(checkpoint: Path, recording: Path, tmp_path: Path) -> None:
    """Not zeros that look like data: an absent channel's learned vector decides."""
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["network.encoder.embedding.absent"].normal_(0, 3)
    torch.save(content, tmp_path / "vectors.pt")
    words = ["--channels", "ECG=none", "--channels", "ECG=none,ACC_X=none"]
    for model, output in ((checkpoint, "plain"), (tmp_path / "vectors.pt", "vectors")):
        assert score(model, recording, tmp_path / output, *words[:2]) == 0
    plain, vectors = rows(tmp_path / "plain"), rows(tmp_path / "vectors")
    assert plain[10]["channels"] == "ACC_X ACC_Y ACC_Z PPG"
    assert abs(float(plain[10]["probability"]) - float(vectors[10]["probability"])) > 1e-3


def test_bf16_changes_little(
    checkpoint: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for precision in ("32-true", "bf16-mixed"):
        assert score(checkpoint, recording, tmp_path / precision, "--precision", precision) == 0
        assert json.loads((tmp_path / precision / "summary.json").read_text())["precision"] == precision
        found.append([float(row["probability"] or "nan") for row in rows(tmp_path / precision)])
    apart = np.nanmax(np.abs(np.subtract(*found)))
    assert 0 < apart < 0.05


def test_csv_edf_and_wfdb_agree_with_npz(checkpoint: Path, tmp_path: Path) -> None:
    edfio, wfdb = pytest.importorskip("edfio"), pytest.importorskip("wfdb")
    ppg = np.nan_to_num(draw()["PPG"], nan=100.0)[: 64 * 60]
    np.savez(tmp_path / "night.npz", PPG=ppg, fs=64)
    stamps = (f"{row / 64:.6f},{value:.5f}" for row, value in enumerate(ppg))
    (tmp_path / "night.csv").write_text("\n".join(["time,PPG", *stamps]))
    edfio.Edf([edfio.EdfSignal(ppg, 64, label="Pleth")]).write(tmp_path / "night.edf")
    wfdb.wrsamp("record", 64, ["NU"], ["PLETH"], ppg[:, None], fmt=["16"], write_dir=str(tmp_path))
    found = {}
    for name in ("night.npz", "night.csv", "night.edf", "record"):
        assert score(checkpoint, tmp_path / name, tmp_path / f"of_{name}") == 0
        found[name] = [float(row["probability"]) for row in rows(tmp_path / f"of_{name}")]
    for name, probabilities in found.items():
        np.testing.assert_allclose(probabilities, found["night.npz"], atol=0.02, err_msg=name)


def test_names_that_look_like_markup(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a [bold] $x_{.npz"
    np.savez(path, **{"PPG [/au]": np.random.default_rng(0).normal(size=64 * 30)}, fs=64)
    assert score(checkpoint, path, tmp_path / "out") == 0
    assert "PPG [/au]" in capsys.readouterr().out


@pytest.mark.parametrize(("hop", "count"), [("2.5", 117), ("60", 5)])
def test_hops(checkpoint: Path, recording: Path, tmp_path: Path, hop: str, count: int) -> None:
    assert score(checkpoint, recording, tmp_path, "--hop", hop) == 0
    assert len(rows(tmp_path)) == count


def test_results_are_replaced_only_when_told(
    checkpoint: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scores.parquet").write_bytes(b"precious")
    refuse(capsys, score(checkpoint, recording, tmp_path), "already holds scores.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    assert score(checkpoint, recording, tmp_path, "--overwrite") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "summary.json", "timeline.png"]


def test_parquet(
    checkpoint: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    assert score(checkpoint, recording, tmp_path, "--format", "parquet") == 0
    table = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    assert table.column("probability").null_count == 6
    assert str(table.schema.field("start_time").type).startswith("timestamp")
    assert not (tmp_path / "scores.csv").exists()


def test_parquet_without_pyarrow(
    checkpoint: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse(capsys, score(checkpoint, recording, tmp_path / "o", "--format", "parquet"), "needs pyarrow; pip install")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("module", ["edfio", "wfdb"])
def test_a_missing_extra_is_said(checkpoint: Path, tmp_path: Path, module: str, capsys: Any, monkeypatch: Any) -> None:
    (tmp_path / "a.edf").write_bytes(b"0")
    (tmp_path / "b.hea").write_bytes(b"b 0")
    monkeypatch.setitem(sys.modules, module, None)
    given = {"edfio": tmp_path / "a.edf", "wfdb": tmp_path / "b"}[module]
    refuse(capsys, score(checkpoint, given, tmp_path / "o"), "pip install 'butppg-lightning[recordings]'")


def test_without_matplotlib_all_but_the_picture_is_written(
    checkpoint: Path, recording: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert score(checkpoint, recording, tmp_path / "o", "--acc-unit", "g") == 0
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "no timeline was drawn" in printed.err
    assert "pip install 'butppg-lightning[recordings]'" in printed.err
    assert "timeline" not in printed.out
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["scores.csv", "summary.json"]
    assert len(rows(tmp_path / "o")) == 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_no_folder_behind(
    checkpoint: Path, recording: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Stopped in the middle of the prediction."""
    words = ["score", "--checkpoint", str(checkpoint), "--input", str(recording), "--output-dir"]
    script = (
        "import os, signal, butppg_lightning.models.checkpoints\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a suite in the background ignores
        "from butppg_lightning.cli import main\n"
        "from butppg_lightning.sources.recordings.windowing import Windows\n"
        f"Windows.__iter__ = lambda self: iter([os.kill(os.getpid(), {int(number)})])\n"
        f"raise SystemExit(main({[*words, str(tmp_path / 'a' / 'out')]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode in (130, 143, -number), done.stderr
    assert not list(tmp_path.iterdir())


def test_npz_and_score_agree_on_railed_flat_and_gappy_channels(checkpoint: Path, tmp_path: Path) -> None:
    """One recording through `score`, and its windows through an npz file and the network."""
    generator = np.random.default_rng(1)
    times = np.arange(90 * 64) / 64
    ppg = 100 + np.sin(2 * np.pi * 1.2 * times) + 0.05 * generator.normal(size=len(times))
    ppg[12 * 64 : 18 * 64] = 103.0  # at the rail for 6 s of the second window
    ppg[21 * 64 : 24 * 64] = 103.0  # for 3 s only, in the third
    ppg[33 * 64 : 33 * 64 + 40] = np.nan  # 0.6 s are bridged
    ppg[45 * 64 : 47 * 64] = np.nan  # 2 s are not
    ecg = generator.normal(size=90 * 250)
    ecg[50 * 250 : 75 * 250] = -9.0  # flat in two windows, at the rail for half of the next
    acc = generator.normal(0, 0.01, (90 * 50, 3))
    acc[60 * 50 :, 0] = 0.0  # one axis at rest says that nothing moved
    acc[80 * 50 :] = [0.0, 0.6, 0.8]
    np.savez(tmp_path / "night.npz", PPG=ppg, ECG=ecg, acc=acc, fs_PPG=64, fs_ECG=250, fs_acc=50)
    assert score(checkpoint, tmp_path / "night.npz", tmp_path / "out", "--acc-unit", "g", "--threshold", "0.4") == 0
    table = rows(tmp_path / "out")

    batches = list(Windows(read_recording(tmp_path / "night.npz", Selection(acc_unit="g")), CHANNELS))
    parts = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    WindowSet(channels=CHANNELS, **parts).save(tmp_path / "windows.npz")
    windows = read_windows(tmp_path / "windows.npz", labelled=False)
    network, _ = restore_network(checkpoint)
    signals, present = (torch.from_numpy(np.array(part)) for part in (windows.signals, windows.present))
    faults = channel_faults(signals, CHANNELS, present).numpy()
    usable = faults == 0
    with_ppg = usable[:, CHANNELS.index("PPG")]
    with torch.no_grad():
        probabilities = network.calibration.probabilities(network(signals, present))
    called = np.where(probabilities.numpy() >= 0.4, "good", "poor")
    assert [row["verdict"] for row in table] == np.where(with_ppg, called, "no_ppg").tolist()
    for row, there, fault in zip(table, usable, faults, strict=True):
        assert row["channels"].split() == [name for name, use in zip(CHANNELS, there, strict=True) if use]
        named = zip(CHANNELS, fault, strict=True)
        said = [f"{name} {'missing' if code == 1 else FAULTS[code]}" for name, code in named if code]
        assert row["reason"] == "; ".join(said)
    assert [row["reason"] for row in table] == [
        "", "PPG railed", "", "", "PPG missing", "ECG flat", "ECG flat", "ECG railed",
        "ACC_X flat; ACC_Y flat; ACC_Z flat",
    ]  # fmt: skip


def test_a_recording_without_any_usable_ppg(checkpoint: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "off.npz", PPG=np.zeros(64 * 60), ECG=np.random.default_rng(0).normal(size=64 * 60), fs=64)
    assert score(checkpoint, tmp_path / "off.npz", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["no_ppg"], summary["hours_usable"], summary["longest_usable_start"]) == (6, 0, None)
    assert summary["median_probability"] is None
    assert any("scored without ACC_X, ACC_Y, ACC_Z" in note for note in summary["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hop", "0"], "--hop is 0"),
        (["--hop", "often"], "hop"),
        (["--threshold", "1.5"], "--threshold is 1.5; expected 0 to 1"),
        (["--batch-size", "0"], "--batch_size is 0"),
        (["--format", "xlsx"], "format"),
        (["--acc-unit", "stone"], "acc_unit"),
        (["--channels", "PPG"], "is not CHANNEL=NAME-IN-THE-FILE"),
        (["--channels", "SPO2=PPG"], "is not CHANNEL=NAME-IN-THE-FILE"),
        (["--channels", "PPG=PPG", "ppg=II"], "names PPG twice"),
        (["--channels", "PPG=green"], "has no signal 'green'; it has PPG, acc_X, acc_Y, acc_Z, II"),
        (["--channels", "PPG=none"], "has no PPG, whose quality is asked for"),
        (["--fs", "fast"], "--fs 'fast' is neither"),
        (["--fs", "PPG=-3"], "--fs 'PPG=-3' is neither"),
        (["--fs", "32"], "but"),
        (["--nonsense", "3"], "unknown option --nonsense"),
    ],
)
def test_wrong_options(
    checkpoint: Path, recording: Path, tmp_path: Path, words: list[str], message: str, capsys: Any
) -> None:
    refuse(capsys, score(checkpoint, recording, tmp_path / "out", *words), message)
    assert not (tmp_path / "out").exists()


def spoil(content: dict[str, Any], what: str) -> None:
    state, options = content["state_dict"], content["hyper_parameters"]
    if what == "weights":
        state["network.head.score.weight"][0, 0] = float("nan")
    elif what == "missing":
        del state["network.encoder.norm.weight"]
    elif what == "shape":
        state["network.encoder.norm.weight"] = torch.zeros(3)
    elif what == "width":
        options["encoder"]["init_args"]["width"] = 10**9
    elif what == "depth":
        options["encoder"]["init_args"]["depth"] = 10**9
    elif what == "foreign":
        options["encoder"]["class_path"] = "os.system"
    elif what == "head":
        del options["head"]
    elif what == "channels":
        options["finetune_channels"] = ["ECG"]
    elif what == "blocks":
        for key in [key for key in state if ".blocks.0." in key]:
            del state[key]
    elif what == "expanded":
        state["network.encoder.blocks.0.fc1.weight"] = torch.zeros(1).expand(10**12)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("weights", "head.score.weight does not hold finite real numbers"),
        ("missing", "encoder.norm.weight it does not hold"),
        ("shape", "encoder.norm.weight it does not hold, or in another shape"),
        ("width", "declares an encoder of width 1000000000, but holds 32"),
        ("depth", "declares an encoder of depth 1000000000, but holds 2"),
        ("foreign", "os.system, which is not ours"),
        ("head", "is no fine-tuned classifier"),
        ("channels", "another shape|takes ECG and no PPG"),
        ("blocks", "holds no encoder's weights"),
        ("expanded", "declares more weights than it holds"),
    ],
)
def test_spoilt_checkpoints(
    checkpoint: Path, recording: Path, tmp_path: Path, what: str, message: str, capsys: Any
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    spoil(content, what)
    torch.save(content, tmp_path / "spoilt.pt")
    code = score(tmp_path / "spoilt.pt", recording, tmp_path / "out")
    printed = capsys.readouterr().err
    assert code == 2
    assert printed.count("\n") == 1
    assert any(part in printed for part in message.split("|"))


@pytest.mark.parametrize(
    ("which", "message"),
    [("gone.pt", "gone.pt not found"), ("", "not found"), ("text.pt", "is not a torch checkpoint")],
)
def test_what_is_no_checkpoint(recording: Path, tmp_path: Path, which: str, message: str, capsys: Any) -> None:
    (tmp_path / "text.pt").write_text("hello")
    refuse(capsys, score(tmp_path / which, recording, tmp_path / "out"), message)


def test_a_model_of_ppg_alone_is_refused_what_it_lacks(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_ecg = save_classifier(tmp_path / "ecg.pt", finetune_channels=["ECG"])
    refuse(capsys, score(only_ecg, recording, tmp_path / "out"), "takes ECG and no PPG")
    two = save_classifier(tmp_path / "two.pt", finetune_channels=["PPG", "ECG"], channel_dropout={"ECG": 0.5})
    assert score(two, recording, tmp_path / "two", "--channels", "ECG=none") == 0
    assert {row["channels"] for row in rows(tmp_path / "two")} == {"PPG", ""}
    assert "scored without" not in capsys.readouterr().err  # trained to do without


def test_a_checkpoint_that_was_replaced_is_read_anew(recording: Path, tmp_path: Path) -> None:
    path, found = save_classifier(tmp_path / "model.pt"), []
    content = torch.load(path, weights_only=True)
    for output in (tmp_path / "before", tmp_path / "after"):
        assert score(path, recording, output) == 0
        found.append([float(row["probability"]) for row in rows(output) if row["probability"]])
        content["state_dict"]["network.head.score.bias"] += 3
        torch.save(content, path)
    assert min(np.subtract(found[1], found[0])) > 0


def test_a_model_without_a_filter_takes_all_that_the_sampling_rate_lets_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfiltered = save_classifier(tmp_path / "model.pt", preprocess={"ppg_band": None})
    time = np.arange(30 * 100) / 100
    np.savez(tmp_path / "rec.npz", PPG=np.sin(2 * np.pi * 1.2 * time), fs_PPG=100)
    assert score(unfiltered, tmp_path / "rec.npz", tmp_path / "out") == 0
    assert "PPG was sampled at 100 Hz, and the model looks for pulses up to 62.5 Hz" in capsys.readouterr().err


def test_the_restored_network_is_the_loaded_one(checkpoint: Path) -> None:
    network, options = restore_network(checkpoint)
    model = PPGQualityClassifier.load_from_checkpoint(checkpoint)
    signals, present = torch.randn(3, 5, WINDOW_SAMPLES), torch.rand(3, 5) > 0.3
    found = predict_windows(network, signals, present).probabilities
    assert np.array_equal(found, model.predict_probabilities(signals, present).numpy())
    assert options["finetune_channels"] == list(CHANNELS)
    assert not network.training


def test_nothing_of_lightning_is_imported(checkpoint: Path, recording: Path, tmp_path: Path) -> None:
    words = ["score", "--checkpoint", str(checkpoint), "--input", str(recording), "--output-dir", str(tmp_path)]
    script = (
        "import sys; from butppg_lightning.cli import main; "
        f"assert main({words!r}) == 0; "
        "print({'lightning', 'matplotlib.pyplot', 'pandas', 'wfdb', 'edfio'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "set()"


def test_usable_time_and_stretches() -> None:
    def of(probabilities: list[float], hop: float) -> Scores:
        starts = np.arange(len(probabilities)) * hop
        states = np.zeros((len(starts), 1), dtype=np.uint8)
        return Scores(starts, 10.0, np.array(probabilities), 0.5, ("PPG",), states, ("", "missing"))

    nan = float("nan")
    scores = of([0.9, 0.9, 0.1, 0.5, 0.6, 0.7, nan, 0.8], 10)
    assert scores.longest_stretch == (30, 60)
    assert scores.usable_seconds == 60
    assert scores.verdicts.tolist() == [0, 0, 1, 0, 0, 0, 2, 0]
    overlapping = of([0.9, 0.9, 0.1, 0.9], 2.5)
    assert overlapping.usable_seconds == 17.5  # 0 to 17.5 s, each second once
    assert overlapping.longest_stretch == (0, 12.5)
    apart = of([0.9, 0.9, 0.9], 60)
    assert apart.usable_seconds == 30
    assert apart.longest_stretch == (0, 10)
    assert of([0.1, nan], 10).longest_stretch == (0, 0)
    assert of([0.1, nan], 10).usable_seconds == 0
