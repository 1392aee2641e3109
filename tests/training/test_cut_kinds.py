"""Cuts of further kinds: context and overlap, against plain formulas, and where they cannot be."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.data.batches import evaluation_batches
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.cost import Cost, block_costs, describe
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.memory import describe_memory
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, build_backbone
from sedona_nni.searches import SEARCHES
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import register_auxiliary
from sedona_nni.training.evaluation import evaluate
from sedona_nni.training.methods import build_method
from sedona_nni.training.methods.method import rewind
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.step_form import step_form
from sedona_nni.training.task_backbone import task_backbone
from sedona_nni.trials.plain_model import trained_plain_model
from sedona_nni.trials.run import RUN_FILE
from sedona_nni.trials.search import run_search
from sedona_nni.trials.train import TrainingRun

KINDS = ["image", "previous", "overlap"]
PLAIN = {"lr": 1, "lr_min": 1, "momentum": 0, "weight_decay": 0, "label_smoothing": 0}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=100), 0.25)


def tiny(name: str = "vgg11") -> Backbone:
    return build_backbone(name, num_classes=10, width_multiplier=0.1)


def cut(backbone: Backbone, *aux: str, cuts: tuple[int, ...] = (2, 5)) -> DecoupledNetwork:
    torch.manual_seed(1)
    return build_decoupled(
        backbone, Decoupling(backbone=backbone.name, cuts=list(cuts), aux=list(aux))
    )


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(size, 3, 32, 32, generator=generator), torch.arange(size) % 10


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_network_of_plain_cuts(kind: str) -> None:
    torch.manual_seed(0)
    backbone = tiny()
    images, _ = batch()
    plain = cut(backbone, "conv1", "conv1").eval()
    other = cut(backbone, f"conv1+{kind}", f"conv1+{kind}").eval()
    for one, two in zip(plain.features(images), other.features(images), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("model", ["vit", "swin", "convnext"])
@pytest.mark.parametrize("kind", ["image", "previous"])
def test_tokens_and_channels_last_have_contexts(model: str, kind: str, splits: Splits) -> None:
    task = Task.model_validate({"model": f"small_models:{model}", "image_size": 32})
    backbone = task_backbone(task)
    decoupling = Decoupling(
        backbone=backbone.name, cuts=[0, 1], aux=[f"linear+{kind}", f"linear+{kind}"]
    )
    network = build_decoupled(backbone, decoupling).eval()
    images = torch.randn(4, 3, 32, 32)
    before = network.features(images)
    for block in network.blocks[1:]:
        assert block.context is not None
        nn.init.ones_(block.context.encoder[-1].weight)
    after = network.features(images)
    assert [each.shape for each in after] == [each.shape for each in before]
    changed = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert changed == [False, True, True]


def by_hand(
    network: DecoupledNetwork, images: Tensor, labels: Tensor
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the losses of the blocks, and the gradients of their weights by plain autograd."""
    gradients: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    inputs: list[Tensor] = [images]
    lent = images
    for place, block in enumerate(network.blocks):
        rewind()  # for dropout
        features = inputs[-1]
        through: list[nn.Module] = [*block.layers]
        if block.kind == "overlap":
            features, through = lent, [network.blocks[place - 1].layers[-1], *through]
        elif block.kind == "image":
            assert block.context is not None
            features = features + block.context.encoder(images)
        elif block.kind == "previous":
            assert block.context is not None
            features = features + block.context.encoder(inputs[-2])
        for layer in through:
            lent, features = features.detach(), layer(features)
        assert block.classifier is not None
        loss = F.cross_entropy(block.classifier(features), labels)
        named = {id(p): name for name, p in network.named_parameters()}
        found = torch.autograd.grad(loss, [*network.parameters()], allow_unused=True)
        for parameter, gradient in zip(network.parameters(), found, strict=True):
            if gradient is not None:
                name = named[id(parameter)]
                gradients[name] = gradients.get(name, torch.zeros_like(gradient)) + gradient
        losses.append(loss.detach())
        inputs.append(features.detach())
    return losses, gradients


@pytest.mark.parametrize(
    "aux",
    [
        ("conv1+image", "conv1"),
        ("conv1", "conv1+previous"),
        ("conv1+previous", "conv1+image"),
        ("conv1+overlap", "conv1"),
        ("conv1+overlap", "conv1+overlap"),
        ("conv1+overlap", "conv1+previous"),
    ],
)
@pytest.mark.parametrize("cuts", [(2, 5), (2, 3)])
def test_a_step_follows_the_gradients_of_the_blocks_own_losses(
    aux: tuple[str, str], cuts: tuple[int, int], splits: Splits
) -> None:
    """With a rate of 1 what is taken away is the gradient; of a layer of two blocks their sum."""
    torch.manual_seed(0)
    network = cut(tiny(), *aux, cuts=cuts).double().train()
    for block in network.blocks:
        if block.context is not None:
            nn.init.normal_(block.context.encoder[-1].weight)
    images, labels = batch()
    images = images.double()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    state = {name: value.clone() for name, value in network.state_dict().items()}
    losses, gradients = by_hand(network, images, labels)
    assert set(gradients) == set(before)
    network.load_state_dict(state)  # statistics counted twice by hand
    method = build_method(network, TrainSettings.model_validate(PLAIN), splits, 1)
    found = method.step(images, labels)
    for index, loss in enumerate(losses):
        torch.testing.assert_close(found[index], loss, rtol=1e-12, atol=0)
    for name, parameter in network.named_parameters():
        # Sums in another order, of float64
        torch.testing.assert_close(before[name] - parameter, gradients[name], rtol=1e-9, atol=1e-12)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {
        int(norm.num_batches_tracked) for norm in norms if norm.num_batches_tracked is not None
    } == {1}
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_shared_layer_takes_a_batch_into_its_statistics_once(splits: Splits) -> None:
    torch.manual_seed(0)
    images, labels = batch()
    found = []
    for aux in ("conv1", "conv1+overlap"):
        torch.manual_seed(0)
        network = cut(tiny(), aux, "conv1").train()
        build_method(network, TrainSettings(), splits, 1).step(images, labels)
        (norm,) = (
            m for m in network.blocks[0].layers[-1].modules() if isinstance(m, nn.BatchNorm2d)
        )
        found.append(norm)
    assert found[0].running_mean is not None
    assert torch.equal(found[0].running_mean, found[1].running_mean)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_add_up(kind: str, splits: Splits) -> None:
    """Without batch norms in training mode, which see a part as their batch."""
    images, labels = batch()
    found = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        network = cut(tiny(), f"conv1+{kind}", f"conv1+{kind}").double().eval()
        for block in network.blocks:
            if block.context is not None:
                nn.init.normal_(block.context.encoder[-1].weight)
        settings = TrainSettings.model_validate({**PLAIN, "accumulate": accumulate})
        build_method(network, settings, splits, 1).step(images.double(), labels)
        found.append(network.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("changes", [{"clip_norm": 0.01}, {"checkpoint": "layers"}, {}])
def test_averages_follow_a_shared_layer_when_both_blocks_have_taught_it(
    changes: dict[str, Any], splits: Splits
) -> None:
    images, labels = batch()
    torch.manual_seed(0)
    network = cut(tiny(), "conv1+overlap", "conv1").train()
    settings = TrainSettings.model_validate({"ema_decay": 0.5, **changes})
    method = build_method(network, settings, splits, 1)
    method.step(images, labels)  # the first is copied
    expected = {name: p.detach().clone() for name, p in network.named_parameters()}
    method.step(images, labels)
    for name, parameter in network.named_parameters():
        expected[name] = 0.5 * expected[name] + 0.5 * parameter.detach()
    for name, parameter in method.result.named_parameters():
        torch.testing.assert_close(parameter, expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_evaluated_as_it_computes(kind: str, splits: Splits) -> None:
    task = Task(train_limit=100)
    network = cut(task_backbone(task), f"conv1+{kind}", f"conv1+{kind}", cuts=(2, 5))
    for block in network.blocks:
        if block.context is not None:
            nn.init.normal_(block.context.encoder[-1].weight)
    found = evaluate(network, splits.test, TrainSettings(), "cpu")
    ((images, labels),) = evaluation_batches(splits.test, len(splits.test), "cpu")
    with torch.no_grad():
        right = [
            float((logits.argmax(1) == labels).float().mean())
            for logits in network.classifier_logits(images)
        ]
    # another batch size may round an image to the other side
    assert found.accuracies == pytest.approx(right, abs=2.5 / len(labels))


def on_meta(name: str = "vgg11") -> Backbone:
    with torch.device("meta"):
        return tiny(name)


def test_contexts_cost_what_their_convolutions_do() -> None:
    """vgg11 at a tenth: 3, 6, 12, 25, 25, 51 channels; 8 x 8 behind layer 2, 4 x 4 behind 5."""
    backbone = on_meta()
    low, high = backbone.boundaries[2], backbone.boundaries[5]
    aux = ["conv1+image", "conv1+previous"]
    decoupling = Decoupling(backbone="vgg11", cuts=[2, 5], aux=aux)
    _, middle, top = block_costs(backbone, decoupling)

    def encoder(source: int, width: int, places: int) -> Cost:
        weights = 9 * source * width
        return Cost(weights + 2 * width, weights * places)

    assert middle.beginning == encoder(3, low.channels, low.height * low.width)
    assert top.beginning == encoder(low.channels, high.channels, high.height * high.width)
    assert (middle.context, top.context) == (middle.beginning, top.beginning)
    plain = Decoupling(backbone="vgg11", cuts=[2, 5], aux=["conv1", "conv1"])
    one, other = describe(backbone, plain), describe(backbone, decoupling)
    assert one["inference"] == {k: one[k]["total"] for k in ("parameters", "macs")}
    added = middle.beginning + top.beginning
    assert other["inference"]["macs"] - one["inference"]["macs"] == added.macs
    assert other["inference"]["parameters"] - one["inference"]["parameters"] == added.parameters
    assert (one["parallel"], other["parallel"]) == (True, False)


def test_an_overlap_costs_its_layer_again_in_training_alone() -> None:
    backbone = on_meta()
    decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1+overlap"])
    described = describe(backbone, decoupling)
    layer = described["layers"][2]["macs"]
    assert described["blocks"][1]["kind"] == "overlap"
    assert described["blocks"][1]["beginning"] == {"parameters": 0, "macs": layer}
    assert described["inference"]["macs"] == described["macs"]["total"]
    plain = describe(backbone, Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"]))
    assert described["ideal_speedup_with_auxiliary"] < plain["ideal_speedup_with_auxiliary"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_compute_of_blocks_is_the_sum_of_their_costs(kind: str) -> None:
    backbone = on_meta()
    name = f"conv1+{kind}"
    compute = compute_in_macs(backbone, [name])
    for cuts in ([0], [2, 5], [1, 2, 3]):
        decoupling = Decoupling(backbone="vgg11", cuts=cuts, aux=[name] * len(cuts))
        costs = block_costs(backbone, decoupling)
        expected = [(each.backbone + each.auxiliary + each.beginning).macs for each in costs]
        assert compute.blocks(decoupling) == expected
    assert type(compute).model_validate_json(compute.model_dump_json()) == compute


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_the_block_above_grows(kind: str) -> None:
    """An overlap adds what its layer keeps, a context its weights, and all that it keeps."""
    backbone = on_meta()
    form = step_form(TrainSettings(batch_size=16))
    plain, other = (
        describe_memory(backbone, Decoupling(backbone="vgg11", cuts=[2], aux=[name]), form)
        for name in ("conv1", f"conv1+{kind}")
    )
    assert other["blocks"][0] == plain["blocks"][0]
    below, above = plain["blocks"][1], other["blocks"][1]
    assert above["activations"] > below["activations"]
    assert (above["weights"] > below["weights"]) == (kind != "overlap")
    assert other["blocks"][1]["peak"] > plain["blocks"][1]["peak"]


def aux_error(function: Any) -> str:
    with pytest.raises(InputError) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize("kind", ["image", "previous"])
def test_with_a_context_there_is_no_plain_network(kind: str, tmp_path: Path) -> None:
    decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=[f"conv1+{kind}"])
    run = TrainingRun(task=Task(), decoupling=decoupling, settings=TrainSettings())
    run.save(tmp_path / RUN_FILE)
    found = aux_error(partial(trained_plain_model, tmp_path))
    rule = "must have no context to be a plain network again"
    assert found == f"{tmp_path}: decoupling: {rule}, but got ['conv1+{kind}']"


def test_no_gradient_reaches_the_images() -> None:
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    network = cut(tiny(), "conv1+image", "conv1+previous").eval()
    for features in network.features(images):
        features.sum().backward()
    assert images.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_where_it_cannot_be(kind: str, splits: Splits) -> None:
    name = f"conv1+{kind}"
    for method in ("sequential", "asynchronous"):
        settings = TrainSettings.model_validate({"method": method})
        line = f"aux: must be a plain cut for the method {method}, but got "
        assert aux_error(partial(settings.check_aux, [name])) == f"{line}{name!r}"
        network = cut(tiny(), name, "conv1")
        told = aux_error(partial(build_method, network, settings, splits, 1))
        assert told == f"{line}{f'+{kind}'!r}"
    parallel = TrainSettings.model_validate({"parallel": "blocks"})
    assert "in parallel" in aux_error(partial(parallel.check_aux, [name]))
    scaled = TrainSettings(amp="fp16")
    if kind == "overlap":
        assert "fp16" in aux_error(partial(scaled.check_aux, [name]))
    else:
        scaled.check_aux([name])
    bound = BlockBound(compute_in_macs(on_meta(), [name]), "1.5/K")
    line = f"aux: must be plain cuts with a bound on blocks, but got '{name}'"
    assert aux_error(partial(bound.check_covers, "vgg11", [name])) == line
    line = f"aux: must be plain cuts in a search, but got '{name}'"
    for search in ("probe", "sedona"):
        how = {"aux": ["conv1", name], "train": TrainSettings()}
        run = partial(run_search, search, Task(), SEARCHES[search].settings(), **how)
        assert aux_error(run) == line
    with pytest.raises(InputError, match="must not end like a kind of cut"):
        register_auxiliary(f"mine+{kind}")(lambda context: None)
    with pytest.raises(InputError, match="must be one of conv1"):
        TrainSettings().check_aux([f"nothing+{kind}"])
