"""Weights in files: as a training leaves them, and as the plain network alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from safetensors.torch import load_file, save_file
from torch import Tensor

from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.files import reading, write_atomically
from sedona_nni.models.cutting.cut_model import joined_state_dict
from sedona_nni.models.cutting.piece import Piece
from sedona_nni.teachers.auxiliary import AuxiliaryNetwork

__all__ = ["MODEL_FILE", "export", "load_weights", "save_weights"]

MODEL_FILE = "model.safetensors"


def save_weights(
    weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write weights by name as safetensors, atomically; those of several names once for each."""
    seen: set[int] = set()
    whole = {}
    for name, tensor in weights.items():
        place = tensor.untyped_storage().data_ptr()
        whole[name] = tensor.clone().contiguous() if place in seen else tensor.contiguous()
        seen.add(place)
    write_atomically(path, lambda temporary: save_file(whole, temporary, metadata))


def load_weights(network: DecoupledNetwork, path: Path | str) -> None:
    """Give a network the weights that `train` left as ``model.safetensors``.

    Args:
        network: Cut and built as the one that was trained.
        path: The file.

    Raises:
        InputError: if the file is missing, damaged, has the weights of another network, or some
            that are no finite numbers.

    Examples:
        >>> from pathlib import Path
        >>> from sedona_nni import (
        ...     Task, TrainSettings, build_decoupled, decoupling_by_rule, load_splits, load_weights,
        ...     task_backbone, train,
        ... )
        >>> task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=100)
        >>> two_blocks = decoupling_by_rule("uniform:2:mlp", "dgl-cnn4", 4)
        >>> network = build_decoupled(task_backbone(task), two_blocks)
        >>> splits = load_splits(task, validation_fraction=0.2)
        >>> settings = TrainSettings(epochs=1, batch_size=20)
        >>> trained = train(network, splits, settings, directory=Path("trained"))
        >>> again = build_decoupled(task_backbone(task), two_blocks)
        >>> load_weights(again, Path("trained/model.safetensors"))
    """
    path = Path(path)
    with reading(path):  # it may be missing, be no safetensors, or hold other weights
        weights = load_file(path)
        if odd := [name for name, values in weights.items() if not values.isfinite().all()]:
            raise InputError(f"{path}: {odd[0]} must have finite numbers")
        network.load_state_dict(weights)


def export(network: DecoupledNetwork, path: Path | str) -> None:
    """Write the weights of the plain network, without what only taught it, as safetensors.

    Their names are those of the model that was cut, see `sedona_nni.as_backbone`, which takes them
    strictly, as its own code builds it. Of our backbones they are those of `Backbone`: one of the
    same form, see `build_backbone`, takes them strictly, and needs neither decoupling nor auxiliary
    networks. torchvision's ResNets have other names, and up to 64 pixels another stem.

    Args:
        network: A decoupled network, trained or not.
        path: Where to.

    Raises:
        InputError: if it is a relaxed network, whose backbone is not cut, or the file cannot be
            written.

    Examples:
        >>> from pathlib import Path
        >>> from safetensors.torch import load_file
        >>> from sedona_nni import Decoupling, build_backbone, build_decoupled, export
        >>> backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.1)
        >>> decoupling = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
        >>> export(build_decoupled(backbone, decoupling), Path("plain.safetensors"))
        >>> plain = build_backbone("vgg11", num_classes=10, width_multiplier=0.1)
        >>> plain.load_state_dict(load_file("plain.safetensors"))
        <All keys matched successfully>
    """
    path, head = Path(path), network.blocks[-1].classifier
    assert head is not None
    if isinstance(head, AuxiliaryNetwork):
        raise InputError("network: must be a decoupled network, but got a relaxed one")
    layers = [layer for block in network.blocks for layer in block.layers]
    if isinstance(head, Piece):
        save_weights(joined_state_dict([*cast("list[Piece]", layers), head]), path)
        return
    parts = {**{f"layers.{i}": layer for i, layer in enumerate(layers)}, "head": head}
    save_weights(
        {
            f"{prefix}.{name}": tensor
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        },
        path,
    )
