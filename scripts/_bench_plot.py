"""The plot of a table of the benchmarks: bars on a logarithmic scale, in plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from _bench_table import Row

__all__ = ["plot"]

_WIDTH: Final = 860
_LEFT: Final = 290  # of the bars; the names stand before
_BARS: Final = 470
_STEP: Final = 26
_TOP: Final = 56

_STYLE: Final = """\
<style>
text { font: 13px sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: bold }
.small { font-size: 11px; fill: #59636e }
.ours { fill: #1a7f5a } .theirs { fill: #8c959f } .grid { stroke: #d1d9e0 }
.ground { fill: #ffffff }
</style>"""


def plot(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Write the nonces a second of each row with a cost in µs, the fastest first; ours are those that name a method."""
    rates = [(row.what, 1e6 / row.median) for row in rows if row.median]
    rates.sort(key=lambda pair: -pair[1])
    low = math.floor(math.log10(min(rate for _, rate in rates)))
    high = max(low + 1, math.ceil(math.log10(max(rate for _, rate in rates))))
    unit = _BARS / (high - low)
    bottom = _TOP + _STEP * len(rates)
    height = bottom + 34
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        _STYLE,
        f'<rect class="ground" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="14" y="26">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        x = _LEFT + (power - low) * unit
        lines += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{bottom}"/>',
            f'<text class="small" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10**power:,}</text>',
        ]
    for number, (what, rate) in enumerate(rates):
        y = _TOP + number * _STEP
        long = (math.log10(rate) - low) * unit
        whose = "ours" if "(" in what else "theirs"
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(what)}</text>',
            f'<rect class="{whose}" x="{_LEFT}" y="{y}" width="{long:.1f}" height="18"/>',
            f'<text x="{_LEFT + long + 6:.1f}" y="{y + 14}">{_round(rate):,}</text>',
        ]
    path.write_text("\n".join([*lines, "</svg>", ""]), "utf-8")


def _round(rate: float) -> int:
    """Return a rate to three digits: no machine repeats more of them."""
    digits = 2 - math.floor(math.log10(rate))
    return round(round(rate, digits))
