import pytest
import torch

from butppg_lightning.models.heads import HEADS, AttentionHead


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ("rate", "monotone")])  # tests of their own
def test_logit_per_window_and_every_parameter_learns(name: str) -> None:
    head = HEADS[name](16)
    tokens = torch.randn(3, 10, 16)
    for _ in range(2):  # attention starts as a plain mean: its weights move from the second step on
        logits = head(tokens)
        logits.square().sum().backward()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter -= 0.1 * parameter.grad + 0.01
    assert logits.shape == (3,)
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters() if parameter.ndim > 1)


def test_attention_starts_as_the_mean_and_its_shares_sum_to_one() -> None:
    head = AttentionHead(16)
    tokens = torch.randn(3, 10, 16)
    assert torch.allclose(head.weights(tokens), torch.full((3, 10), 0.1))
    torch.nn.init.normal_(head.attend.weight)
    assert torch.allclose(head.weights(tokens).sum(1), torch.ones(3))
    assert head.weights(tokens).std() > 0
