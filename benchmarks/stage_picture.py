"""The picture of `benchmarks.stage_profile`, as plain SVG on a ground of its own, for light pages and dark ones."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

COLOURS = ("#2b6cb0", "#63b3ed", "#805ad5", "#b794f4", "#dd6b20", "#38a169", "#9ae6b4", "#a0aec0")
WIDTH, LEFT, BAR, HEIGHT, STEP = 960, 230, 480, 22, 34
STYLE = "text { font: 13px system-ui, sans-serif; fill: #1a202c } .small { font-size: 12px }"


def svg(stages: Sequence[dict[str, Any]], peak: float, kinds: Sequence[str]) -> str:
    """A bar for each stage, its whole measured time; a mark where its FLOP alone would end."""
    top = 96
    height = top + STEP * len(stages) + 16
    title = "CPU time of each stage on one core by kind of operator, beside what its arithmetic alone would take"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        *_legend(kinds),
    ]
    for number, stage in enumerate(stages):
        parts += _bar(stage, peak, kinds, top + STEP * number)
    return "\n".join([*parts, "</svg>", ""])


def _legend(kinds: Sequence[str]) -> list[str]:
    parts = []
    for number, (kind, colour) in enumerate(zip(kinds, COLOURS, strict=True)):
        x, y = 20 + 180 * (number % 5), 18 + 26 * (number // 5)
        parts.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="{y + 12}">{escape(kind)}</text>')
    x, y = 20 + 180 * (len(kinds) % 5), 18 + 26 * (len(kinds) // 5)
    parts.append(_mark(x + 7, y - 3, 20))
    parts.append(f'<text x="{x + 20}" y="{y + 12}">arithmetic floor</text>')
    return parts


def _bar(stage: dict[str, Any], peak: float, kinds: Sequence[str], y: int) -> list[str]:
    seconds, floor = median(stage["seconds"]), stage["flop"] / peak
    total = sum(stage["kinds"].values())
    name = f"{stage['size']}: {stage['stage']}"
    parts = [f'<text x="{LEFT - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>']
    x = float(LEFT)
    for kind, colour in zip(kinds, COLOURS, strict=True):
        wide = BAR * stage["kinds"][kind] / total
        share = f"{kind}: {100 * stage['kinds'][kind] / total:.0f} %"
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{HEIGHT}" fill="{colour}">'
            f"<title>{escape(share)}</title></rect>"
        )
        x += wide
    parts.append(_mark(LEFT + BAR * floor / seconds, y - 4, HEIGHT + 8))
    text = f"{_time(seconds)}, floor {_time(floor)}"
    parts.append(f'<text class="small" x="{LEFT + BAR + 10}" y="{y + 16}">{text}</text>')
    return parts


def _mark(x: float, y: float, tall: float) -> str:
    """A black line with a white edge, to be seen on any colour."""
    line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + tall}"'
    return f'<line {line} stroke="#ffffff" stroke-width="5"/><line {line} stroke="#000000" stroke-width="2"/>'


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
