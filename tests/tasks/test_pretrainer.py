"""Pretraining as a Lightning run: what it logs, what it saves, and that the encoder can be taken from it."""

import warnings
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader

from butppg_lightning.data.dataset import WindowDataset
from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import build_encoder
from butppg_lightning.models.inflation import Inflation
from butppg_lightning.models.pretrained import load_encoder, read_encoder
from butppg_lightning.tasks.pretrainer import MaskedPretrainer
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS, WindowSet

TINY = {"init_args": {"patch_size": 50, "width": 32, "depth": 2, "heads": 2}}
SMALL = {"encoder": TINY, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def windows(count, channels=PRETRAIN_CHANNELS, seed=0):
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * (rng.uniform(0.8, 1.6, (count, 1)) * np.arange(1250) / 125 + rng.uniform(size=(count, 1)))
    beat = np.stack([np.sin(phase - lag) for lag in np.arange(len(channels))], axis=1)
    return WindowSet((beat + 0.05 * rng.standard_normal(beat.shape)).astype(np.float32), tuple(channels))


class Windows(LightningDataModule):
    """Serves a few windows, with or without a validation part."""

    def __init__(self, train, val=None):
        super().__init__()
        self.train, self.val = (WindowDataset(part, part.channels) if part else None for part in (train, val))

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=None, sampler=list(torch.arange(len(self.train)).split(16)))

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=None, sampler=[[0, 1, 2], [3, 4, 5, 6]]) if self.val else []


class History(Checkpoint):
    """Keeps every epoch's figures; Lightning calls this kind of callback after the module's own hook."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def fit(module, data, epochs=1, precision="32-true", **options):
    history = History()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision=precision,
        callbacks=[history],
        num_sanity_val_steps=0,
        **quiet,
        **options,
    )
    trainer.fit(module, datamodule=data)
    return trainer, history.epochs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    seed_everything(0, verbose=False)
    module = MaskedPretrainer(**SMALL, masking="block", block_patches=3, preprocess={"ppg_band": [0.5, 10.0]})
    trainer, history = fit(module, Windows(windows(40), windows(7, seed=1)), epochs=2)
    path = tmp_path_factory.mktemp("run") / "pretrained.ckpt"
    trainer.save_checkpoint(path)
    return SimpleNamespace(module=module, path=path, history=history)


def test_logs_loss_and_its_parts_and_each_channel(run):
    parts = {f"{split}_{name}" for split in ("train", "val") for name in ("loss", "msm", "stft")}
    for figures in run.history:
        assert parts | {"val_msm_ppg", "val_msm_ecg"} <= set(figures)
        for split in ("train", "val"):
            whole = figures[f"{split}_msm"] + 0.3 * figures[f"{split}_stft"]
            assert figures[f"{split}_loss"] == pytest.approx(whole, rel=1e-5)
        # both channels count everywhere here, so the mean over channels is the whole
        both = (figures["val_msm_ppg"] + figures["val_msm_ecg"]) / 2
        assert figures["val_msm"] == pytest.approx(both, rel=1e-4)


def test_checkpoint_holds_plain_types_and_builds_the_module_again(run):
    content = torch.load(run.path, weights_only=True)
    assert content["hyper_parameters"]["encoder"]["init_args"] == {
        "channels": ["PPG", "ECG"],
        "patch_size": 50,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "mlp_ratio": 4.0,
        "dropout": 0.0,
    }
    assert content["hyper_parameters"]["preprocess"]["ppg_band"] == [0.5, 10.0]
    again = MaskedPretrainer.load_from_checkpoint(run.path, weights_only=True)
    assert again.hparams == run.module.hparams
    assert again.network.run == 3
    for key, value in run.module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    signals = torch.from_numpy(windows(3, seed=2).signals)
    assert torch.equal(again.eval()(signals), run.module.eval()(signals))


def test_checkpoint_names_encoder_and_decoder_and_stores_tensors_once(run):
    content = torch.load(run.path, weights_only=True)
    encoder = run.module.network.encoder.state_dict()
    assert set(content["encoder_state_dict"]) == set(encoder)
    assert "mask_token" in content["decoder_state_dict"]
    stored = content["state_dict"]["network.encoder.norm.weight"]
    assert content["encoder_state_dict"]["norm.weight"].data_ptr() == stored.data_ptr()


def test_its_encoder_inflates_to_five_channels(run):
    source = read_encoder(run.path)
    assert source.declared
    assert source.channels == PRETRAIN_CHANNELS
    assert source.preprocess["ppg_band"] == [0.5, 10.0]
    encoder, _ = build_encoder(source.spec, CHANNELS, named_by_user=False)
    report = load_encoder(encoder, source, None, Inflation())
    assert not report.missing
    assert report.inflated == ["embedding.weight", "embedding.absent"]
    trained = run.module.network.encoder
    for name in PRETRAIN_CHANNELS:
        row, column = CHANNELS.index(name), PRETRAIN_CHANNELS.index(name)
        assert torch.equal(encoder.embedding.weight[:, row], trained.embedding.weight[:, column])
    assert torch.equal(encoder.blocks[1].fc2.weight, trained.blocks[1].fc2.weight)


def test_validation_hides_the_same_patches_in_every_epoch():
    module = MaskedPretrainer(**SMALL, lr=1e-30, weight_decay=0.0)
    _, history = fit(module, Windows(windows(16), windows(7)), epochs=2)
    assert history[0]["val_loss"] == history[1]["val_loss"]
    assert history[0]["train_loss"] != history[1]["train_loss"]


def test_no_spectral_loss_at_weight_zero_and_no_validation_needed():
    module = MaskedPretrainer(**SMALL, stft_weight=0.0)
    _, history = fit(module, Windows(windows(16)))
    assert history[0]["train_loss"] == history[0]["train_msm"]
    assert not [name for name in history[0] if name.startswith("val_") or "stft" in name]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_augmentations_run_in_training_only(precision):
    torch.manual_seed(0)
    options = {"modality_dropout": 0.5, "amplitude": 0.2, "time_shift": 0.1}
    module = MaskedPretrainer(**SMALL, **options)
    seen = []
    module.network.decoder.register_forward_hook(lambda _, __, output: seen.append((module.training, output.shape[-1])))
    _, history = fit(module, Windows(windows(128), windows(7)), precision=precision, gradient_clip_val=1.0)
    assert np.isfinite(history[0]["train_loss"])
    assert {length for training, length in seen if training} > {1250}
    assert {length for training, length in seen if not training} == {1250}
    assert {key: module.hparams[key] for key in options} == options


def test_absent_channels_are_neither_seen_nor_counted():
    train, val = windows(16), windows(7)
    for part in (train, val):
        part.present = np.tile([True, False], (len(part), 1))
        part.signals[:, 1] = 0
    _, history = fit(MaskedPretrainer(**SMALL), Windows(train, val))
    assert history[0]["val_msm"] == pytest.approx(history[0]["val_msm_ppg"], rel=1e-5)
    assert np.isnan(history[0]["val_msm_ecg"])


def test_scale_of_acceleration_is_fitted_on_training_windows():
    module = MaskedPretrainer(**SMALL, channels=5)
    fit(module, Windows(windows(16, CHANNELS)), limit_train_batches=1)
    assert module.network.preprocess.acc_fitted
    assert module.hparams["encoder"]["init_args"]["channels"] == list(CHANNELS)


def test_rate_warms_up_and_falls_step_by_step():
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = MaskedPretrainer(**SMALL, lr=1e-3, warmup=2)
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[Rates()],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=Windows(windows(48)))
    assert len(rates) == 12
    assert rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert all(later < earlier for earlier, later in pairwise(rates[2:]))
    assert rates[-1] < 1e-4


def test_weights_decay_but_vectors_do_not():
    module = MaskedPretrainer(**SMALL, weight_decay=0.05)
    trainer, _ = fit(module, Windows(windows(16)))
    decays = {
        id(part): group["weight_decay"] for group in trainer.optimizers[0].param_groups for part in group["params"]
    }
    network = module.network
    assert decays[id(network.decoder.predict.weight)] == 0.05
    assert decays[id(network.decoder.mask_token)] == decays[id(network.encoder.norm.weight)] == 0.0
    assert len(decays) == len(list(network.parameters()))


def test_a_run_that_has_not_moved_says_so_once():
    with pytest.warns(UserWarning, match="after 2 of 8 epochs the masked error is 1.*nothing learned yet") as found:
        fit(MaskedPretrainer(**SMALL, lr=1e-30), Windows(windows(16), windows(7)), epochs=8)
    assert len([entry for entry in found if "nothing learned yet" in str(entry.message)]) == 1


def test_a_run_that_has_moved_says_nothing():
    module = MaskedPretrainer(**SMALL, lr=1e-30)
    module.best_msm = 0.9  # reached in an earlier epoch; a worse one since is no standstill
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(module, Windows(windows(16), windows(7)), epochs=8)
    assert not [entry for entry in found if "nothing learned yet" in str(entry.message)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"stft_weight": -1.0}, "stft_weight"),
        ({"lr_schedule": "plateau"}, "lr_schedule"),
        ({"mask_ratio": 2.0}, "mask_ratio"),
        ({"modality_dropout": 2.0}, "modality_dropout"),
        ({"encoder": {"init_args": {"widht": 3}}}, "widht"),
        ({"channels": ["PPG", "EEG"]}, "EEG"),
    ],
)
def test_impossible_arguments_are_refused(options, named):
    with pytest.raises(UserError, match=named):
        MaskedPretrainer(**{**SMALL, **options})
