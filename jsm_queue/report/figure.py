"""Drawing one chart as an inline SVG: text stays text, ids are unique, equal data give equal bytes."""

import io
import re
import threading
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's colours, darkened until they keep 3:1 on white; shapes differ as well as colours.
BLUE, ORANGE, GREEN, GREY, INK, GRID = "#1b62a5", "#c2500f", "#00795c", "#6b7280", "#1f2937", "#e5e7eb"
WIDTH = 5.2  # inches; at a phone's width the text is then about 9 px

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: measures are the same everywhere
    "font.size": 9,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.borderaxespad": 0.0,
    "errorbar.capsize": 2.5,
    "lines.linewidth": 1.6,
}
_FONTS = "system-ui, 'Segoe UI', 'Hiragino Sans', 'Noto Sans JP', 'Noto Sans CJK JP', 'Yu Gothic', sans-serif"
_INHERITED = f"font-family: {_FONTS}; stroke-linejoin: round; stroke-linecap: butt"
_LOCK = threading.Lock()  # matplotlib's settings are the process's


def svg(name: str, title: str, height: float, draw: Callable[[Axes], None]) -> str:
    """What `draw` puts on an Axes of WIDTH × `height` inches, as an `<svg>` element for HTML.

    `name` (letters, digits, hyphens) makes its ids unique in a page; `title` is what a screen reader says.
    """
    settings: dict[Any, Any] = {**_STYLE, "svg.hashsalt": name}
    with _LOCK, matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    return _inline(buffer.getvalue(), name, title)


def _inline(document: str, name: str, title: str) -> str:
    """A standalone SVG document made fit for HTML: no prolog, fluid width, prefixed ids."""
    body = document[document.index("<svg") :].strip()
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box, "matplotlib writes a viewBox"
    body = re.sub(r"^<svg[^>]*>", "", body)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'(xlink:)?href="#([^"]+)"', rf'href="#{name}-\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # would hold for the page
    body = body.replace("font-family: 'DejaVu Sans'; ", "")
    label = escape(title, quote=True)
    return (
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="{box[1]}" style="{_INHERITED}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{label}</title>{body}'
    )
