from __future__ import annotations

import pytest
import torch

from nanochat.inference.sampling import generator, sample


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.5, 0.2, 0.2, 0.1]))
    n = 20_000
    uniforms = torch.rand(n, generator=generator(0, 0)).tolist()
    for top_k, expected in [(0, [0.5, 0.2, 0.2, 0.1]), (3, [5 / 9, 2 / 9, 2 / 9, 0])]:
        ids = sample(logits.expand(n, 4), [1.0] * n, [top_k] * n, uniforms)
        share = torch.bincount(torch.tensor(ids), minlength=4) / n
        assert torch.allclose(share, torch.tensor(expected), atol=0.015)


def test_temperature_sharpens() -> None:
    logits = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    assert sample(logits, [1.0, 0.1, 1e-30], [0, 0, 0], [0.8, 0.8, 0.999]) == [1, 0, 0]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("top_k", [0, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_masked_token_is_never_chosen(uniform: float, top_k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        logits = torch.randn(1, 5, generator=generator, dtype=dtype)
        logits[0, [0, 2, 4]] = -torch.inf
        assert sample(logits, [1.0], [top_k], [uniform])[0] in (1, 3)


def test_generators_depend_on_seed_and_sample_only() -> None:
    def draw(seed: int, sample: int) -> float:
        return torch.rand((), generator=generator(seed, sample)).item()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(seed, sample) for seed in range(-3, 20) for sample in range(20)}) == 23 * 20
