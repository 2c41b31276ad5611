"""`butppg export`: ONNX that computes what torch does, safetensors with JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, logits_of, make_windows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from butppg_lightning import PPGQualityClassifier, __version__
from butppg_lightning.cli import main
from butppg_lightning.evaluation.calibration import fit_calibration
from butppg_lightning.files import file_sha256
from butppg_lightning.models.checkpoints import restore_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def save_model(path: Path, seed: int, **options: Any) -> Path:
    """Write an untrained but calibrated classifier whose logits spread."""
    torch.manual_seed(seed)
    classifier = PPGQualityClassifier(encoder={"init_args": {**TINY, "depth": 1}}, **options)
    network = classifier.network.eval()
    windows = make_windows(60)
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.preprocess.fit(torch.from_numpy(windows.signals))
    logits = logits_of(network, windows.signals)
    network.head.score.weight.data *= 2 / logits.std()
    logits = logits_of(network, windows.signals).double().numpy()
    labels = (logits + np.random.default_rng(seed).normal(0, 2, 60) > np.quantile(logits, 0.7)).astype(np.int64)
    calibration = fit_calibration(labels, logits, "val.npz of /home/ann/but_ppg, 60 windows")
    content = {"state_dict": classifier.state_dict(), "hyper_parameters": dict(classifier.hparams)}
    torch.save({**content, "pytorch-lightning_version": "2.6.6", "calibration": calibration.state()}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with side inputs, of which not every channel enters the encoder."""
    path = tmp_path_factory.mktemp("run") / "best_model.pt"
    return save_model(path, 3, indices=["amplitude"], encoder_channels=["PPG", "ACC_X"], head="attention")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with model.onnx, and what was printed: all of it."""
    folder, printed = tmp_path_factory.mktemp("exported"), io.StringIO()
    words = ["export", "--checkpoint", str(checkpoint), "--output", str(folder / "model.onnx")]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        assert main([*words, "--data-dir", str(data_folder), "--split", "test", "--opset", "20"]) == 0
    return folder, printed.getvalue()


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def refused(capsys: pytest.CaptureFixture[str], code: int, message: str) -> None:
    printed = [line for line in capsys.readouterr().err.splitlines() if line]
    assert code == 2
    assert len(printed) == 1
    assert message in printed[0]


@pytest.fixture(scope="module")
def pair(checkpoint: Path, exported: tuple[Path, str]) -> tuple[Any, Any]:
    return restore_network(checkpoint)[0], session(exported[0] / "model.onnx")


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    gain=st.sampled_from([1e-3, 1.0, 1e4]),
    lacking=st.floats(0, 1),
    fault=st.sampled_from(["none", "flat", "railed"]),
)
def test_it_computes_what_torch_does(
    pair: tuple[Any, Any], count: int, seed: int, gain: float, lacking: float, fault: str
) -> None:
    network, runtime = pair
    generator = np.random.default_rng(seed)
    signals = make_windows(count, seed).signals
    signals[:, 3:] *= np.float32(gain)
    channel = int(generator.integers(5))
    if fault == "flat":
        signals[0, channel] = 3
    elif fault == "railed":
        signals[0, channel, 200:900] = signals[0, channel].max() + 1
    present = generator.random((count, 5)) >= lacking
    signals[~present] = 0
    probability, logit = runtime.run(["probability", "logit"], {"signals": signals, "present": present})
    assert probability.shape == logit.shape == (count,)
    wanted = logits_of(network, signals, present)
    assert np.abs(logit - wanted.numpy()).max() < 1e-4
    assert np.abs(probability - network.calibration.probabilities(wanted).numpy()).max() < 1e-4


def test_the_file_says_what_it_is(checkpoint: Path, exported: tuple[Path, str]) -> None:
    folder, printed = exported
    path = folder / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
    told = {entry.key: entry.value for entry in model.metadata_props}
    calibration = restore_network(checkpoint)[0].calibration
    assert json.loads(told["channels"]) == ["ACC_X", "ACC_Y", "ACC_Z", "PPG", "ECG"]
    assert (told["fs"], told["window_seconds"], told["package_version"]) == ("125", "10.0", __version__)
    assert told["checkpoint_sha256"] == file_sha256(checkpoint)
    assert told["licence"] == "Apache-2.0"
    assert float(told["threshold"]) == calibration.threshold()
    points = json.loads(told["operating_points"])
    assert points["precision"]["threshold"] == calibration.point("precision").threshold
    stored = json.loads(told["calibration"])
    assert (stored["temperature"], stored["bias"]) == (calibration.temperature, calibration.bias)
    assert stored["source"] == "val.npz of but_ppg, 60 windows"
    content = path.read_bytes()
    assert b"/home" not in content
    assert str(Path(torch.__file__).parent).encode() not in content, "stack traces of this machine"
    assert [item.type.tensor_type.shape.dim[0].dim_param for item in model.graph.input] == ["batch", "batch"]
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx"]
    assert "largest difference from torch" in printed
    assert "54 windows" not in printed  # 18 of the split, and a damaged copy of each
    assert "36 windows" in printed
    assert "arning" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "model.bin"], "ends in .onnx or .safetensors"),
        (["--output", "model.onnx", "--int8"], "unknown option --int8"),
        (["--output", "model.onnx", "--opset", "17"], "choose 18"),
        (["--output", "model.safetensors", "--opset", "18"], "--opset is about ONNX"),
        (["--output", "model.onnx", "--data-dir", "nowhere"], "val.npz not found"),
        (["--output", "model.onnx", "--outptu", "x"], "the nearest is --output"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capsys, main(["export", "--checkpoint", str(checkpoint), *words]), message)
    assert not list(tmp_path.iterdir())


def test_a_model_that_differs_leaves_no_file(
    exported: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_model(tmp_path / "other.pt", 4)
    wrong = onnx.load(exported[0] / "model.onnx")
    monkeypatch.setattr("butppg_lightning.export.onnx.export_onnx", lambda *_: wrong)
    code = main(["export", "--checkpoint", str(other), "--output", str(tmp_path / "out" / "model.onnx")])
    refused(capsys, code, "the ONNX model differs from torch by")
    assert not list((tmp_path / "out").iterdir())


def test_what_is_there_stays(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.json").write_text("mine")
    words = ["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "model.safetensors")]
    refused(capsys, main(words), "add --overwrite")
    assert (tmp_path / "model.json").read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert json.loads((tmp_path / "model.json").read_text())["checkpoint_sha256"] == file_sha256(checkpoint)


def test_a_missing_package_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, output in {"onnxruntime": "model.onnx", "safetensors.torch": "model.safetensors"}.items():
        monkeypatch.setitem(sys.modules, package, None)
        code = main(["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / output)])
        refused(capsys, code, "pip install 'butppg-lightning[export]'")
