"""Writes docs/reference.md: ``python docs/make_reference.py``.

Names, defaults and meanings come from the code, so that they cannot differ from it. Only where a
default comes from is said here, in `SOURCES`; a test sees that no option is left out.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import sedona_nni.data.picture
import sedona_nni.data.sets
from sedona_nni.command_line import app
from sedona_nni.data.sets import dataset_names
from sedona_nni.machine import Machine
from sedona_nni.models import backbone_names, num_layers
from sedona_nni.reporting.trial import StudySpace
from sedona_nni.searches import SEARCHES
from sedona_nni.strategies.settings.parts import (
    Bound,
    Comparison,
    Exploration,
    Given,
    Grid,
    GridPart,
    Plugins,
    Searched,
    Study,
    Training,
    Tuning,
)
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import auxiliary_names
from sedona_nni.training.method_settings import METHODS, MethodSettings
from sedona_nni.training.settings import Parallel, TrainSettings

PATH = Path(__file__).with_name("reference.md")
DGL = Path(__file__).parents[1] / "experiments" / "dgl"

_TUNED = (Bound, Tuning, Comparison)
_SEARCHES = [SEARCHES[name] for name in SEARCHES]


class Section(NamedTuple):
    """A part of the reference: a table of options.

    Attributes:
        title: Its heading.
        about: What stands below.
        parts: Whose fields the options are.
        searches: Whether the settings of searches stand beside them.
    """

    title: str
    about: str
    parts: tuple[type[BaseModel], ...]
    searches: bool = False


SECTIONS = [
    Section("Task (`task`)", "What is learned. Part of every experiment.", (Task,)),
    *(
        Section(
            f"Search `{kind.name}` (`{kind.field}`)",
            inspect.cleandoc(kind.settings.__doc__ or "").partition("\n\n")[0],
            (kind.settings,),
        )
        for kind in _SEARCHES
    ),
    Section(
        "Training (`train`)",
        "How K blocks are trained. Any of them can be tuned: `searchSpace` gives it a range of "
        "NNI's types `choice`, `randint`, `uniform`, `quniform` or `loguniform`.",
        (TrainSettings,),
    ),
    *(
        Section(
            f"Method `{method.model_fields['name'].default}` (`train.method`)",
            inspect.cleandoc(method.__doc__ or "").partition("\n\n")[0],
            (method,),
        )
        for method in dict.fromkeys(each.settings for each in map(METHODS.__getitem__, METHODS))
    ),
    Section(
        "Training in parallel (`train.parallel`)",
        "How blocks are trained in processes of their own; `parallel: blocks` has the defaults.",
        (Parallel,),
    ),
    Section(
        "Every tuner",
        "Beside these, each tuner has options of its own, see below.",
        (Training, Machine, Plugins),
    ),
    Section(
        "SedonaTuner",
        "`className: sedona_nni.strategies.tuner.SedonaTuner`: "
        "searches, then tunes what was found.",
        (*_TUNED, Searched),
        searches=True,
    ),
    Section(
        "ProbeTuner",
        "`className: sedona_nni.strategies.tuner.ProbeTuner`: probes single cuts by short "
        "trainings, then tunes what was found. Its options are those of the SedonaTuner.",
        (),
    ),
    Section(
        "SearchTuner",
        "`className: sedona_nni.strategies.tuner.SearchTuner`: searches as the search does whose "
        "name is given as `strategy`, then tunes what was found. Its other options are those of "
        "the SedonaTuner; the settings of a search of one's own stand under the name that it has "
        "for them, see `sedona_nni.searches.kind`.",
        (),
    ),
    Section(
        "OptunaTuner",
        "`className: sedona_nni.strategies.tuner.OptunaTuner`: "
        "tunes the training of a known decoupling.",
        (*_TUNED, Given),
    ),
    Section(
        "BridgeTuner",
        "`className: sedona_nni.strategies.bridge.BridgeTuner`: "
        "lets a strategy of NNI explore decouplings.",
        (Bound, Exploration),
    ),
    Section(
        "GridTuner",
        "`className: sedona_nni.strategies.grid.GridTuner`: "
        "trains every decoupling, or a sample of them.",
        (Grid,),
    ),
    Section("Part of a grid (`parts`)", "Some of the decouplings of a GridTuner.", (GridPart,)),
    Section(
        "StudyTuner",
        "`className: sedona_nni.strategies.study.StudyTuner`: "
        "compares strategies at the same cost, see "
        "[study.md](study.md).",
        (Study, *(kind.study_options for kind in _SEARCHES)),
        searches=True,
    ),
    Section(
        "Space of a study (`spaces`)", "Decouplings that strategies choose from.", (StudySpace,)
    ),
]

_OURS = "ours"
_NNI = "NNI"

# Where a default, or the option itself, comes from. `--x` is an option of the SEDONA release; the
# number behind it is the release's default where ours differs.
SOURCES: dict[str, str] = {
    "Task.backbone": _OURS,
    "Task.width_multiplier": "release, `--feat-mult`",
    "Task.activation": "release, `--nonlin`, which does not reach as far",
    "Task.stem": "release; torchvision",
    "Task.weights": _OURS,
    "Task.reset_classifier": "ours; timm, `reset_classifier`",
    "Task.dataset": "ours; release, `--dataset`: cifar10",
    "Task.data_dir": "release, `--data-dir`",
    "Task.image_size": _OURS,
    "Task.on_bad_image": _OURS,
    "Task.train_limit": _OURS,
    "Task.split_seed": "release, `--seed`",
    "SearchSettings.pretrain_steps": "release's README, `--train-iters` of the search; 0 is "
    "`--not-load-memory`",
    "SearchSettings.meta_steps": "release, `--meta-train-iters`",
    "SearchSettings.inner_steps": "release, `--num-inner-steps`",
    "SearchSettings.batch_size": "release, `--batch-size`",
    "SearchSettings.validation_batch_size": "release, `--valid-batch-size`",
    "SearchSettings.optimizer": "release, `--optim momentum`",
    "SearchSettings.lr": "release, `--lr`",
    "SearchSettings.lr_min": "release, `--lr-min`",
    "SearchSettings.lr_steps": "release, `--train-iters`, which is `pretrain_steps` as well",
    "SearchSettings.momentum": "release, `--momentum`",
    "SearchSettings.weight_decay": "release, `--weight-decay`",
    "SearchSettings.label_smoothing": "release, `--smoothing`",
    "SearchSettings.meta_optimizer": "release, `--meta-optimizer`",
    "SearchSettings.meta_lr": "release, `--meta-lr`",
    "SearchSettings.meta_betas": "release, fixed there",
    "SearchSettings.meta_num_blocks": _OURS,
    "SearchSettings.perturbation_steps": "ours, after Wang et al.",
    "SearchSettings.meta_momentum": "ours; release, `--meta-optimizer momentum`: 0.9",
    "SearchSettings.meta_weight_decay": "release, `--meta-wd`",
    "SearchSettings.memory_size": "release, `--memory-size`",
    "SearchSettings.num_snapshots": "release, fixed there",
    "SearchSettings.eviction": "ours; release: oldest, whatever was asked for",
    "SearchSettings.release_mode": _OURS,
    "SearchSettings.mix": "ours; paper and release: logits",
    "SearchSettings.start_a_loc": "ours; release: 0.5",
    "SearchSettings.validation_fraction": "release's README, `--valid-size` of the search",
    "SearchSettings.tf32": "ours; release: torch's default, for convolutions",
    "SearchSettings.cuda_graphs": "ours",
    "SearchSettings.seed": "release, `--seed`",
    "ProbeSettings.cost": _OURS,
    "ProbeSettings.seed": _OURS,
    "SlopeSettings.steps": _OURS,
    "SlopeSettings.start_a_loc": _OURS,
    "SlopeSettings.mix": _OURS,
    "SlopeSettings.validation_batch_size": "release, `--valid-batch-size` of a meta-step",
    "SlopeSettings.seed": _OURS,
    "TrainSettings.method": _OURS,
    "MethodSettings.name": _OURS,
    "AsynchronousSettings.buffer": "DGL's code, `--buffer`; there 0, which is one batch",
    "AsynchronousSettings.max_draws": "DGL's code, `--max-buffer-reuse`, which is one more",
    "AsynchronousSettings.order": "DGL's code, `--layer-sequence`",
    "AsynchronousSettings.slow_block": "DGL's code, `--layer_noise`, which counts from 0",
    "AsynchronousSettings.slowdown": "DGL's code, `--noise`, which is 1 - 1/slowdown",
    "DelayedGradientsSettings.beta": "FDG's release",
    "DelayedGradientsSettings.replay": _OURS,
    "DelayedGradientsSettings.update_every": _OURS,
    "SyntheticGradientsSettings.synthesizer_width": "ours; published: 128, that of the features",
    "TrainSettings.epochs": "release's README, `--train-iters 64000`",
    "TrainSettings.batch_size": "release, `--batch-size`",
    "TrainSettings.accumulate": _OURS,
    "TrainSettings.transport": "ours, after TRGL",
    "TrainSettings.views": _OURS,
    "TrainSettings.checkpoint": "ours; torch.utils.checkpoint",
    "TrainSettings.parallel": _OURS,
    "Parallel.name": _OURS,
    "Parallel.wire": _OURS,
    "Parallel.replicas": _OURS,
    "Parallel.patience_s": _OURS,
    "Parallel.start_s": _OURS,
    "TrainSettings.evaluation_batch_size": "ours; release, `--valid-batch-size`: 1024",
    "TrainSettings.optimizer": "release, `--optim momentum`; `sgd` there has no momentum",
    "TrainSettings.lr": "release, `--lr`",
    "TrainSettings.lr_pretrained": _OURS,
    "TrainSettings.lr_min": "release, `--lr-min`",
    "TrainSettings.momentum": "release, `--momentum`",
    "TrainSettings.warmup_epochs": "ours; torchvision's references, `--lr-warmup-epochs`",
    "TrainSettings.nesterov": "ours; torch.optim.SGD",
    "TrainSettings.clip_norm": "ours; torchvision's references, `--clip-grad-norm`",
    "TrainSettings.ema_decay": "ours; timm, `--model-ema-decay`",
    "TrainSettings.weight_decay": "release, `--weight-decay`",
    "TrainSettings.schedule": "release, `--lr-scheduler`",
    "TrainSettings.lr_decay": "release, fixed there",
    "TrainSettings.milestones": "ours; release, `--lr-decay-milestones`: steps 150,000, 275,000 "
    "and 375,000",
    "TrainSettings.label_smoothing": "release, `--smoothing`",
    "TrainSettings.augmentation": "ours; torchvision's references, `--auto-augment`",
    "TrainSettings.mixup": "ours; timm, `--mixup`",
    "TrainSettings.cutmix": "ours; timm, `--cutmix`",
    "TrainSettings.validation_fraction": "release, `--valid-size`",
    "TrainSettings.classes_per_batch": "release, `--classes-per-batch`; Nøkland and Eidnes 2019",
    "TrainSettings.class_limited_epochs": "release, `--classes-per-batch-until-iter`",
    "TrainSettings.ensemble": "release, `--num-ensemble`",
    "TrainSettings.ensemble_vote": "release; DGL's",
    "TrainSettings.amp": "release, `--fp16`",
    "TrainSettings.seed": "release, `--seed`",
    "Training.task": _OURS,
    "Plugins.plugins": _OURS,
    "Training.aux": "release, `--max-dec-depth 4`; one name is `--no-beta`",
    "Training.train": _OURS,
    "Machine.device": "ours; release, `--no-cuda`",
    "Machine.threads": _OURS,
    "Machine.workers": _OURS,
    "Machine.check_memory": _OURS,
    "Training.seed": _OURS,
    "Bound.max_block_share": _OURS,
    "Bound.max_block_memory": _OURS,
    "Bound.compute": _OURS,
    "Tuning.published": "release's README",
    "Comparison.compare": "release's README: DGL (`uniform`), PredSim, back-propagation",
    "Comparison.uniform_aux": "ours; release, `--baseline-dec-type`: `mlp-sr`",
    "Comparison.also": _OURS,
    "Comparison.leaders": _OURS,
    "Tuning.train_for": _OURS,
    "Tuning.trials_per_strategy": _OURS,
    "Tuning.sampler": "Optuna's default",
    "Tuning.pruner": "Optuna's rules, see [optuna.md](optuna.md)",
    "Tuning.second_objective": _OURS,
    "Searched.num_blocks": "ours; release, `--target-num-blocks`: 1",
    "Given.decoupling": "release, `--eval-base-dir`",
    "Given.num_blocks": "release, `--target-num-blocks`",
    "Given.name": _OURS,
    "Exploration.strategy": _NNI,
    "Exploration.strategy_args": _NNI,
    "Exploration.num_blocks": _OURS,
    "Exploration.max_trials": _NNI,
    "Grid.parts": _OURS,
    "Grid.trained": _OURS,
    "GridPart.num_blocks": _OURS,
    "GridPart.seeds": _OURS,
    "GridPart.sample": _OURS,
    "Study.spaces": _OURS,
    "Study.budget": _OURS,
    "Study.replicates": _OURS,
    "StudyOptions.pretrain_share": "ours; published: 40,000 of 64,000, 0.625",
    "StudyOptions.meta_share": "ours; published: 2,000 of 64,000, 0.03",
    "StudySpace.num_blocks": _OURS,
    "StudySpace.max_block_share": _OURS,
}


def meanings(documented: type) -> dict[str, str]:
    """Return what the ``Attributes`` section of a class and its bases says, by name."""
    found: dict[str, str] = {}
    for base in reversed(documented.__mro__):
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        name = ""
        for line in text.splitlines():
            if line and not line.startswith(" "):
                break
            if match := re.match(r"    (\w+): (.*)", line):
                name = match[1]
                found[name] = match[2]
            elif name and line.strip():
                found[name] += " " + line.strip()
    return found


def source(model: type[BaseModel], field: str) -> str:
    """Return where the default of a field comes from, by the class that brings the field in."""
    names = [f"{base.__name__}.{field}" for base in model.__mro__]
    return next(SOURCES[name] for name in names if name in SOURCES)


def default(info: FieldInfo) -> str:
    """Return a field's default as it would be written in YAML."""
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True)
    if isinstance(value, MethodSettings):
        return _plain(value.name)
    if isinstance(value, BaseModel):
        return "its defaults"
    return _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def markdown(text: str) -> str:
    """Return a docstring's text as Markdown."""
    return text.replace("``", "`").replace("<", "\\<")


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [list(headings)]
    lines.append(["---"] * len(lines[0]))
    lines += [[markdown(cell).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def options(section: Section) -> list[str]:
    """Return the table of a section's options."""
    rows = [
        (f"`{name}`", default(info), meanings(part)[name], source(part, name))
        for part in section.parts
        for name, info in part.model_fields.items()
    ]
    if section.searches:
        rows += [
            (f"`{kind.field}`", "its defaults", f"Settings of the search ``{kind.name}``.", _OURS)
            for kind in _SEARCHES
        ]
    return table(("option", "default", "meaning", "source"), rows) if rows else []


def commands() -> list[str]:
    """Return a section for each command."""
    lines = []
    group: Any = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        lines += ["", f"### `sedona-nni {name}`", "", markdown(inspect.cleandoc(command.help)), ""]
        lines += table(
            ("option", "default", "meaning"),
            (
                (
                    f"`{_name(option)}`",
                    "required"
                    if option.required
                    else _plain(
                        str(option.default) if isinstance(option.default, Path) else option.default
                    ),
                    option.help or "",
                )
                for option in command.params
                if option.name != "help"
            ),
        )
    return lines


def _name(parameter: Any) -> str:
    """Return how an argument or an option is written."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join(parameter.opts)


def counterparts() -> list[tuple[str, str, str, str]]:
    """Return DGL's published commands by what the heads of our experiments say.

    Returns:
        Folder there, command there, file here, and its row, of each command.
    """
    found = []
    for path in sorted(DGL.glob("*.yml")):
        folder = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.fullmatch(r"# Published, in (\w+):", line):
                folder = match[1]
            elif match := re.fullmatch(r"# - ([\w-]+): (python .+)", line):
                found.append((folder, match[2], path.name, match[1]))
    return found


def reference() -> str:
    """Return the whole document."""
    lines = [
        "# Reference",
        "",
        "Every option, its default and where that comes from. Written by",
        "`python docs/make_reference.py` from the code; do not edit it by hand.",
        "",
        "*release*: the authors' public release of SEDONA, of which `--x` is an option. *ours*:",
        "this project's.",
        "",
        "## Names",
        "",
        "Backbones, with their number of layers: "
        + ", ".join(f"`{name}` ({num_layers(name)})" for name in backbone_names())
        + ".",
        "",
        "Auxiliary networks: "
        + ", ".join(f"`{name}`" for name in auxiliary_names())
        + ", and deeper `convN` and `augN`. More can be registered, see "
        "`sedona_nni.teachers.auxiliary`.",
        "",
        "Data sets: " + ", ".join(f"`{name}`" for name in dataset_names()) + ".",
        "",
        markdown(inspect.cleandoc(sedona_nni.data.sets.__doc__ or "").partition("\n\n")[2]),
        "",
        "Of sets in files, every picture becomes red, green and blue of 8 bits:",
        "",
        markdown(inspect.cleandoc(sedona_nni.data.picture.__doc__ or "").partition("\n\n")[2]),
        "",
        "## Experiments",
        "",
        "What is written under `tuner.classArgs` of an experiment's YAML file.",
    ]
    for section in SECTIONS:
        lines += ["", f"### {section.title}", "", markdown(section.about)]
        if rows := options(section):
            lines += ["", *rows]
    lines += ["", "## Command line", "", "`--json` prints results for machines.", *commands()]
    lines += [
        "",
        "## DGL's commands",
        "",
        "Every command of the public release of DGL, the experiment of ours that does the same,",
        "and its row there. Options are compared in `experiments/dgl/README.md`.",
        "",
        *table(
            ("folder", "published", "experiment", "row"),
            (
                (folder, f"`{command}`", f"`experiments/dgl/{file}`", f"`{row}`")
                for folder, command, file, row in counterparts()
            ),
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
