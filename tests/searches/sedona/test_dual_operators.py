"""Operators on dual numbers against torch's values and its second backward passes, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

from sedona_nni.searches.sedona.dual_operators import DualOperators
from sedona_nni.searches.sedona.inner_step import quiet_forward_ad

Function = Callable[..., Tensor]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def assert_right(function: Function, *inputs: Tensor, plain: Function | None = None) -> None:
    """Value, slope <c, y'>, and the slope's gradients; see `layer_check`.

    ``plain`` is what torch can differentiate twice in reverse, by default the function itself.
    """
    quiet_forward_ad()
    torch.manual_seed(1)
    at = [each.clone().requires_grad_() for each in inputs]
    along = [torch.randn_like(each).requires_grad_() for each in inputs]
    torch.manual_seed(2)
    with sdpa_kernel(SDPBackend.MATH):
        value = (plain or function)(*at)
    c = torch.randn_like(value)
    g = torch.autograd.grad((value * c).sum(), at, create_graph=True)
    slope = torch.stack([(x * p).sum() for x, p in zip(g, along, strict=True)]).sum()
    adjoint = torch.autograd.grad(slope, [*at, *along], materialize_grads=True)

    with DualOperators():
        torch.manual_seed(2)
        torch.testing.assert_close(function(*at), value)
    with forward_ad.dual_level(), DualOperators():
        torch.manual_seed(2)
        duals = [forward_ad.make_dual(x, t) for x, t in zip(at, along, strict=True)]
        got, tangent = forward_ad.unpack_dual(function(*duals))
    torch.testing.assert_close(got, value)
    dual_slope = (tangent * c).sum()
    torch.testing.assert_close(dual_slope, slope)
    found = torch.autograd.grad(dual_slope, [*at, *along], materialize_grads=True)
    for one, other in zip(found, adjoint, strict=True):
        torch.testing.assert_close(one, other)


MAP = (2, 4, 3, 5)

OF_ONE: dict[str, Function] = {
    "softmax": lambda x: F.softmax(x, 1),
    "softmax by keyword": lambda x: torch.softmax(x, dim=-1),
    "softmax of a tensor": lambda x: x.softmax(2),
    "log_softmax": lambda x: F.log_softmax(x, dim=1),
    "log_softmax of a tensor": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "logsumexp of two": lambda x: x.logsumexp((1, 3), keepdim=True),
    "hand-written attention": lambda x: (x @ x.mT).softmax(-1) @ x,
    "layer norm": lambda x: F.layer_norm(x, (5,)),
    "layer norm of two": lambda x: F.layer_norm(x, (3, 5), eps=0.1),
    "two layer norms": lambda x: F.layer_norm(F.layer_norm(x, (5,)) * x, (5,)),
    "instance norm": lambda x: F.instance_norm(x),
    "dropout": lambda x: F.dropout(x, 0.4) ** 2,
    "dropout in place": lambda x: F.dropout(x * x, 0.4, inplace=True),
    "no dropout": lambda x: F.dropout(x, 0.4, training=False) ** 2,
    "glu": lambda x: F.glu(x, 1),
    "normalize": lambda x: F.normalize(x, dim=1),
}


@pytest.mark.parametrize("name", OF_ONE)
def test_an_operator_of_one_tensor(name: str) -> None:
    torch.manual_seed(0)
    assert_right(OF_ONE[name], draw(*MAP))


def attention(**options: Any) -> Function:
    return lambda *tensors: F.scaled_dot_product_attention(*tensors, **options)


HEADS = [(2, 2, 5, 4)] * 3
MASK = torch.ones(5, 5, dtype=torch.bool).triu()

WITH_WEIGHTS: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "layer norm": (lambda x, w, b: F.layer_norm(x, (5,), w, b), [MAP, (5,), (5,)]),
    "layer norm over channels": (
        lambda x, w, b: F.layer_norm(x.permute(0, 2, 3, 1), (4,), w, b).permute(0, 3, 1, 2),
        [MAP, (4,), (4,)],
    ),
    "instance norm": (
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
        [MAP, (4,), (4,)],
    ),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [MAP, (4,), (4,)]),
    "standardised weights": (
        lambda x, w: F.conv2d(x, F.batch_norm(w.flatten(1)[None], None, None, training=True)[0]
                              .view(w.shape)),
        [MAP, (3, 4, 2, 2)],
    ),
    "attention": (attention(), HEADS),
    "causal attention": (attention(is_causal=True), HEADS),
    "attention with a mask": (attention(attn_mask=MASK, scale=2.0), HEADS),
    "attention with dropout": (attention(dropout_p=0.3), HEADS),
    "attention with a bias": (
        lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, bias),
        [*HEADS, (2, 5, 5)],
    ),
    "grouped attention": (attention(enable_gqa=True), [(2, 4, 5, 4), *HEADS[1:]]),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_an_operator_with_weights(name: str) -> None:
    torch.manual_seed(0)
    function, shapes = WITH_WEIGHTS[name]
    assert_right(function, *(draw(*shape) for shape in shapes))


def test_hardsigmoid() -> None:
    torch.manual_seed(0)

    def plain(x: Tensor) -> Tensor:  # torch has no second derivative of its own
        return torch.clamp(x / 6 + 0.5, 0, 1)

    assert_right(lambda x: F.hardsigmoid(3 * x) * x, draw(*MAP), plain=lambda x: plain(3 * x) * x)


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_weight_norm(dim: int) -> None:
    """torch's second derivative is wrong, so it is not what this is compared with."""
    torch.manual_seed(0)
    module = parametrizations.weight_norm(nn.Conv2d(4, 3, 2), dim=dim).double()
    names, weights = zip(*module.named_parameters(), strict=True)

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        called: Tensor = functional_call(module, dict(zip(names, weights, strict=True)), (x,))
        return called

    def plain(x: Tensor, bias: Tensor, g: Tensor, v: Tensor) -> Tensor:
        over = [d for d in range(4) if d != dim]
        return F.conv2d(x, g * v / torch.linalg.vector_norm(v, dim=over, keepdim=True), bias)

    assert names == (
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    )
    assert_right(function, draw(*MAP), *(weight.detach() for weight in weights), plain=plain)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dropout": 0.3, "batch_first": True}])
@pytest.mark.parametrize("mask", [None, MASK.logical_not(), torch.randn(4, 5, 5).double()])
def test_multi_head_attention(
    need_weights: bool, options: dict[str, Any], mask: Tensor | None
) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(4, 2, **options).double()
    names, weights = zip(*module.named_parameters(), strict=True)
    length_first = (5, 2, 4)
    x = draw(2, 5, 4) if "batch_first" in options else draw(*length_first)

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        out, shares = functional_call(
            module,
            dict(zip(names, weights, strict=True)),
            (x, x * 2, x + 1),
            {"need_weights": need_weights, "attn_mask": mask},
        )
        assert (shares is None) != need_weights
        called: Tensor = out if shares is None else torch.cat([out.flatten(), shares.flatten()])
        return called

    assert_right(function, x, *(weight.detach() for weight in weights))


def test_multi_head_attention_by_hand_with_a_mask_of_truth_values() -> None:
    """True is what is left out, unlike in attention without heads."""
    torch.manual_seed(0)

    def function(x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        mixed, _ = F.multi_head_attention_forward(
            *(x, x, x, 4, 2, weight, None, None, None, False, 0.0, out, None),
            attn_mask=MASK.logical_not(),
        )
        return mixed

    assert_right(function, draw(5, 2, 4), draw(12, 4), draw(4, 4))


def test_multi_head_attention_of_an_unusual_kind_is_named() -> None:
    quiet_forward_ad()
    module = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    x = torch.randn(5, 2, 4)
    with (
        forward_ad.dual_level(),
        DualOperators(),
        pytest.raises(NotImplementedError, match="bias_k"),
    ):
        module(*[forward_ad.make_dual(x, x)] * 3)


def test_normalize_has_derivatives_where_everything_is_zero() -> None:
    """As in the padding of windows; torch's second derivative is none there."""
    quiet_forward_ad()
    x = torch.zeros(2, 3, requires_grad=True)
    w = torch.ones(2, 3, requires_grad=True)
    with forward_ad.dual_level(), DualOperators():
        dual = F.normalize(x * forward_ad.make_dual(w, torch.ones(2, 3))) * w
        slope = forward_ad.unpack_dual(dual).tangent.sum()
    (gradient,) = torch.autograd.grad(slope, x)
    assert gradient.isfinite().all()
