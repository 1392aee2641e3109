"""A decoupling's cuts in the words of other pipelines, which keep exact gradients.

The names are those of a `Backbone`'s parts: ``layers.0`` to ``layers.<L-1>``, and ``head``.
Auxiliary networks are left out.
"""

from __future__ import annotations

from sedona_nni.decouplings.decoupling import Decoupling

__all__ = ["split_points", "stage_modules"]


def split_points(decoupling: Decoupling) -> dict[str, str]:
    """Return where ``torch.distributed.pipelining.pipeline`` has to split the plain network.

    Returns:
        By the name of each stage's first part, but the first stage's, the name of a member of
        ``SplitPoint``. ``pipeline`` takes these members as its ``split_spec``.

    Examples:
        >>> from sedona_nni import Decoupling, split_points
        >>> split_points(Decoupling(backbone="vgg11", cuts=[2, 4], aux=["conv2", "conv1"]))
        {'layers.3': 'BEGINNING', 'layers.5': 'BEGINNING'}
    """
    return {f"layers.{cut + 1}": "BEGINNING" for cut in decoupling.cuts}


def stage_modules(decoupling: Decoupling, num_layers: int) -> list[list[str]]:
    """Return the names of the parts of each stage, K lists.

    That is the form of ``module_fqns_per_model_part`` in torchtitan.

    Args:
        decoupling: Where the backbone is cut.
        num_layers: L.

    Raises:
        InputError: if a cut is not one of the backbone's boundaries.

    Examples:
        >>> from sedona_nni import Decoupling, stage_modules
        >>> stage_modules(Decoupling(backbone="dgl-cnn4", cuts=[2], aux=["mlp"]), num_layers=4)
        [['layers.0', 'layers.1', 'layers.2'], ['layers.3', 'head']]
    """
    stages = [[f"layers.{layer}" for layer in run] for run in decoupling.blocks(num_layers)]
    stages[-1].append("head")
    return stages
