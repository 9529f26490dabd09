"""How every chart of a report looks: colours, a blank figure, and axes in their dress.

Drawn with matplotlib, which is the extra `plots` and takes a second to import: import this module
only to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tonnage.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURFACE, INK, QUIET, GRID = "#ffffff", "#1f2328", "#59636e", "#e4e7eb"
BAD = "#c62828"
# told apart in grey and by colour-blind eyes as well (contrast with the surface is at least 3)
SERIES = ("#2a78d6", "#c2500f", "#1a7f5a", "#8250df", "#9a6700", "#a0366f")
ENDINGS = (".png", ".svg", ".pdf")
DPI = 150

Box = tuple[float, float, float, float]  # left, low, right, high, in points

_DOT = 4.0  # half the side of a dot, in points
_LETTER = (5.2, 8.0)  # a letter of eight points, in points
# from a dot to the middle of its label's near edge, in points: first where no rising curve runs
_BESIDE = ((7, -8), (-7, 8), (8, 0), (-8, 0), (5, -14), (-5, 14), (7, 8), (-7, -8), (16, -10))


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """A blank figure that leaves room for its labels.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 — a second, and optional
    except ImportError:
        raise MissingExtraError(
            "no plots without matplotlib:", hint='pip install "tonnage[plots]".'
        ) from None
    return Figure(figsize=(width_inches, height_inches), facecolor=SURFACE, layout="constrained")


def dress(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Title, labels, a grid behind the data, and no frame but two faint edges."""
    axes.set_title(title, color=INK, fontsize=11, loc="left")
    axes.set_xlabel(x, color=QUIET)
    axes.set_ylabel(y, color=QUIET)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=QUIET)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[tuple[float, float, str, str]]
) -> None:
    """Write (x, y, text, colour) beside dots, each where it covers other dots and labels least.

    Call it last: it needs the axes as they will be drawn.
    """
    from matplotlib.patheffects import withStroke  # noqa: PLC0415 — as in new_figure

    figure.draw_without_rendering()
    points_per_pixel = 72 / figure.dpi
    dots = [axes.transData.transform((x, y)) * points_per_pixel for x, y, _, _ in labels]
    taken = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots]
    for (at_x, at_y), (x, y, text, colour) in zip(dots, labels, strict=True):
        width, height = _LETTER[0] * len(text), _LETTER[1]
        places = [
            (at_x + dx - (width if dx < 0 else 0), at_y + dy - height / 2) for dx, dy in _BESIDE
        ]
        boxes = [(left, low, left + width, low + height) for left, low in places]
        box = min(boxes, key=lambda box: sum(_shared(box, other) for other in taken))
        taken.append(box)
        axes.annotate(
            text, (x, y), textcoords="offset points", xytext=(box[0] - at_x, box[1] - at_y),
            fontsize=8, color=colour, zorder=5,
            path_effects=[withStroke(linewidth=2, foreground=SURFACE)],
        )  # fmt: skip


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0)


def refuse_undrawable(path: Path) -> None:
    """Find out before the work that `path` names no kind of picture. Raises UsageError."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"{path} does not say what kind of picture to draw:",
            hint=f"end it in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.",
        )
