"""TinyTimeMixer: its contract, what TTM-r2 becomes in it, and in which forms its weights are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import ENCODERS, REAL_DATA, make_windows
from safetensors.torch import save_file

from butppg_lightning import MaskedPretrainer, PPGQualityClassifier, shipped
from butppg_lightning.errors import UserError
from butppg_lightning.models.architecture import build_encoder
from butppg_lightning.models.inflation import Inflation
from butppg_lightning.models.masked import MaskedAutoencoder
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.models.pretrained import load_encoder, read_encoder, verify_pretrained
from butppg_lightning.models.tiny_time_mixer import ResampledPatches, TinyTimeMixer
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES

tsfm = pytest.importorskip("tsfm_public.models.tinytimemixer.modeling_tinytimemixer", reason="the extra ttm is absent")
SMALL = {**ENCODERS["TinyTimeMixer"], "dropout": 0.0}
TTM_R2 = REAL_DATA / "ttm_r2" / "ttm_r2_512_96.pt"
SIZES = {"patches": 8, "patch_size": 64, "width": 192, "levels": 3, "layers": 2, "expansion": 2}


def library(patches: int, patch_size: int, width: int, levels: int, layers: int = 2, expansion: int = 2, **options):
    """The library's own model, whose windows are scaled already."""
    samples = {"context_length": patches * patch_size, "patch_length": patch_size, "patch_stride": patch_size}
    sizes = {"d_model": width, "num_layers": layers, "adaptive_patching_levels": levels, "expansion_factor": expansion}
    config = tsfm.TinyTimeMixerConfig(**samples, **sizes, **{"dropout": 0.0, "scaling": None, **options})
    return tsfm.TinyTimeMixerModel(config).eval()


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A small forecaster's, under the library's names."""
    torch.manual_seed(0)
    return {f"backbone.{key}": value for key, value in library(**SMALL).state_dict().items()}


def loaded(path: Path, channels: tuple[str, ...], inflation: Inflation | None = None):
    source = read_encoder(path)
    encoder, _ = build_encoder(source.spec, channels, named_by_user=False)
    report = load_encoder(encoder, source, None, inflation or Inflation())
    return encoder.eval(), report


@torch.no_grad()
def agreement(path: Path, model: torch.nn.Module) -> list[float]:
    """Return how far our blocks are from the library's model, level by level."""
    encoder, _ = loaded(path, ("PPG",))
    signals = torch.randn(3, 1, WINDOW_SAMPLES, generator=torch.Generator().manual_seed(1))
    tokens, contexts = encoder.embed(signals), encoder.blocks[0].contexts
    series = encoder.patches(signals).reshape(3 * contexts, -1, 1)
    expected = model(series, output_hidden_states=True).hidden_states
    ours, layers = [tokens], model.config.num_layers
    for number, block in enumerate(encoder.blocks, 1):
        tokens = block(tokens)
        if number % layers == 0:
            ours.append(tokens)
    # of each level the library gives what enters, the same split, each layer's output, and the last one joined
    theirs = [expected[0], *expected[layers + 2 :: layers + 3]]
    assert len(ours) == len(theirs) == model.config.adaptive_patching_levels + 1
    return [float((one - other.reshape(one.shape)).abs().max()) for one, other in zip(ours, theirs, strict=True)]


def test_its_blocks_are_the_librarys_model(weights: dict, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "ttm.pt")
    model = library(**SMALL)
    model.load_state_dict({key.removeprefix("backbone."): value for key, value in weights.items()})
    assert max(agreement(tmp_path / "ttm.pt", model)) < 1e-5


@pytest.mark.skipif(not TTM_R2.exists(), reason="TTM-r2 is absent")
def test_so_they_are_with_the_weights_of_ttm_r2() -> None:
    model, stored = library(**SIZES), torch.load(TTM_R2, weights_only=True)
    model.load_state_dict({key[9:]: value for key, value in stored.items() if key.startswith("backbone.")})
    assert max(agreement(TTM_R2, model)) < 1e-5


@pytest.mark.skipif(not TTM_R2.exists(), reason="TTM-r2 is absent")
@pytest.mark.parametrize("new", ["zero", "mean"])
def test_ttm_r2_is_inflated_and_every_key_named(new: str) -> None:
    encoder, report = loaded(TTM_R2, CHANNELS, Inflation(new))
    stored = torch.load(TTM_R2, weights_only=True)
    assert read_encoder(TTM_R2).spec["init_args"] == SIZES
    assert build_encoder(read_encoder(TTM_R2).spec, CHANNELS, named_by_user=False)[1]["init_args"]["contexts"] == 2
    assert torch.equal(encoder.embedding.weight[:, 3], stored["backbone.encoder.patcher.weight"])
    assert report.inflated == ["embedding.weight", "embedding.absent"]
    assert report.missing == ["norm.weight", "norm.bias"]
    assert len(report.matched) + 1 + len(report.unused) == len(stored)
    assert {key.split(".")[0] for key in report.unused} == {"decoder", "head"}
    assert report.channels["PPG"] == "copied, bit-equal"
    assert "taken for the PPG's" in str(report)
    findings = verify_pretrained(encoder, TTM_R2, Inflation(new))
    assert ("output" in findings) == (new == "zero"), "bit for bit that of the PPG alone, whatever the others hold"


FORMS = {
    "library": "backbone.",
    "whole model in a wrapper": "backbone.model.backbone.",
    "backbone in a wrapper": "backbone.model.",
    "encoder": "",
    "encoder.": "encoder.",
    "Lightning": "model.encoder.",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_prefix_is_found(form: str, weights: dict, tmp_path: Path) -> None:
    inner = {key.removeprefix("backbone."): value for key, value in weights.items()}
    if form in ("encoder", "encoder.", "Lightning"):
        inner = {key.removeprefix("encoder."): value for key, value in inner.items()}
    state = {FORMS[form] + key: value for key, value in inner.items()} | {"classifier.weight": torch.zeros(2, 16)}
    torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "m.pt")
    encoder, report = loaded(tmp_path / "m.pt", PRETRAIN_CHANNELS)
    assert (report.missing, report.unused) == (["norm.weight", "norm.bias"], ["classifier.weight"])
    assert torch.equal(encoder.embedding.weight[:, 0], weights["backbone.encoder.patcher.weight"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "mix_channel", "num_input_channels": 2}, "channel_feature_mixer"),
        ({"self_attn": True}, "self_attn_layer"),
        ({"resolution_prefix_tuning": True}, "freq_mod"),
        ({"use_positional_encoding": True}, "position_enc"),
    ],
    ids=str,
)
def test_a_backbone_that_does_more_is_refused(options: dict, named: str, tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in library(**SMALL, **options).state_dict().items()}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match=named) as error:
        loaded(tmp_path / "other.pt", PRETRAIN_CHANNELS)
    assert "other.pt" in str(error.value)


def test_a_folder_and_a_name_on_the_hub(weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "granite"
    folder.mkdir()
    with pytest.raises(UserError, match=r"folder without model\.safetensors"):
        read_encoder(folder)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "tinytimemixer"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "download", lambda name, files: [tmp_path / name.partition("/")[2] / files[0]])
    for source in (str(folder), "ibm/granite"):
        model = PPGQualityClassifier(pretrained=source, finetune_channels=2)
        model.configure_model()
        stored = model.network.encoder.embedding.weight[:, 0]
        assert torch.equal(stored, weights["backbone.encoder.patcher.weight"]), source
        assert model.hparams["encoder"]["class_path"] == "butppg_lightning.TinyTimeMixer"


def test_without_the_hub_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args: object, **options: object) -> str:
        raise hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(UserError, match=r"ibm/granite is no folder here, and the hub did not give it: no connection$"):
        read_encoder(Path("ibm/granite"))
    for path in ("runs/best_model.pt", "here/best_model"):
        (tmp_path / "here").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="not found"):
            read_encoder(Path(path))


def test_an_exported_model_serves_as_pretrained(tmp_path: Path) -> None:
    spec = {"class_path": "TinyTimeMixer", "init_args": {**SMALL, "contexts": 1}}
    model = PPGQualityClassifier(encoder=spec, finetune_channels=2, preprocess={"clip": 4.0})
    model.save_pretrained(tmp_path)
    again = PPGQualityClassifier(pretrained=str(tmp_path), finetune_channels=5)
    again.configure_model()
    assert again.hparams["encoder"]["init_args"]["contexts"] == 1
    assert again.hparams["preprocess"]["clip"] == 4.0
    assert torch.equal(
        again.network.encoder.blocks[0].layer.feature_mixer.mlp.fc1.weight,
        model.network.encoder.blocks[0].layer.feature_mixer.mlp.fc1.weight,
    )


@pytest.mark.parametrize("contexts", [1, 2])
def test_it_can_be_entered_before_any_block(contexts: int) -> None:
    encoder = TinyTimeMixer(CHANNELS, **SMALL, contexts=contexts).eval()
    signals, present = torch.randn(3, 5, WINDOW_SAMPLES), torch.tensor([[True] * 4 + [False]] * 3)
    whole, tokens = encoder(signals, present), encoder.embed(signals, present)
    assert tokens.shape == (3, 4 * contexts, 16)
    for start, block in enumerate([*encoder.blocks, None]):
        assert torch.equal(encoder(tokens, start=start), whole)
        tokens = block(tokens) if block is not None else tokens
    other = signals.clone()
    other[:, 4] = 7.0
    assert torch.equal(encoder(other, present), whole), "an absent channel does not count"


def test_contexts_do_not_see_each_other() -> None:
    encoder = TinyTimeMixer(CHANNELS, **SMALL).eval()
    tokens = torch.randn(2, 8, 16)
    other = tokens.clone()
    other[:, 4:] += 1
    assert torch.equal(encoder(tokens, start=0)[:, :4], encoder(other, start=0)[:, :4])
    assert not torch.equal(encoder(tokens, start=0)[:, 4:], encoder(other, start=0)[:, 4:])


@pytest.mark.parametrize(("hertz", "kept"), [(1.5, True), (40.0, True), (58.0, False)])
def test_resampling_keeps_what_preprocess_lets_through(hertz: float, kept: bool) -> None:
    def wave(samples: int) -> torch.Tensor:
        return torch.sin(2 * torch.pi * hertz * torch.arange(samples) * 10 / samples)

    found = ResampledPatches(16, 64)(wave(WINDOW_SAMPLES).expand(1, 1, -1)).flatten()
    inner = slice(40, -40)
    if kept:
        assert (found - wave(1024))[inner].abs().max() < 0.02
    else:
        assert found[inner].abs().max() < 0.1, f"{hertz} Hz lies above half of {SAMPLING_RATE * 1024 / 1250} Hz"


def test_what_is_hidden_cannot_be_seen() -> None:
    encoder = TinyTimeMixer(PRETRAIN_CHANNELS, **{**SMALL, "patches": 8, "patch_size": 64})
    sizes = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    model = MaskedAutoencoder(Preprocess(PRETRAIN_CHANNELS), encoder, **sizes).eval()
    scaled, seen = torch.randn(1, 2, WINDOW_SAMPLES), torch.ones(1, 2, dtype=torch.bool)

    def encoded(changed: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        signals = scaled.clone()
        if changed is not None:  # well inside the patch: resampling reaches twelve samples far
            signals[..., round((changed + 0.5) * WINDOW_SAMPLES / 16)] += 5
        latent, _, masked = model.encode_visible(signals, seen, torch.Generator().manual_seed(0))
        return latent, masked[0]

    tokens, masked = encoded()
    assert int(masked.sum()) == round(0.4 * 16)
    assert [torch.equal(encoded(patch)[0], tokens) for patch in range(16)] == masked.tolist()
    found = model(torch.from_numpy(make_windows(2).signals[:, 3:]))
    assert found.target.shape == found.prediction.shape == (2, 2, 2 * 8 * 64)


@pytest.mark.skipif(not TTM_R2.exists(), reason="TTM-r2 is absent")
def test_pretraining_goes_on_from_ttm_r2() -> None:
    module = MaskedPretrainer(pretrained=str(TTM_R2), decoder_width=8, decoder_heads=2)
    module.configure_model()
    stored = torch.load(TTM_R2, weights_only=True)
    assert torch.equal(module.network.encoder.embedding.weight[:, 0], stored["backbone.encoder.patcher.weight"])
    assert module.hparams["encoder"]["class_path"] == "butppg_lightning.TinyTimeMixer"


@pytest.mark.parametrize(
    "sizes", [{"width": 18, "levels": 3}, {"levels": 0}, {"contexts": 0}, {"contexts": 40}, {"dropout": 1.0}], ids=str
)
def test_impossible_sizes(sizes: dict) -> None:
    with pytest.raises(UserError):
        TinyTimeMixer(CHANNELS, **{**SMALL, **sizes})
