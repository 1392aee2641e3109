"""What is typed wrongly, and surroundings that are not as usual."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.hostile.values import hostile_text

__all__ = ["change_environment", "change_words"]

_VARIABLES: dict[str, tuple[str | None, ...]] = {
    "SEDONA_NNI_KERNELS": ("off", "", "maybe", "ON", "0", "\x1b[31m", "a\nb", "x" * 5000),
    "CC": ("", " ", "nothing", "false", "true", "'", "cc -DX='", "/dev/null", "echo", "cat", "."),
    "OMP_NUM_THREADS": ("0", "-1", "x", "99999999999", "1,2", "", "1.5"),
    "CUDA_VISIBLE_DEVICES": ("", "-1", "99", "x", "0,0", "GPU-nothing"),
    "XDG_CACHE_HOME": ("", "/dev/null", "/proc", "relative", "x" * 5000, "../outside/x", "a\nb"),
    "HOME": (None, "/nowhere", "/dev/null", "relative", "x" * 5000),
    "TMPDIR": ("/nowhere", "/dev/null", "", "relative"),
    "MASTER_ADDR": ("", "nowhere.invalid", "127.0.0.1"),
    "RANK": ("", "-1", "x", "0", "99"),
    "WORLD_SIZE": ("", "0", "x", "1", "-1"),
    "MASTER_PORT": ("", "0", "x", "99999", "1"),
    "LOCAL_RANK": ("", "-1", "x", "7"),
    "NNI_PLATFORM": ("", "local", "x"),
    "NNI_TRIAL_JOB_ID": ("", "x", "../.."),
    "NNI_OUTPUT_DIR": ("", "/nowhere", "../outside"),
    "NNI_CHECKPOINT_DIRECTORY": ("", "/nowhere", "../outside"),
    "NNI_MODE": ("resume", "x"),
    "NNI_EXP_ID": ("x", ""),
    "SEDONA_NNI_HOST": ("", "x", "1:2", "-1:x"),
    "SEDONA_NNI_RUN": ("", "x"),
    "PATH": (None, "", "/nowhere", "."),
    "COLUMNS": ("0", "-1", "x", "1", "100000000"),
    "LINES": ("x", "0"),
    "TERM": ("dumb", "", "nothing"),
    "NO_COLOR": ("1",),
    "LANG": ("C", "x", "de_DE.ISO-8859-1"),
    "LC_ALL": ("C", "POSIX", "x"),
    "PYTHONIOENCODING": ("ascii", "latin-1"),
    "PYTHONUTF8": ("0",),
    "PYTHONWARNINGS": ("error",),
    "http_proxy": ("http://127.0.0.1:1", "x"),
    "NO_PROXY": ("*", ""),
    "MALLOC_ARENA_MAX": ("x", "1"),
    "TZ": ("x", ""),
}
_AT_IMPORT = (
    *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONIOENCODING", "PYTHONUTF8", "LANG"),
    *("LC_ALL", "PYTHONWARNINGS", "HOME", "TMPDIR"),
)  # read before there is a fork
_RANKS = ("MASTER_ADDR", "RANK", "WORLD_SIZE", "MASTER_PORT")


def change_environment(source: random.Random) -> tuple[dict[str, str | None], bool]:
    """Return variables that are not as usual, and whether Python has to be started for them."""
    names = source.sample([*_VARIABLES], source.choice((1, 1, 2)))
    if source.random() < 0.1:
        names = [*_RANKS]
    found = {name: source.choice(_VARIABLES[name]) for name in names}
    return found, any(name in _AT_IMPORT for name in names)


def _options() -> dict[str, list[tuple[str, bool]]]:
    """Return the options of every command, and whether a value belongs to each."""
    import typer.main

    from sedona_nni.command_line import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: [
            (option.opts[0], not getattr(option, "is_flag", False))
            for option in command.params
            if option.opts[0].startswith("--")
        ]
        for name, command in commands.items()
    }


def change_words(source: random.Random, words: Sequence[str]) -> tuple[list[str], str]:
    """Return what is typed, with something wrong in it, and in words what."""
    changed = [*words]
    place = source.randrange(1, len(changed)) if len(changed) > 1 else 0
    commands = _options()
    own = commands.get(changed[0], [])
    done = source.choice(
        (
            *("a value", "a value", "an option", "an option", "an option", "an option"),
            *("nothing", "twice", "another command", "another's option", "no such option"),
            *("another order", "something more", "only the command", "as one word"),
        )
    )
    if done == "a value":
        changed[place] = _word(source)
    elif done == "an option":
        name, takes = source.choice(own)
        changed += [name, _word(source)] if takes else [name]
    elif done == "nothing":
        del changed[place]
    elif done == "twice":
        changed.insert(place, changed[place])
    elif done == "another command":
        changed[0] = source.choice([*commands, "", "traim", "--", "-h"])
    elif done == "another's option":
        name, takes = source.choice(commands[source.choice([*commands])])
        changed += [name, _word(source)] if takes else [name]
    elif done == "no such option":
        changed += [
            source.choice(("--nothing", "-x", "--json=1", "--help=2", "--", "-", "--=", "--set="))
        ]
    elif done == "another order":
        head, *rest = changed
        source.shuffle(rest)
        changed = [head, *rest]
    elif done == "something more":
        changed.append(_word(source))
    elif done == "only the command":
        changed = changed[:1]
    else:
        changed = [" ".join(changed)]
    return changed, done


def _word(source: random.Random) -> str:
    return hostile_text(source).replace("\x00", "")
