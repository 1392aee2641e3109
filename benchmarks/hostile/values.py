"""Values that nobody expects."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.hostile.promise import INERT

__all__ = ["MARKUP", "TEXTS", "hostile_text", "hostile_value"]

TEXTS = (
    *("", " ", "0", "-1", "1", "nan", "inf", "-inf", "1e999", "1e-999", "0x10", "1_000", "1/0"),
    *("0/K", "K", "1/K/K", "null", "None", "true", "[]", "{}", "~", "-", "--", "*", ".", ".."),
    *(
        "~/",
        "../outside",
        "../../../../etc/passwd",
        "/dev/null",
        "/dev/zero",
        "/dev/stdin",
    ),
    *("/proc/self/mem", "/nowhere/at/all", "published:", "published:../vgg19", "uniform:", "::::"),
    *("uniform:99:mlp", "uniform:2:", "every:0:mlp", "balanced:-1:mlp", "torchvision:", "a:b"),
    *("torchvision:../x", "timm:nothing", "os:system", "subprocess:Popen", "x.y.z:build"),
    *("99999999999999999999999", "-99999999999999999999999", "1" * 5000, "é", "日本", "\U0001f4a5"),
    f"'\"></script></style></title><{INERT} {INERT}='1'>",
    f'" {INERT}="1',
    f"<script>{INERT}()</script>",
    *(
        "\x1b[31mred\x1b[0m",
        "a\nb",
        "a\r\nb",
        "a\tb",
        "\x7f",
        "\u2028",
        "\u202etxt",
        "\udcff",
        "%s%n",
    ),
    *("{0.__class__}", "${HOME}", "`touch ../outside/t`", "$(touch ../outside/t)", "; touch x"),
    *(
        "a" * 300,
        "b" * 5000,
        "a/" * 3000,
        "[" * 2000,
        "con",
        "\ufeffbom",
        "[/bold]",
        "[red]",
        "[link=file:///]x[/link]",
    ),
)
_NUMBERS = (
    *(0, -1, 1, 2, 3, 7, 255, 256, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.5, -0.5, 1.5, 1e-320, 1e308, -1e308, 1e300, float("nan"), float("inf"), float("-inf")),
)


MARKUP = f"'\"></script></style></title><{INERT} {INERT}='1'>\x1b[31m[/bold]"
"""What must stay a name, in a page as in a terminal."""


def hostile_text(source: random.Random) -> str:
    """Return a text."""
    return source.choice(TEXTS)


def hostile_value(source: random.Random) -> Any:
    """Return a value as JSON has them, but for numbers that it has not."""
    kind = source.randrange(8)
    if kind < 3:
        return hostile_text(source)
    if kind < 6:
        return source.choice(_NUMBERS)
    return source.choice(
        (
            *(None, True, False, [], {}, [[]], [{}], {"": None}, [None], {"a": {"b": []}}),
            *([0] * 10_000, {str(number): number for number in range(3000)}, [[[[[[]]]]]]),
        )
    )
