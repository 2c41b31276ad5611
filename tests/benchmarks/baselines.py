"""What others offer for the same work: Lightning's BackboneFinetuning, BERT's way of masking, neurokit2's PPG quality.

``python baselines.py --data DIR --folder DIR --precision 32-true`` trains two epochs with the encoder frozen and two
with everything, as a user of Lightning alone would, on our encoder, head, preprocessing and data loader.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import EpochClock
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from runs import CLOCK
from torch import Tensor, nn

from butppg_lightning import BUTPPGDataModule, MaskedPretrainer, PatchTransformer
from butppg_lightning.models.heads import LinearHead
from butppg_lightning.models.masked import MaskedAutoencoder, mask_order
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.window import CHANNELS, SAMPLING_RATE

LR, CLIP, BATCH = 2e-5, 1.0, 32  # as in finetune.yaml


class Task(LightningModule):
    """A plain module: preprocessing, encoder and head, run anew for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = CHANNELS
        self.preprocess = Preprocess(CHANNELS)
        self.backbone = PatchTransformer(CHANNELS)
        self.head = LinearHead(self.backbone.width)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        scaled = self.preprocess(batch["signals"], batch["present"])
        logits = self.head(self.backbone(scaled, batch["present"]))
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), batch["labels"].float())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=len(batch["labels"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=len(batch["labels"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((value for value in self.parameters() if value.requires_grad), lr=LR)


def train(data: Path, folder: Path, precision: str) -> None:
    """Train two epochs of each stage; EpochClock leaves its file in ``folder``."""
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_epochs=4,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=CLIP,
        callbacks=[BackboneFinetuning(2), EpochClock(str(folder / CLOCK))],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Task(), datamodule=BUTPPGDataModule(str(data), batch_size=BATCH))


class AllPatches(MaskedAutoencoder):
    """Our autoencoder with hidden patches replaced by a mask token, and all patches encoded.

    As in BERT (Devlin et al. 2019) and SimMIM (Xie et al. 2022); sizes, masks and loss are the same.
    """

    def __init__(self, preprocess: Preprocess, encoder: nn.Module, **options: Any) -> None:
        super().__init__(preprocess, encoder, **options)
        self.mask_token = nn.Parameter(torch.zeros(self.decoder.project.in_features))

    @classmethod
    def like(cls, module: MaskedPretrainer) -> AllPatches:
        """Return one around the encoder of ``module``, with a decoder of the same size."""
        names = ("decoder_width", "decoder_depth", "decoder_heads", "mask_ratio", "masking", "block_patches")
        options = {name: module.hparams[name] for name in names}
        return cls(module.network.preprocess, module.network.encoder, **options)

    def encode_visible(
        self, scaled: Tensor, seen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoder: Any = self.encoder
        tokens = encoder.embedding(scaled, seen)
        batch, patches, _ = tokens.shape
        order = mask_order(batch, patches, self.run, generator, tokens.device)
        masked = torch.zeros(batch, patches, dtype=torch.bool)
        masked.scatter_(1, order[:, : round(self.mask_ratio * patches)], True)
        tokens = torch.where(masked.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        places = torch.arange(patches).expand(batch, -1)
        return encoder((tokens + encoder.positions[:patches]).float(), start=0), places, masked


def template_match(signals: np.ndarray) -> int:
    """Let neurokit2 clean and rate each PPG as its documentation shows; return for how many it raised.

    Args:
        signals: Raw PPG ``[N, 1250]``.
    """
    import neurokit2

    refused = 0
    for signal in signals:
        try:
            cleaned = neurokit2.ppg_clean(signal, sampling_rate=SAMPLING_RATE)
            neurokit2.ppg_quality(cleaned, sampling_rate=SAMPLING_RATE, method="templatematch")
        except Exception:  # it raises various errors where it finds no beats; such a window cost its time as well
            refused += 1
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args()
    train(options.data, options.folder, options.precision)


if __name__ == "__main__":
    main()
