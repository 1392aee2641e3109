"""Which methods of training there are, and their options: what a training's settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny

from sedona_nni.errors import InputError
from sedona_nni.registry import Registry
from sedona_nni.teachers import NO_AUXILIARY

__all__ = ["METHODS", "AnyMethod", "Method", "MethodSettings"]


class MethodSettings(BaseModel):
    """Base of the methods' settings; a subclass has a ``name`` and the options of one method.

    Attributes:
        name: Of the method.
        uses_auxiliary: Whether the blocks below the last learn from auxiliary networks. If not,
            there must be none at the cuts.
        takes_block_steps: Whether blocks learn by `sedona_nni.training.methods.block_step`, which
            can take a batch in parts, see `TrainSettings.accumulate`.
        shows_images: Whether every block's teacher can be shown the batch's images and what the
            block is given, see `sedona_nni.teachers.auxiliary.Teacher`.
        trains_above: Whether the block above learns while a block does, so that its teacher can
            follow that, see `sedona_nni.teachers.auxiliary.Teacher.follows`.
        has_replicas: Whether several processes can share a block, see `Parallel.replicas`.
        takes_every_cut: Whether cuts may be of the further kinds of
            `sedona_nni.decouplings.cut_kinds`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    uses_auxiliary: ClassVar[bool] = True
    takes_block_steps: ClassVar[bool] = False
    shows_images: ClassVar[bool] = False
    trains_above: ClassVar[bool] = False
    has_replicas: ClassVar[bool] = False
    takes_every_cut: ClassVar[bool] = False

    @property
    def not_parallel(self) -> str | None:
        """Why blocks cannot be trained in processes of their own; None if they can."""
        return "it does not say how blocks in other processes take part"

    def check(self, aux: Sequence[str]) -> None:
        """Check that a decoupling can be trained so.

        Args:
            aux: The auxiliary network at each cut; `NO_AUXILIARY` where there is none.

        Raises:
            InputError: if a cut lacks a network or has one that would not be used.
        """
        if self.uses_auxiliary and NO_AUXILIARY in aux:
            rule = f"must be an auxiliary network at every cut for the method {self.name}"
            raise InputError.rule("aux", rule, list(aux))
        if not self.uses_auxiliary and set(aux) - {NO_AUXILIARY}:
            rule = f"must be {NO_AUXILIARY} at every cut for the method {self.name}"
            raise InputError.rule("aux", rule, list(aux))


class Method(NamedTuple):
    """A method of training.

    Attributes:
        settings: Class of its options.
        learning: Class of the algorithm, a `sedona_nni.training.methods.TrainingMethod`.
    """

    settings: type[MethodSettings]
    learning: Callable[..., Any]


METHODS: Registry[Method] = Registry("method")
"""The methods by name; `sedona_nni.training.methods.register_method` adds one."""


def _by_name(value: Any) -> Any:
    """Let a name stand for the method with its defaults, and a mapping for its options."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        return value
    if "name" not in value:
        raise ValueError(f"must have the name of a method, but got {dict(value)}")
    name = value["name"]
    if name not in METHODS:
        raise ValueError(f"{METHODS.rule}, but got {name!r}")
    return METHODS[name].settings.model_validate(value)


AnyMethod = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(_by_name)]
"""The settings of any method: its name, or its name and options, as in ``{name: sequential}``."""
