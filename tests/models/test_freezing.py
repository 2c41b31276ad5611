import pytest
import torch
from conftest import TINY

from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import PatchTransformer
from butppg_lightning.models.freezing import set_trainable
from butppg_lightning.models.heads import LinearHead
from butppg_lightning.models.network import QualityNetwork
from butppg_lightning.models.preprocess import Preprocess
from butppg_lightning.window import CHANNELS


def network(depth: int = 3) -> QualityNetwork:
    encoder = PatchTransformer(CHANNELS, **{**TINY, "depth": depth}, dropout=0.1)
    return QualityNetwork(Preprocess(CHANNELS), encoder, LinearHead(TINY["width"], 0.1))


@pytest.mark.parametrize(
    ("trainable", "parts"),
    [
        ("head", {"head"}),
        (1, {"encoder.blocks.2", "encoder.norm", "head"}),
        (3, {"encoder.blocks.0", "encoder.blocks.1", "encoder.blocks.2", "encoder.norm", "head"}),
        ("all", {"encoder", "head"}),
    ],
)
def test_only_the_named_part_trains(trainable, parts: set[str]) -> None:
    model = network()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_trainable(model, trainable)
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(f"{part}.") for part in parts)
        assert parameter.requires_grad == inside, name
        assert (parameter.grad is not None) == inside
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, torch.nn.Dropout):
            assert module.training == any(name.startswith(f"{part}.") for part in parts), name


def test_tells_whether_something_changed() -> None:
    model = network()
    assert set_trainable(model, "head")
    assert not set_trainable(model, "head")
    assert set_trainable(model, 2)


def test_a_module_without_the_parts_is_refused() -> None:
    with pytest.raises(UserError, match="encoder"):
        set_trainable(torch.nn.Linear(2, 2), "head")
