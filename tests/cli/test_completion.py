import shutil
import subprocess

import pytest

from butppg_lightning.cli import COMMANDS, completion, main


@pytest.fixture(scope="module")
def helps() -> dict[tuple[str, str], str]:
    """What the helps of a few commands say; making those of all takes long and is tested in test_cli.py."""
    wanted = [("mock", "--help"), ("prepare splits", "--help"), ("fit", "--help"), ("fit", "--help.trainer")]
    return {words: completion._help_of(*words) for words in wanted}


def completed(script: str, line: str, shell: str = "bash") -> set[str]:
    words = line.split(" ")
    ask = f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _butppg; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_script_completes_commands_options_and_choices(helps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_help_of", lambda name, option="--help": helps.get((name, option), ""))
    script = completion.script("bash")
    assert {"fit", "finetune"} & completed(script, "butppg fi") == {"fit"}
    assert completed(script, "butppg ") == {name.split()[0] for name in COMMANDS}
    assert "--data.batch_size" in completed(script, "butppg fit --data.b")
    assert "--trainer.limit_val_batches" in completed(script, "butppg fit --trainer.lim")
    assert completed(script, "butppg fit --overwrite t") >= {"true"}
    assert completed(script, "butppg fit --select ") >= {"best", "last"}
    assert completed(script, "butppg mock --layout v") == {"vitaldb"}
    assert "finetune.yaml" in completed(script, "butppg fit --config fi")
    assert completed(script, "butppg prepare spl") == {"splits"}
    assert "--folds" in completed(script, "butppg prepare splits --f")
    assert "--config" in completed(script, "butppg fit --c")
    assert not {"--data.root", "--resume"} & completed(script, "butppg mock --")
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-c", completion.script("zsh")], check=True)


def test_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "expected one of bash, zsh, got fish" in capsys.readouterr().err


def test_help_reads_like_a_page(helps) -> None:
    assert "\n\nExample:\n  butppg mock --output data/mock --samples 1000 --seed 0\n" in helps["mock", "--help"]
    assert "\n\nExample:\n  butppg fit --config finetune.yaml" in helps["fit", "--help"]
    assert "<class" not in helps["prepare splits", "--help"]
