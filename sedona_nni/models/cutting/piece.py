"""One layer of a cut model: a run of the model's own modules, and of the code between them.

    value_0      what the piece is given
    value_i      what step i computes of earlier ones; the piece returns one of them

Steps hold names, numbers and functions of torch, no tensor and no module, so those that were found
on one model serve each of the same structure, on any device.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

__all__ = ["Piece", "PiecePlan", "Step", "Value"]


@dataclass(frozen=True, repr=False)
class Value:
    """Stands for the result of a step; 0 is what the piece is given."""

    number: int

    def __repr__(self) -> str:
        return f"x{self.number}"


@dataclass(frozen=True)
class Step:
    """What a node of torch.fx does.

    Attributes:
        op: As there; or ``batch``, the batch size times the target; or ``device``.
        target: As there: a function, or the name of a method, module, weight or buffer.
        args: With a `Value` for each result.
        kwargs: Likewise, by name.
        done: Numbers of the values that nobody needs after it.
    """

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    done: tuple[int, ...]

    def __str__(self) -> str:
        if self.op == "batch":
            return f"{self.target} * len({Value(0)})"
        if self.op == "device":
            return f"{Value(0)}.device"
        if self.op == "get_attr":
            return str(self.target)
        args: list[object] = [*self.args]
        name = self.target
        if self.op == "call_method":
            name = f"{args.pop(0)!r}.{name}"
        elif self.op == "call_function":
            module = getattr(name, "__module__", None)
            name = getattr(name, "__qualname__", None) or repr(name)
            name = f"{module}.{name}" if module else name
        given = [*map(repr, args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"{name}({', '.join(given)})"


@dataclass(frozen=True)
class PiecePlan:
    """What a piece does.

    Attributes:
        steps: In their order; the first is number 1.
        returned: Number of the value that the piece returns.
    """

    steps: tuple[Step, ...]
    returned: int


class Piece(nn.Module):
    """Some of a model's steps, from one tensor to another; its submodules are the model's own.

    Its text shows each step, and by their names the modules.

    Args:
        model: Whose modules and weights it uses.
        plan: What it does.
        others: The other pieces, if this is the one that keeps what no piece uses.
    """

    def __init__(
        self, model: nn.Module, plan: PiecePlan, others: Iterable[Piece] | None = None
    ) -> None:
        super().__init__()
        self.training = model.training
        self.__plan = plan  # mangled, like what follows: beside it are the model's own
        self.__unused: dict[str, Tensor] = {}
        for step in plan.steps:
            if step.op in ("call_module", "get_attr"):
                _install(self, model, step.target)
        if others is not None:
            used = {name for piece in (self, *others) for name in piece.state_dict()}
            whole = model.state_dict()
            self.__unused = {name: whole[name] for name in whole if name not in used}

    def own_state_dict(self) -> dict[str, Tensor]:
        """Return its part of the model's state dict, and what it keeps for the model."""
        return {**self.state_dict(), **self.__unused}

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses below the piece, (B, ...), to what crosses above it."""
        values: dict[int, Any] = {0: features}
        for number, step in enumerate(self.__plan.steps, start=1):
            args, kwargs = _known(step.args, values), _known(step.kwargs, values)
            if step.op == "batch":
                values[number] = features.shape[0] * step.target
            elif step.op == "device":
                values[number] = features.device
            elif step.op == "call_method":
                values[number] = getattr(args[0], step.target)(*args[1:], **kwargs)
            elif step.op == "call_function":
                values[number] = step.target(*args, **kwargs)
            else:
                own = functools.reduce(getattr, step.target.split("."), self)
                values[number] = own(*args, **kwargs) if step.op == "call_module" else own
                del own
            del args, kwargs
            for done in step.done:
                del values[done]
        result: Tensor = values[self.__plan.returned]
        return result

    def without_names(self) -> tuple[list[str], list[Any]]:
        """Return its steps with numbers in place of the names of what they call or take of the
        model, and this: modules, weights and buffers by their numbers."""
        given = (step for step in self.__plan.steps if step.op in ("call_module", "get_attr"))
        own = list(dict.fromkeys(step.target for step in given))
        steps = [
            str(replace(step, target=f"own{own.index(step.target)}"))
            if step.op in ("call_module", "get_attr")
            else str(step)
            for step in self.__plan.steps
        ]
        parts = [functools.reduce(getattr, name.split("."), self) for name in own]
        return [*steps, str(self.__plan.returned)], parts

    def extra_repr(self) -> str:
        lines = [f"{Value(i)} = {step}" for i, step in enumerate(self.__plan.steps, start=1)]
        return "\n".join([*lines, f"return {Value(self.__plan.returned)}"])


def _known(argument: Any, values: dict[int, Any]) -> Any:
    """Return an argument with results in place of what stands for them."""
    if isinstance(argument, Value):
        return values[argument.number]
    if type(argument) in (tuple, list):
        return type(argument)(_known(each, values) for each in argument)
    if type(argument) is dict:
        return {key: _known(each, values) for key, each in argument.items()}
    if isinstance(argument, slice):
        bounds = (argument.start, argument.stop, argument.step)
        return slice(*(_known(each, values) for each in bounds))
    return argument


def _install(piece: nn.Module, model: nn.Module, path: str) -> None:
    """Put a module, weight or buffer of the model where it is there, into empty modules."""
    *outer, name = path.split(".")
    for part in outer:
        model = getattr(model, part)
        if not hasattr(piece, part):
            setattr(piece, part, nn.Module())
        piece = getattr(piece, part)
        if piece is model:
            return  # within one that is there already
        piece.training = model.training
    if name in dict(model.named_buffers(recurse=False)):
        kept = name in model.state_dict()
        piece.register_buffer(name, getattr(model, name), persistent=kept)
    elif name != "training":
        setattr(piece, name, getattr(model, name))
