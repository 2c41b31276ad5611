"""Every command that a message suggests does what it says when it is pasted into a shell."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import NASTY, run_suggested, suggested

from butppg_lightning.cli import main
from butppg_lightning.console import suggestion

SHORT = ["--config", "tiny.yaml", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
FIT = [*SHORT, "--test", "false"]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_shell_gives_back_the_words(word: str) -> None:
    assert suggested(suggestion("fit --config a.yaml", word).replace("\n", " "))[-1] == word.replace("\n", " ")


@pytest.mark.parametrize("name", NASTY)
def test_from_synthetic_windows_to_a_fit_by_suggestions(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["mock", f"--output={name}", "--samples", "60"]) == 0
    words = suggested(capsys.readouterr().out)
    assert (tmp_path / words[words.index("--data.root") + 1]).samefile(tmp_path / name)
    assert words[0] == "fit"
    assert main(["mock", f"--output={name}/v", "--samples", "40", "--layout", "vitaldb"]) == 0
    words = suggested(capsys.readouterr().out)
    assert (tmp_path / words[words.index("--data.root") + 1]).samefile(tmp_path / name / "v")
    # what is missing is suggested too
    assert main(["fit", "--config", "finetune.yaml", f"--data.root={name}/none", *FIT]) == 2
    assert suggested(capsys.readouterr().err) == ["mock", "--output", name_of(f"{name}/none"), "--samples", "1000"]
    assert not (tmp_path / "broken").exists()


def name_of(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


@pytest.mark.parametrize("name", [NASTY[3], NASTY[5]])
def test_a_pretraining_in_any_folder_ends_with_a_fit_that_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["mock", "--output", "d", "--samples", "60"]) == 0
    assert main(["mock", "--output", "v", "--samples", "40", "--layout", "vitaldb"]) == 0
    words = ["pretrain", "--config", "pretrain.yaml", *SHORT, "--data.root=v", f"--output_dir={name}"]
    assert main([*words, "--trainer.max_steps=1"]) == 0
    said = capsys.readouterr()
    assert run_suggested(said.out, "--data.root=d", "--output_dir=run", "--trainer.max_epochs=1", "--test=false") == 0
    assert "cut off" not in said.err or run_suggested(said.err) == 0
    assert not (tmp_path / "broken").exists()


@pytest.mark.slow
def test_a_sweep_ends_with_commands_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = NASTY[4]
    assert main(["mock", f"--output=d/{name}", "--samples", "60"]) == 0
    (tmp_path / "s.yaml").write_text("parameters: {model.lr: [1.0e-3]}\nmetric: val_auroc\ntrials: 1\nsampler: grid\n")
    assert main(["sweep", "--config", "s.yaml", *SHORT, f"--data.root=d/{name}", f"--output_dir={name}"]) == 0
    said = capsys.readouterr().out
    assert run_suggested(said, command="butppg test") == 0
    assert run_suggested(said, command="butppg fit") == 0
    assert (tmp_path / name / "best" / "best_model.pt").is_file()
    assert not (tmp_path / "broken").exists()
