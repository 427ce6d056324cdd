"""The report's charts: each takes rows of its data and returns an `<svg>` element, or None without data."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jsm_queue import wording
from jsm_queue.report.data import BaseRow, Figure, FormatRow, Seconds, SizeRow
from jsm_queue.report.figure import BLUE, GREEN, GREY, INK, ORANGE, svg

Measure = Literal["nll", "key_nll", "score"]

STRATA = {  # name, colour, marker
    "validation": ("validation", GREEN, "D"),
    "taught": ("test, taught facts", BLUE, "o"),
    "unseen": ("test, unseen facts", ORANGE, "s"),
    "": ("test", BLUE, "o"),
}
_TITLES = {
    "nll": "NLL of the whole answer against training size",
    "key_nll": "NLL of the key facts against training size",
    "score": "Judge score against training size",
}
_UNITS = {
    "nll": "nats/token (lower is better)",
    "key_nll": "nats/token (lower is better)",
    "score": "points, 0–3",
}
SCALE = (-0.06, 3.06)  # the judge's, with room for a point at its ends
ROW = 0.36  # inches a row of a horizontal chart
FRAME = 0.75  # inches for its axis and legend


def size_chart(rows: Sequence[SizeRow], measure: Measure, n_star: int | None) -> str | None:
    """A measure against training size, one line a stratum, the untrained base as the first point."""
    known = [row for row in rows if getattr(row, measure)]
    if not any(row.n is not None for row in known):
        return None
    sizes = sorted({row.n for row in known}, key=lambda n: n or 0)

    def draw(axes: Axes) -> None:
        strata = [name for name in STRATA if any(row.stratum == name for row in known)]
        for index, name in enumerate(strata):
            of = sorted((row for row in known if row.stratum == name), key=lambda row: row.n or 0)
            shift = 0.07 * (index - (len(strata) - 1) / 2)
            _line(axes, [sizes.index(row.n) + shift for row in of], [getattr(row, measure) for row in of], name)
        if n_star in sizes:
            place = sizes.index(n_star)
            axes.axvspan(place - 0.3, place + 0.3, color="#eef2f7", lw=0, zorder=0)
        axes.set_xticks(range(len(sizes)), [_size_label(n, n_star) for n in sizes])
        axes.set_xlim(-0.5, len(sizes) - 0.5)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(_UNITS[measure])
        axes.grid(axis="y")
        _legend(axes)

    return svg(f"size-{measure.replace('_', '-')}", _TITLES[measure], 3.1, draw)


def _size_label(n: int | None, n_star: int | None) -> str:
    label = "untrained" if n is None else f"n={wording.count(n)}"
    return f"{label}\n(n*)" if n is not None and n == n_star else label


def _line(axes: Axes, x: list[float], figures: list[Figure], stratum: str) -> None:
    label, colour, marker = STRATA[stratum]
    y = [figure.estimate for figure in figures]
    axes.errorbar(x, y, yerr=_arms(figures), label=label, color=colour, marker=marker, ms=5)


def _arms(figures: Sequence[Figure]) -> list[list[float]]:
    """How far the interval reaches below and above; rounding may put an end on the wrong side by a digit."""
    below = [max(0.0, figure.estimate - figure.low) for figure in figures]
    above = [max(0.0, figure.high - figure.estimate) for figure in figures]
    return [below, above]


def _legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=columns, columnspacing=1.2)


def bases_chart(rows: Sequence[BaseRow]) -> str | None:
    """Judge scores by base, fine-tuned and untrained, with intervals."""
    rows = [row for row in rows if row.score or row.untrained]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        _score_points(axes, [row.untrained for row in rows], 0.14, "untrained", GREY, "o", "white")
        _score_points(axes, [row.score for row in rows], -0.14, "fine-tuned", BLUE, "o", BLUE)
        _names(axes, [row.base for row in rows])
        axes.set_xlim(*SCALE)
        axes.set_xlabel("judge score, points 0–3")
        _legend(axes)

    return svg("bases", "Judge scores by base", FRAME + 0.5 * len(rows), draw)


def _score_points(
    axes: Axes,
    figures: Sequence[Figure | None],
    shift: float,
    label: str,
    colour: str,
    marker: str,
    fill: str,
) -> None:
    known = [(index + shift, figure) for index, figure in enumerate(figures) if figure]
    if known:
        y, shown = zip(*known, strict=True)
        x = [figure.estimate for figure in shown]
        axes.errorbar(x, y, xerr=_arms(shown), fmt=marker, label=label, color=colour, mfc=fill, ms=6)


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Names down the y axis, the first on top."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def formats_chart(rows: Sequence[FormatRow]) -> str | None:
    """Judge scores by format, with intervals; the recommended one filled."""
    if not rows:
        return None
    several = len({row.base for row in rows}) > 1

    def draw(axes: Axes) -> None:
        chosen = [row.score if row.recommended else None for row in rows]
        others = [None if row.recommended else row.score for row in rows]
        _score_points(axes, chosen, 0, "recommended", GREEN, "D", GREEN)
        _score_points(axes, others, 0, "measured", BLUE, "o", "white")
        _names(axes, [_format_label(row, several) for row in rows])
        axes.set_xlim(*SCALE)
        axes.set_xlabel("judge score, points 0–3")
        _legend(axes)

    return svg("formats", "Judge scores by format", FRAME + ROW * len(rows), draw)


def _format_label(row: FormatRow, several: bool) -> str:
    return f"{row.base}  {row.format}" if several else row.format


def seconds_chart(rows: Sequence[tuple[str, Seconds]], name: str) -> str | None:
    """Seconds a question by cell: from the median to the 95th percentile."""
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        y = list(range(len(rows)))
        p50, p95 = [seconds.p50 for _, seconds in rows], [seconds.p95 for _, seconds in rows]
        axes.hlines(y, p50, p95, color="#9dbcdc", lw=5)
        axes.plot(p50, y, "o", color=BLUE, ms=6, label="p50")
        axes.plot(p95, y, "|", color=INK, ms=11, mew=2, label="p95")
        _names(axes, [label for label, _ in rows])
        axes.set_xlim(left=0, right=1.08 * max(p95))
        axes.set_xlabel("seconds a question")
        _legend(axes)

    return svg(name, "Seconds a question, median and 95th percentile", FRAME + ROW * len(rows), draw)


def bytes_chart(rows: Sequence[FormatRow]) -> str | None:
    """File size by format."""
    known = [(row, row.bytes) for row in rows if row.bytes]
    if not known:
        return None
    several = len({row.base for row in rows}) > 1

    def draw(axes: Axes) -> None:
        colours = [GREEN if row.recommended else "#8fb3d6" for row, _ in known]
        bars = axes.barh(range(len(known)), [size for _, size in known], height=0.6, color=colours)
        axes.bar_label(bars, [wording.size(size) for _, size in known], padding=4)
        _names(axes, [_format_label(row, several) for row, _ in known])
        axes.set_xlim(0, 1.2 * max(size for _, size in known))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(_sizes())
        axes.set_xlabel("file size")

    return svg("bytes", "File size by format", FRAME - 0.2 + ROW * len(known), draw)


def _sizes() -> FuncFormatter:
    return FuncFormatter(
        lambda value, _: wording.size(value).replace(".0 ", " ").replace(".00 ", " ") if value else "0"
    )


def tradeoff_chart(rows: Sequence[FormatRow]) -> str | None:
    """Score against file size; the larger a point's area, the more seconds a question takes (median)."""
    known = [(row, row.bytes) for row in rows if row.bytes]
    if len(known) < 2:
        return None
    slowest = max((row.seconds.p50 for row, _ in known if row.seconds), default=0.0)

    def draw(axes: Axes) -> None:
        for index, (row, size) in enumerate(sorted(known, key=lambda pair: pair[1])):
            colour = GREEN if row.recommended else BLUE
            axes.errorbar(size, row.score.estimate, yerr=_arms([row.score]), color=colour, lw=1, zorder=2)
            area = 40 + 360 * row.seconds.p50 / slowest if row.seconds and slowest else 40
            axes.scatter(size, row.score.estimate, s=area, color=colour, alpha=0.75, lw=0, zorder=3)
            _point_label(axes, row, size, above=index % 2 == 0)
        axes.set_xlim(0, 1.2 * max(size for _, size in known))
        axes.set_ylim(-0.45, 3.45)
        axes.set_yticks([0, 1, 2, 3])
        axes.spines["left"].set_bounds(0, 3)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_sizes())
        axes.set_xlabel("file size")
        axes.set_ylabel("judge score, points 0–3")
        axes.grid()

    return svg("tradeoff", "Score against file size and seconds a question", 3.3, draw)


def _point_label(axes: Axes, row: FormatRow, size: float, above: bool) -> None:
    """At the end of the error bar; neighbours take turns above and below, because small files lie close together."""
    label = row.format + (f"\n{wording.seconds(row.seconds.p50)}" if row.seconds else "")
    place = (size, row.score.high if above else row.score.low)
    axes.annotate(
        label, place, xytext=(0, 4 if above else -4), textcoords="offset points", fontsize=8, ha="center",
        va="bottom" if above else "top", bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5},
    )  # fmt: skip
