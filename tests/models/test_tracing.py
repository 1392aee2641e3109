"""Following models: what is a number, what stays a symbol, what is kept whole or refused."""

from __future__ import annotations

import copy
import doctest
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from sedona_nni.errors import InputError
from sedona_nni.models.cutting import tracing
from sedona_nni.models.cutting.following import Trace
from sedona_nni.models.cutting.tracing import trace


class Model(nn.Module):
    """A convolution, some code, and a classifier."""

    def __init__(self, code: Callable[[nn.Module, Tensor], object], *parts: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.parts = nn.ModuleList(parts)
        self.code = code
        self.fc = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.code(self, self.conv(images))
        return self.fc(features.mean((2, 3)))


class Part(nn.Module):
    def __init__(self, code: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.code = code
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.two(self.code(self, self.one(features)))


def followed(code: Callable[[nn.Module, Tensor], object], *parts: nn.Module) -> Trace:
    return trace(Model(code, *parts), torch.zeros(2, 3, 8, 6))


def operators(traced: Trace) -> list[str]:
    return [
        str(getattr(node.target, "__name__", node.target))
        for node in traced.graph.nodes
        if node.op.startswith("call")
    ]


def test_the_examples() -> None:
    assert doctest.testmod(tracing).attempted > 3
    assert doctest.testmod(tracing).failed == 0


def test_sizes_are_numbers_and_decide_branches() -> None:
    def code(model: nn.Module, x: Tensor) -> Tensor:
        assert x.dim() == x.ndim == 4
        assert x.shape[1:] == (4, 8, 6)
        assert x.is_floating_point()
        assert len(x[0]) == 4
        assert [*x.shape][2:] == [8, 6]
        return F.max_pool2d(x, 2) if x.size(-1) < x.size(2) else x.relu()

    names = operators(followed(code))
    assert "max_pool2d" in names
    assert "relu" not in names


def test_what_grows_with_the_batch_stays_a_symbol() -> None:
    def code(model: nn.Module, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        return x.view(batch * channels, -1).view(batch, channels, *x.shape[2:])

    traced = followed(code)
    views = [node for node in traced.graph.nodes if node.target == "view"]
    assert [type(node.args[1]).__name__ for node in views] == ["Node", "Node"]
    assert views[0].meta["value"].shape == (4 * traced.batch, 48)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (lambda model, x: x + torch.rand(1), "rand"),
        (lambda model, x: x + torch.arange(6), "arange"),
        (lambda model, x: x + model.fc.weight.sum(), "sum"),
    ],
)
def test_no_value_is_frozen(code: Callable[[nn.Module, Tensor], Tensor], name: str) -> None:
    model = Model(code)
    before = torch.get_rng_state()
    traced = trace(model, torch.zeros(2, 3, 8, 6))
    assert name in operators(traced)
    assert torch.equal(torch.get_rng_state(), before)
    drawn = [str(node) for node in traced.graph.nodes if node.meta.get("random")]
    assert drawn == (["rand"] if name == "rand" else [])


def test_what_branches_on_values_is_kept_whole() -> None:
    on_values = Part(lambda part, x: x if x.sum() > 0 else -x)
    on_batch = Part(lambda part, x: x if len(x) > 1 else -x)
    on_sizes = Part(lambda part, x: x if len(x[0]) > 1 else -x)
    traced = followed(lambda model, x: model.parts[2](model.parts[1](model.parts[0](x))),
                      on_values, on_batch, on_sizes)  # fmt: skip
    assert traced.whole == {
        "parts.0": "a branch on a value, gt",
        "parts.1": "the batch size as a number",
    }
    called = [name for name in operators(traced) if name.startswith("parts")]
    assert called == ["parts.0", "parts.1", "parts.2.one", "parts.2.two"]


def test_training_is_read_when_it_runs_or_the_module_is_kept_whole() -> None:
    read = Part(lambda part, x: F.dropout(x, 0.5, part.training))
    branch = Part(lambda part, x: x * 2 if part.training else x)
    harmless = Part(lambda part, x: x if ("train" if part.training else "evaluate") else -x)
    traced = followed(lambda model, x: model.parts[2](model.parts[1](model.parts[0](x))),
                      read, branch, harmless)  # fmt: skip
    assert traced.whole == {"parts.1": "does other things in training than in evaluation"}
    (dropout,) = [node for node in traced.graph.nodes if "dropout" in node.name]
    assert [str(each) for each in dropout.all_input_nodes][1:] == ["parts_0_training"]
    called = [name for name in operators(traced) if name.startswith("parts")]
    assert called == ["parts.0.one", "parts.0.two", "parts.1", "parts.2.one", "parts.2.two"]


def _counts(part: nn.Module, x: Tensor) -> Tensor:
    part.calls += 1
    return x


def _ramps(part: nn.Module, x: Tensor) -> Tensor:
    part.steps += 1
    return x * part.steps


def _renews(part: nn.Module, x: Tensor) -> Tensor:
    part.steps = part.steps + 1
    return x * part.steps


def _writes(part: nn.Module, x: Tensor) -> Tensor:
    part.steps.add_(1)
    return x * part.steps


def _rolls(part: nn.Module, x: Tensor) -> Tensor:
    return x if random.random() < 0.5 else -x


def _rolls_numpy(part: nn.Module, x: Tensor) -> Tensor:
    return x if np.random.rand() < 0.5 else -x


_LOST = [
    (_counts, "it sets its own calls, which would be lost"),
    (_ramps, "it sets its own steps, which would be lost"),
    (_renews, "it sets its own steps, which would be lost"),
    (_rolls, "it draws from Python's or NumPy's generator"),
    (_rolls_numpy, "it draws from Python's or NumPy's generator"),
]


@pytest.mark.parametrize(("code", "why"), _LOST)
def test_what_the_graph_would_forget_is_kept_whole(
    code: Callable[[nn.Module, Tensor], Tensor], why: str
) -> None:
    """Else a counter would stay, and what was drawn once be drawn for ever."""

    def with_state(module: nn.Module) -> nn.Module:
        module.calls = 0
        module.register_buffer("steps", torch.zeros(()))
        return module

    generators = random.getstate(), np.random.get_state()[2]
    part = with_state(Part(code))
    traced = followed(lambda model, x: model.parts[0](x), part)
    assert traced.whole == {"parts.0": why}
    assert (part.calls, part.steps.item()) == (0, 0)
    outermost = with_state(Model(code))
    with pytest.raises(InputError) as caught:
        trace(outermost, torch.zeros(2, 3, 8, 6))
    assert why in str(caught.value)
    assert generators == (random.getstate(), np.random.get_state()[2])


def _notes(part: nn.Module, x: Tensor) -> Tensor:
    part.calls, part.height, part.seen = 7, x.shape[2], True
    part.steps = part.steps.to(x.device)  # which changes nothing
    return x * part.steps


def test_notes_of_what_was_given_are_no_state() -> None:
    part = Part(_notes)
    part.calls, part.height, part.seen, part.nothing = 0, 0, False, float("nan")
    part.register_buffer("steps", torch.zeros(()))
    traced = followed(lambda model, x: model.parts[0](x), part)
    assert not traced.whole
    assert (part.calls, part.height, part.seen) == (0, 0, False)


def test_a_normal_number_that_numpy_keeps_is_seen() -> None:
    """Of two that it draws at a time the second is kept; the generator itself then stands still."""
    np.random.seed(0)
    np.random.randn()
    before = np.random.get_state()[3:]
    part = Part(lambda part, x: x * float(np.random.randn()))
    assert [*followed(lambda model, x: model.parts[0](x), part).whole] == ["parts.0"]
    assert np.random.get_state()[3:] == before


def test_what_is_written_in_place_is_in_the_graph() -> None:
    part = Part(_writes)
    part.register_buffer("steps", torch.zeros(()))
    assert not followed(lambda model, x: model.parts[0](x), part).whole


def test_what_hands_on_its_input_is_kept_whole() -> None:
    """Else nobody could tell its result from what it was given, which others use, too."""
    through = Part(lambda part, x: x)
    through.forward = lambda x: x  # type: ignore[method-assign]
    traced = followed(lambda model, x: x + 2 * model.parts[0](x), through)
    assert "parts.0" in operators(traced)


def test_in_place_writing_is_seen() -> None:
    traced = followed(
        lambda model, x: x.view(-1, 4, 8, 6).mul_(2) + model.parts[0](x), nn.ReLU(True)
    )
    written = {
        str(node): node.meta["changes"] for node in traced.graph.nodes if "macs" in node.meta
    }
    conv = next(node for node in traced.graph.nodes if node.target == "conv")
    memory = {id(conv.meta["value"].untyped_storage())}
    assert {name: ids for name, ids in written.items() if ids} == {
        "mul_": memory,
        "parts_0": memory,
    }


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            lambda model, x: x if x.sum() > 0 else -x,
            "model: must be one that torch.fx can follow, and in training was followed to gt, but "
            "got 'Model: a branch on a value, gt'",
        ),
        (
            lambda model, x: x * 2 if model.training else x,
            "model: must compute the same in training and in evaluation, but for its modules, but "
            "got 'Model'",
        ),
        (
            lambda model, x: x.view(-1, 7),
            'example: must be images that Model takes, but got "(2, 3, 8, 6): RuntimeError',
        ),
    ],
)
def test_what_cannot_be_followed_says_where(
    code: Callable[[nn.Module, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        followed(code)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_model_that_returns_no_logits_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        trace(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.zeros(2, 3, 8, 6))
    assert str(caught.value) == "model: must return logits, (B, classes), but got (4, 8, 6)"


class Auxiliary(nn.Module):
    """Returns more logits in training, in a form of its own."""

    def __init__(self, form: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.main, self.form = nn.Linear(3, 2), form

    def forward(self, images: Tensor) -> object:
        logits = self.main(images.mean((2, 3)))
        return self.form(logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (lambda a, b: models.GoogLeNetOutputs(a, b, None), "GoogLeNetOutputs"),
        (lambda a, b: [a, b], "list"),
        (lambda a, b: {"out": a, "aux": b}, "dict"),
    ],
)  # fmt: skip
def test_auxiliary_logits_are_refused(form: Callable[..., object], kind: str) -> None:
    with pytest.raises(InputError) as caught:
        trace(Auxiliary(form), torch.zeros(2, 3, 8, 6))
    assert str(caught.value) == (
        "model: must return logits alone in training, too (built with aux_logits=False, say), but "
        f"got 'Auxiliary: {kind}'"
    )


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, "must be cut before it is wrapped, but got 'DataParallel'"),
        (
            lambda model: nn.Sequential(nn.DataParallel(model)),
            "must be cut before it is wrapped, but got \"DataParallel at '0'\"",
        ),
        (torch.compile, "must be cut before it is compiled, but got 'OptimizedModule'"),
        (
            lambda model: nn.Sequential(nn.LazyConv2d(3, 3), model),
            "must have run once, to have its weights, but got \"LazyConv2d at '0'\"",
        ),
        (
            lambda model: torch.jit.ScriptModule(),
            "must be a torch.nn.Module of Python, but got 'ScriptModule'",
        ),
        (lambda model: model.forward, "must be a torch.nn.Module of Python, but got 'method'"),
    ],
)
def test_what_is_no_plain_model_is_refused(
    wrap: Callable[[nn.Module], nn.Module], message: str
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(3 * 48, 2))
    with pytest.raises(InputError) as caught:
        trace(wrap(model), torch.zeros(2, 3, 8, 6))
    assert str(caught.value) == f"model: {message}"


def test_what_keeps_results_of_its_own_is_kept_whole() -> None:
    """As attention of some models does in evaluation, with the graph of the result."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.cache = nn.Parameter(torch.ones(4, 1, 1)), {}

        def forward(self, x: Tensor) -> Tensor:
            self.cache.setdefault("twice", 2 * self.weight)
            return x * self.cache["twice"]

    model = Model(lambda model, x: model.parts[0](x), Keeping())
    images = torch.rand(2, 3, 8, 6)
    logits = model(images)
    assert model.parts[0].cache["twice"].grad_fn is not None
    traced = trace(model, images)
    assert traced.whole == {"parts.0": "a tensor that no module has as its own"}
    assert model.parts[0].cache["twice"].device.type == "cpu"
    assert torch.equal(model(images), logits)


def test_the_model_is_left_as_it_was() -> None:
    model = models.resnet18(num_classes=5)
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    trace(model, torch.rand(2, 3, 32, 32))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_macs_are_those_that_torchvision_names() -> None:
    for name in ("resnet18", "mobilenet_v2", "vit_b_16"):
        with torch.device("meta"):
            model = models.get_model(name)
        traced = trace(model, torch.zeros(1, 3, 224, 224))
        macs = sum(node.meta.get("macs", 0) for node in traced.graph.nodes) / traced.batch
        published = models.get_model_weights(name).DEFAULT.meta["_ops"] * 1e9
        assert macs == pytest.approx(published, rel=0.005)
