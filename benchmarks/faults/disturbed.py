"""A command to which a fault is done: that it ends or says why not, and goes on as if nothing was.

The moment is a share of the time that a process of an undisturbed command was there, which is
measured once in each campaign; so faults come everywhere, on a slow machine as well.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.faults.broken import Broken
from benchmarks.faults.commands import Search, Train
from benchmarks.faults.experiments import InFolder, UnderNni
from benchmarks.faults.fault import Fault
from benchmarks.faults.home import Command, Home
from benchmarks.faults.processes import Killed, OutOfDescriptors, OutOfMemory, Stopped
from benchmarks.faults.subject import Subject, lasting
from benchmarks.faults.surroundings import AtTheSameTime, ClockSetBack, DiskFull, ReadOnly
from benchmarks.record import ROOT
from sedona_nni.errors import SedonaError
from sedona_nni.files import read_json, read_tensors

__all__ = ["SUBJECTS", "Disturbance", "Undisturbed", "What", "disturb", "kinds"]

SUBJECTS: dict[str, Subject] = {
    each.name: each for each in (UnderNni(), InFolder(), Search(), Train())
}
_DONE_TO_ONE = (Killed, Stopped, OutOfDescriptors, OutOfMemory)
_DONE_TO_ALL = (DiskFull, ReadOnly, ClockSetBack, AtTheSameTime)
_FAULTS: dict[str, type[Fault]] = {each.name: each for each in (*_DONE_TO_ONE, *_DONE_TO_ALL)}
_HANG_S = 60.0
_LEFT_S = 15.0
_LOOK_S = 0.1
_SLOWNESS = 3.0  # of a machine that does something else as well, now and then


class What(NamedTuple):
    """One of the kinds of rounds.

    Attributes:
        subject: One of `SUBJECTS`.
        fault: What is done.
        victim: To which of its processes; None if to all.
    """

    subject: str
    fault: str
    victim: str | None


def kinds() -> list[What]:
    """Return all of them."""
    found = []
    for subject in SUBJECTS.values():
        for fault in _FAULTS.values():
            fits = [each for each in subject.victims if fault(0).fits(subject, each)]
            victims = [None] if fault.is_around else fits
            found += [What(subject.name, fault.name, victim) for victim in victims]
    return found


@dataclass(frozen=True)
class Disturbance:
    """What is done in a round, and what came of it.

    Attributes:
        number: Of the round, from 1.
        subject: One of `SUBJECTS`.
        fault: What is done, e.g. ``"killed"``.
        victim: To which of the subject's processes; the moment is in its life.
        is_parallel: Whether trainings are in parallel.
        share: When, as a share of the time that this process is there.
        goes_on: What the user does where the fault leaves him the choice: go on, or Ctrl-C.
        draw: What else is random in the fault, from 0 to 1.
        end_s: Seconds until it ended or said why it does not.
        ended: With which exit code; ``"before"`` if there was nobody any more to do it to.
        said: Its last line then.
        reason: Why the round failed; None if it did not.
    """

    number: int
    subject: str
    fault: str
    victim: str
    is_parallel: bool
    share: float
    goes_on: bool
    draw: float
    end_s: float | None = None
    ended: str | None = None
    said: str | None = None
    reason: str | None = None

    @classmethod
    def at_random(cls, seed: int, number: int, what: What) -> Disturbance:
        """Return what a round does, as far as `kinds` leaves it open."""
        source = random.Random(f"{seed}/{number}")
        victim = what.victim or source.choice(SUBJECTS[what.subject].victims)
        return cls(
            number,
            what.subject,
            what.fault,
            victim,
            is_parallel=victim == "rank",
            share=source.random(),
            goes_on=source.random() < 0.5,
            draw=source.random(),
        )

    @property
    def kind(self) -> str:
        """Its row in tables."""
        whom = "" if _FAULTS[self.fault].is_around else f"{self.victim} "
        return f"{self.subject}: {whom}{self.fault}"

    @property
    def in_words(self) -> str:
        """What it does, in a line."""
        trainings = ", in parallel" if self.is_parallel else ""
        return f"{self.kind}{trainings}, at {self.share:.0%} of the {self.victim}'s life"


@dataclass(frozen=True)
class Undisturbed:
    """How a command goes to which nothing is done.

    Attributes:
        end: What comes of it, see `Subject.end`.
        lives: Of each victim, how long it was there, seconds.
    """

    end: dict[str, Any]
    lives: dict[str, float]

    @property
    def patience_s(self) -> float:
        """How long another may take to its end."""
        return _HANG_S + _SLOWNESS * self.lives["command"]

    @classmethod
    def of(cls, subject: Subject, is_parallel: bool, folder: Path) -> Undisturbed:
        """Measure one, in a folder.

        Raises:
            Broken: if it does not end well.
        """
        home = Home(folder / "home", folder / "outside")
        lives: dict[str, float] = {}
        try:
            subject.prepare(home, is_parallel)
            command = home.start(subject.words(home))
            while command.code is None:
                began = time.monotonic()
                seen = [each for each in subject.victims if subject.find(each, home, command)]
                time.sleep(_LOOK_S)
                for each in seen:
                    lives[each] = lives.get(each, 0) + time.monotonic() - began
            if command.code != 0:
                raise Broken(f"undisturbed it ended with {command.code}: {command.said()}")
            return cls(lasting(subject.end(home)), lives)
        finally:
            home.end()
            home.remove()


def disturb(planned: Disturbance, undisturbed: Undisturbed, folder: Path) -> Disturbance:
    """Do a round.

    Args:
        planned: What to do.
        undisturbed: How it goes without a fault.
        folder: A new one.

    Returns:
        What was planned, with what came of it.
    """
    subject = SUBJECTS[planned.subject]
    fault = _FAULTS[planned.fault](planned.draw)
    found: dict[str, Any] = {}
    with fault.home(folder) as home:
        try:
            subject.prepare(home, planned.is_parallel)
            command = home.start(subject.words(home))
            victim = _victim(planned, subject, home, command, undisturbed)
            found |= _do(planned, subject, fault, home, command, victim, undisturbed)
            kept = subject.results(home)
            _check_files(home.folder)
            if command.code != 0:
                command = home.start(subject.words(home))
                _wait(command, undisturbed.patience_s)
                if command.code != 0:
                    raise Broken(f"the next ended with {command.code}: {command.said()!r}")
                _check_none_left(home)
            _check_kept(kept, subject.results(home))
            _check_same(lasting(subject.end(home)), undisturbed.end)
        except (Broken, SedonaError) as error:
            found["reason"] = str(error)
    return replace(planned, **found)


def _victim(
    planned: Disturbance, subject: Subject, home: Home, command: Command, undisturbed: Undisturbed
) -> psutil.Process | None:
    """Return the victim at the planned moment of its life, None if it never comes."""
    process = None
    while process is None and command.code is None:
        process = subject.find(planned.victim, home, command)
        time.sleep(0 if process else _LOOK_S)
    moment = time.monotonic() + planned.share * undisturbed.lives.get(planned.victim, 0)
    while command.code is None and time.monotonic() < moment:
        time.sleep(_LOOK_S / 2)
    return process


def _do(
    planned: Disturbance,
    subject: Subject,
    fault: Fault,
    home: Home,
    command: Command,
    victim: psutil.Process | None,
    undisturbed: Undisturbed,
) -> dict[str, Any]:
    """Do the fault, and see the command to its end.

    Returns:
        ``end_s``, ``ended`` and ``said``, see `Disturbance`.
    """
    before, began = len(command.said()), time.monotonic()
    try:
        if command.code is not None or victim is None:
            return {"ended": "before"}
        fault.do(home, victim, lambda: subject.words(home))
        while command.code is None and not fault.is_said(planned.victim, command.said()[before:]):
            if time.monotonic() > began + _HANG_S:
                raise Broken(f"after {_HANG_S:g} s it has not said why: {command.said()!r}")
            time.sleep(_LOOK_S)
        end_s = time.monotonic() - began
        is_interrupted = command.code is None and fault.mend(victim, command, planned.goes_on)
        _wait(command, _HANG_S if is_interrupted else undisturbed.patience_s)
    except psutil.NoSuchProcess:
        _wait(command, undisturbed.patience_s)
        return {"ended": "before"}
    finally:
        fault.undo()
    _check_none_left(home)
    said, code = command.said()[before:], command.code
    # Interrupted while Python itself begins or ends, it dies of the signal
    if code not in (0, -9, 130, -signal.SIGINT) and not any(
        reason in said for reason in fault.reasons
    ):
        raise Broken(f"it ended with exit code {code} and {_of_no_machine(said, home)!r}")
    last = _of_no_machine((said.strip().splitlines() or [""])[-1], home)
    return {"end_s": round(end_s, 1), "ended": f"{code}", "said": last}


def _of_no_machine(text: str, home: Home) -> str:
    """Return what was said without the folders of this machine, for records."""
    for folder, name in ((home.folder, "~"), (Path(sys.prefix), "ENV"), (ROOT, ".")):
        text = text.replace(str(folder), name)
    return text


def _wait(command: Command, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while command.code is None:
        if time.monotonic() > deadline:
            raise Broken(f"it was not at its end after {seconds:.0f} s: {command.said()!r}")
        time.sleep(_LOOK_S)


def _check_none_left(home: Home) -> None:
    if left := home.left_after(_LEFT_S):
        names = [" ".join(each.cmdline()[:4]) for each in left]
        raise Broken(f"{_LEFT_S:g} s after the end there are still {names}")


def _check_files(folder: Path) -> None:
    """See that every file that is there can be read."""
    for path in folder.rglob("*"):
        if path.name.startswith("."):  # half of one that was being written
            continue
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".pt":
            read_tensors(path)


def _check_kept(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """See that what was finished was not done again: that would have taken another time."""
    if lost := [name for name in before if json.dumps(before[name]) != json.dumps(now.get(name))]:
        raise Broken(f"finished before the fault and not kept: {', '.join(lost)}")


def _check_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in {**expected, **found}:
        if json.dumps(found.get(name)) != json.dumps(expected.get(name)):
            raise Broken(f"unlike undisturbed: {name}{_difference(found, expected, name)}")


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> str:
    ours, theirs = found.get(name), expected.get(name)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for each in {**ours, **theirs}:
            if ours.get(each) != theirs.get(each):
                return f".{each}{_difference(ours, theirs, each)}"
    return f", {str(ours)[:200]} and not {str(theirs)[:200]}"
