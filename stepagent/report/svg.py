"""Plots as SVG that lies inside the page: without styles of its own, in the page's colours, with text as text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Colours that people with any colour vision tell apart (Okabe and Ito). The page replaces them in the dark."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stepagent",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#cccccc",
    "font.size": 9,
    "axes.titlesize": 10,
}
_PAGE_COLOURS = {
    "#000000": "currentColor",
    "#cccccc": "var(--line)",
    **{colour: f"var(--plot-{number})" for number, colour in enumerate(COLOURS, start=1)},
}
_STYLE = re.compile(r' style="([^"]*)"')


def draw(name: str, title: str, paint: Callable[[Any], None], *, legend: bool = True) -> str | None:
    """Return the SVG of one plot that `paint` draws on matplotlib axes; None if matplotlib is not installed. `name`
    tells its ids from those of other plots of the page, `title` is read out by a screen reader."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return None
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(5.2, 3.1), layout="constrained")
        axes = figure.subplots()
        paint(axes)
        if legend and axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return _for_the_page(file.getvalue(), name, title)


def _for_the_page(svg: str, name: str, title: str) -> str:
    """Return matplotlib's SVG without its head, styles and metadata, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = _STYLE.sub(lambda match: _attributes(match[1]), svg)
    width, height = (float(number) for number in re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2])
    head = (
        f'<svg class="plot" role="img" aria-label="{title}" viewBox="0 0 {width:g} {height:g}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)


def _attributes(style: str) -> str:
    """Return a style as attributes, which a page may have whose policy forbids inline styles."""
    attributes = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key and key != "font-family":
            attributes.append(f'{key}="{_PAGE_COLOURS.get(value, value)}"')
    return " " + " ".join(attributes)
