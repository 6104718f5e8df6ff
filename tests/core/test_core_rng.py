import pytest
import torch

from nucstyle.core import rng


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((0,), 3456079177858693020),
        ((0, "style", 17), 6898719348201044991),
        ((7, 3, "field-1"), 6857652385189333602),
    ],
)
def test_a_seed_is_the_head_of_the_sha256_of_its_path_for_ever(parts, seed):
    # printf 0/style/17 | sha256sum, the first 16 digits, half of that number
    assert rng.derive_seed(*parts) == seed


def test_seeds_differ_in_every_part_of_their_path_and_fit_torch():
    seeds = [rng.derive_seed(seed, epoch, name) for seed in range(10) for epoch in range(10) for name in "abc"]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rng.derive_seed(1, 2) != rng.derive_seed(2, 1)
    assert rng.derive_seed(1, 23) != rng.derive_seed(12, 3)


def test_a_generator_depends_on_its_path_alone():
    first = torch.rand(5, generator=rng.generator(0, "crop", 3))
    torch.rand(100)
    torch.rand(100, generator=rng.generator(0, "crop", 2))
    assert torch.equal(torch.rand(5, generator=rng.generator(0, "crop", 3)), first)
    assert not torch.equal(torch.rand(5, generator=rng.generator(0, "crop", 4)), first)


def test_drawing_by_hand_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    generator = rng.generator(0)
    rng.uniform(0, 1, generator)
    rng.integer(0, 5, generator)
    rng.chance(0.5, generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seeded_block_draws_the_same_whatever_came_before_and_gives_the_stream_back():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with rng.seeded(0, "step", 4):
        first = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with rng.seeded(0, "step", 4):
        second = torch.rand(5)
    with rng.seeded(0, "step", 5):
        other = torch.rand(5)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_seeded_block_gives_the_stream_back_after_an_error():
    def fail():
        with rng.seeded(0):
            torch.rand(5)
            raise KeyError

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_stay_in_their_range_and_reach_all_of_it():
    generator = rng.generator(1)
    numbers = [rng.uniform(0.5, 2.0, generator) for _ in range(500)]
    assert 0.5 <= min(numbers) < 0.52
    assert 1.98 < max(numbers) < 2.0
    assert {rng.integer(2, 5, generator) for _ in range(100)} == {2, 3, 4}


def test_chance_zero_never_comes_and_chance_one_always():
    generator = rng.generator(2)
    assert not any(rng.chance(0.0, generator) for _ in range(500))
    assert all(rng.chance(1.0, generator) for _ in range(500))
    assert 200 < sum(rng.chance(0.5, generator) for _ in range(500)) < 300


def test_chance_zero_does_not_come_even_where_nought_is_drawn(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(0.0))
    assert not rng.chance(0.0, rng.generator(3))
    assert rng.chance(1e-9, rng.generator(3))
