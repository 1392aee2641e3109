"""What experiments are made of: plain parts, each with keys of its own under ``tuner.classArgs``.

Parts know nothing of each other, and an experiment is what it has, see
`sedona_nni.strategies.settings`. `sedona_nni.machine.Machine` is one, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

from sedona_nni.decouplings.bounds import BlockMemory, BlockShare
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.reporting.trial import SecondObjective, StudySpace
from sedona_nni.seed import Seed
from sedona_nni.strategies.pruners import AnyPruner
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings

__all__ = [
    "Bound",
    "Comparison",
    "Exploration",
    "Given",
    "Grid",
    "GridPart",
    "Plugins",
    "Searched",
    "Study",
    "Training",
    "Tuning",
]

Name = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
BlockCounts = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(_Part):
    """What is trained, and how.

    Attributes:
        task: Backbone and data set.
        aux: The auxiliary networks to choose from.
        train: Settings of every training; tuned hyperparameters replace some of them. The n-th
            trial of each strategy trains with ``train.seed + n``.
        seed: Of what the tuner draws: random decouplings, samples and hyperparameters.
    """

    task: Task
    aux: tuple[str, ...] = Field(default=("conv1", "conv2", "conv3", "conv4"), min_length=1)
    train: TrainSettings = Field(default_factory=TrainSettings)
    seed: Seed = 2021


class Plugins(_Part):
    """What is loaded first, as the rest may be by names that plug-ins register.

    Attributes:
        plugins: Modules of one's own, or files like ``./my_networks.py``, that register auxiliary
            networks, methods, models, data sets or searches: see `sedona_nni.plugins`. Command,
            tuner and trials load them first. Files are relative to ``trialCodeDirectory``, like
            all paths here.
    """

    plugins: tuple[str, ...] = ()


class Bound(_Part):
    """How large blocks may be.

    Attributes:
        max_block_share: Bound on the largest block's share of the backbone's compute, with the
            block's auxiliary network: a number, e.g. ``0.4``, or a multiple of 1/K, e.g.
            ``1.3/K``. Every decoupling but back-propagation respects it: what is chosen is the
            best, the nearest or a random one of those that do, and what is given has to.
        max_block_memory: Bound on what the largest block takes of memory, with its auxiliary
            network: what it keeps for its backward pass, weights, gradients and optimizer state, as
            ``train`` says, see `sedona_nni.decouplings.memory`. A number of MiB, e.g. ``512``, or a
            multiple of 1/K of what back-propagation takes, e.g. ``1.3/K``. There may be both
            bounds.
        compute: What a share is of: ``macs``, or ``time``, that of a forward and a backward pass
            of ``train.batch_size`` images, measured where the tuner runs before the first trial;
            or the path of a file of such times, or of a decoupling that was derived with them; or
            ``memory``, as for ``max_block_memory``.
    """

    max_block_share: BlockShare | None = None
    max_block_memory: BlockMemory | None = None
    compute: str = "macs"

    @property
    def bounds_blocks(self) -> bool:
        """Whether there is a bound."""
        return self.max_block_share is not None or self.max_block_memory is not None


class Tuning(_Part):
    """How hyperparameters are tuned.

    Attributes:
        published: Take over the settings of a published table, see `strategies.published`; what
            else is given here replaces them, in ``task``, ``train`` and ``train_for`` setting by
            setting.
        train_for: What single strategies have otherwise than ``train``, by their names, e.g.
            ``{predsim: {optimizer: adam, lr: 0.0005}}``. What is given here, or by ``published``,
            is not tuned for that strategy: ``train_for`` goes before ``searchSpace``, and this
            before ``train``. Each setting is replaced as a whole, a method with its options.
        trials_per_strategy: Trainings of each decoupling. Failed ones count, too.
        sampler: Optuna's sampler of hyperparameters.
        pruner: Stops hopeless trainings: ``median`` or ``halving``, or its name and options, see
            `sedona_nni.strategies.pruners`; ``none`` stops nothing.
        second_objective: What counts beside the validation accuracy: ``memory``, the peak of a
            training step, or ``speed-up``, the ideal one of a pipeline with a device per block, in
            what ``compute`` says. Hyperparameters are drawn with both in view, and the results list
            the best compromises of all trainings. The speed-up is the decoupling's alone.
    """

    published: Literal["cifar10", "tiny-imagenet", "imagenet"] | None = None
    train_for: dict[str, dict[str, Any]] = Field(default_factory=dict)
    trials_per_strategy: int = Field(default=1, ge=1)
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: AnyPruner = None
    second_objective: SecondObjective | None = None

    @model_validator(mode="after")
    def _check_objectives(self) -> Self:
        if self.pruner is not None and self.second_objective is not None:
            raise ValueError(
                "pruner must be none where there is a second_objective, as Optuna compares "
                f"trainings by one number, but got {self.pruner.name}"
            )
        return self


class Comparison(_Part):
    """What is trained beside what is searched for or given.

    Attributes:
        compare: Decouplings to train on the same budget: ``"uniform"`` cuts with the same
            auxiliary network at each (with ``mlp-sr``, DGL's), the same cuts with ``"predsim"`` at
            each, which trains with ``label_smoothing: 0`` unless ``train_for`` says otherwise, a
            ``"random"`` decoupling, and ``"backprop"``. Where there is a search, also the names of
            others, e.g. ``"probe"``, which then search in trials of their own.
        uniform_aux: The auxiliary network of ``"uniform"``; the default is light at every width.
            DGL's own is ``mlp-sr``, which on wide backbones has more weights than these.
        also: Further decouplings to train on the same budget, by names for the table: the JSON of a
            decoupling, the path of its file, or a rule, see `sedona_nni.decouplings.rules`, e.g.
            ``{layerwise: every:1:mlp-sr}``.
        leaders: How many decouplings that a search found are trained for each K: those of the most
            evidence, as `decouplings.choice.leaders` orders them. The table calls the second one,
            e.g., ``sedona-2``.
    """

    compare: tuple[str, ...] = ()
    uniform_aux: str = "conv1"
    also: dict[Name, Decoupling | str] = Field(default_factory=dict)
    leaders: int = Field(default=1, ge=1, le=1000)


class Searched(_Part):
    """What is searched for.

    Attributes:
        num_blocks: K, the number of blocks that the backbone is cut into. A list trains each: one
            search serves all. 0 leaves it to the search, where it tells, as SEDONA's does, which
            then cuts wherever a^loc > a^up.
    """

    num_blocks: Annotated[BlockCounts, Field(min_length=1)]


class Given(_Part):
    """What is given in place of a search.

    Attributes:
        decoupling: The decoupling to tune the training of: its JSON, the path of a file, or a rule,
            see `sedona_nni.decouplings.rules`. The file may also be a search result.
        num_blocks: K, of a search result's decoupling, as for a search; only with one.
        name: What the table calls it.
    """

    decoupling: Decoupling | str
    num_blocks: BlockCounts = ()
    name: Name = "given"


class Exploration(_Part):
    """What one of NNI's own strategies explores.

    Attributes:
        strategy: Which of NNI's own strategies explores the space.
        strategy_args: Keyword arguments of its class, e.g. ``population_size``.
        num_blocks: K, the number of blocks that the backbone is cut into.
        max_trials: How many decouplings to train. Failed trainings count, too.
    """

    strategy: Literal["random", "regularized_evolution", "tpe"]
    strategy_args: dict[str, Any] = Field(default_factory=dict)
    num_blocks: int = Field(ge=1)
    max_trials: int = Field(ge=1)


class GridPart(_Part):
    """Some of the decouplings of a grid.

    Attributes:
        num_blocks: K; 1 is back-propagation.
        seeds: Trainings of each decoupling, with ``train.seed``, ``train.seed + 1`` and so on.
        sample: Only so many decouplings, drawn without repetition; by default all that there are.
    """

    num_blocks: int = Field(ge=1)
    seeds: int = Field(default=1, ge=1)
    sample: int | None = Field(default=None, ge=1)

    @property
    def name(self) -> str:
        """What stands for the strategy."""
        return "backprop" if self.num_blocks == 1 else f"grid-k{self.num_blocks}"


class Grid(_Part):
    """What a grid has.

    Attributes:
        parts: What is trained, in this order.
        trained: Ledgers (``trials.jsonl``) of earlier runs, on other machines for instance. What
            has been trained there, alike and with as many seeds, is not trained again.
    """

    parts: tuple[GridPart, ...] = Field(min_length=1)
    trained: tuple[Path, ...] = ()


class Study(_Part):
    """What is compared in a study, and at what cost.

    A strategy chooses a decoupling in each space, at the cost of as many full trainings:

    - one that searches does so once for all spaces. A search whose settings say what it costs, as
      ``probe`` does, leaves the rest of the budget to leaders (the decouplings of the most
      evidence); where there are fewer, to further seeds. One whose settings do not, as ``sedona``,
      is meant to cost ``budget - 1`` trainings, says what it did cost, and leaves one training;
    - ``random`` and ``evolution``, NNI's, train as many decouplings; with the same draws, so that
      evolution's first population is what random begins with;
    - ``uniform:<aux>`` and ``predsim`` train uniform cuts with as many seeds;
    - ``backprop`` trains the undivided backbone with as many seeds, in no space.

    Its *pick* is the training that validates best. Replicates of the same number share what can be
    shared: their training j, from 0, has the seed ``train.seed + 100 * replicate + j``, so that
    strategies can be compared in pairs. The seed of a search is that of replicate 0; replicate r
    has 100 * r more.

    Attributes:
        spaces: What is chosen from. The uniform cuts leave out a space that they cannot respect.
        budget: What may be spent in each space, in full trainings.
        replicates: How often each strategy is tried.
    """

    spaces: tuple[StudySpace, ...] = Field(min_length=1)
    budget: int = Field(ge=1, le=100)  # seeds of replicates lie 100 apart
    replicates: Mapping[str, int] = Field(min_length=1)
