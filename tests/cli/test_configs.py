from pathlib import Path

import pytest
import yaml

from butppg_lightning.cli import main
from butppg_lightning.cli.configs import expand_config_paths, shipped_configs
from butppg_lightning.errors import UserError

SHIPPED = sorted(path.name for path in shipped_configs().glob("*.yaml"))
WHOLE = [name for name in SHIPPED if name.startswith(("finetune", "pretrain"))]
PIECES = [name for name in SHIPPED if name not in WHOLE]
FOR_PRETRAINING = ("adapt.yaml",)


def command(config: str) -> str:
    return "pretrain" if config.startswith("pretrain") else "fit"


def parsed(config: str, *more: str, capsys) -> dict:
    flags = [word for name in (config, *more) for word in ("--config", name)]
    assert main([command(config), *flags, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("config", WHOLE)
def test_every_config_parses(config: str, capsys) -> None:
    given = yaml.safe_load((shipped_configs() / config).read_text())
    found = parsed(config, capsys=capsys)
    assert found["output_dir"] == given["output_dir"]
    assert found["trainer"]["max_epochs"] == given["trainer"]["max_epochs"]


@pytest.mark.parametrize("config", WHOLE)
@pytest.mark.parametrize("piece", PIECES)
def test_every_piece_composes_with_every_config(config: str, piece: str, capsys) -> None:
    given = yaml.safe_load((shipped_configs() / piece).read_text())
    if command(config) == "pretrain" and set(given) - {"model", "trainer", "data"} and piece not in FOR_PRETRAINING:
        pytest.skip("a piece for fine-tuning")
    if command(config) == "fit" and piece in FOR_PRETRAINING:
        pytest.skip("a piece for pretraining")
    if command(config) == "pretrain" and config != "pretrain.yaml" and piece in FOR_PRETRAINING:
        pytest.skip("adapt.yaml goes on with pretrain.yaml's encoder")
    found = parsed(config, piece, capsys=capsys)
    if (found["model"]["encoder"] or {}).get("class_path"):
        return  # the sizes are the default encoder's: another one refuses them where it is built
    wanted = given.get("model", {}).get("encoder", {}).get("init_args", {})
    assert wanted.items() <= (found["model"]["encoder"] or {"init_args": {}})["init_args"].items()


def test_the_recommended_recipe_needs_no_validation_and_shows_the_encoder_ppg_alone(capsys) -> None:
    found = parsed("finetune_recommended.yaml", capsys=capsys)
    assert found["select"] == "last"
    assert found["model"]["encoder_channels"] == ["PPG"]
    assert found["model"]["indices"] == ["rhythm"]
    (stage,) = found["stages"]["plan"]
    assert (stage["trainable"], stage["epochs"]) == ("head", None), "as long as trainer.max_epochs says"


def test_adapting_changes_what_it_says_and_leaves_the_rest(capsys) -> None:
    before = parsed("pretrain.yaml", "small.yaml", capsys=capsys)
    found = parsed("pretrain.yaml", "small.yaml", "adapt.yaml", capsys=capsys)
    given = yaml.safe_load((shipped_configs() / "adapt.yaml").read_text())
    assert found["data"]["use_channels"] == ["PPG"]
    assert found["model"] == {**before["model"], **given["model"]}
    assert found["output_dir"] != before["output_dir"], "the earlier run is not written over"


def test_finetune_is_the_guide(capsys) -> None:
    found = parsed("finetune.yaml", capsys=capsys)
    assert found["model"]["lr"] == 2e-5
    assert found["model"]["weight_decay"] == 0.01
    assert found["data"]["batch_size"] == 32
    assert found["trainer"]["gradient_clip_val"] == 1.0
    assert found["trainer"]["max_epochs"] == 30
    assert found["stages"]["head_only_epochs"] == 5
    assert found["stages"]["unfreeze_last_n"] == 2


def test_a_local_config_wins_over_the_shipped_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expand_config_paths(["--config", "finetune.yaml"])[1] == str(shipped_configs() / "finetune.yaml")
    assert expand_config_paths(["--config=configs/tiny.yaml"]) == [f"--config={shipped_configs() / 'tiny.yaml'}"]
    (tmp_path / "finetune.yaml").write_text("{}")
    assert expand_config_paths(["--config", "finetune.yaml"])[1] == "finetune.yaml"
    with pytest.raises(UserError, match="shipped"):
        expand_config_paths(["--config", "nothing.yaml"])
