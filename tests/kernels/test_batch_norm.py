"""The kernels of batch norm against torch's operations, which compute the same formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from sedona_nni.kernels import batch_norm as compiled
from sedona_nni.kernels import kernels
from sedona_nni.models.batch_norm import batch_norm
from sedona_nni.searches.sedona.dual_norm import dual_batch_norm
from sedona_nni.searches.sedona.inner_step import quiet_forward_ad

# A strip is 1,024 numbers, or all channels, and 128 of them are added up in float: fewer than a
# strip, several with a rest, more than 128 of them; more channels than that; pixels and none
SHAPES = [
    (2, 3),
    (5, 3, 2, 2),
    (3, 7, 16, 16),
    (9, 24, 28, 28),
    (3, 1300),
    (2, 1024, 2, 2),
    (5, 2, 3, 4, 2),
]
SLOPES = [1.0, 0.0, 0.1]


def draw(shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return maps in channels_last whose means are no zeros."""
    torch.manual_seed(sum(shape))
    maps = [1 + torch.randn(shape, dtype=torch.float64) for _ in range(count)]
    last = [each.movedim(1, -1).contiguous().movedim(-1, 1) for each in maps]
    return [each.to(dtype) for each in last]


def rows(shape: tuple[int, ...], count: int) -> list[Tensor]:
    torch.manual_seed(shape[1])
    return [torch.randn(shape[1], dtype=torch.float64) for _ in range(count)]


def both(
    monkeypatch: pytest.MonkeyPatch, compute: Callable[[], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what the kernels make of it, and what torch's operations do."""
    ours = compute()
    monkeypatch.setattr(compiled, "fits", lambda *_: False)
    return ours, compute()


def agree(results: tuple[list[Tensor], list[Tensor]]) -> None:
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_plain_numbers(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], slope: float
) -> None:
    kinds: dict[int, type[nn.Module]] = {
        2: nn.BatchNorm1d,
        4: nn.BatchNorm2d,
        5: nn.BatchNorm3d,
    }

    def compute() -> list[Tensor]:
        norm = kinds[len(shape)](shape[1]).double()
        weight, bias = rows(shape, 2)
        with torch.no_grad():
            norm.weight.copy_(weight)
            norm.bias.copy_(bias)
        features, cotangent = draw(shape, 2)
        out = batch_norm(norm, features.requires_grad_(), slope)
        gradients = torch.autograd.grad(out, [features, norm.weight, norm.bias], cotangent)
        return [out.detach(), *gradients, *norm.buffers()]

    agree(both(monkeypatch, compute))


@pytest.mark.parametrize("statistics_matter", [False, True])
@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_dual_numbers(
    needs_compiler: None,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    slope: float,
    statistics_matter: bool,
) -> None:
    quiet_forward_ad()

    def compute() -> list[Tensor]:
        x, t, e, f = draw(shape, 4)
        w, w_t, b, b_t, to_mean, to_var = rows(shape, 6)
        leaves = [part.requires_grad_() for part in (x, t, w, b)]
        with forward_ad.dual_level():
            dual_w, dual_b = forward_ad.make_dual(w, w_t), forward_ad.make_dual(b, b_t)
            cotangents = (to_mean, to_var) if statistics_matter else (None, None)
            out = dual_batch_norm(
                forward_ad.make_dual(x, t), dual_w, dual_b, 1e-5, *cotangents, slope
            )
            value, tangent = forward_ad.unpack_dual(out)
        assert tangent is not None
        pulled = torch.autograd.grad([value, tangent], leaves, [e, f], retain_graph=True)
        # The value's cotangent is 0: what is only known to the tangent
        of_tangent = torch.autograd.grad(tangent, leaves, f)
        return [value.detach(), tangent.detach(), *pulled, *of_tangent]

    agree(both(monkeypatch, compute))


@pytest.mark.parametrize("slope", SLOPES)
def test_only_the_tangent_is_differentiated(
    needs_compiler: None, monkeypatch: pytest.MonkeyPatch, slope: float
) -> None:
    quiet_forward_ad()

    def compute() -> list[Tensor]:
        x, t, f = draw(SHAPES[2], 3)
        w, w_t, b, b_t = rows(SHAPES[2], 4)
        with forward_ad.dual_level():
            dual_w, dual_b = forward_ad.make_dual(w, w_t), forward_ad.make_dual(b, b_t)
            features = forward_ad.make_dual(x, t.requires_grad_())
            value, tangent = forward_ad.unpack_dual(
                dual_batch_norm(features, dual_w, dual_b, 1e-5, slope=slope)
            )
        assert tangent is not None
        assert not value.requires_grad
        return [value, tangent.detach(), *torch.autograd.grad(tangent, t, f)]

    agree(both(monkeypatch, compute))


def test_other_layouts_of_tangents_and_cotangents(needs_compiler: None) -> None:
    """They come as they are: expanded, or with channels apart."""
    x, t, f = draw((4, 3, 5, 5), 3)
    w, w_t, b, b_t = rows((4, 3), 4)
    one = torch.ones((), dtype=torch.float64).expand(4, 3, 5, 5)

    def run(*, as_they_are: bool) -> list[Tensor]:
        t_, f_, e_ = (t.contiguous(), f.contiguous(), one) if as_they_are else (t, f, one + 0 * x)
        y, y_t, moments = compiled.normalise(x, t_, (w, w_t), (b, b_t), 1e-5, 0.0)
        assert y_t is not None
        pulled = compiled.dual_normalise_back(
            e_, f_, x, t_, (w, w_t), b, 0.0, moments, None, None, only_tangent=False
        )
        return [y, y_t, *(part for part in pulled if part is not None)]

    for got, expected in zip(run(as_they_are=True), run(as_they_are=False), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_float32_loses_nothing(needs_compiler: None, mean: float) -> None:
    """65,536 numbers a channel, against float64 of the same features. Rounding these moves each by
    up to 6e-8 (1 + mean); several times that is for the sums. torch's leave 5e-6 and 2e-4."""
    torch.manual_seed(0)
    features = mean + torch.randn(64, 8, 32, 32).contiguous(memory_format=torch.channels_last)
    ones, zeros = torch.ones(8), torch.zeros(8)
    z, _, moments = compiled.normalise(features, None, (ones, None), (zeros, None), 1e-5, 1.0)
    exact = features.double()
    over = (0, 2, 3)
    s = (exact.var(over, correction=0) + 1e-5).rsqrt()
    expected = (exact - exact.mean(over).view(1, -1, 1, 1)) * s.view(1, -1, 1, 1)
    assert float((moments[1] / s - 1).abs().max()) < 4e-7 * (1 + mean / 3)
    assert float((z - expected).abs().max()) < 1e-6 * (1 + mean)


def test_float32_loses_nothing_on_the_way_back(needs_compiler: None) -> None:
    """Sums of 8,192 numbers of one sign a channel, by their count; so many channels that a float
    would take 4,096 of these one after another, and lose 5e-6. 6e-8 is a number's rounding."""
    results = []
    for dtype in (torch.float32, torch.float64):
        x, t, e, f = draw((8192, 512), 4, torch.float32)
        w, w_t, b, b_t = (row.float() for row in rows((8192, 512), 4))
        x, t, e, f, w, w_t, b, b_t = (part.to(dtype) for part in (x, t, e, f, w, w_t, b, b_t))
        _, _, moments = compiled.normalise(x, t, (w, w_t), (b, b_t), 1e-5, 1.0)
        _, _, *pulled = compiled.dual_normalise_back(
            e + 1, f + 1, x, t, (w, w_t), b, 1.0, moments, None, None, only_tangent=False
        )
        results.append(pulled)
    for single, double in zip(*results, strict=True):
        assert single is not None
        assert double is not None
        assert float((single - double).abs().max()) / 8192 < 1e-6


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_not_a_number_stays_one(needs_compiler: None, slope: float) -> None:
    features = torch.ones(4, 2)
    features[1, 1] = torch.nan
    ones, zeros = torch.ones(2), torch.zeros(2)
    y, _, _ = compiled.normalise(features, None, (ones, None), (zeros, None), 1e-5, slope)
    assert y[:, 1].isnan().all()
    assert not y[:, 0].isnan().any()


def test_a_slope_of_one_is_no_activation() -> None:
    x = torch.linspace(-1, 1, 5)
    assert torch.equal(F.leaky_relu(x, 1.0), x)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_shares_add_up(needs_compiler: None, threads: int) -> None:
    """However many threads divide the work; 3 x 43,690 numbers are no whole number of strips."""
    if not kernels().threads:
        pytest.skip("these kernels use one thread")
    torch.manual_seed(0)
    x, e = (torch.randn(43690, 3, dtype=torch.float64) for _ in range(2))
    weight, bias = torch.randn(2, 3, dtype=torch.float64)
    before = torch.get_num_threads()

    def run(count: int) -> list[Tensor]:
        torch.set_num_threads(count)
        y, _, moments = compiled.normalise(x, None, (weight, None), (bias, None), 1e-5, 0.1)
        return [y, moments[:2], *compiled.normalise_back(e, x, weight, bias, 0.1, moments)]

    try:
        found, expected = run(threads), run(1)
        again = run(threads)
    finally:
        torch.set_num_threads(before)
    for own, other, repeated in zip(found, expected, again, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)
        assert torch.equal(own, repeated)
