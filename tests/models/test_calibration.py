import copy
import math

import numpy as np
import pytest
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.calibration import Calibration, stored_calibration

# three corners; at a share of 0.5 their precisions are 1, 0.8 and 0.6
CURVE = {
    "threshold": [0.9, 0.6, 0.3, 0.0],
    "sensitivity": [0.4, 0.8, 0.9, 1.0],
    "false_positive_rate": [0.0, 0.2, 0.6, 1.0],
}
FITTED = Calibration(2.0, -0.5, 0.5, CURVE, "made up")


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_one_that_was_never_fitted_is_the_plain_sigmoid() -> None:
    logits = torch.randn(1000) * 10
    assert torch.equal(Calibration().probabilities(logits), logits.sigmoid())
    assert Calibration().probabilities(logits.bfloat16()).dtype == torch.float32
    assert Calibration().threshold() == Calibration().threshold("precision") == 0.5


def test_a_prior_shifts_by_bayes_rule() -> None:
    """Gaussian classes: the posterior at another share of good windows is known."""
    means, share, other = (0.0, 1.5), 0.5, 0.2
    found = torch.linspace(-4, 5, 50, dtype=torch.float64)
    ratio = means[1] * found - means[1] ** 2 / 2  # log likelihood ratio of unit normals
    calibration = Calibration(prior=share)
    exact = 1 / (1 + (1 - other) / other * torch.exp(-ratio))
    assert torch.allclose(calibration.probabilities(ratio + logit(share), other).double(), exact, atol=1e-6)


def test_balanced_and_sensitivity_stay_on_the_curve_and_precision_moves() -> None:
    assert FITTED.point("balanced").threshold == 0.6
    assert FITTED.point("sensitivity").threshold == 0.3
    assert FITTED.point("precision").threshold == 0.9
    for prior in (0.1, 0.9):
        for name in ("balanced", "sensitivity"):
            moved, stayed = FITTED.point(name, prior), FITTED.point(name)
            assert (moved.sensitivity, moved.false_positive_rate) == (stayed.sensitivity, stayed.false_positive_rate)
            assert logit(moved.threshold) - logit(stayed.threshold) == pytest.approx(logit(prior) - logit(0.5))
    # at 0.9 good, the second corner's precision is 0.72 / (0.72 + 0.02): the larger sensitivity is taken
    at_nine = FITTED.point("precision", 0.9)
    assert at_nine.sensitivity == 0.8
    assert at_nine.precision == pytest.approx(0.72 / 0.74)


@pytest.mark.parametrize("prior", [None, 0.15, 0.8])
@pytest.mark.parametrize("name", ["balanced", "precision", "sensitivity"])
def test_a_prior_does_not_change_who_is_called_good_but_by_its_point(name: str, prior: float | None) -> None:
    logits = torch.linspace(-8, 8, 1001)
    point = FITTED.point(name, prior)
    called = FITTED.probabilities(logits, prior) >= point.threshold
    at_fit = FITTED.curve["threshold"][FITTED.curve["sensitivity"].index(point.sensitivity)]
    assert torch.equal(called, FITTED.probabilities(logits) >= at_fit)


def test_an_unreachable_precision_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    curve = {**CURVE, "false_positive_rate": [0.1, 0.25, 0.6, 1.0]}
    calibration = Calibration(1.0, 0.0, 0.5, curve)
    assert calibration.threshold("precision") == 0.9
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "95% is out of reach where 50.0% of the windows are good" in said
    assert "80.0%" in said
    assert calibration.threshold("balanced") == 0.6
    assert FITTED.threshold("precision") == 0.9
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.2, float("nan")])
def test_impossible_priors(prior: float) -> None:
    for use in (lambda: FITTED.probabilities(torch.zeros(1), prior), lambda: FITTED.threshold("balanced", prior)):
        with pytest.raises(UserError, match="between 0 and 1"):
            use()


def test_what_needs_a_fit_says_so() -> None:
    for use in (
        lambda: Calibration().probabilities(torch.zeros(1), 0.3),
        lambda: Calibration().threshold("balanced", 0.3),
        lambda: Calibration().point("precision"),
    ):
        with pytest.raises(UserError, match="butppg calibrate"):
            use()
    with pytest.raises(UserError, match="choose balanced, precision, sensitivity"):
        FITTED.threshold("accuracy")


def test_there_and_back() -> None:
    assert Calibration.from_state(FITTED.state()) == FITTED
    assert stored_calibration({"calibration": FITTED.state()}, "a.pt") == FITTED
    assert stored_calibration({}, "a.pt") == Calibration()


HOSTILE = {
    "no dictionary": [1.0],
    "strange key": {"__class__": "os.system"},
    "temperature 0": {"temperature": 0.0},
    "negative temperature": {"temperature": -1.0},
    "NaN": {"temperature": float("nan")},
    "infinite": {"bias": float("inf")},
    "text": {"temperature": "1"},
    "bool": {"bias": True},
    "tensor": {"bias": torch.zeros(1)},
    "none": {"bias": None},
    "prior 1": {"prior": 1.0},
    "target 0": {"precision": 0},
    "source": {"source": 3},
    "curve without prior": {"curve": CURVE, "prior": None},
    "curve of other keys": {"curve": {"threshold": [0.5]}},
    "ragged curve": {"curve": {**CURVE, "threshold": [0.5]}},
    "empty curve": {"curve": {key: [] for key in CURVE}},
    "huge curve": {"curve": {key: [0.5] * 10_001 for key in CURVE}},
    "curve out of range": {"curve": {**CURVE, "sensitivity": [0.4, 0.8, 0.9, 1.1]}},
    "curve of NaN": {"curve": {**CURVE, "threshold": [0.9, 0.6, float("nan"), 0.0]}},
    "curve out of order": {"curve": {**CURVE, "threshold": [0.3, 0.6, 0.9, 0.0]}},
    "array for a list": {"curve": {**CURVE, "threshold": np.array([0.9, 0.6, 0.3, 0.0])}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_one_is_refused(what: str) -> None:
    state = HOSTILE[what]
    if isinstance(state, dict):
        state = {**copy.deepcopy(FITTED.state()), **state}
    with pytest.raises(UserError, match=r"a\.pt: the stored calibration is damaged: .*butppg calibrate") as told:
        stored_calibration({"calibration": state}, "a.pt")
    assert "\n" not in str(told.value)
