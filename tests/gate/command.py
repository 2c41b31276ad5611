"""The command that makes the shipped gate from data whose licence allows it, and judges it on what it never saw."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from people import fingerprints
from people.command_line import run_typed
from people.data_set import DataSet
from people.jobs import EncoderJob
from people.workers import command

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.files import require_writable, write_json
from butppg_lightning.shipped import WEIGHTS
from gate.bank import make_windows, split
from gate.judge import judge
from gate.recorded import LICENSED, read_recorded

_HERE = Path(__file__).parent
_MADE_BY = ("recorded.py", "spoil.py", "bank.py")
_PRETRAINING = "--config pretrain.yaml --config small.yaml --trainer.max_epochs 10"
_FIT = "--config gate.yaml"
_SEED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the gate with the arguments of the command line, and return the exit code."""
    return run_typed(make_gate, "tests/gate", "gate", arguments)


def make_gate(data: Path, work: Path, output: Path, about: Path, judge_only: bool = False) -> None:
    """Make windows, an encoder and the gate, judge it, and export it with its card.

    Stopped at any moment, the same command goes on where it was: a step is done again only if what it is made from has
    changed.

    Args:
        data: Folder with cinc2015/ and bidmc/ to train on, and spc2015_dev/, bami1/, mimic_perform_af/ and
            but_ppg_release_sample/ to judge by, as far as they are there.
        work: Folder for everything that is made on the way.
        output: Folder of the gate.
        about: YAML file with what its card says.
        judge_only: Make nothing; write the figures of the gate in --output to figures.yaml in --work.

    Raises:
        UserError: If a file is missing or a step fails.
    """
    if judge_only:
        _step("figures", lambda: _figures(output / WEIGHTS, data, work / "figures"))
        return
    for path in (*(data / name for name in LICENSED), about):
        if not path.is_file():
            raise UserError(f"{path} does not exist; the gate is made of it")
    require_writable(work)
    windows = _step("windows", lambda: _windows(data, work / "windows"))
    encoder = _step("encoder", lambda: _encoder(data, work))
    gate = _step("gate", lambda: _fit(windows, encoder, work / "run"))
    figures = _step("figures", lambda: _figures(gate, data, work / "figures"))
    words = ["--checkpoint", str(gate), "--output", str(output), "--about", str(about), str(figures)]
    command("export", *words, "--overwrite", "true")


def _step(name: str, do: Callable[[], Path]) -> Path:
    begin = time.monotonic()
    made = do()
    say(f"{name}: {made} ({time.monotonic() - begin:.0f} s)")
    return made


def _windows(data: Path, folder: Path) -> Path:
    """Make train.npz and val.npz."""
    sources = [fingerprints.digest_of(data / name) for name in LICENSED]
    code = [fingerprints.digest_of(_HERE / name) for name in _MADE_BY]
    wanted, made = fingerprints.fingerprint(sources=sources, code=code, seed=_SEED), folder / "train.npz"
    if not fingerprints.is_done(made, wanted):
        fingerprints.forget(made)
        for name, part in split(make_windows(read_recorded(data), _SEED)).items():
            part.save(folder / f"{name}.npz")
        fingerprints.finish(made, wanted)
    return folder


def _encoder(data: Path, work: Path) -> Path:
    """Pretrain the encoder that the gate carries, on PPG and ECG of both sources."""
    patients = data / "cinc2015" / "windows.npz"
    source = DataSet(patients, pretraining=data / "bidmc", patients=(patients,))
    wanted = fingerprints.fingerprint(arguments=fingerprints.meaning(_PRETRAINING), data=source.digests())
    folder, log = work / f"encoder-{wanted}", work / "encoder.log"
    job = EncoderJob("encoder", _PRETRAINING, source, folder, wanted, log, pooled=True)
    if not fingerprints.is_done(job.result, wanted):
        job.run()
    return job.result


def _fit(windows: Path, encoder: Path, folder: Path) -> Path:
    """Train the gate, and calibrate it on people who were held out of that."""
    files = [windows / "train.npz", windows / "val.npz", encoder]
    digests = [fingerprints.digest_of(path) for path in files]
    wanted, made = (
        fingerprints.fingerprint(arguments=fingerprints.meaning(_FIT), files=digests),
        folder / "best_model.pt",
    )
    if not fingerprints.is_done(made, wanted):
        shutil.rmtree(folder, ignore_errors=True)  # a minute's work: a killed one is begun anew
        where = ["--data.root", str(windows), "--model.pretrained", str(encoder), "--output_dir", str(folder)]
        command("fit", *_FIT.split(), *where, "--test", "false")
        fingerprints.finish(made, wanted)
    return made


def _figures(gate: Path, data: Path, folder: Path) -> Path:
    """Judge the gate, once."""
    wanted, made = fingerprints.fingerprint(gate=fingerprints.digest_of(gate)), folder / "figures.yaml"
    if not fingerprints.is_done(made, wanted):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(made, judge(gate, data, folder))
        fingerprints.finish(made, wanted)
    return made
