"""Signal indices beside the encoder: what they add to a logit, what they must not, and that they go with the model."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from conftest import TINY, make_windows

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.errors import UserError
from butppg_lightning.export.onnx import export_onnx
from butppg_lightning.models.checkpoints import restore_network
from butppg_lightning.models.heads import HEADS, SideInputs
from butppg_lightning.models.indices.signal_indices import GROUPS
from butppg_lightning.models.side_inputs import MonotoneInputs
from butppg_lightning.training.optimizers import parameter_groups
from butppg_lightning.window import CHANNELS

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.models.network import QualityNetwork

ACC, PPG, ECG = slice(0, 3), 3, 4
SIGNALS = torch.from_numpy(make_windows(12, seed=3).signals)
EVERY = list(GROUPS)


def classifier(seed: int = 0, **options: object) -> PPGQualityClassifier:
    """A classifier whose standardisation has seen windows, and whose side inputs have weights."""
    torch.manual_seed(seed)
    model = PPGQualityClassifier(encoder={"init_args": TINY}, **{"head": "probe", "indices": EVERY, **options})
    model.network.head.train()
    with torch.no_grad():
        if model.network.head.side is not None:
            model.network.head.side.score.weight.normal_()
        for part in SIGNALS[:, [CHANNELS.index(name) for name in model.channels]].split(4):
            model.network(part)
    return model.eval()


def side_of(network: QualityNetwork, signals: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    return network.prepare(signals, present).side


def everything_there() -> torch.Tensor:
    return torch.ones(len(SIGNALS), len(CHANNELS), dtype=torch.bool)


def test_indices_of_an_absent_channel_add_exactly_nothing() -> None:
    network = classifier(indices=["rhythm", "ecg"]).network
    present = everything_there()
    present[:, ECG] = False
    signals = SIGNALS.clone()
    signals[:, ECG] = 0
    side = side_of(network, signals, present)
    ecg = [network.indices.names.index(name) for name in GROUPS["ecg"]]
    assert bool(side[:, ecg].isnan().all())
    before = network(signals, present)
    with torch.no_grad():
        network.head.side.score.weight[:, ecg] = 1e30
    assert torch.equal(network(signals, present), before)
    assert not torch.equal(network(SIGNALS), before), "where there is an ECG it counts"


def test_with_nothing_to_compute_from_the_head_alone_decides() -> None:
    network = classifier().network
    present = torch.zeros_like(everything_there())
    tokens = network.run(network.prepare(0 * SIGNALS, present), "prepared", "encoded")
    alone = network.head.score(network.head.transform(network.head.pool(tokens))).squeeze(-1)
    assert torch.equal(network(0 * SIGNALS, present), alone)


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("rate", "monotone")])  # tests of their own
def test_only_the_chosen_channels_reach_the_logit(head: str) -> None:
    network = classifier(head=head, indices=["rhythm"], encoder_channels=["PPG"]).network
    whole = network(SIGNALS)
    for other in (ACC, ECG):
        changed = SIGNALS.clone()
        changed[:, other] = torch.randn(changed[:, other].shape) * 3
        assert torch.equal(network(changed), whole)
        flat = SIGNALS.clone()
        flat[:, other] = 0
        present = everything_there()
        present[:, other] = False
        assert torch.equal(network(flat, present), whole)
    changed = SIGNALS.clone()
    changed[:, PPG] = torch.randn(changed[:, PPG].shape)
    assert not torch.equal(network(changed), whole)


def test_a_channel_kept_from_the_encoder_still_reaches_the_indices() -> None:
    network = classifier(indices=["acc"], encoder_channels=["PPG"]).network
    changed = SIGNALS.clone()
    changed[:, ACC] *= 1 + torch.randn(1, 3, changed.shape[-1])
    tokens, whole = (network.run(network.prepare(part), "prepared", "encoded") for part in (changed, SIGNALS))
    assert torch.equal(tokens, whole)
    assert not torch.equal(network(changed), network(SIGNALS))


def test_all_channels_named_is_none_named() -> None:
    one, other = classifier(), classifier(encoder_channels=list(CHANNELS))
    assert torch.equal(one.network(SIGNALS), other.network(SIGNALS))
    turned = classifier(encoder_channels=["ppg", "ACC_Z", "ACC_Y", "ACC_X", "ECG"])
    assert torch.equal(one.network(SIGNALS), turned.network(SIGNALS)), "names, not positions, are meant"


def test_missing_side_inputs_reach_neither_logit_nor_gradient() -> None:
    model = classifier(loss={})
    network = model.network.train()
    present = everything_there()
    present[::2, ECG] = False
    present[:3, ACC] = False
    present[1, PPG] = False
    signals = SIGNALS * present.unsqueeze(-1)
    for _ in range(2):
        logits = network(signals, present)
        assert bool(logits.isfinite().all())
        network.zero_grad()
        logits.square().sum().backward()
        gradients = [value.grad for value in network.parameters() if value.grad is not None]
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
    assert float(network.head.side.score.weight.grad.abs().sum()) > 0


def test_a_wild_index_counts_for_four_standard_deviations() -> None:
    side = SideInputs(3)
    torch.nn.init.ones_(side.score.weight)
    ordinary = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    for part in ordinary.split(40):
        side(part)
    side.eval()
    for wild in (1e6, 1e30, -1e6):
        values = torch.full((1, 3), torch.nan)
        values[0, 1] = wild
        assert float(side(values).detach()) == pytest.approx(4.0 if wild > 0 else -4.0)
    usual = side(ordinary)
    assert torch.allclose(usual, (ordinary / ordinary.std(0)).sum(1), atol=0.5)


def test_side_inputs_begin_without_a_say_and_have_a_rate_of_their_own() -> None:
    torch.manual_seed(0)
    model = PPGQualityClassifier(encoder={"init_args": TINY}, head="probe", indices=["rhythm"])
    network = model.network.eval()
    without = network.run(network.prepare(SIGNALS), "prepared", "logits", torch.full((12, 16), torch.nan))
    assert torch.equal(network(SIGNALS), without)
    names = network.named_parameters()
    groups = parameter_groups(names, lr=1e-3, weight_decay=0.1, head_lr_multiplier=3, indices_lr_multiplier=10)
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}
    assert rates[id(network.head.side.score.weight)] == pytest.approx(3e-2)
    assert rates[id(network.head.score.weight)] == pytest.approx(3e-3)
    assert rates[id(network.encoder.norm.weight)] == pytest.approx(1e-3)
    with pytest.raises(UserError, match="indices_lr_multiplier is 0"):
        parameter_groups(network.named_parameters(), lr=1e-3, weight_decay=0.1, indices_lr_multiplier=0)


def test_a_head_with_side_inputs_refuses_to_do_without_them() -> None:
    network = classifier().network
    with pytest.raises(ValueError, match="side inputs"):
        network.run(network.prepare(SIGNALS), "prepared", "logits")


@pytest.mark.parametrize("depth", [0, 1, "encoded", "pooled"])
def test_prefix_and_suffix_make_the_whole(depth: int | str) -> None:
    network = classifier(encoder_channels=["PPG"]).network
    present = everything_there()
    present[4:, ECG] = False
    signals = SIGNALS * present.unsqueeze(-1)
    features = network.run(network.prepare(signals, present), "prepared", depth)
    logits = network.run(features, depth, "logits", side_of(network, signals, present))
    assert torch.equal(logits, network(signals, present))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder_channels": ["PPG"], "finetune_channels": ["ACC_X"]}, "encoder_channels names PPG"),
        ({"encoder_channels": []}, "unknown channel names"),
        ({"encoder_channels": ["PPG", "PPG"]}, "named twice"),
        ({"indices": ["rythm"]}, "no group of signal indices 'rythm'"),
        ({"indices": ["rhythm"], "augment": {"motion_mixing": 0.5}}, "motion_mixing spoils"),
    ],
)
def test_what_cannot_be_is_one_line(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        PPGQualityClassifier(encoder={"init_args": TINY}, **options)
    assert "\n" not in str(error.value)


def saved(model: PPGQualityClassifier, path: Path, *without: str) -> Path:
    """Write what a fit would, less some hyperparameters."""
    options = {key: value for key, value in model.hparams.items() if key not in without}
    content = {"state_dict": model.state_dict(), "hyper_parameters": options, "pytorch-lightning_version": "2.6.6"}
    torch.save(content, path)
    return path


def test_a_checkpoint_comes_back_in_both_ways_bit_for_bit(tmp_path: Path) -> None:
    model = classifier(encoder_channels=["PPG", "ECG"], indices=["rhythm", "acc"])
    path = saved(model, tmp_path / "best_model.pt")
    plain, options = restore_network(path)
    lightning = PPGQualityClassifier.load_from_checkpoint(path).eval()
    assert options["indices"] == lightning.hparams["indices"] == ["rhythm", "acc"]
    logits = model.network(SIGNALS)
    assert torch.equal(plain(SIGNALS), logits)
    assert torch.equal(lightning.network(SIGNALS), logits)


def test_a_checkpoint_from_before_there_were_side_inputs_comes_back_too(tmp_path: Path) -> None:
    model = classifier(head="linear", indices=None)
    new = ("indices", "encoder_channels", "indices_lr_multiplier", "augment", "loss")
    path = saved(model, tmp_path / "best_model.pt", *new)
    plain, options = restore_network(path)
    assert not set(new) & set(options)
    lightning = PPGQualityClassifier.load_from_checkpoint(path).eval()
    assert torch.equal(plain(SIGNALS), model.network(SIGNALS))
    assert torch.equal(lightning.network(SIGNALS), model.network(SIGNALS))


@pytest.mark.parametrize("spoilt", [{"indices": "rhythm"}, {"indices": [3]}, {"encoder_channels": {"PPG": 1}}], ids=str)
def test_a_strangers_names_are_refused_in_one_line(spoilt: dict, tmp_path: Path) -> None:
    model = classifier(indices=["rhythm"])
    content = torch.load(saved(model, tmp_path / "m.pt"), weights_only=True)
    content["hyper_parameters"] |= spoilt
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(UserError, match="that are no names"):
        restore_network(tmp_path / "m.pt")


def parity(model: bytes, network: QualityNetwork) -> None:
    session = pytest.importorskip("onnxruntime").InferenceSession(model, providers=["CPUExecutionProvider"])
    names = network.preprocess.channels
    rows = [CHANNELS.index(name) for name in names]
    present = everything_there()[:, rows]
    present[4:, names.index("ECG")] = False
    signals = SIGNALS[:, rows] * present.unsqueeze(-1)
    found = session.run(None, {"signals": signals.numpy(), "present": present.numpy()})[-1]  # logits come last
    assert np.allclose(found, network(signals, present).detach().numpy(), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_network_and_indices_leave_for_onnx_together() -> None:
    pytest.importorskip("onnx")
    network = classifier(finetune_channels=2, encoder_channels=["PPG"]).network
    file = io.BytesIO()
    names = ["signals", "present"]
    torch.onnx.export(
        network,
        (SIGNALS[:3, PPG:], everything_there()[:3, PPG:]),
        file,
        input_names=names,
        dynamic_axes={name: {0: "windows"} for name in names},
        opset_version=17,
        dynamo=False,  # in a second; the other exporter takes a minute
    )
    parity(file.getvalue(), network)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_network_and_indices_leave_for_onnx_as_the_command_writes_it() -> None:
    pytest.importorskip("onnxscript")
    network = classifier(encoder_channels=["PPG"], indices=["rhythm", "acc"]).network
    parity(export_onnx(network, {}).SerializeToString(), network)


def test_a_monotone_weight_keeps_its_sign_whatever_it_is_shown() -> None:
    names = ["template_match", "rate_step", "skewness"]
    inputs, generator = MonotoneInputs(names), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(inputs.parameters(), lr=0.1)
    values = torch.randn(64, 3, generator=generator)
    for sign, moved in ((1, [True, False]), (-1, [False, True]), (1, [True, False])):
        for _ in range(60):  # the target wants both weights of one sign: only one may have it
            optimizer.zero_grad()
            (inputs(values) - sign * values[:, :2].sum(1)).square().mean().backward()
            optimizer.step()
        inputs(values)
        assert (inputs.score.weight[0, :2] > 0.1).tolist() == moved
        assert inputs.score.weight[0, 2] == 0, "without a direction it has no say"
    inputs.eval()
    other = values + torch.tensor([0.5, 0.0, 9.0])
    assert (inputs(other) >= inputs(values)).all()


def test_tokens_have_no_say_in_a_monotone_head(monkeypatch: pytest.MonkeyPatch) -> None:
    network = classifier(head="monotone", indices=["intervals"]).network
    assert network.used_channels == ("PPG",)
    whole = network(SIGNALS)
    monkeypatch.setattr(network.encoder, "forward", None)
    assert torch.equal(network(SIGNALS), whole)
    with pytest.raises(UserError, match="indices with a direction"):
        classifier(head="monotone", indices=["amplitude"])
