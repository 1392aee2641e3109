"""``train``: a decoupling, as a trial of an experiment would."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sedona_nni.command_line.given import bound_of, decoupling_of, read_given
from sedona_nni.command_line.options import (
    DecouplingText,
    Device,
    ExperimentName,
    Folder,
    Json,
    MaxBlockMemory,
    MaxBlockShare,
    NumBlocks,
    Workers,
)
from sedona_nni.command_line.telling import narrator, show_numbers, tell_contents
from sedona_nni.errors import InputError

if TYPE_CHECKING:
    from sedona_nni.decouplings.bounds import BlockBound
    from sedona_nni.decouplings.decoupling import Decoupling
    from sedona_nni.searches.sedona.result import SearchResult
    from sedona_nni.training.settings import TrainSettings


def train(
    experiment: ExperimentName,
    directory: Folder,
    decoupling: DecouplingText,
    num_blocks: NumBlocks = None,
    max_block_share: MaxBlockShare = None,
    max_block_memory: MaxBlockMemory = None,
    relaxed: Annotated[
        bool,
        typer.Option(
            "--relaxed", metavar="", help="Cut nothing: train a search result's relaxed network."
        ),
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Replaces one of the training settings, by a value as in YAML, e.g. "
            "milestones=[40,60]; method.NAME is an option of its method.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How the blocks learn, e.g. greedy or sequential.")
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            help="blocks: train each block in a process of its own, on this host or, under "
            "torchrun, as one of its processes; no: in one."
        ),
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    force: Annotated[
        bool,
        typer.Option("--force", metavar="", help="Train even if memory seems not to suffice."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a decoupling as a trial of the experiment would, without NNI's manager.

    It trains with the experiment's settings under train, and nothing of its train_for or
    searchSpace; --set replaces some of them.
    A bound on the blocks replaces that of the experiment. What is derived from a search result
    keeps to it, what is given has to.
    """
    from sedona_nni.training.parallel.host import is_launched, prepare

    if parallel == "blocks" and not is_launched():
        prepare()  # before anything else is imported, which takes about as long
    import torch

    from sedona_nni.data.sets import image_size_of
    from sedona_nni.files import check_output_folder
    from sedona_nni.searches.sedona.relaxed_training import build_relaxed
    from sedona_nni.strategies.settings.costs import rule_costs
    from sedona_nni.training.parallel.host import shows
    from sedona_nni.training.task_backbone import task_backbone
    from sedona_nni.trials.claims import claim_for_training
    from sedona_nni.trials.train import run_training

    check_output_folder("--directory", directory)
    planned = read_given(experiment)
    settings = _changed(planned.settings.training.train, setting or [], method, parallel)
    chosen: Decoupling | SearchResult
    if relaxed:
        for name, text in (("share", max_block_share), ("memory", max_block_memory)):
            if text is not None:
                rule = "must not be given with --relaxed"
                raise InputError.rule(f"--max-block-{name}", rule, text)
        chosen = _search_result(decoupling, num_blocks)
        with torch.device("meta"):  # before data are read: only to see that it fits
            build_relaxed(task_backbone(planned.task), chosen)
        if chosen.in_release_mode:
            print("relaxed in release mode, in which it was found", file=sys.stderr)
    else:

        def bound_for(aux: Iterable[str]) -> BlockBound | None:
            return bound_of(planned, max_block_share, max_block_memory, directory, aux, settings)

        training = planned.settings.training.model_copy(update={"train": settings})
        counted = rule_costs(training, planned.folder)
        name = planned.task.backbone
        size = image_size_of(planned.task)
        chosen = decoupling_of(decoupling, num_blocks, name, size, bound_for, counted)
        settings.check_aux(chosen.aux)
    threads = planned.settings.machine.threads
    with claim_for_training(device, settings, chosen, threads=threads) as claimed:
        if shows():
            tell_contents(planned.contents())
        result = run_training(
            planned.task,
            chosen,
            settings,
            device=claimed,
            workers=planned.settings.machine.workers if workers is None else workers,
            report=narrator(),
            directory=directory,
            check_memory=planned.settings.machine.check_memory and not force,
        )
    if shows():
        show_numbers(result, as_json)


def _changed(
    train: TrainSettings, settings: Iterable[str], method: str | None, parallel: str | None
) -> TrainSettings:
    """Return an experiment's settings with what ``--set`` and the like replace of them."""
    import yaml
    from pydantic import ValidationError

    from sedona_nni.training.settings import TrainSettings

    described = train.model_dump()
    changes = []
    for text in settings:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError.rule("--set", "must be NAME=VALUE", text)
        try:
            changes.append((name.split("."), yaml.safe_load(value)))
        except yaml.YAMLError:
            raise InputError.rule("--set", "must have a VALUE as in YAML", text) from None
    for option, word in (("method", method), ("parallel", parallel)):
        if word is not None:
            if any(names == [option] for names, _ in changes):
                raise InputError(f"--{option}: must not be given with --set {option}=...")
            known = described[option]
            named = known["name"] if isinstance(known, dict) else known
            if word != named:  # else its options stay as they are
                changes.append(([option], word))
    for names, value in sorted(changes, key=lambda change: len(change[0])):  # a whole, then in it
        node: Any = described
        for name in names[:-1]:
            if isinstance(node.get(name), str):  # a method's name stands for it with its defaults
                node[name] = {"name": node[name]}
            node = node.get(name)
            if not isinstance(node, dict):
                field = ".".join(names)
                raise InputError(f"--set.{field}: unknown field, please check its spelling")
        node[names[-1]] = value
    try:
        return TrainSettings.model_validate(described)
    except ValidationError as error:
        raise InputError.from_validation(error, "--set") from None


def _search_result(text: str, num_blocks: int | None) -> SearchResult:
    from sedona_nni.searches.documents import document_path
    from sedona_nni.searches.sedona.result import SearchResult

    if num_blocks is not None:
        raise InputError.rule("--num-blocks", "must not be given with --relaxed", num_blocks)
    return SearchResult.load(document_path(text))
