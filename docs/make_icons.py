"""Makes the icons of NNI's web UI, strategies/nni_border/icons.woff.

``python docs/make_icons.py FOLDER``, where FOLDER is ``package`` of ``npm pack
@fluentui/react-icons-mdl2@1.4.9``, unpacked: pictures under the MIT license, see ``icons.md``
beside the font.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.transformPen import TransformPen
from fontTools.svgLib.path import parse_path
from fontTools.ttLib import TTFont

PATH = Path(__file__).parents[1] / "strategies" / "nni_border" / "icons.woff"
EM = 2048  # the pictures' height and width

# What the web UI and its components show, and the character that each is for them
CHARACTERS = {
    **{"BarChartHorizontal": 0xE9EB, "Blocked2": 0xECE4, "BulletedList": 0xE8FD},
    **{"CalculatorMultiply": 0xE947, "Calendar": 0xE787, "Cancel": 0xE711, "CheckMark": 0xE73E},
    **{"ChevronDown": 0xE70D, "ChevronLeft": 0xE76B, "ChevronLeftMed": 0xE973},
    **{"ChevronRight": 0xE76C, "ChevronRightMed": 0xE974, "CircleRing": 0xEA3A},
    **{"CircleShapeSolid": 0xF63C, "Clear": 0xE894, "Compare": 0xF057, "Completed": 0xE930},
    **{"Copy": 0xE8C8, "CustomList": 0xEEBE, "Delete": 0xE74D, "DisableUpdates": 0xE8D8},
    **{"Document": 0xE8A5, "DoubleChevronDown": 0xEE04, "DoubleChevronUp": 0xEDBD},
    **{"Download": 0xE896, "Edit": 0xE70F, "Equalizer": 0xE9E9, "Error": 0xE783},
    **{"ErrorBadge": 0xEA39, "Feedback": 0xED15, "Filter": 0xE71C, "FlowChart": 0xE9D4},
    **{"GripperBarVertical": 0xE784, "GroupedDescending": 0xEE66, "Hide": 0xED1A},
    **{"HomeGroup": 0xEC26, "Important": 0xE8C9, "Info": 0xE946, "LineChart": 0xE9E6},
    **{"Market": 0xEAFC, "MarketDown": 0xEF42, "Message": 0xE8BD, "More": 0xE712, "Move": 0xE7C2},
    **{"RedEye": 0xE7B3, "Refresh": 0xE72C, "ReminderTime": 0xEBF9, "ReplyAll": 0xEE0A},
    **{"RevToggleKey": 0xE845, "Running": 0xEADA, "Save": 0xE74E, "Search": 0xE721},
    **{"Sort": 0xE8CB, "SortDown": 0xEE69, "SortUp": 0xEE68, "StackedLineChart": 0xF24E},
    **{"StatusCircleBlock": 0xF140, "StatusCircleCheckmark": 0xF13E, "Tag": 0xE8EC},
    **{"TestParameter": 0xF3AD, "Timer": 0xE91E, "Unknown": 0xE9CE, "Warning": 0xE7BA},
    "TextDocument": 0xF7C1,  # in place of a logo, which is not free: that of a trial's log
}


def main(package: Path) -> None:
    """Draw the font."""
    font = FontBuilder(EM, isTTF=False)
    font.setupGlyphOrder([".notdef", *CHARACTERS])
    font.setupCharacterMap({code: name for name, code in CHARACTERS.items()})
    drawn = {name: _drawn(package, name) for name in CHARACTERS}
    empty = T2CharStringPen(EM, None).getCharString()
    font.setupCFF("SedonaIcons", {}, {".notdef": empty, **drawn}, {})
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *CHARACTERS], (EM, 0)))
    font.setupHorizontalHeader(ascent=EM, descent=0)
    font.setupNameTable(
        {
            "familyName": "Sedona Icons",
            "styleName": "Regular",
            "copyright": "Copyright (c) Microsoft Corporation. MIT License, see icons.md",
        }
    )
    font.setupOS2(sTypoAscender=EM, sTypoDescender=0, usWinAscent=EM, usWinDescent=0)
    font.setupPost()
    made: TTFont = font.font
    made["head"].created = made["head"].modified = 0  # the same pictures, the same file
    made.recalcTimestamp = False
    made.flavor = "woff"
    made.save(PATH)


def _drawn(package: Path, name: str) -> object:
    source = (package / "lib" / "components" / f"{name}Icon.js").read_text(encoding="utf-8")
    assert f'viewBox: "0 0 {EM} {EM}"' in source, name
    pen = T2CharStringPen(EM, None)
    for path in re.findall(r'd: "(.+?)"', source):
        parse_path(path, TransformPen(pen, (1, 0, 0, -1, 0, EM)))  # a font's y grows upwards
    return pen.getCharString()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
