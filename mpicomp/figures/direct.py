"""Labels beside the curves themselves, where there is room for each of them; in place of a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_GAP = 3.0  # points between a label and its curve
_SAMPLES = 400
Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def label_directly(axes: Any, lines: Sequence[Any], names: Sequence[str]) -> bool:
    """Write each name beside its line, in its colour; False, and nothing written, where some name finds no place.

    A place is free if the text lies within the axes, no curve goes through it, no other text is there, and its own curve is the nearest
    by a margin. The ends of the curves are tried first.

    Parameters
    ----------
    axes : matplotlib's, drawn once, so that its layout is settled. lines : one for each name.
    """
    renderer = axes.figure.canvas.get_renderer()
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    paths = [_pixels(axes, line) for line in lines]
    if any(len(path) == 0 for path in paths):
        return False
    taken: list[Box] = []
    texts: list[Any] = []
    for k in sorted(range(len(names)), key=lambda k: -len(names[k])):
        text = axes.annotate(
            names[k], (0, 0), xycoords="figure pixels", color=_darker(lines[k].get_color()), fontsize="small", zorder=5,
            annotation_clip=False,
        )  # fmt: skip
        texts.append(text)
        size = text.get_window_extent(renderer)
        box = _place(paths, k, size.width, size.height, _GAP * scale, frame, taken)
        if box is None:
            for made in texts:
                made.remove()
            return False
        taken.append(box)
        at = axes.transAxes.inverted().transform((box[0], box[1]))
        text.remove()
        texts[-1] = axes.text(
            *at, names[k], transform=axes.transAxes, color=_darker(lines[k].get_color()), fontsize="small", zorder=5,
            va="bottom", ha="left",
        )  # fmt: skip
    return True


def _pixels(axes: Any, line: Any) -> np.ndarray:
    """A line's points in pixels, close together, those within the axes; shape (points, 2)."""
    points = axes.transData.transform(np.column_stack([np.asarray(line.get_xdata(), float), line.get_ydata()]))
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2:
        return points
    steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    at = np.linspace(0.0, steps[-1], _SAMPLES)
    dense = np.column_stack([np.interp(at, steps, points[:, 0]), np.interp(at, steps, points[:, 1])])
    box = axes.get_window_extent()
    inside = (dense[:, 0] >= box.x0) & (dense[:, 0] <= box.x1) & (dense[:, 1] >= box.y0) & (dense[:, 1] <= box.y1)
    return dense[inside]


def _place(
    paths: Sequence[np.ndarray], k: int, width: float, height: float, gap: float, frame: Any, taken: Sequence[Box]
) -> Box | None:
    """The first free box for the label of path k."""
    own = paths[k]
    others = np.concatenate([np.empty((0, 2)), *(path for j, path in enumerate(paths) if j != k)])
    everything = np.concatenate([own, others])
    for x, y in own[:: max(len(own) // 60, 1)][::-1]:
        for dx, dy in (
            (gap, gap),
            (gap, -height - gap),
            (-width - gap, -height - gap),
            (-width - gap, gap),
            (gap, -height / 2),
        ):
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            if box[0] < frame.x0 + gap or box[2] > frame.x1 or box[1] < frame.y0 + gap or box[3] > frame.y1:
                continue
            if _crosses(everything, box, gap / 2) or any(_overlap(box, other, gap) for other in taken):
                continue
            if _distance(others, box) > 2.5 * _distance(own, box):
                return box
    return None


def _crosses(points: np.ndarray, box: Box, margin: float) -> bool:
    left, bottom, right, top = box
    x, y = points.T
    return bool(
        np.any((x > left - margin) & (x < right + margin) & (y > bottom - margin) & (y < top + margin))
    )  # fmt: skip


def _overlap(a: Box, b: Box, margin: float) -> bool:
    return a[0] < b[2] + margin and b[0] < a[2] + margin and a[1] < b[3] + margin and b[1] < a[3] + margin


def _distance(points: np.ndarray, box: Box) -> float:
    """From a box to the nearest point; infinite where there is none."""
    if len(points) == 0:
        return float("inf")
    x, y = points.T
    dx = np.maximum(np.maximum(box[0] - x, x - box[2]), 0.0)
    dy = np.maximum(np.maximum(box[1] - y, y - box[3]), 0.0)
    return float(np.min(np.hypot(dx, dy)))


def _darker(colour: str) -> tuple[float, ...]:
    """The colour dark enough for small text on white."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    factor = min(1.0, 0.45 / light) if light else 1.0
    return tuple(part * factor for part in (red, green, blue))
