import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, make_windows
from lightning.pytorch import Trainer

from butppg_lightning import BUTPPGDataModule, PPGQualityClassifier
from butppg_lightning.errors import UserError

ENCODER = {"init_args": TINY}


def trainer(folder: Path, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "precision": "32-true"}
    return Trainer(default_root_dir=folder, **{**quiet, "max_epochs": 1, "enable_checkpointing": False, **options})


def test_probabilities_of_arrays_in_a_notebook() -> None:
    model = PPGQualityClassifier(encoder=ENCODER)
    windows = make_windows(5)
    model.train()
    found = model.predict_probabilities(windows.signals, batch_size=2, precision="32-true")
    assert found.shape == (5,)
    assert ((found >= 0) & (found <= 1)).all()
    assert model.network.encoder.training, "the user's mode is left alone"
    assert torch.allclose(found, model.eval().predict_probabilities(windows.signals, precision="32-true"))
    with pytest.raises(UserError, match="ACC_X"):
        model.predict_probabilities(windows.signals[:, :2])


def test_checkpoint_loads_without_the_pretrained_file(pretrained: Path, data_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "foundation.pt"
    source.write_bytes(pretrained.read_bytes())
    model = PPGQualityClassifier(pretrained=str(source))
    fitted = trainer(tmp_path)
    fitted.fit(model, datamodule=BUTPPGDataModule(str(data_folder)))
    fitted.save_checkpoint(tmp_path / "model.ckpt")
    source.unlink()
    again = PPGQualityClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    signals = make_windows(4).signals
    assert torch.equal(again.predict_probabilities(signals), model.cpu().predict_probabilities(signals))
    assert again.network.preprocess.acc_scale == model.network.preprocess.acc_scale
    assert again.network.preprocess.acc_fitted


def test_a_notebook_does_not_import_what_a_file_names(tmp_path: Path) -> None:
    hparams = {"encoder": {"class_path": "antigravity.Encoder", "init_args": {}}}
    torch.save({"state_dict": {}, "hyper_parameters": hparams, "pytorch-lightning_version": "2.6.6"}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="not ours"):
        PPGQualityClassifier.load_from_checkpoint(tmp_path / "a.pt")
    assert "antigravity" not in sys.modules


def test_pretrained_filters_arrive_by_name(pretrained: Path) -> None:
    stored = torch.load(pretrained, weights_only=True)["encoder_state_dict"]["embedding.weight"]
    model = PPGQualityClassifier(pretrained=str(pretrained))
    model.configure_model()
    weight = model.network.encoder.embedding.weight
    assert torch.equal(weight[:, 3], stored[:, 0])
    assert torch.equal(weight[:, 4], stored[:, 1])
    assert not torch.equal(weight[:, 0], stored[:, 0])
    assert str(model.load_report).count("copied, bit-equal") == 2


def test_training_history_matches_a_hand_computed_loss(data_folder: Path, tmp_path: Path) -> None:
    model = PPGQualityClassifier(encoder=ENCODER, lr=1e-12)
    fitted = trainer(tmp_path)
    fitted.fit(model, datamodule=BUTPPGDataModule(str(data_folder), batch_size=8))
    for split in ("train", "val"):
        windows = fitted.datamodule.splits[split].windows
        chance = model.predict_probabilities(np.asarray(windows.signals), precision="32-true").numpy()
        loss = -np.log(np.where(windows.labels == 1, chance, 1 - chance)).mean()
        assert fitted.callback_metrics[f"{split}_loss"].item() == pytest.approx(loss, rel=1e-4)
        right = 100 * ((chance >= 0.5) == windows.labels).mean()
        assert fitted.callback_metrics[f"{split}_acc"].item() == pytest.approx(right, abs=1e-3)


def test_channel_dropout_hides_channels_in_training_only(data_folder: Path) -> None:
    model = PPGQualityClassifier(encoder=ENCODER, channel_dropout={"ECG": 1.0, "ACC": 1.0})
    windows = make_windows(6)
    batch = {
        "signals": torch.from_numpy(windows.signals),
        "present": torch.ones(6, 5, dtype=torch.bool),
        "labels": torch.from_numpy(windows.labels),
    }
    only_ppg = torch.tensor([[False, False, False, True, False]] * 6)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        model(batch["signals"] * only_ppg.unsqueeze(-1), only_ppg), batch["labels"].float()
    )
    assert model.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    for refused in ({"EMG": 0.5}, {"ACC_X": 0.5}):
        with pytest.raises(UserError, match="channel_dropout"):
            PPGQualityClassifier(encoder=ENCODER, channel_dropout=refused)


def test_preprocessing_of_the_checkpoint_binds(tmp_path: Path) -> None:
    first = PPGQualityClassifier(encoder=ENCODER, preprocess={"ppg_band": [0.4, 10.0]})
    fitted = trainer(tmp_path, fast_dev_run=True)
    fitted.strategy.connect(first)
    torch.save({"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}, tmp_path / "a.ckpt")
    second = PPGQualityClassifier(pretrained=str(tmp_path / "a.ckpt"))
    second.configure_model()
    assert second.hparams["preprocess"]["ppg_band"] == [0.4, 10.0]
    with pytest.raises(UserError, match="ppg_band"):
        PPGQualityClassifier(pretrained=str(tmp_path / "a.ckpt"), preprocess={"ppg_band": [0.5, 8.0]}).configure_model()


def test_so_does_that_of_a_checkpoint_too_old_to_say_how_windows_lie(tmp_path: Path) -> None:
    first, path = PPGQualityClassifier(encoder=ENCODER), tmp_path / "old.ckpt"
    options = dict(first.hparams)
    options["preprocess"] = {k: v for k, v in options["preprocess"].items() if k not in ("polarity", "mounting")}
    torch.save({"state_dict": first.state_dict(), "hyper_parameters": options}, path)
    for asked in (None, {"polarity": "recorded"}, {"clip": 6.0}):
        second = PPGQualityClassifier(pretrained=str(path), preprocess=asked)
        second.configure_model()
        assert (second.network.preprocess.polarity, second.network.preprocess.mounting) == ("recorded", "recorded")
    with pytest.raises(UserError, match=r"polarity canonical, but .* was trained with recorded"):
        PPGQualityClassifier(pretrained=str(path), preprocess={"polarity": "canonical"}).configure_model()


def test_a_head_begins_as_that_of_a_classifier_of_its_kind(tmp_path: Path) -> None:
    options = {"head": "monotone", "indices": ["rhythm"]}
    first = PPGQualityClassifier(encoder=ENCODER, **options)
    torch.nn.init.uniform_(first.network.head.side.score.weight)
    first.network.head.side.standardise.mean.fill_(0.5)
    path = tmp_path / "first.ckpt"
    torch.save({"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}, path)
    second = PPGQualityClassifier(pretrained=str(path), pretrained_head=True, **options)
    second.configure_model()
    heads = first.network.head.state_dict(), second.network.head.state_dict()
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())
    assert "head.side.score.weight" in second.load_report.matched
    assert "pretrained_head" not in second.hparams, "whoever loads it has its weights"
    fresh = PPGQualityClassifier(pretrained=str(path), **options)
    fresh.configure_model()
    assert not fresh.network.head.side.score.weight.any()
    for other in ({"head": "linear", "indices": ["rhythm"]}, {"head": "monotone", "indices": ["ppg"]}):
        with pytest.raises(UserError, match="needs a classifier with head"):
            PPGQualityClassifier(pretrained=str(path), pretrained_head=True, **other).configure_model()
    with pytest.raises(UserError, match="needs model"):
        PPGQualityClassifier(encoder=ENCODER, pretrained_head=True, **options)
