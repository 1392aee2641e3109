"""What the options of several commands stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedona_nni.errors import InputError
from sedona_nni.files import user_path

if TYPE_CHECKING:
    from sedona_nni.decouplings.bounds import BlockBound
    from sedona_nni.decouplings.compute import Compute
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.decouplings.outcome import SearchOutcome
    from sedona_nni.decouplings.rules import RuleCosts
    from sedona_nni.image_size import ImageSize
    from sedona_nni.models import Backbone
    from sedona_nni.strategies.experiment import Experiment
    from sedona_nni.strategies.experiment_file import ExperimentFile
    from sedona_nni.training.settings import TrainSettings

_OF_A_RULE = ("decoupling", "num_blocks", "block_size", "aux")


def read_given(experiment: Path, file: ExperimentFile | None = None) -> Experiment:
    """Read an experiment; its errors name its file, as options have the same names as fields.

    Args:
        experiment: As the user has named it.
        file: What that is, where it is known.
    """
    from sedona_nni.strategies.experiment import Experiment
    from sedona_nni.strategies.experiment_file import find_experiment

    found = find_experiment(experiment) if file is None else file
    try:
        return Experiment.from_config(found.config())
    except InputError as error:
        raise InputError(f"{experiment}: {error}") from None


def bound_of(
    planned: Experiment,
    share: str | None,
    memory: str | None,
    directory: Path,
    aux: Iterable[str] = (),
    train: TrainSettings | None = None,
) -> BlockBound | None:
    """Return the experiment's bounds on blocks, or others in place of one or both.

    Measured times go to a directory. Memory is that of its trainings, or of ``train``.
    """
    from sedona_nni.decouplings.bounds import allowed_memory, allowed_share
    from sedona_nni.strategies.checkpoint import COMPUTE_FILE
    from sedona_nni.strategies.measuring import run_bound, run_costs
    from sedona_nni.strategies.settings.explored import ExploredSettings
    from sedona_nni.strategies.settings.tuned import TunedSettings

    settings = planned.settings
    if not isinstance(settings, TunedSettings | ExploredSettings):
        for option, given in (("--max-block-share", share), ("--max-block-memory", memory)):
            if given is not None:
                raise InputError(f"{option}: the experiment's tuner knows no bound on blocks")
        return None
    changes: dict[str, str] = {}
    if share is not None:
        allowed_share(share, 1)
        changes["max_block_share"] = share
    if memory is not None:
        allowed_memory(memory, 1, 1)
        changes["max_block_memory"] = memory
    settings = replace(settings, bound=settings.bound.model_copy(update=changes))
    if train is not None:
        changed = settings.training.model_copy(update={"train": train})
        settings = replace(settings, training=changed)
    if not settings.bound.bounds_blocks:
        return None
    aux = [*aux]
    costs = run_costs(settings, planned.folder, directory / COMPUTE_FILE, aux)
    return run_bound(settings, planned.folder, costs, aux)


def model_name_of(
    backbone: str | None, boundaries: str | None, model_args: Sequence[str] | None
) -> str | None:
    """Return what ``--backbone``, ``--boundaries`` and ``--model-arg`` name."""
    from sedona_nni.model_name import ModelName, is_model_name

    if backbone is None or not is_model_name(backbone):
        for option, given in (("--boundaries", boundaries), ("--model-arg", model_args)):
            if given:
                rule = "must be given with a model from elsewhere, like torchvision:resnet50"
                raise InputError.rule(option, rule, given)
        return backbone
    args: dict[str, Any] = {}
    for text in model_args or []:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InputError.rule("--model-arg", "must be NAME=VALUE", text)
        try:
            args[name] = json.loads(value)
        except ValueError:
            args[name] = value  # a text may go without quotes
    places: object = boundaries
    if boundaries is not None and boundaries not in ("all", "units"):
        places = int(boundaries) if boundaries.isdecimal() else boundaries.split(",")
    return str(ModelName.parse(backbone).given(args=args or None, boundaries=places))


def decoupling_of(
    text: str,
    num_blocks: int | None,
    backbone: str | None,
    image_size: ImageSize,
    bound_for: Callable[[Iterable[str]], BlockBound | None] = lambda aux: None,
    costs: RuleCosts | None = None,
) -> Decoupling:
    """Return what ``--decoupling``, ``--num-blocks`` and maybe ``--backbone`` say.

    A model from elsewhere is cut for images of ``image_size``; ``bound_for`` returns what it has to
    respect, given the auxiliary networks that it may use; ``costs`` counts what a balanced rule
    balances.
    """
    from sedona_nni.decouplings.choice import discretise
    from sedona_nni.decouplings.rules import decoupling_by_rule, is_rule
    from sedona_nni.models import backbone_names, num_layers
    from sedona_nni.searches.documents import document_path, load_decoupling
    from sedona_nni.teachers import NO_AUXILIARY
    from sedona_nni.teachers.auxiliary import check_auxiliary

    if not text:  # an empty path is this folder
        raise InputError.rule("--decoupling", "must be a file, a published one or a rule", text)
    if not is_rule(text):

        def derive(result: SearchOutcome, num_blocks: int) -> Decoupling:
            return discretise(result, num_blocks, bound_for(result.aux_choices))

        chosen = load_decoupling(document_path(text), num_blocks, derive)
        if backbone not in (None, chosen.backbone):
            raise InputError.rule("--decoupling", f"must be one of {backbone}", chosen.backbone)
        chosen.blocks(num_layers(chosen.backbone, image_size))
    else:
        if num_blocks is not None:
            raise InputError.rule("--num-blocks", f"must not be given for {text}", num_blocks)
        if backbone is None:
            raise InputError(
                f"--backbone: must be given, one of {', '.join(backbone_names())}; or a file as "
                "--decoupling"
            )
        layers = num_layers(backbone, image_size)
        try:
            chosen = decoupling_by_rule(text, backbone, layers, costs)
            named = text.rpartition(":")[2]  # also where nothing is cut
            if text != "backprop" and named != NO_AUXILIARY:
                check_auxiliary(named)
        except InputError as error:
            if str(error).partition(":")[0] not in _OF_A_RULE:  # the network's, which is counted
                raise
            raise InputError(f"--decoupling: {str(error).removeprefix('decoupling: ')}") from None
    if chosen.cuts and (bound := bound_for(chosen.aux)) is not None:
        bound.require(chosen, "decoupling")
    return chosen


def compute_of(
    text: str, backbone: Backbone, aux: Iterable[str], device: str, batch_size: int
) -> Compute:
    """Return what ``--compute`` says of a backbone and some auxiliary networks."""
    from sedona_nni.decouplings.compute import compute_in_macs, load_compute
    from sedona_nni.decouplings.layer_time import compute_in_time
    from sedona_nni.decouplings.memory import compute_in_memory
    from sedona_nni.strategies.nni_border.devices import claim_device
    from sedona_nni.training.settings import TrainSettings
    from sedona_nni.training.step_form import step_form

    if text == "macs":
        return compute_in_macs(backbone, aux)
    if text == "memory":
        return compute_in_memory(backbone, aux, step_form(TrainSettings(batch_size=batch_size)))
    if text != "time":
        return load_compute(user_path(text))
    with claim_device(device) as claimed:
        return compute_in_time(backbone, aux, device=claimed, batch_size=batch_size)
