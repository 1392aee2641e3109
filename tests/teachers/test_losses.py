import math

import pytest
import torch
import torch.nn.functional as F

from sedona_nni.teachers.losses import LabelSmoothing


def test_by_hand() -> None:
    """Three classes, eps = 0.1: targets 0.9 and twice 0.05.

    Logits (ln 4, ln 2, ln 2) are the probabilities (1/2, 1/4, 1/4), so with label 0 the loss is
    0.9 ln 2 + 2 * 0.05 ln 4 = 1.1 ln 2, and with label 1 it is
    0.05 ln 2 + 0.9 ln 4 + 0.05 ln 4 = 1.95 ln 2. The batch mean is 1.525 ln 2.
    """
    logits = torch.tensor([[4.0, 2.0, 2.0], [4.0, 2.0, 2.0]]).log()
    loss = LabelSmoothing(0.1)(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(1.525 * math.log(2), rel=1e-5)  # float32


@pytest.mark.parametrize("num_classes", [2, 10, 200])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5])
def test_is_the_cross_entropy_of_the_published_targets(num_classes: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(6, num_classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(num_classes, (6,), generator=generator)
    targets = torch.full((6, num_classes), eps / (num_classes - 1), dtype=torch.float64)
    targets[torch.arange(6), labels] = 1 - eps
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(LabelSmoothing(eps)(logits, labels), expected)


def test_no_smoothing_is_cross_entropy() -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    assert torch.equal(LabelSmoothing(0.0)(logits, labels), F.cross_entropy(logits, labels))
