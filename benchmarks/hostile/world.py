"""A small world of valid input: what every command reads, made by the commands themselves.

Everything lies in two folders, as it does for a user: ``work``, in which commands are typed, and
``home``. Beside them are ``outside``, which no command has any business in, and ``tmp``.
"""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.hostile.server import Server

__all__ = ["READERS", "Reader", "Scene", "World"]

_TASK = {
    "backbone": "dgl-cnn4",
    "width_multiplier": 0.0625,
    "dataset": "digits",
    "image_size": 8,
    "train_limit": 100,
}
_TRAIN = {"epochs": 2, "batch_size": 20, "lr": 0.05, "validation_fraction": 0.2}
_LONG = 40  # epochs of a training that is interrupted
_CLASSES = ("cat", "dog")
_EXPERIMENT = "abcd1234"


@dataclass(frozen=True)
class Reader:
    """A command and what it reads.

    Attributes:
        words: What is typed.
        reads: The files and folders that it reads, from the root of the scene; those are mutated.
        needs: What else has to be there.
        writes: What is there when it has succeeded.
        begins: What may be there when it has met something damaged in the middle of its work.
        limit_s: After which it hangs.
        share: How often it is chosen, beside others.
    """

    words: tuple[str, ...]
    reads: tuple[str, ...]
    needs: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    limit_s: float = 60
    share: float = 1


def _train(*words: str, experiment: str = "tuned.yml", to: str = "d") -> tuple[str, ...]:
    return ("train", experiment, "--directory", to, "--decoupling", "uniform:2:mlp", *words)


_TRAINED = tuple(
    f"work/d/{name}" for name in ("run.json", "results.json", "model.safetensors", "images.json")
)
_BEGUN = ("", "/.lock", "/run.json", "/images.json", "/decoupling.json", "/checkpoint.pt")
_TRAINED_FILES = ("run.json", "decoupling.json", "images.json", "results.json", "model.safetensors")
_RUN_FILES = (
    *("experiment.json", "checkpoint/trials.jsonl", "checkpoint/optuna.db", ".lock"),
    *("checkpoint/seconds.json", "checkpoint", "environments", "results"),
)

READERS: dict[str, Reader] = {
    "train": Reader(_train(), ("work/tuned.yml",), writes=_TRAINED, share=4),
    **{
        f"train of {name}": Reader(
            _train("--set", "epochs=1", experiment=f"{name}.yml"),
            (f"work/{name}.yml",),
            ("work/pictures",) if name == "pictures" else (),
            _TRAINED,
            share=2,
        )
        for name in ("probe", "sedona", "bridge", "study", "grid", "pictures")
    },
    "train what a file says": Reader(
        ("train", "tuned.yml", "--directory", "d", "--decoupling", "decoupling.json"),
        ("work/decoupling.json",),
        ("work/tuned.yml",),
        _TRAINED,
    ),
    "train on": Reader(
        _train("--set", f"epochs={_LONG}", to="interrupted"),
        ("work/interrupted/checkpoint.pt", "work/interrupted/run.json"),
        ("work/tuned.yml", "work/interrupted"),
        ("work/interrupted/results.json", "work/interrupted/model.safetensors"),
        share=3,
    ),
    "train on in parallel": Reader(
        _train("--set", f"epochs={_LONG}", "--parallel", "blocks", to="parallel"),
        ("work/parallel/checkpoint",),
        ("work/tuned.yml", "work/parallel"),
        ("work/parallel/results.json", "work/parallel/model.safetensors"),
        limit_s=180,
        share=0.5,
    ),
    "train again": Reader(
        _train(to="trained"),
        tuple(f"work/trained/{name}" for name in _TRAINED_FILES),
        ("work/tuned.yml", "work/trained"),
    ),
    "train from weights": Reader(
        _train(experiment="weights.yml"),
        ("work/plain.safetensors", "work/weights.yml"),
        ("work/plain.safetensors",),
        _TRAINED,
        share=2,
    ),
    "train from a state dict": Reader(
        _train(experiment="weights-pt.yml"),
        ("work/plain.pt",),
        ("work/weights-pt.yml",),
        _TRAINED,
        share=2,
    ),
    "relaxed": Reader(
        ("train", "tuned.yml", "--directory", "d", "--decoupling", "relaxed.json", "--relaxed"),
        ("work/relaxed.json",),
        ("work/tuned.yml",),
        _TRAINED,
    ),
    "search": Reader(
        ("search", "probe.yml", "--directory", "s"),
        ("work/probe.yml",),
        writes=("work/s/search-result.json", "work/s/decoupling-k2.json"),
    ),
    "search on": Reader(
        ("search", "probe.yml", "--directory", "searched"),
        ("work/searched/*",),
        ("work/probe.yml", "work/searched"),
        ("work/searched/search-result.json",),
    ),
    "search sedona on": Reader(
        ("search", "sedona.yml", "--directory", "searching"),
        ("work/searching/run.json", "work/searching/checkpoint", "work/searching/progress.json"),
        ("work/sedona.yml", "work/searching"),
        ("work/searching/search-result.json",),
    ),
    "search sedona": Reader(
        ("search", "sedona.yml", "--directory", "s"),
        ("work/sedona.yml",),
        writes=("work/s/search-result.json",),
        share=0.5,
    ),
    "run": Reader(
        ("run", "tuned.yml", "--directory", "r"),
        ("work/tuned.yml",),
        writes=("work/r/results/table.json", "work/r/checkpoint/trials.jsonl"),
        limit_s=180,
        share=2,
    ),
    "run on": Reader(
        ("run", "tuned.yml", "--directory", "ran"),
        tuple(f"work/ran/{name}" for name in _RUN_FILES),
        ("work/tuned.yml", "work/ran"),
        ("work/ran/results/table.json",),
        limit_s=180,
        share=3,
    ),
    "tune on": Reader(
        ("run", "tuned.yml", "--directory", "ran"),
        ("work/ran/checkpoint/optuna.db",),
        ("work/tuned.yml", "work/ran"),
        ("work/ran/results/table.json",),
        limit_s=180,
        share=2,
    ),
    "test weights": Reader(
        ("test", "trained", "--json"),
        ("work/trained/model.safetensors",),
        ("work/trained",),
        share=2,
    ),
    "report": Reader(
        ("report", "ran/results", "--json"), ("work/ran/results/trials.json",), ("work/ran",)
    ),
    "report page": Reader(
        ("report", "ran", "--html", "page.html"),
        ("work/ran/checkpoint/trials.jsonl",),
        ("work/ran",),
        ("work/page.html",),
        share=3,
    ),
    "report of two": Reader(
        ("report", "ran", "other.json", "--html", "page.html"),
        ("work/other.json",),
        ("work/ran",),
        ("work/page.html",),
        share=2,
    ),
    "report of NNI's": Reader(
        ("report", _EXPERIMENT),
        tuple(
            f"home/nni-experiments/{name}"
            for name in (
                ".experiment",
                f"{_EXPERIMENT}/db/nni.sqlite",
                f"{_EXPERIMENT}/checkpoint/trials.json",
            )
        ),
    ),
    "resume": Reader(
        ("resume", _EXPERIMENT),
        (
            "home/nni-experiments/.experiment",
            f"home/nni-experiments/{_EXPERIMENT}/db/nni.sqlite",
            f"home/nni-experiments/{_EXPERIMENT}/checkpoint/trials.json",
        ),
        limit_s=180,
        share=0.3,
    ),
    "list": Reader(
        ("list", "--json"),
        (
            "home/nni-experiments/.experiment",
            f"home/nni-experiments/{_EXPERIMENT}/db/nni.sqlite",
            f"home/nni-experiments/{_EXPERIMENT}/checkpoint/trials.json",
        ),
    ),
    "test": Reader(
        ("test", "trained", "--json"),
        tuple(f"work/trained/{name}" for name in ("run.json", "model.safetensors")),
        ("work/trained",),
        share=3,
    ),
    "export": Reader(
        ("export", "trained", "--to", "state-dict", "--output", "out.safetensors"),
        tuple(f"work/trained/{name}" for name in _TRAINED_FILES),
        ("work/trained",),
        ("work/out.safetensors",),
        share=3,
    ),
    "export cuts": Reader(
        (
            *("export", "--to", "pipelining", "--decoupling", "decoupling.json"),
            *("--output", "cuts.json"),
        ),
        ("work/decoupling.json",),
        writes=("work/cuts.json",),
    ),
    "export balanced": Reader(
        (
            *("export", "--to", "torchtitan", "--balanced", "2", "--compute", "times.json"),
            *("--backbone", "dgl-cnn4"),
        ),
        ("work/times.json",),
    ),
    "discretise": Reader(
        ("discretise", "found.json", "--num-blocks", "2", "--output", "k2.json"),
        ("work/found.json",),
        writes=("work/k2.json",),
        share=2,
    ),
    "discretise by times": Reader(
        (
            *("discretise", "found.json", "--num-blocks", "2", "--compute", "times.json"),
            *("--max-block-share", "0.9", "--json"),
        ),
        ("work/times.json",),
        ("work/found.json",),
        share=2,
    ),
    "discretise a relaxation": Reader(
        ("discretise", "relaxed.json", "--num-blocks", "0", "--json"), ("work/relaxed.json",)
    ),
    "describe": Reader(
        ("describe", "--decoupling", "decoupling.json", "--json"), ("work/decoupling.json",)
    ),
    "import-release": Reader(
        (
            *("import-release", "alpha.pt", "beta.pt", "--backbone", "vgg11"),
            *("--output", "released.json"),
        ),
        ("work/alpha.pt", "work/beta.pt"),
        ("work/alpha.pt", "work/beta.pt"),
        ("work/released.json",),
        share=3,
    ),
    "import-release of JSON": Reader(
        ("import-release", "both.json", "--backbone", "vgg11", "--json"), ("work/both.json",)
    ),
    "data": Reader(("data", "imagefolder", "--data-dir", "pictures"), ("work/pictures",), share=3),
    "data without bad ones": Reader(
        ("data", "imagefolder", "--data-dir", "pictures", "--skip-bad-images", "--json"),
        ("work/pictures", "home/.cache/sedona-nni/pictures/*"),
        ("work/pictures",),
        share=3,
    ),
    "data of Fashion-MNIST": Reader(
        ("data", "fashion-mnist", "--data-dir", "fashion"),
        ("work/fashion/*",),
        ("work/fashion",),
        share=2,
    ),
    "data of unpacked Fashion-MNIST": Reader(
        ("data", "fashion-mnist", "--data-dir", "unpacked"),
        ("work/unpacked/FashionMNIST/raw",),
    ),
    "data of another CIFAR-10": Reader(
        ("data", "cifar10", "--data-dir", "archives"), ("work/archives/cifar-10-batches-py",)
    ),
    "data of another SVHN": Reader(
        ("data", "svhn", "--data-dir", "archives"), ("work/archives/*.mat",)
    ),
    "data of CIFAR-10": Reader(
        ("data", "cifar10", "--data-dir", "sheets"), ("work/sheets/*",), ("work/sheets",), share=2
    ),
    "data of Tiny ImageNet": Reader(
        ("data", "tiny-imagenet", "--data-dir", "tiny"),
        ("work/tiny/val/val_annotations.txt", "work/tiny"),
        ("work/tiny",),
        share=2,
    ),
    "data of tables": Reader(
        ("data", "huggingface", "--data-dir", "tables"),
        ("work/tables/*",),
        ("work/tables",),
        share=1,
    ),
    "train on pictures": Reader(
        _train("--set", "epochs=1", experiment="pictures.yml"),
        ("work/pictures",),
        ("work/pictures.yml",),
        _TRAINED,
        tuple(f"work/d{name}" for name in _BEGUN),
        share=2,
    ),
}
"""By name, a command for everything that is read."""


@dataclass(frozen=True)
class Scene:
    """Where a command is typed: a copy of what it reads.

    Attributes:
        root: Holds ``work``, ``home``, ``tmp`` and ``outside``.
    """

    root: Path

    @property
    def work(self) -> Path:
        """Where commands are typed."""
        return self.root / "work"


class World:
    """All that there is to read.

    Args:
        folder: For everything; commands have their home in it, so it stays.
    """

    def __init__(self, folder: Path) -> None:
        self._kept = folder / "kept"
        self.scene = Scene(folder / "scene")
        for name in ("work", "home", "tmp", "outside"):
            (self.scene.root / name).mkdir(parents=True)
        self.server = Server(folder, self.scene.root / "home", self.scene.root / "tmp")

    def build(self, readers: Iterable[Reader]) -> None:
        """Make what some commands read; takes up to a minute.

        Args:
            readers: The commands that there may be.
        """
        work = self.scene.work
        (self.scene.root / "outside" / "precious.txt").write_text("precious\n")
        for name, config in _experiments().items():
            (work / f"{name}.yml").write_text(yaml.safe_dump(config, sort_keys=False))
        _write_pictures(work)
        _write_fashion(work / "fashion")
        _write_sheets(work / "sheets")
        _write_archives(work / "archives")
        _write_tiny(work / "tiny")
        _write_tables(work / "tables")
        _write_tensors(work)
        self._do("data", "imagefolder", "--data-dir", "pictures", "--skip-bad-images")
        for reader in readers:
            for path in (*reader.reads, *reader.needs):
                self._make(path.split("/")[1])
        self.scene.root.rename(self._kept)

    def _make(self, name: str) -> None:
        """Let a command make what is read under a name, unless it has or there is nothing to do."""
        work, root = self.scene.work, self.scene.root
        long = ("--set", f"epochs={_LONG}")
        timed = ("--compute", "time", "--batch-size", "2", "--max-block-share", "0.99")
        makers: dict[str, tuple[str, Callable[[], object]]] = {  # from what, and how
            "trained": ("", lambda: self._do(*_train(to="trained"))),
            "plain.safetensors": (
                "trained",
                lambda: self._do("export", "trained", "--to", "state-dict", "--output", name),
            ),
            "plain.pt": ("plain.safetensors", lambda: _write_state_dict(work)),
            "searched": ("", lambda: self._do("search", "probe.yml", "--directory", "searched")),
            "found.json": (
                "searched",
                lambda: shutil.copy(work / "searched" / "search-result.json", work / name),
            ),
            "decoupling.json": (
                "searched",
                lambda: shutil.copy(work / "searched" / "decoupling-k2.json", work / name),
            ),
            "times.json": (
                "found.json",
                lambda: self._do(
                    *("discretise", "found.json", "--num-blocks", "2", *timed, "--output", name)
                ),
            ),
            "interrupted": (
                "",
                lambda: self._interrupt(_train(*long, to=name), f"{name}/checkpoint.pt"),
            ),
            "parallel": (
                "",
                lambda: self._interrupt(
                    _train(*long, "--parallel", "blocks", to=name),
                    f"{name}/checkpoint/manifest.json",
                ),
            ),
            "searching": (
                "",
                lambda: self._interrupt(
                    ("search", "sedona.yml", "--directory", name), f"{name}/checkpoint/search.json"
                ),
            ),
            "ran": ("", lambda: self._do("run", "tuned.yml", "--directory", "ran")),
            "other.json": ("ran", lambda: _write_other(work)),
            "nni-experiments": ("other.json", lambda: _write_home(root)),
        }
        if name in makers and not (work / name).exists() and not (root / "home" / name).exists():
            before, make = makers[name]
            self._make(before)
            make()

    def _do(self, *words: str) -> None:
        ended = self.server.run(words, folder=self.scene.work, limit_s=300)
        assert ended.code == 0, (words, ended.err)

    def _interrupt(self, words: Sequence[str], name: str) -> None:
        """Train or search until there is a checkpoint of this name."""
        checkpoint = self.scene.work / name
        ended = self.server.run(words, folder=self.scene.work, until=checkpoint.exists, limit_s=300)
        assert ended.code == 130, ended

    def open(self, reader: Reader) -> Scene:
        """Set up a fresh scene for a command, in the place of the last one."""
        root = self.scene.root
        shutil.rmtree(root, ignore_errors=True)
        for name in ("work", "home", "tmp"):
            (root / name).mkdir(parents=True)
        shutil.copytree(self._kept / "outside", root / "outside")
        caches = "home/.cache"
        for name in dict.fromkeys((caches, *reader.reads, *reader.needs)):
            for kept in self._kept.glob(name):
                place = root / kept.relative_to(self._kept)
                place.parent.mkdir(parents=True, exist_ok=True)
                if kept.is_dir():
                    shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)
                else:
                    shutil.copy2(kept, place)
        return self.scene


def _experiments() -> dict[str, dict[str, Any]]:
    """Return experiments of every kind, small, by the names of their files."""

    def experiment(class_name: str, class_args: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "experimentName": "small",
            "trialCommand": "sedona-nni-trial",
            "trialCodeDirectory": ".",
            "trialConcurrency": 2,
            "trainingService": {"platform": "local"},
            "searchSpace": {},
            **more,
            "tuner": {
                "className": f"sedona_nni.strategies.{class_name}",
                "codeDirectory": ".",
                "classArgs": {"task": _TASK, **class_args, "device": "cpu", "threads": 1},
            },
        }

    def given(task: dict[str, Any]) -> dict[str, Any]:
        return experiment(
            "tuner.OptunaTuner",
            {"task": {**_TASK, **task}, "decoupling": "uniform:2:mlp", "train": _TRAIN},
            searchSpace={"lr": {"_type": "loguniform", "_value": [0.005, 0.05]}},
        )

    pictures = {"dataset": "imagefolder", "data_dir": "pictures", "train_limit": 8}
    blocks = {"num_blocks": 2, "aux": ["mlp", "conv1"], "train": _TRAIN}
    return {
        "tuned": given({}),
        "weights": given({"weights": "plain.safetensors"}),
        "weights-pt": given({"weights": "plain.pt"}),
        "pictures": experiment(
            "tuner.OptunaTuner",
            {
                "task": {**_TASK, **pictures},
                "decoupling": "uniform:2:mlp",
                "train": {**_TRAIN, "batch_size": 4},
                "workers": 0,
            },
        ),
        "probe": experiment(
            "tuner.ProbeTuner",
            {
                **blocks,
                "probe": {"cost": 4},
                "compare": ["uniform", "random", "backprop"],
                "uniform_aux": "mlp",
                "trials_per_strategy": 2,
                "max_block_share": 0.95,
            },
            searchSpace={
                "lr": {"_type": "loguniform", "_value": [0.005, 0.05]},
                "batch_size": {"_type": "choice", "_value": [10, 20]},
            },
        ),
        "sedona": experiment(
            "tuner.SedonaTuner",
            {
                **blocks,
                "search": {
                    "pretrain_steps": 4,
                    "meta_steps": 9,
                    "inner_steps": 2,
                    "batch_size": 16,
                    "validation_batch_size": 20,
                    "memory_size": 2,
                    "num_snapshots": 2,
                    "lr": 0.02,
                },
            },
            maxTrialNumber=4,
        ),
        "bridge": experiment(
            "bridge.BridgeTuner", {**blocks, "strategy": "random", "max_trials": 2}
        ),
        "grid": experiment(
            "grid.GridTuner", {"aux": ["mlp"], "train": _TRAIN, "parts": [{"num_blocks": 2}]}
        ),
        "study": experiment(
            "study.StudyTuner",
            {
                "aux": ["mlp", "conv1"],
                "spaces": [{"num_blocks": 2}, {"num_blocks": 2, "max_block_share": 0.95}],
                "budget": 4,
                "replicates": {"random": 1, "uniform:mlp": 1, "backprop": 1},
                "train": _TRAIN,
            },
        ),
    }


def _write_pictures(work: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    suffixes = ("png", "jpg", "bmp", "gif", "tif", "webp")
    for part, count in (("train", 6), ("val", 2), ("test", 2)):
        for name in _CLASSES:
            folder = work / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(256, size=(12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.{suffixes[number]}")


def _write_fashion(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, kind, array in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, kind, *array.shape)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
            raw = folder.parent / "unpacked" / "FashionMNIST" / "raw"
            raw.mkdir(parents=True, exist_ok=True)
            (raw / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


def _write_sheets(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, names in (
        ("train", [f"data_batch_{number}" for number in range(1, 6)]),
        ("test", ["test_batch"]),
    ):
        for name in names:
            pixels = rng.integers(256, size=(10, 1024, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{part}_lables.json").write_text(json.dumps([*range(10)] * len(names)))


def _write_archives(folder: Path) -> None:
    """Write files that are called like CIFAR-10's and SVHN's, and are not what was published."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    content = {"data": np.zeros((10, 3072), np.uint8), "labels": [*range(10)]}
    for name in names:
        (batches / name).write_bytes(pickle.dumps(content))
    for part in ("train", "test"):
        (folder / f"{part}_32x32.mat").write_bytes(bytes(1000))


def _write_tiny(folder: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = []
    for name in ("n01", "n02"):
        (folder / "train" / name / "images").mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(256, size=(64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / "images" / f"{number}.png")
    (folder / "val" / "images").mkdir(parents=True)
    for number in range(4):
        pixels = rng.integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "val" / "images" / f"val_{number}.png")
        rows.append(f"val_{number}.png\tn0{1 + number % 2}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))


def _write_tables(folder: Path) -> None:
    """Write pictures in Parquet, as Hugging Face's library does, whose caches are not for here."""
    import io

    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]
    from PIL import Image

    folder.mkdir()
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (10, 20, 30)).save(file, "png")
    rows = {
        "picture": [{"bytes": file.getvalue(), "path": None}] * 12,
        "kind": [0, 1] * 6,
    }
    features = {
        "picture": {"_type": "Image"},
        "kind": {"names": list(_CLASSES), "_type": "ClassLabel"},
    }
    stored = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("picture", stored), ("kind", pyarrow.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pyarrow.table(rows, schema)
    for split in ("train", "test"):
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def _write_tensors(work: Path) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(7, 2, generator=generator)
    beta = torch.randn(7, 4, generator=generator)
    torch.save(torch.nn.Parameter(alpha), work / "alpha.pt")
    torch.save(beta, work / "beta.pt")
    both = {"alpha": alpha.tolist(), "beta": beta.tolist()}
    (work / "both.json").write_text(json.dumps(both))
    found = {
        "format": "sedona-nni/search-result/1",
        "backbone": "dgl-cnn4",
        "dataset": "digits",
        "aux_choices": ["conv1", "conv2"],
        "alpha": [[float(boundary), 1.0] for boundary in range(3)],
        "beta": [[0.0, 1.0]] * 3,
    }
    (work / "relaxed.json").write_text(json.dumps(found, indent=2))


def _write_state_dict(work: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(work / "plain.safetensors"), work / "plain.pt")


def _write_other(work: Path) -> None:
    """Write the ledger of an experiment that was like one that was run."""
    ledger = json.loads((work / "ran" / "results" / "trials.json").read_text())
    for trial in ledger["trials"]:
        trial["result"]["default"] /= 2
    (work / "other.json").write_text(json.dumps(ledger))


def _write_home(root: Path) -> None:
    """Write what NNI keeps of an experiment that was run under its manager."""
    home = root / "home" / "nni-experiments"
    folder = home / _EXPERIMENT
    (folder / "db").mkdir(parents=True)
    (folder / "checkpoint").mkdir()
    shutil.copy(root / "work" / "other.json", folder / "checkpoint" / "trials.json")
    config = json.loads((root / "work" / "ran" / "experiment.json").read_text())
    config["trialCodeDirectory"] = str(root / "gone")  # so `resume` reads it, and starts nothing
    with sqlite3.connect(folder / "db" / "nni.sqlite") as connection:
        connection.execute("create table ExperimentProfile (params, id, revision)")
        row = (json.dumps(config), _EXPERIMENT, 1)
        connection.execute("insert into ExperimentProfile values (?, ?, ?)", row)
    stored = {
        "id": _EXPERIMENT,
        "port": 8080,
        "startTime": 1_700_000_000_000,
        "endTime": 1_700_000_100_000,
        "status": "STOPPED",
        "platform": "local",
        "experimentName": "small",
        "tag": [],
        "pid": 1,
        "webuiUrl": [],
        "logDir": str(home),
        "prefixUrl": None,
    }
    (home / ".experiment").write_text(json.dumps({_EXPERIMENT: stored}))
