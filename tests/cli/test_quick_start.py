"""Training imports neither torch's compiler nor scipy and matplotlib, and whoever wants them finds them."""

import subprocess
import sys
from pathlib import Path

import pytest

_FIT = """
import sys
from butppg_lightning.cli import main
folders = ["--data.root", sys.argv[1], "--output_dir", sys.argv[2]]
epochs = ["--stages.head_only_epochs", "1", "--trainer.max_epochs", "2"]
assert main(["fit", "--config", "tiny.yaml", *folders, *epochs]) == 0
print(*sorted({"scipy", "matplotlib", "sympy", "torch._dynamo.eval_frame"} & set(sys.modules)))
"""
_LATER = """
import sys
from butppg_lightning.cli import load
load("fit")
import torch
from lightning.pytorch.utilities.compile import OptimizedModule
module = torch.nn.Linear(2, 2)
assert not isinstance(module, OptimizedModule)
{first}
compiled = torch.compile(module, backend="eager")
assert isinstance(compiled, OptimizedModule) and not isinstance(module, OptimizedModule)
assert compiled(torch.ones(1, 2)).equal(module(torch.ones(1, 2)))
assert sys.modules["torch._dynamo"] is torch._dynamo and torch._dynamo.__spec__.origin == torch._dynamo.__file__
"""
_SUBMODULE = """
import torch._dynamo.symbolic_convert as part
assert part is torch._dynamo.symbolic_convert and part.__spec__.origin == part.__file__
"""
_PLOT = """
import matplotlib; matplotlib.use("agg")
from torchmetrics import MeanMetric
metric = MeanMetric(); metric.update(1.0); assert metric.plot()[0].axes
"""


def run(script: str, *words: object) -> str:
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_whole_fit_imports_none_of_them(data_folder: Path, tmp_path: Path) -> None:
    assert run(_FIT, data_folder, tmp_path / "run").splitlines()[-1] == ""


@pytest.mark.parametrize("first", ["", _SUBMODULE, _PLOT], ids=["at once", "after a submodule", "after a plot"])
def test_a_module_can_be_compiled_later(first: str) -> None:
    run(_LATER.format(first=first))
