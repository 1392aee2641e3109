"""``search``: an experiment's search alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedona_nni.command_line.given import bound_of, read_given
from sedona_nni.command_line.options import (
    Device,
    ExperimentName,
    Folder,
    Json,
    MaxBlockMemory,
    MaxBlockShare,
    Workers,
)
from sedona_nni.command_line.telling import (
    narrator,
    show_undecided,
    tell_contents,
    undecided_share,
)
from sedona_nni.errors import InputError

if TYPE_CHECKING:
    import torch

    from sedona_nni.strategies.experiment import Experiment
    from sedona_nni.strategies.settings.tuned import TunedSettings


def search(
    experiment: ExperimentName,
    directory: Folder,
    max_block_share: MaxBlockShare = None,
    max_block_memory: MaxBlockMemory = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Search as the experiment would, without NNI's manager.

    Leaves search-result.json and, for each of the experiment's numbers of blocks K,
    decoupling-k<K>.json. Called again with the same directory, it continues an interrupted search.
    A bound on the blocks replaces that of the experiment.
    """
    from sedona_nni.decouplings.choice import leaders
    from sedona_nni.files import check_output_folder
    from sedona_nni.searches.documents import parse_result
    from sedona_nni.strategies.nni_border.devices import claim_device
    from sedona_nni.strategies.settings.tuned import Searches, TunedSettings

    check_output_folder("--directory", directory)
    planned = read_given(experiment)
    settings = planned.settings
    if not isinstance(settings, TunedSettings) or not isinstance(settings.source, Searches):
        raise InputError(f"{experiment}: must be an experiment that searches")
    bound = bound_of(planned, max_block_share, max_block_memory, directory)
    with claim_device(device, threads=settings.machine.threads) as claimed:
        tell_contents(planned.contents())
        result = _run_search(planned, settings, claimed, directory, workers)
    found = parse_result(result["search_result"])
    found.save(directory / "search-result.json")
    for count in settings.block_counts:
        best = leaders(found, count, settings.comparison.leaders, bound)
        for place, decoupling in enumerate(best, start=1):
            name = f"decoupling-k{count}" if place == 1 else f"decoupling-k{count}-{place}"
            decoupling.save(directory / f"{name}.json")
            if not as_json:
                print(f"{count or 'any number of'} blocks: {decoupling.in_words()}")
    if as_json:
        print(json.dumps({**result, **undecided_share(found)}))
    else:
        show_undecided(found)
        if "trainings" in result:
            print(f"the search cost as much as {result['trainings']:.2f} trainings, by MACs")


def _run_search(
    planned: Experiment,
    settings: TunedSettings,
    device: torch.device,
    directory: Path,
    workers: int | None,
) -> dict[str, Any]:
    """Run the search of an experiment that has one."""
    from sedona_nni.strategies.settings.tuned import Searches, train_settings
    from sedona_nni.trials.search import run_search

    assert isinstance(settings.source, Searches)
    return run_search(
        settings.main,
        planned.task,
        settings.source.settings[settings.main],
        aux=settings.training.aux,
        train=train_settings(settings, settings.main),
        device=device,
        workers=settings.machine.workers if workers is None else workers,
        report=narrator(),
        directory=directory,
    )
