"""Auxiliary networks: small local classifiers that give a block its own loss, a family per file.

A new one is a subclass of `AuxiliaryNetwork` under `register_auxiliary`; ours are listed here.
"""

from sedona_nni.teachers.auxiliary.network import (
    AUXILIARY,
    AuxiliaryContext,
    AuxiliaryNetwork,
    Criterion,
    OnMaps,
    auxiliary_context,
    auxiliary_names,
    build_auxiliary,
    check_auxiliary,
    check_choices,
    register_auxiliary,
)

# Lists name them in this order
# isort: off
from sedona_nni.teachers.auxiliary.light import ConvAuxiliary, LightNetworks
from sedona_nni.teachers.auxiliary.mlp import MlpAuxiliary
from sedona_nni.teachers.auxiliary.linear import LinearAuxiliary
from sedona_nni.teachers.auxiliary.cnn import CnnAuxiliary, WideCnnAuxiliary
from sedona_nni.teachers.auxiliary.predsim import PredSim, similarity_matrix
# isort: on

__all__ = [
    "AUXILIARY",
    "AuxiliaryContext",
    "AuxiliaryNetwork",
    "CnnAuxiliary",
    "ConvAuxiliary",
    "Criterion",
    "LightNetworks",
    "LinearAuxiliary",
    "MlpAuxiliary",
    "OnMaps",
    "PredSim",
    "WideCnnAuxiliary",
    "auxiliary_context",
    "auxiliary_names",
    "build_auxiliary",
    "check_auxiliary",
    "check_choices",
    "register_auxiliary",
    "similarity_matrix",
]
