"""Running standardisation: the figures of all rows after a pass, the same in every process, and nothing but those."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from butppg_lightning.models.heads import RunningStandardise

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 4


def rows(count: int, seed: int = 0) -> torch.Tensor:
    """Features of very different centres and spreads."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([1.0, 1e-2, 30.0, 5.0])
    return torch.randn(count, WIDTH, generator=generator) * scales + torch.tensor([0.0, 1.0, -200.0, 3.0])


def followed(*batches: torch.Tensor, known: list[torch.Tensor] | None = None) -> RunningStandardise:
    module = RunningStandardise(WIDTH).train()
    for number, batch in enumerate(batches):
        module(batch, None if known is None else known[number])
    return module


@pytest.mark.parametrize("size", [1, 4, 25])
def test_one_pass_gives_the_mean_and_variance_of_all_rows(size: int) -> None:
    everything = rows(40 * size)
    module = followed(*everything.split(size))
    values = everything.double().numpy()
    assert np.allclose(module.mean, values.mean(0), rtol=1e-5, atol=1e-5)
    assert np.allclose(module.variance, values.var(0), rtol=1e-4)
    scaled = module.eval()(everything)
    assert np.allclose(scaled, (values - values.mean(0)) / values.std(0), atol=1e-3)


def test_an_offset_ten_thousand_times_the_spread_is_survived_from_the_first_batch_on() -> None:
    batches = [1e4 + torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    module = RunningStandardise(WIDTH).train()
    for number, batch in enumerate(batches):
        scaled = module(batch)
        assert 0.8 < float(scaled.std()) < 1.2, number
        assert float(scaled.mean().abs()) < 0.5
    everything = torch.cat(batches).double()
    assert torch.allclose(module.variance.double(), everything.var(0, correction=0), rtol=1e-2)


def test_it_forgets_after_about_fifty_batches() -> None:
    module = followed(*(rows(16, seed) for seed in range(60)))
    for seed in range(600):  # two of the features move by a hundred times their spread
        module(3 * rows(16, seed))
    everything = 3 * rows(4000)
    assert bool(((module.mean - everything.mean(0)).abs() < 0.3 * everything.std(0)).all())
    assert torch.allclose(module.variance.sqrt(), everything.std(0), rtol=0.3)


def test_what_is_not_known_does_not_count_whatever_stands_there() -> None:
    everything = rows(200)
    known = torch.rand(200, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.6
    # as many known rows in every batch: batches count alike
    for column in range(WIDTH):
        known[:, column] = (torch.arange(200) + column) % 2 == 0
    filled = torch.where(known, everything, torch.tensor(torch.nan)).requires_grad_()
    module = followed(*filled.detach().split(20), known=list(known.split(20)))
    for column in range(WIDTH):
        values = everything[known[:, column], column].double()
        assert float(module.mean[column]) == pytest.approx(float(values.mean()), rel=1e-4, abs=1e-4)
        assert float(module.variance[column]) == pytest.approx(float(values.var(correction=0)), rel=1e-3)
    scaled = module.eval()(filled, known)
    assert torch.equal(scaled[~known], torch.zeros_like(scaled[~known]))
    scaled.square().sum().backward()
    assert filled.grad is not None
    assert bool(filled.grad.isfinite().all())


def test_a_feature_first_known_in_a_late_batch_begins_with_it() -> None:
    batches = [rows(30, seed) for seed in range(12)]
    known = [torch.ones(30, WIDTH, dtype=torch.bool) for _ in batches]
    for there in known[:9]:
        there[:, 2] = False
    module = followed(*batches, known=known)
    late = torch.cat(batches[9:])[:, 2].double()
    assert float(module.mean[2]) == pytest.approx(float(late.mean()), rel=1e-4)
    assert float(module.variance[2]) == pytest.approx(float(late.var(correction=0)), rel=1e-3)
    early = torch.cat(batches)[:, 0].double()
    assert float(module.variance[0]) == pytest.approx(float(early.var(correction=0)), rel=1e-3)


def test_eval_and_a_batch_without_rows_or_knowledge_move_nothing() -> None:
    module = followed(*rows(100).split(20))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module(torch.empty(0, WIDTH))
    module(rows(5), torch.zeros(5, WIDTH, dtype=torch.bool))
    module.eval()(rows(10) + 100)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_before_any_batch_it_changes_nothing() -> None:
    assert torch.equal(RunningStandardise(WIDTH).eval()(rows(6)), rows(6))


def test_a_batch_of_one_is_finite_and_the_first_one_is_the_mean() -> None:
    module = RunningStandardise(WIDTH).train()
    assert torch.equal(module(rows(1)), torch.zeros(1, WIDTH))
    assert bool(module(rows(1, 1)).isfinite().all())
    assert bool(module(torch.full((1, WIDTH), 1e6)).isfinite().all())


def test_a_constant_feature_stays_finite_and_small() -> None:
    constant = torch.full((16, WIDTH), 5.1)
    module = followed(*[constant] * 30)
    assert float(module(constant).abs().max()) < 0.1
    module.eval()
    assert bool(module(constant + 1).isfinite().all())


def test_training_under_autocast_follows_in_full_precision() -> None:
    batches = rows(200).split(20)
    plain = followed(*batches)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = followed(*batches)
        assert mixed(batches[0]).dtype == torch.float32
    plain(batches[0])
    assert torch.equal(plain.mean, mixed.mean)
    assert torch.equal(plain.variance, mixed.variance)


def follow_as_rank(rank: int, folder: Path) -> None:
    meet = f"file://{folder / 'meet'}"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    module = RunningStandardise(WIDTH).train()
    for batch, known in torch.load(folder / "batches.pt", weights_only=True):
        mine = slice(rank, None, 2)
        module(batch[mine], known[mine])
    torch.save(module.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_share_their_figures_bit_for_bit(tmp_path: Path) -> None:
    batches = [(rows(size, size), rows(size, size)[:, [0]] > -0.5) for size in (20, 1, 20, 7, 20)]  # of 1: one has none
    batches = [(batch, known.expand(-1, WIDTH).contiguous()) for batch, known in batches]
    torch.save(batches, tmp_path / "batches.pt")
    # forked, as importing torch anew would take most of the test's time
    ranks = [
        multiprocessing.get_context("fork").Process(target=follow_as_rank, args=(rank, tmp_path)) for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = followed(*(batch for batch, _ in batches), known=[known for _, known in batches]).state_dict()
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key
        assert torch.allclose(first[key].double(), value.double(), rtol=1e-4, atol=1e-4), key
