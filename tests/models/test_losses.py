"""The loss against the formulas of the papers, and what options refuse."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from butppg_lightning.errors import UserError
from butppg_lightning.models.losses import LossOptions, quality_loss

LOGITS = torch.tensor([2.0, -1.0, 0.3, -3.0, 0.0])
HARD = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
SOFT = torch.tensor([0.9, 0.4, 0.0, 0.2, 1.0])
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0])


def by_hand(targets: torch.Tensor, poor: float = 1, good: float = 1, gamma: float = 0, smooth: float = 0) -> float:
    total = 0.0
    for logit, target, weight in zip(LOGITS.tolist(), targets.tolist(), WEIGHTS.tolist(), strict=True):
        p = 1 / (1 + torch.e**-logit)
        t = target * (1 - smooth) + smooth / 2
        entropy = -(good * t * torch.log(torch.tensor(p)) + poor * (1 - t) * torch.log(torch.tensor(1 - p)))
        total += weight * abs(t - p) ** gamma * float(entropy)
    return total / len(LOGITS)


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize(
    ("poor", "good", "gamma", "smooth"),
    [(1, 1, 0, 0), (0.6, 2.4, 0, 0), (1, 3, 0, 0), (1, 1, 2, 0), (1, 1, 0, 0.1), (2, 0.7, 1.5, 0.2)],
)
def test_it_is_the_formula(targets: torch.Tensor, poor: float, good: float, gamma: float, smooth: float) -> None:
    options = {"class_weights": (poor, good), "focal_gamma": gamma, "label_smoothing": smooth}
    found = quality_loss(LOGITS, targets, WEIGHTS, **options)
    assert float(found) == pytest.approx(by_hand(targets, poor, good, gamma, smooth), rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_without_options_it_is_torch_bit_for_bit(weights: torch.Tensor | None) -> None:
    gradients = []
    for loss in (quality_loss, lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, weight=w)):
        logits = LOGITS.clone().requires_grad_()
        value = loss(logits, SOFT, weights)
        value.backward()
        gradients.append((value.detach(), logits.grad))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_focal_loss_of_hard_labels_is_lins() -> None:
    p = LOGITS.sigmoid()
    right = torch.where(HARD == 1, p, 1 - p)
    assert quality_loss(LOGITS, HARD, focal_gamma=2.0).item() == pytest.approx(
        (-((1 - right) ** 2) * right.log()).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients_stay_finite_where_target_and_probability_meet_or_saturate(gamma: float) -> None:
    logits = torch.tensor([0.0, 100.0, -100.0, 100.0]).requires_grad_()
    quality_loss(logits, torch.tensor([0.5, 1.0, 0.0, 0.0]), focal_gamma=gamma).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[3] > 0, "and a confident error is still corrected"


def test_half_precision_is_computed_in_single() -> None:
    loss = quality_loss(LOGITS.bfloat16(), SOFT.double(), focal_gamma=2.0)
    assert loss.dtype == torch.float32
    assert loss == quality_loss(LOGITS.bfloat16().float(), SOFT, focal_gamma=2.0)


def test_balanced_weights_give_both_classes_the_same_sum_and_keep_the_mean() -> None:
    labels = torch.tensor([0] * 79 + [1] * 21)
    poor, good = LossOptions.from_options({"positive_weight": "balanced"}).class_weights(labels)
    assert (poor, good) == (100 / 158, 100 / 42)
    assert 79 * poor == pytest.approx(21 * good)
    assert 79 * poor + 21 * good == pytest.approx(100)
    assert LossOptions(3).class_weights() == (1.0, 3.0)
    assert LossOptions.from_options(None) == LossOptions() == LossOptions.from_options({})


@pytest.mark.parametrize("labels", [None, torch.tensor([]), torch.zeros(4), torch.ones(4)])
def test_one_class_cannot_be_balanced(labels: torch.Tensor | None) -> None:
    with pytest.raises(UserError, match="both classes"):
        LossOptions("balanced").class_weights(labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 2}, ["no option 'gamma'", "positive_weight, focal_gamma, label_smoothing"]),
        ({"positive_weight": 0}, ["positive_weight is 0", "or balanced"]),
        ({"positive_weight": "even"}, ["positive_weight is even", "or balanced"]),
        ({"positive_weight": None}, ["positive_weight is None"]),
        ({"positive_weight": float("nan")}, ["positive_weight is nan"]),
        ({"focal_gamma": -1}, ["focal_gamma is -1", "0 to 10"]),
        ({"focal_gamma": True}, ["focal_gamma is True"]),
        ({"label_smoothing": 1}, ["label_smoothing is 1", "0 to 0.99"]),
        ({"label_smoothing": "much"}, ["label_smoothing is much"]),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        LossOptions.from_options(options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
