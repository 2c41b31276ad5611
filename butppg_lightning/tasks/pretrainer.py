"""Masked pretraining of an encoder as a LightningModule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import build_encoder, resolve_spec
from butppg_lightning.models.augmentation import Augment, refuse_idle_inversion
from butppg_lightning.models.inflation import Inflation
from butppg_lightning.models.losses import SpectralLoss
from butppg_lightning.models.masked import MaskedAutoencoder, Masking
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.models.pretrained import load_autoencoder, load_encoder, read_pretraining
from butppg_lightning.tasks.window_module import WindowModule
from butppg_lightning.training.schedules import ScheduleName, check_schedule
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from torch import Tensor

    from butppg_lightning.models.masked import Reconstruction

_AUTOENCODER = ("decoder_width", "decoder_depth", "decoder_heads", "mask_ratio", "masking", "block_patches")
_VARIATIONS = ("modality_dropout", "amplitude", "time_shift", "invert_ppg")
_STANDSTILL = 0.95  # share of the mean predictor's error above which a run has not begun to learn
_VALIDATION_SEED = 2022  # of the masks of validation batch 0; the same in every run, so that runs compare


class MaskedPretrainer(WindowModule):
    """Pretrains an encoder: hides patches of unlabelled windows and learns to predict them.

    The loss is the mean squared error of hidden patches (signals of unit variance, so that 1 is what predicting the
    mean scores) plus ``stft_weight`` times the spectral loss of the completed signal.

    Args:
        encoder: Architecture as {class_path, init_args}; null for the default one (init_args: patch_size 25,
            width 192, depth 12, heads 3, mlp_ratio 4.0, dropout 0.0).
        channels: Channels of the encoder, names or 2 (PPG and ECG).
        preprocess: Options of Preprocess (ppg_band, ecg_band, acc_band, scaling, scale_floor, clip, polarity,
            mounting).
        decoder_width: Token width of the decoder, which is thrown away afterwards.
        decoder_depth: Transformer blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        mask_ratio: Share of the patches hidden from the encoder.
        masking: random patches, or block for runs of neighbours.
        block_patches: Patches per run of block masking (5 are one second, about a heart beat).
        stft_weight: Weight of the spectral loss; 0 leaves it out.
        lr: Peak learning rate.
        weight_decay: Weight decay of AdamW, on matrices.
        warmup: Linear warm-up as a share of the run (below 1) or in steps.
        optimizer: {class_path, init_args} of an optimizer of torch.optim, without lr and weight_decay, which stay here;
            null for AdamW.
        lr_schedule: constant, linear, cosine or one_cycle, or {class_path, init_args} of a scheduler of
            torch.optim.lr_scheduler that depends on the step alone; per optimizer step.
        modality_dropout: Probability that one whole channel of a training window is withheld (the guide: 0.25).
        amplitude: Channels are scaled by a random factor within 1 plus and minus this (the guide: 0.2).
        time_shift: Windows are shifted by at most this share of their length, by cropping (the guide: 0.1).
        invert_ppg: Probability that a training window's PPG is turned upside down; for a polarity as recorded.
        pretrained: Checkpoint of `butppg pretrain` to go on from, encoder and decoder, with other windows or options;
            or bare weights of an encoder, such as TTM-r2; read by a fresh run only.

    Raises:
        UserError: If an argument is impossible.
    """

    betas = (0.9, 0.95)  # as in He et al. 2022, table 8

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        channels: int | list[str] = 2,
        preprocess: dict[str, Any] | None = None,
        decoder_width: int = 128,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
        mask_ratio: float = 0.4,
        masking: Masking = "random",
        block_patches: int = 5,
        stft_weight: float = 0.3,
        lr: float = 5e-4,
        weight_decay: float = 0.01,
        warmup: float = 0.05,
        optimizer: dict[str, Any] | None = None,
        lr_schedule: ScheduleName | dict[str, Any] = "cosine",
        modality_dropout: float = 0.0,
        amplitude: float = 0.0,
        time_shift: float = 0.0,
        invert_ppg: float = 0.0,
        pretrained: str | None = None,
    ) -> None:
        options = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        if isinstance(lr_schedule, str):
            check_schedule(lr_schedule)
        if stft_weight < 0:
            raise UserError(f"model.stft_weight is {stft_weight}; expected at least 0")
        self.channels = channel_names(channels)
        self.best_msm = math.inf
        super().__init__(options, ("loss", "msm", "stft") if stft_weight else ("loss", "msm"))

    def build(self, options: dict[str, Any]) -> dict[str, Any]:
        """Build encoder and decoder, with the weights of ``pretrained`` where a fresh run names it."""
        pretrained, asked = options.pop("pretrained"), options["encoder"]
        earlier = read_pretraining(Path(pretrained), self.channels, asked) if pretrained else None
        by_user = earlier is None or bool((asked or {}).get("class_path"))
        preprocess = options["preprocess"] or {}
        if earlier is not None and earlier.spec is not None:
            asked = resolve_spec(asked, earlier.spec, earlier.path)
            preprocess = {**(earlier.preprocess or {}), **preprocess}
        built, spec = build_encoder(asked or {}, self.channels, named_by_user=by_user)
        scaling = Preprocess.from_options(self.channels, preprocess)
        self.network = MaskedAutoencoder(scaling, built, **{key: options[key] for key in _AUTOENCODER})
        if earlier is not None and earlier.declared:
            load_autoencoder(self.network, earlier)
        elif earlier is not None:
            rank_zero_only(print)(load_encoder(built, earlier, None, Inflation()))
        ppg = self.channels.index("PPG") if "PPG" in self.channels else -1
        refuse_idle_inversion("model.invert_ppg", options["invert_ppg"], scaling)
        variations = {key: options[key] for key in _VARIATIONS}
        augment = Augment(**variations, ppg=ppg, patch_size=_patch_size(built))
        self.augment = augment if any(variations.values()) else None
        if options["stft_weight"] and hasattr(built, "rates"):
            raise UserError("model.stft_weight compares waveforms, and SpectralEncoder predicts spectra; set it to 0")
        self.spectral_loss = SpectralLoss() if options["stft_weight"] else None
        # only plain types, and the resolved architecture: the checkpoint says how to build what it holds
        resolved = {"encoder": spec, "channels": list(self.channels), "preprocess": scaling.options}
        return {**options, **resolved}

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Encode raw windows ``[B, C, 1250]`` with nothing hidden; return tokens ``[B, P, width]``."""
        scaled, faults = self.network.preprocess.prepare(signals, present)
        tokens: Tensor = self.network.encoder(scaled, faults == 0)
        return tokens

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        figures = self._figures(self.network(batch["signals"], batch["present"], augment=self.augment))
        self.note(len(batch["signals"]), **figures)
        return figures["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss of a batch and each channel's error, with masks that depend on the batch's number only."""
        generator = torch.Generator().manual_seed(_VALIDATION_SEED + batch_idx)
        found = self.network(batch["signals"], batch["present"], generator=generator)
        figures = {f"val_{name}": value for name, value in self._figures(found).items()}
        self.log_dict(figures, on_epoch=True, sync_dist=True, batch_size=len(found.target))
        errors, counts = (sums.tolist() for sums in found.squared_error())
        for name, error, count in zip(self.channels, errors, counts, strict=True):
            mean = error / max(count, 1)
            self.log(f"val_msm_{name.lower()}", mean, on_epoch=True, sync_dist=True, batch_size=count)

    def on_train_epoch_end(self) -> None:
        """Say so if a quarter of the run has passed and nothing has been learned."""
        means = self.log_means()
        error = self.trainer.callback_metrics.get("val_msm", means["msm"])
        self.best_msm = min(self.best_msm, float(error))
        epochs = self.trainer.max_epochs or 0
        quarter = math.ceil(epochs / 4)
        # the first epoch of any run stands still: the rate is still warming up
        if quarter > 1 and self.current_epoch + 1 == quarter and self.best_msm > _STANDSTILL:
            rank_zero_warn(
                f"after {self.current_epoch + 1} of {epochs} epochs the masked error is {self.best_msm:.3f} of the "
                "mean predictor's: nothing learned yet; give more epochs, or another lr, warmup or batch size"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add encoder and decoder under names of their own; tensors are shared with Lightning's entry."""
        for part in ("encoder", "decoder"):
            prefix = f"network.{part}."
            checkpoint[f"{part}_state_dict"] = {
                key.removeprefix(prefix): value
                for key, value in checkpoint["state_dict"].items()
                if key.startswith(prefix)
            }

    def _figures(self, found: Reconstruction) -> dict[str, Tensor]:
        msm = found.masked_mse()
        if self.spectral_loss is None:
            return {"loss": msm, "msm": msm}
        stft = self.spectral_loss(found.completed(), found.target, found.counted)
        return {"loss": msm + self.hparams["stft_weight"] * stft, "msm": msm, "stft": stft}


def _patch_size(encoder: Any) -> int:
    """Return of how many samples a window's length has to be a multiple."""
    return 1 if hasattr(encoder, "patches") else int(encoder.embedding.weight.shape[-1])
