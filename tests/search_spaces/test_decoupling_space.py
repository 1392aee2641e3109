"""The model space: what samples mean, what they build, and what building a space costs."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from nni.mutable import SampleValidationError

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import num_layers
from sedona_nni.search_spaces import DecouplingSpace, DistinctDecouplings
from sedona_nni.search_spaces.nni_nas import DuplicationError

AUX = ["conv1", "conv3"]
VGG11_LAYERS = 8


def space(num_blocks: int | None = 3, aux: list[str] = AUX) -> DecouplingSpace:
    return DecouplingSpace(
        "vgg11", aux, num_classes=4, num_blocks=num_blocks, width_multiplier=0.125
    )


def decoupling(cuts: list[int], aux: list[str]) -> Decoupling:
    return Decoupling(backbone="vgg11", cuts=cuts, aux=aux)


def draws(of: DecouplingSpace, count: int, seed: int = 0) -> list[dict[str, object]]:
    random_state = np.random.RandomState(seed)
    samples = []
    for _ in range(count):
        samples.append(
            {
                label: mutable.random(random_state=random_state)
                for label, mutable in of.simplify().items()
            }
        )
    return samples


@pytest.mark.parametrize("name", ["vgg11", "vgg19", "resnet18", "resnet50"])
def test_mutables_are_the_cuts_and_one_auxiliary_choice_per_boundary(name: str) -> None:
    boundaries = num_layers(name) - 1
    chosen = DecouplingSpace(name, AUX, num_classes=10, num_blocks=4).simplify()
    assert set(chosen) == {f"cut/{k}" for k in range(3)} | {f"aux/{i}" for i in range(boundaries)}
    open_ = DecouplingSpace(name, AUX, num_classes=10).simplify()
    assert set(open_) == {f"{kind}/{i}" for kind in ("cut_after", "aux") for i in range(boundaries)}


@pytest.mark.parametrize("num_blocks", range(1, VGG11_LAYERS + 1))
def test_every_sample_has_k_minus_1_cuts(num_blocks: int) -> None:
    one = space(num_blocks)
    for sample in draws(one, 50):
        assert one.decoupling(sample).num_blocks == num_blocks


@pytest.mark.slow(reason="hundreds of draws")
def test_every_subset_can_be_reached_when_k_is_open() -> None:
    one = space(None, ["conv1"])
    subsets = {tuple(one.decoupling(sample).cuts) for sample in draws(one, 2000)}
    assert len(subsets) == 2**7


@pytest.mark.slow(reason="hundreds of draws")
def test_uniform_samples_are_uniform_decouplings() -> None:
    one = space(3, ["conv1"])
    cuts = [tuple(one.decoupling(sample).cuts) for sample in draws(one, 4200)]
    counts = {pair: cuts.count(pair) for pair in itertools.combinations(range(7), 2)}
    assert sum(counts.values()) == 4200
    expected = 4200 / math.comb(7, 2)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 45  # 20 degrees of freedom: exceeded once in 900 seeds


def test_second_cut_counts_the_boundaries_that_are_left() -> None:
    aux = dict.fromkeys((f"aux/{i}" for i in range(7)), "conv1")
    for first, second, cuts in [(2, 0, [0, 2]), (2, 2, [2, 3]), (0, 0, [0, 1]), (6, 5, [5, 6])]:
        sample = {"cut/0": first, "cut/1": second, **aux}
        assert space().decoupling(sample).cuts == cuts


def test_samples_of_equal_meaning_give_equal_decouplings_and_one_canonical_sample() -> None:
    aux = dict.fromkeys((f"aux/{i}" for i in range(7)), "conv1") | {"aux/5": "conv3"}
    one = {"cut/0": 2, "cut/1": 4, **aux}  # 2, then the 4th of 0 1 3 4 5 6
    other = {"cut/0": 5, "cut/1": 2, **aux, "aux/0": "conv3", "aux/6": "conv3"}
    meaning = decoupling([2, 5], ["conv1", "conv3"])
    assert space().decoupling(one) == space().decoupling(other) == meaning
    assert space().sample(meaning) == one


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 8, None])
def test_decoupling_and_sample_are_inverse(num_blocks: int | None) -> None:
    one = space(num_blocks)
    for sample in draws(one, 100):
        meaning = one.decoupling(sample)
        canonical = one.sample(meaning)
        assert one.contains(canonical)
        assert one.decoupling(canonical) == meaning
        assert list(canonical) == list(one.simplify())


def test_freezing_builds_the_trainable_network_of_the_decoupling() -> None:
    one = space()
    network = one.freeze(one.sample(decoupling([1, 5], ["conv3", "conv1"])))
    assert isinstance(network, DecoupledNetwork)
    assert [len(block.layers) for block in network.blocks] == [2, 4, 2]
    logits = network.classifier_logits(torch.randn(2, 3, 32, 32))
    assert [tuple(part.shape) for part in logits] == [(2, 4)] * 3
    sum(part.square().mean() for part in logits).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_nni_context_builds_the_same_network_as_freezing() -> None:
    from nni.nas.space import model_context

    one = space()
    sample = one.sample(decoupling([0, 6], ["conv3", "conv1"]))
    with model_context(sample):
        network = space()
    assert isinstance(network, DecoupledNetwork)
    shapes = {name: weight.shape for name, weight in network.state_dict().items()}
    assert shapes == {name: w.shape for name, w in one.freeze(sample).state_dict().items()}


def test_invalid_samples_are_refused() -> None:
    one = space()
    sample = one.sample(decoupling([0, 6], ["conv3", "conv1"]))
    for wrong in [{"cut/0": 7}, {"cut/1": 6}, {"aux/3": "conv2"}, {"cut/0": -1}]:
        with pytest.raises(SampleValidationError):
            one.freeze(sample | wrong)
    del sample["aux/2"]
    with pytest.raises(SampleValidationError):
        one.decoupling(sample)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Decoupling(backbone="vgg19", cuts=[1, 2], aux=AUX), "backbone"),
        (decoupling([1], ["conv1"]), "cuts"),
        (decoupling([1, 7], AUX), "cuts"),
        (decoupling([1, 2], ["conv1", "conv2"]), "aux"),
    ],
)
def test_decouplings_outside_the_space_are_refused(wrong: Decoupling, field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}:"):
        space().sample(wrong)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_blocks": 9}, "num_blocks"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"aux": []}, "aux"),
        ({"aux": ["conv1", "conf9"]}, "aux"),
        ({"aux": ["conv1", "conv1"]}, "aux"),
    ],
)
def test_impossible_spaces_are_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}:"):
        space(**options)  # type: ignore[arg-type]


def test_building_a_space_builds_no_network() -> None:
    one = DecouplingSpace("resnet50", AUX, num_classes=1000, width_multiplier=4)
    assert not list(one.parameters())
    with pytest.raises(RuntimeError, match="freeze"):
        one(torch.zeros(1, 3, 32, 32))


def test_a_space_of_resnets_has_the_stem_that_is_asked_for() -> None:
    form = {"num_classes": 10, "num_blocks": 2, "image_size": 64, "width_multiplier": 0.25}
    one, other = (
        DecouplingSpace("resnet18", ["conv1"], **form, stem=stem).backbone().shapes[0].size
        for stem in ("published", "torchvision")
    )
    assert (one, other) == (32, 16)


def test_a_decoupling_is_frozen_once_in_the_distinct_form() -> None:
    one = space()
    distinct = DistinctDecouplings.from_model(one)
    sample = one.sample(decoupling([0, 6], ["conv3", "conv1"]))
    distinct.freeze(sample)
    with pytest.raises(DuplicationError):
        distinct.freeze(sample | {"aux/3": "conv3"})
    assert distinct.freeze(sample | {"aux/6": "conv3"}).sample == sample | {"aux/6": "conv3"}


def bounded(num_blocks: int = 3, share: str = "1.7/K") -> DecouplingSpace:
    with torch.device("meta"):
        compute = compute_in_macs(space().backbone(), AUX)
    return DecouplingSpace(
        "vgg11",
        AUX,
        num_classes=4,
        num_blocks=num_blocks,
        width_multiplier=0.125,
        bound=BlockBound(compute, share),
    )


def within(one: DecouplingSpace, cuts: list[int], aux: list[str]) -> bool:
    assert one.bound is not None
    return one.bound.respects(decoupling(cuts, aux))


@pytest.mark.slow(reason="hundreds of draws")
def test_every_sample_is_within_the_bound_and_what_is_stays_as_it_is() -> None:
    one, free = bounded(), space()
    moved = 0
    for sample in draws(free, 300):
        meant, chosen = free.decoupling(sample), one.decoupling(sample)
        assert within(one, chosen.cuts, chosen.aux)
        if within(one, meant.cuts, meant.aux):
            assert chosen == meant
            assert one.decoupling(one.sample(chosen)) == chosen
        else:
            moved += chosen != meant
            with pytest.raises(InputError, match="cuts: must respect max_block_share"):
                one.sample(meant)
    assert 30 < moved < 270


@pytest.mark.slow(reason="thousands of draws")
def test_random_draws_are_uniform_within_the_bound() -> None:
    """NNI's own `random`, as Random and the first population of RegularizedEvolution call it."""
    one = bounded()
    every = {
        decoupling(list(cuts), list(aux))
        for cuts in itertools.combinations(range(7), 2)
        for aux in itertools.product(AUX, repeat=2)
        if within(one, list(cuts), list(aux))
    }
    assert 4 < len(every) < 80
    random_state = np.random.RandomState(0)
    counts = dict.fromkeys(every, 0)
    elsewhere = []
    for _ in range(15 * len(every)):
        memo: dict[str, object] = {}
        model = DistinctDecouplings.from_model(one).random(memo, random_state)  # each is the first
        drawn = one.decoupling(memo)
        assert model.sample == memo
        counts[drawn] += 1
        elsewhere += [memo[f"aux/{i}"] for i in range(7) if i not in drawn.cuts]
    chi_square = sum((count - 15) ** 2 / 15 for count in counts.values())
    freedom = len(every) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
    assert 0.4 < elsewhere.count("conv3") / len(elsewhere) < 0.6  # where evolution may cut later


@pytest.mark.slow(reason="hundreds of draws")
def test_a_bound_that_no_decoupling_respects_and_one_without_a_number_of_blocks() -> None:
    with pytest.raises(InputError, match=r"max_block_share: must be at least .* for 3 blocks"):
        bounded(share="0.1")
    bound = bounded().bound
    with pytest.raises(InputError, match="num_blocks: must be given with a bound"):
        DecouplingSpace("vgg11", AUX, num_classes=4, bound=bound)
    with pytest.raises(InputError, match="compute: must include cnn"):
        DecouplingSpace("vgg11", ["cnn"], num_classes=4, num_blocks=2, bound=bound)


@pytest.mark.slow(reason="imports NNI in a process of its own")
def test_importing_the_space_warns_of_nothing() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import search_spaces"], check=True)
