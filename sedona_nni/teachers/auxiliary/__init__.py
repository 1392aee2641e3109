"""Auxiliary networks: small local classifiers that give a block its own loss, a family per file.

A new one is a subclass of `AuxiliaryNetwork` under `register_auxiliary`; ours are listed here.
"""

from sedona_nni.teachers.auxiliary.network import (
    AUXILIARY,
    Around,
    AuxiliaryContext,
    AuxiliaryNetwork,
    Criterion,
    OnMaps,
    Seen,
    Teacher,
    auxiliary_context,
    auxiliary_names,
    build_auxiliary,
    check_auxiliary,
    check_choices,
    check_plain,
    follows,
    is_teacher,
    looks,
    places,
    register_auxiliary,
    taught,
    views_for,
)

# Lists name them in this order
# isort: off
from sedona_nni.teachers.auxiliary.light import ConvAuxiliary, LightNetworks
from sedona_nni.teachers.auxiliary.mlp import MlpAuxiliary
from sedona_nni.teachers.auxiliary.linear import LinearAuxiliary
from sedona_nni.teachers.auxiliary.cnn import CnnAuxiliary, WideCnnAuxiliary
from sedona_nni.teachers.auxiliary.predsim import PredSim, similarity_matrix
from sedona_nni.teachers.auxiliary.augmented import AugmentedAuxiliary, sampled_layers
from sedona_nni.teachers.auxiliary.infopro import InfoPro
from sedona_nni.teachers.auxiliary.reconstruction import Reconstruction
from sedona_nni.teachers.auxiliary.momentum import MomentumAuxiliary
from sedona_nni.teachers.auxiliary.barlow import BarlowTwins
# isort: on

__all__ = [
    "AUXILIARY",
    "Around",
    "AugmentedAuxiliary",
    "AuxiliaryContext",
    "AuxiliaryNetwork",
    "BarlowTwins",
    "CnnAuxiliary",
    "ConvAuxiliary",
    "Criterion",
    "InfoPro",
    "LightNetworks",
    "LinearAuxiliary",
    "MlpAuxiliary",
    "MomentumAuxiliary",
    "OnMaps",
    "PredSim",
    "Reconstruction",
    "Seen",
    "Teacher",
    "WideCnnAuxiliary",
    "auxiliary_context",
    "auxiliary_names",
    "build_auxiliary",
    "check_auxiliary",
    "check_choices",
    "check_plain",
    "follows",
    "is_teacher",
    "looks",
    "places",
    "register_auxiliary",
    "sampled_layers",
    "similarity_matrix",
    "taught",
    "views_for",
]
