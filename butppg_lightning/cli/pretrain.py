"""`butppg pretrain`."""

from __future__ import annotations

from butppg_lightning.cli.training import TrainingCLI
from butppg_lightning.data.pretrain import PretrainDataModule
from butppg_lightning.tasks.pretrainer import MaskedPretrainer
from butppg_lightning.training.run_folder import BEST


def pretrain(arguments: list[str]) -> None:
    """Pretrain an encoder by masked signal modelling."""
    cli = TrainingCLI("pretrain", MaskedPretrainer, PretrainDataModule, arguments)
    cli.train()
    if cli.config.trainer.fast_dev_run or not cli.trainer.is_global_zero:
        return
    folder = cli.output_dir
    cli.run_folder.finish()
    print(f"Results: {folder}. Fine-tune with: butppg fit --config finetune.yaml --model.pretrained {folder / BEST}")
