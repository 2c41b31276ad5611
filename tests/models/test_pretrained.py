from pathlib import Path

import pytest
import torch
from conftest import TINY

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import build_encoder, resolve_spec
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.models.encoder import PatchTransformer, init_args_of
from butppg_lightning.models.inflation import Inflation
from butppg_lightning.models.pretrained import load_encoder, read_encoder, verify_pretrained
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS

HEADS = {"init_args": {"heads": TINY["heads"]}}


@pytest.fixture
def encoder() -> PatchTransformer:
    return PatchTransformer(PRETRAIN_CHANNELS, **TINY)


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def prefixed(encoder: PatchTransformer, prefix: str) -> dict:
    return {prefix + key: value for key, value in encoder.state_dict().items()}


FORMS = {
    "bare": lambda encoder: prefixed(encoder, ""),
    "encoder_state_dict": lambda encoder: {"encoder_state_dict": prefixed(encoder, "")},
    "model_state_dict": lambda encoder: {"epoch": 3, "model_state_dict": prefixed(encoder, "encoder.")},
    "lightning": lambda encoder: {"state_dict": prefixed(encoder, "network.encoder.")},
    "module": lambda encoder: prefixed(encoder, "module."),
    "model.module.encoder": lambda encoder: {"state_dict": prefixed(encoder, "model.module.encoder.")},
    "compiled": lambda encoder: {"state_dict": prefixed(encoder, "_orig_mod.encoder.")},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_completely(form: str, encoder: PatchTransformer, tmp_path: Path) -> None:
    source = read_encoder(save(tmp_path / "a.pt", FORMS[form](encoder)), HEADS)
    twin, _ = build_encoder(resolve_spec(HEADS, source.spec, source.path), PRETRAIN_CHANNELS, named_by_user=False)
    report = load_encoder(twin, source, None, Inflation())
    assert not report.missing
    assert not report.unused
    for key, value in encoder.state_dict().items():
        assert torch.equal(twin.state_dict()[key], value)


def test_a_forecaster_of_granite_tsfm_is_known_by_its_names(tmp_path: Path) -> None:
    """Also where granite-tsfm is not installed."""
    shapes = {"patcher.weight": (16, 8), "patcher.bias": (16,)}
    for level, (width, patches) in enumerate([(8, 10), (16, 5)]):
        for layer in range(3):
            place = f"mlp_mixer_encoder.mixers.{level}.mixer_layers.{layer}"
            shapes[f"{place}.feature_mixer.norm.norm.weight"] = (width,)
            shapes[f"{place}.feature_mixer.mlp.fc1.weight"] = (3 * width, width)
            shapes[f"{place}.patch_mixer.mlp.fc1.weight"] = (3 * patches, patches)
    state = {f"backbone.model.encoder.{key}": torch.zeros(shape) for key, shape in shapes.items()}
    source = read_encoder(save(tmp_path / "a.pt", {"state_dict": {**state, "head.weight": torch.zeros(2, 16)}}))
    sizes = {"patches": 5, "patch_size": 8, "width": 16, "levels": 2, "layers": 3, "expansion": 3}
    assert source.spec == {"class_path": "butppg_lightning.TinyTimeMixer", "init_args": sizes}
    assert source.channels == ("PPG",)
    assert "backbone.model.encoder.blocks.5.layer.patch_mixer.mlp.fc1.weight" in source.containers[0]


def test_the_larger_encoder_is_taken_not_the_decoder(encoder: PatchTransformer, tmp_path: Path) -> None:
    decoder = {f"decoder.{key}": torch.zeros_like(value) for key, value in encoder.state_dict().items() if "0" in key}
    path = save(tmp_path / "a.pt", {"state_dict": {**decoder, **prefixed(encoder, "encoder.")}})
    source = read_encoder(path, HEADS)
    twin, _ = build_encoder(resolve_spec(HEADS, source.spec, "a"), PRETRAIN_CHANNELS, named_by_user=False)
    report = load_encoder(twin, source, None, Inflation())
    assert set(report.unused) == set(decoder)
    assert torch.equal(twin.blocks[0].qkv.weight, encoder.blocks[0].qkv.weight)


def test_report_names_every_key(encoder: PatchTransformer, tmp_path: Path) -> None:
    state = prefixed(encoder, "")
    del state["blocks.1.fc2.bias"]
    state["extra.weight"] = torch.zeros(3)
    five = PatchTransformer(CHANNELS, **TINY)
    report = load_encoder(five, read_encoder(save(tmp_path / "a.pt", state), HEADS), None, Inflation())
    assert report.missing == ["blocks.1.fc2.bias"]
    assert report.unused == ["extra.weight"]
    assert report.inflated == ["embedding.weight", "embedding.absent"]
    named = report.matched + report.inflated + report.missing
    assert sorted(named) == sorted(five.state_dict())
    assert "blocks.1.fc2.bias" in str(report)
    assert report.channels["PPG"] == "copied, bit-equal"


def test_channels_are_copied_by_name_in_any_order(encoder: PatchTransformer, tmp_path: Path) -> None:
    spec = {"class_path": "PatchTransformer", "init_args": init_args_of(encoder)}
    path = save(tmp_path / "a.pt", {"encoder_state_dict": encoder.state_dict(), "hyper_parameters": {"encoder": spec}})
    target = PatchTransformer(["ECG", "ACC_Z", "PPG"], **TINY)
    load_encoder(target, read_encoder(path), None, Inflation())
    assert torch.equal(target.embedding.weight[:, 0], encoder.embedding.weight[:, 1])
    assert torch.equal(target.embedding.weight[:, 2], encoder.embedding.weight[:, 0])


def test_nothing_matched_is_an_error(encoder: PatchTransformer, tmp_path: Path) -> None:
    source = read_encoder(save(tmp_path / "a.pt", {"conv.weight": torch.zeros(3, 2, 5)}))
    with pytest.raises(UserError, match="no key of"):
        load_encoder(encoder, source, None, Inflation())


def test_contradictions_name_both(encoder: PatchTransformer, tmp_path: Path) -> None:
    source = read_encoder(save(tmp_path / "a.pt", prefixed(encoder, "")), HEADS)
    with pytest.raises(UserError, match=r"width 64.*width 32"):
        resolve_spec({"init_args": {"width": 64}}, source.spec, source.path)
    with pytest.raises(UserError, match="pretrain_channels"):
        load_encoder(PatchTransformer(CHANNELS, **TINY), source, ["PPG"], Inflation())
    wider = PatchTransformer(PRETRAIN_CHANNELS, **{**TINY, "width": 64})
    with pytest.raises(UserError, match=r"shape"):
        load_encoder(wider, source, None, Inflation())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_bomb_does_not_go_off(tmp_path: Path) -> None:
    path = save(tmp_path / "bomb.pt", {"state_dict": Bomb(tmp_path / "exploded")})
    with pytest.raises(UserError, match="could run code"):
        read_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_a_class_named_by_a_file_is_not_imported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not ours"):
        build_encoder({"class_path": "os.system"}, PRETRAIN_CHANNELS, named_by_user=False)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 truncated"])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pt"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_damaged_zip_directory_is_one_line(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "m.pt")
    content = bytearray((tmp_path / "m.pt").read_bytes())
    content[-35] = 1  # "spans several disks"
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(UserError, match="not a torch checkpoint, or is damaged"):
        read_checkpoint(tmp_path / "m.pt")


def test_blocks_that_do_not_begin_at_the_first_are_other_weights(tmp_path: Path) -> None:
    state = {"embedding.weight": torch.zeros(32, 2, 25), "blocks.1.fc1.weight": torch.zeros(128, 32)}
    torch.save({"encoder_state_dict": state}, tmp_path / "m.pt")
    assert read_encoder(tmp_path / "m.pt").spec is None


@pytest.mark.parametrize("inflation", [Inflation(), Inflation("zero"), Inflation("random"), Inflation(noise=0.5)])
def test_a_fresh_model_passes(inflation: Inflation, pretrained: Path) -> None:
    model = PPGQualityClassifier(pretrained=str(pretrained), inflation=inflation)
    model.configure_model()
    findings = verify_pretrained(model.network.encoder, pretrained, inflation)
    assert findings["PPG"] == findings["ECG"] == "copied, bit-equal"
    assert ("output" in findings) == (inflation.new_channels == "zero")


@pytest.mark.parametrize("key", ["embedding.weight", "blocks.1.fc1.bias", "norm.weight", "embedding.bias"])
def test_a_changed_model_does_not(key: str, pretrained: Path) -> None:
    model = PPGQualityClassifier(pretrained=str(pretrained), inflation=Inflation("zero"))
    model.configure_model()
    with torch.no_grad():
        dict(model.network.encoder.named_parameters())[key].add_(0.01)
    with pytest.raises(UserError, match="inflation check"):
        verify_pretrained(model.network.encoder, pretrained, Inflation("zero"))
