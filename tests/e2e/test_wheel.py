"""The project installed from a wheel, in a folder that has its own ``trials`` and the like."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from nni_world import World, get, new_world, status, wait_for
from wheel import ROOT, build_wheel, install

pytestmark = [pytest.mark.nni, pytest.mark.xdist_group("wheel")]

GENERIC = ("command_line", "experiments", "search_spaces", "strategies", "trials")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands of an environment in which the wheel is installed."""
    return install(wheel, tmp_path_factory.mktemp("env") / "env")


@pytest.fixture
def elsewhere(tmp_path: Path, commands: Path) -> Iterator[World]:
    """Return a world without this checkout, in whose home nobody may take modules for ours."""
    for name in GENERIC:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise AssertionError('own {name}')")
        (tmp_path / name / "__main__.py").touch()
    with new_world(tmp_path) as world:
        world.environment["PYTHONPATH"] = ""
        here = str(Path(shutil.which("env") or "/usr/bin/env").parent)
        world.environment["PATH"] = here  # nothing is activated
        yield world


def run(world: World, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        env=world.environment,
        cwd=world.home,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_holds_nothing_but_our_own_name_and_all_that_belongs_to_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"sedona_nni"}
    held = set(names)
    for folder in ("sedona_nni", *GENERIC):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ""):
                place = path.relative_to(ROOT)
                inside = place if folder == "sedona_nni" else "sedona_nni" / place
                assert str(inside) in held


def test_its_version_is_ours(elsewhere: World, commands: Path) -> None:
    text = (ROOT / "sedona_nni" / "__init__.py").read_text()
    (version,) = re.findall(r'__version__ = "(.+)"', text)
    done = run(elsewhere, commands / "sedona-nni", "--version")
    assert done.stdout == f"sedona-nni {version}\n"
    code = "import importlib.metadata as m; print(m.version('sedona-nni'))"
    assert run(elsewhere, commands / "python", "-c", code).stdout == f"{version}\n"


def test_generic_names_are_left_to_others(elsewhere: World, commands: Path) -> None:
    code = f"""if True:
        from importlib.util import find_spec
        import sedona_nni.trials, sedona_nni.strategies
        print(sedona_nni.__file__)
        print([name for name in {(*GENERIC, "tests", "benchmarks")!r} if find_spec(name)])
    """
    done = run(elsewhere, commands / "python", "-I", "-c", code)
    where, found = done.stdout.splitlines()
    assert Path(where).is_relative_to(commands.parent)
    assert found == "[]"


def test_experiments_and_published_results_come_with_it(elsewhere: World, commands: Path) -> None:
    sedona = commands / "sedona-nni"
    done = run(elsewhere, sedona, "run", "quickstar")
    assert done.returncode == 2
    assert "must be a file or one of" in done.stderr
    assert "quickstart, " in done.stderr
    done = run(elsewhere, sedona, "discretise", "published:vgg19", "--num-blocks", "4", "--json")
    assert json.loads(done.stdout)["decouplings"][0]["decoupling"]["cuts"] == [5, 12, 13]
    train = (sedona, "train", "sedona_vgg19", "--directory", "d", "--device", "cpu")
    done = run(elsewhere, *train, "--decoupling", "uniform:2:conv1")  # its data are not here
    assert done.returncode == 2
    assert f"looked for cifar-10-batches-py in {elsewhere.home}/data" in done.stderr


def shortened(home: Path) -> Path:
    """Write the quickstart as it is installed, but in seconds."""
    config = yaml.safe_load((ROOT / "experiments" / "quickstart.yml").read_text())
    settings = config["tuner"]["classArgs"]
    settings["task"] |= {"width_multiplier": 0.125, "train_limit": 400}
    settings["search"] |= {"pretrain_steps": 6, "meta_steps": 2, "memory_size": 2}
    settings["search"] |= {"num_snapshots": 2, "validation_batch_size": 32}
    del settings["probe"]["cost"]
    settings["train"]["epochs"] = 1
    settings["trials_per_strategy"] = 1
    settings["compare"] = ["probe", "uniform", "backprop"]
    path = home / "short.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_the_quickstart_runs(elsewhere: World, commands: Path, port: int) -> None:
    done = run(
        *(elsewhere, commands / "sedona-nni", "run", shortened(elsewhere.home)),
        *("--port", str(port), "--json"),
    )
    assert done.returncode == 0, done.stderr
    rows = {row["strategy"]: row for row in json.loads(done.stdout)}
    assert {*rows} == {"sedona", "probe", "uniform", "backprop"}
    assert {row["num_trials"] for row in rows.values()} == {1}


def test_plain_nnictl_runs_it_in_an_environment_that_is_activated(
    elsewhere: World, commands: Path, port: int
) -> None:
    config = yaml.safe_load(shortened(elsewhere.home).read_text())
    config["tuner"]["className"] = "sedona_nni.strategies.tuner.OptunaTuner"
    settings = config["tuner"]["classArgs"]
    settings |= {"decoupling": "uniform:2:conv1", "compare": []}
    for name in ("search", "probe", "num_blocks"):
        del settings[name]
    path = elsewhere.home / "short.yml"
    path.write_text(yaml.safe_dump(config))
    nnictl = (commands / "python", "-m", "nni.tools.nnictl.nnictl", "create", "--config", path)

    def end() -> str:
        assert run(elsewhere, *nnictl, "--port", str(port)).returncode == 0
        wait_for(lambda: status(port) in ("DONE", "ERROR"))
        return status(port)

    assert end() == "ERROR"
    # the web UI's parameters of the trial that is there to say why there is none
    assert "sedona-nni-trial is not on the PATH" in json.dumps(get(port, "trial-jobs"))
    stop = (commands / "python", "-m", "nni.tools.nnictl.nnictl", "stop", "--port", str(port))
    run(elsewhere, *stop)

    elsewhere.environment["PATH"] = f"{commands}{os.pathsep}{elsewhere.environment['PATH']}"
    assert end() == "DONE"
    run(elsewhere, *stop)
