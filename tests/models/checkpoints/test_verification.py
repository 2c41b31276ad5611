from pathlib import Path

import pytest
import torch

from butppg_lightning import PPGQualityClassifier
from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints.verification import verify_pretrained
from butppg_lightning.models.inflation import Inflation


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
