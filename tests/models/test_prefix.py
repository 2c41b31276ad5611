"""Where a frozen prefix ends, what is in it, and that prefix and suffix together are the network."""

from typing import Any

import pytest
import torch
from conftest import TINY

from butppg_lightning.models.encoder import PatchTransformer
from butppg_lightning.models.freezing import (
    blocks_in,
    depth_before,
    frozen_depth,
    prefix_digest,
    prefix_versions,
    set_trainable,
)
from butppg_lightning.models.heads import HEADS, HeadName
from butppg_lightning.models.network import Depth, QualityNetwork
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.window import CHANNELS

BLOCKS = 4
DEPTHS: list[Depth] = [0, 1, 2, 3, 4, "encoded", "pooled"]


def make_network(head: HeadName = "linear", **options: Any) -> QualityNetwork:
    torch.manual_seed(0)
    encoder = PatchTransformer(CHANNELS, **{**TINY, "depth": BLOCKS, **options})
    bands = dict.fromkeys(("ppg_band", "ecg_band", "acc_band"))  # its matrices are large, and all the same to a prefix
    return QualityNetwork(Preprocess(CHANNELS, **bands), encoder, HEADS[head](encoder.width)).eval()


@pytest.mark.parametrize(
    ("trainable", "head", "depth"),
    [
        ("head", "linear", "pooled"),
        ("head", "mlp", "pooled"),
        ("head", "attention", "encoded"),
        (1, "linear", 3),
        (3, "attention", 1),
        (4, "linear", 0),
        ("all", "linear", None),
    ],
)
def test_the_depth_follows_what_trains(trainable: Any, head: HeadName, depth: Depth | None) -> None:
    network = make_network(head)
    set_trainable(network, trainable)
    assert frozen_depth(network) == depth
    assert depth_before(network, trainable) == depth, "what is foretold is what comes"


def test_a_mode_alone_ends_the_prefix() -> None:
    network = make_network(dropout=0.5)
    set_trainable(network, "head")
    network.encoder.blocks[2].drop.train()
    assert frozen_depth(network) == 2
    network.encoder.blocks[2].drop.eval()
    network.encoder.norm.train()
    assert frozen_depth(network) == BLOCKS
    network.encoder.norm.eval()
    network.preprocess.train()
    assert frozen_depth(network) is None


@pytest.mark.parametrize(("name", "depth"), [("embedding.bias", None), ("blocks.1.fc1.bias", 1), ("norm.weight", 4)])
def test_a_single_parameter_ends_the_prefix(name: str, depth: Depth | None) -> None:
    network = make_network()
    set_trainable(network, "head")
    network.encoder.get_parameter(name).requires_grad_(True)
    assert frozen_depth(network) == depth


def test_a_parameter_of_the_encoder_itself_counts() -> None:
    network = make_network()
    network.encoder.register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
    set_trainable(network, 1)
    assert frozen_depth(network) == 3
    network.encoder.get_parameter("scale").requires_grad_(True)
    assert frozen_depth(network) is None


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("rate", "monotone")])  # tests of their own
@pytest.mark.parametrize("depth", DEPTHS)
def test_prefix_and_suffix_are_the_network(head: HeadName, depth: Depth) -> None:
    if head == "attention" and depth == "pooled":
        pytest.skip("its pooling trains")
    network = make_network(head)
    signals, present = torch.randn(6, 5, 1250), torch.rand(6, 5) > 0.3
    signals = signals * present.unsqueeze(-1)
    with torch.no_grad():
        features = network.run(network.prepare(signals, present), "prepared", depth)
        pooled = (6, 96 if head == "probe" else 32)
        assert features.shape == (pooled if depth == "pooled" else (6, 25, 32))
        assert torch.equal(network.run(features, depth, "logits"), network(signals, present))


@pytest.mark.parametrize(("start", "depth"), [(0, 2), (2, 2), (1, "encoded"), (2, "pooled"), (4, "pooled")])
def test_a_prefix_goes_on_from_a_shallower_one(start: int, depth: Depth) -> None:
    network = make_network()
    prepared = network.prepare(torch.randn(3, 5, 1250))
    with torch.no_grad():
        way = network.run(network.run(prepared, "prepared", start), start, depth)
        assert torch.equal(way, network.run(prepared, "prepared", depth))


def test_blocks_are_counted() -> None:
    assert [blocks_in(make_network(), depth) for depth in (0, 3, "encoded", "pooled")] == [0, 3, 4, 4]


def inside(name: str, depth: Depth) -> bool:
    words = name.split(".")
    if words[0] == "head":
        return False
    if words[:2] == ["encoder", "blocks"]:
        return int(words[2]) < (depth if isinstance(depth, int) else BLOCKS)
    return not isinstance(depth, int) if words[:2] == ["encoder", "norm"] else True


@pytest.mark.parametrize("depth", [0, 2, "pooled"])
def test_the_digest_knows_every_tensor_of_the_prefix_and_no_other(depth: Depth) -> None:
    network = make_network()
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert {"preprocess.acc_scale", "encoder.positions", "encoder.embedding.weight"} <= set(tensors)
    for name, tensor in tensors.items():
        digest, versions = prefix_digest(network, depth), prefix_versions(network, depth)
        before = tensor.detach().clone()
        with torch.no_grad():
            flat = tensor.view(-1)
            flat[-1] = ~flat[-1] if tensor.dtype == torch.bool else flat[-1] + 1
        assert (prefix_digest(network, depth) != digest) == inside(name, depth), name
        assert (prefix_versions(network, depth) != versions) == inside(name, depth), name
        with torch.no_grad():
            tensor.copy_(before)
        assert prefix_digest(network, depth) == digest, name


def test_the_digest_depends_on_type_and_depth() -> None:
    network = make_network()
    assert prefix_digest(network, 1) != prefix_digest(network, 2)
    assert prefix_digest(network, 2) != prefix_digest(make_network().bfloat16(), 2)
    assert prefix_digest(network, 2) == prefix_digest(make_network(), 2)


def test_loading_the_same_weights_is_noticed_but_changes_nothing() -> None:
    network = make_network()
    digest, versions = prefix_digest(network, 2), prefix_versions(network, 2)
    network.load_state_dict(network.state_dict())
    assert prefix_versions(network, 2) != versions
    assert prefix_digest(network, 2) == digest
