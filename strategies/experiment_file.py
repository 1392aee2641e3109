"""An experiment's YAML file: where it is, what NNI makes of it, and whether it was edited since.

An experiment that comes with this project is known by its name, e.g. ``quickstart`` or
``published/cifar10_vgg19``. By its name it is run as if its file lay in the current folder: there
its trials run and its relative paths begin.
"""

from __future__ import annotations

import importlib.util
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sedona_nni.errors import InputError
from sedona_nni.files import read_json, user_path, write_atomically, write_json
from sedona_nni.strategies.checkpoint import ANNOUNCED_FILE

__all__ = [
    "LOOPBACK",
    "TAKES_A_GPU",
    "ExperimentFile",
    "changed_since_start",
    "differences",
    "find_experiment",
    "remember_file",
    "shipped_names",
]

TAKES_A_GPU = "must be left out, as each trial takes a GPU of its own by itself"

LOOPBACK = "127.0.0.1"

_SHIPPED = Path(__file__).resolve().parents[1] / "experiments"


def shipped_names() -> list[str]:
    """Return the names of the experiments that come with this project."""
    found = (path.relative_to(_SHIPPED).with_suffix("") for path in _SHIPPED.rglob("*.yml"))
    return sorted(map(str, found), key=lambda name: (name.count("/"), name))


class ExperimentFile(BaseModel):
    """A file, and in what the experiment differs from it.

    Attributes:
        path: The YAML file, absolute.
        folder: In place of its ``trialCodeDirectory``; None for that.
        plugins: Beside its own, see `sedona_nni.plugins`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    folder: Path | None = None
    plugins: tuple[str, ...] = ()

    def config(self) -> dict[str, Any]:
        """Return the experiment in NNI's complete form, with absolute paths.

        Raises:
            InputError: if NNI does not accept it.
        """
        config = _read(self.path)
        if self.folder is not None:
            for part in (config, config.get("trainingService") or {}):
                if "trialCodeDirectory" in part:
                    part["trialCodeDirectory"] = str(self.folder)
        if self.plugins:
            settings = (config.get("tuner") or {}).setdefault("classArgs", {})
            settings["plugins"] = [*(settings.get("plugins") or []), *self.plugins]
        return config

    @contextmanager
    def completed(self) -> Iterator[Path]:
        """Write `config` to a file for ``nnictl``, which is gone when the block is left.

        Raises:
            InputError: see there.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "experiment.yml")
            write_json(path, self.config())  # JSON is YAML
            yield path


def find_experiment(text: str | Path) -> ExperimentFile:
    """Return the experiment that a user names.

    Args:
        text: The path of its file, or the name of one that comes with this project.

    Raises:
        InputError: if there is none.
    """
    path = user_path(text)
    if path.is_file():
        return ExperimentFile(path=path.absolute())
    shipped = _SHIPPED / f"{text}.yml"
    if str(text) in shipped_names():
        return ExperimentFile(path=shipped, folder=Path.cwd())
    if path.suffix in (".yml", ".yaml"):
        raise InputError(f"{path}: there is no such file")
    rule = f"must be a file or one of {', '.join(shipped_names())}"
    raise InputError.rule("experiment", rule, str(text))


def _read(path: Path) -> dict[str, Any]:
    if importlib.util.find_spec("nni") is None:
        return _read_without_nni(path)
    return _read_by_nni(path)


def _read_without_nni(path: Path) -> dict[str, Any]:
    """Return what a search or a training without NNI needs to know; the rest is taken as it is."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise InputError("must have the fields of an experiment")
    for field in ("trialCommand", "trainingService", "tuner"):
        if field not in config:
            raise InputError(f"{field}: this field is required")
    folder = path.parent / user_path(config.get("trialCodeDirectory", "."))
    if not folder.is_dir():
        raise InputError.rule("trialCodeDirectory", "must be a folder", str(folder))
    return {**config, "trialCodeDirectory": str(folder.resolve())}


def _read_by_nni(path: Path) -> dict[str, Any]:
    from nni.experiment.config import ExperimentConfig, utils

    try:
        loaded = ExperimentConfig.load(path)
        if getattr(loaded.training_service, "platform", None) == "remote":
            # Nobody needs one there, see ``machines.js``, and without one NNI warns
            loaded.nni_manager_ip = loaded.nni_manager_ip or LOOPBACK
        config: dict[str, Any] = loaded.json()
    except Exception as error:  # whatever NNI raises, from bare assertions to yaml's errors
        utils.unset_base_path()  # which NNI omits then
        source = traceback.extract_tb(error.__traceback__)[-1].line
        reason = " ".join(str(error).split()) or str(source)
        if "use_active_gpu" in reason:  # which would be no help: NNI is not to know of GPUs
            raise InputError(f"trialGpuNumber: {TAKES_A_GPU}") from None
        raise InputError(f"NNI does not accept it ({reason})") from None
    return config


def _file_mark(checkpoint: Path) -> Path:
    return checkpoint / "experiment-file"


def remember_file(file: ExperimentFile, checkpoint: Path) -> None:
    """Leave in an experiment's checkpoint folder which file it came from."""
    text = file.model_dump_json()
    write_atomically(_file_mark(checkpoint), lambda mark: mark.write_text(text, encoding="utf-8"))


def _remembered(checkpoint: Path) -> ExperimentFile | None:
    mark = _file_mark(checkpoint)
    if not mark.exists():
        return None
    text = mark.read_text(encoding="utf-8")
    try:
        return ExperimentFile.model_validate_json(text)
    except ValidationError:  # versions ago it was the path alone
        return ExperimentFile(path=Path(text))


def changed_since_start(
    config: Mapping[str, Any], checkpoint: Path
) -> tuple[Path, list[str]] | None:
    """Compare an experiment, which keeps its configuration, with the file that it came from.

    Args:
        config: The experiment's, in NNI's complete form.
        checkpoint: Its checkpoint folder.

    Returns:
        The file, and the fields in which it differs; None where there is no such file (any more).
    """
    file = _remembered(checkpoint)
    if file is None or not file.path.is_file():
        return None
    try:
        now = file.config()
    except InputError:
        return file.path, ["which NNI does not accept any more"]
    announced = checkpoint / ANNOUNCED_FILE
    if announced.exists() and config.get("maxTrialNumber") == read_json(announced):
        config = {name: value for name, value in config.items() if name != "maxTrialNumber"}
    return file.path, list(differences(config, now))


def differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Yield the names of fields in which two configurations differ, e.g. ``tuner.className``."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for field in sorted({*one, *other}):
            inner = f"{name}.{field}" if name else field
            yield from differences(one.get(field), other.get(field), inner)
    elif one != other:
        yield name
