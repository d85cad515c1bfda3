"""Figures: picks on micrographs and montages of boxes, as matplotlib Figures that `png` and `jpeg` render.

Micrographs are shown as stored: row 0 on top, x to the right, so a position read off the axes is a position in the
frame of `cryoflow.picks`. Nothing here touches pyplot, so figures can be made in threads and without a display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cryoflow.picks import PickSet

Array = npt.NDArray[np.floating]
_LONGEST_PX = 1100
"""Of a micrograph that is shown, at most."""
_WIDTH_IN = 7.0

KEPT, REMOVED, MISSED, NEUTRAL = "#1f9e89", "#d1495b", "#e9a23b", "#3b6fb6"
"""Colors that stay apart for color-blind readers: kept picks, removed picks, missed particles, everything else."""

INK, FAINT, WAITING = "#24292f", "#8c959f", "#c9d1d9"
"""Text, what should not stand out, and time in which nothing happens."""


@dataclass(frozen=True)
class Marks:
    """Picks that are drawn alike on a micrograph.

    Attributes
    ----------
    centers_xy_px : (n, 2) float
        In the frame of `cryoflow.picks`.
    label
        Text of the legend; the number of picks is added.
    color
        Any matplotlib color.
    """

    centers_xy_px: npt.NDArray[np.float64]
    label: str
    color: str = KEPT


def display_image(micrograph: Array) -> tuple[Array, float]:
    """Return a micrograph made fit to look at: averaged over blocks, flattened a little, clipped at 1 % and 99 %.

    Returns
    -------
    image : (ny, nx) float32 in 0..1
    step
        How many micrograph pixels one image pixel spans.
    """
    from scipy.ndimage import gaussian_filter

    micrograph = np.nan_to_num(np.asarray(micrograph, np.float32))
    step = max(1, int(np.ceil(max(micrograph.shape) / _LONGEST_PX)))
    ny, nx = (n // step * step for n in micrograph.shape)
    image = micrograph[:ny, :nx].reshape(ny // step, step, nx // step, step).mean(axis=(1, 3), dtype=np.float32)
    image = gaussian_filter(image, 1.0)
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(float(high - low), 1e-12), 0, 1), float(step)


def overlay(
    micrograph: Array,
    marks: Sequence[Marks],
    *,
    diameter_px: float,
    title: str = "",
    pixel_size_A: float | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Figure:
    """Return picks as circles of the particle's diameter on their micrograph, with a scale bar where the pixel size is
    known.

    Parameters
    ----------
    micrograph : (ny, nx) float
    diameter_px
        In pixels of this micrograph.
    mask : (my, mx) bool
        Places to hatch, on a grid of its own that covers the micrograph.
    """
    image, _ = display_image(micrograph)
    ny, nx = micrograph.shape
    figure = new_figure((_WIDTH_IN, _WIDTH_IN * ny / nx + 0.75))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1 - 0.75 / (_WIDTH_IN * ny / nx + 0.75)))
    axes.imshow(image, cmap="gray", extent=(-0.5, nx - 0.5, ny - 0.5, -0.5), interpolation="bilinear")
    if mask is not None and mask.any():
        _hatch(axes, mask, (ny, nx))
    _circles(axes, marks, diameter_px)
    axes.set_xlim(-0.5, nx - 0.5)
    axes.set_ylim(ny - 0.5, -0.5)
    axes.set_axis_off()
    if pixel_size_A:
        _scale_bar(axes, nx, ny, pixel_size_A)
    top = 1 - 0.1 / figure.get_figheight()
    figure.text(0.01, top, shown(title), ha="left", va="top", fontsize=9, color=INK, weight="bold")
    x = 0.01
    for mark in marks:
        text = figure.text(
            x, top - 0.34 / figure.get_figheight(), f"○ {shown(mark.label)} {len(mark.centers_xy_px)}", color=mark.color
        )
        text.set_fontsize(9)
        text.set_verticalalignment("top")
        x += 0.02 + 0.0125 * (len(mark.label) + 6)
    return figure


def _hatch(axes: Axes, mask: npt.NDArray[np.bool_], shape_yx: tuple[int, int]) -> None:
    """Hatch the places of a mask; a border of zeros closes the outline at the edge of the micrograph."""
    padded = np.pad(mask.astype(float), 1)
    x, y = (
        (np.arange(n) - 0.5) * full / (n - 2) - 0.5 for n, full in zip(padded.shape[::-1], shape_yx[::-1], strict=True)
    )
    axes.contourf(x, y, padded, levels=[0.5, 2.0], colors="none", hatches=["//"])
    axes.contour(x, y, padded, levels=[0.5], colors=[MISSED], linewidths=0.8)


def plot_picks(picks: PickSet, micrograph: str, path: str | Path | None = None) -> Figure:
    """Draw the picks of one micrograph of a set on its image; see `PickSet.plot`.

    Where the diameter is not known, circles are a fifteenth of the micrograph's shorter side wide.
    """
    from cryoflow.errors import BadInput
    from cryoflow.micrographs.image import read_micrograph

    row = picks.micrographs.iloc[picks.row_of(micrograph)]
    if row["path"] is None or row["status"] != "found":
        raise BadInput(str(row["name"]), f"cannot be drawn: its file is {row['status']}.")
    image = read_micrograph(row["path"])
    pixel_size_A = float(row["pixel_size_A"]) if row["pixel_size_A"] == row["pixel_size_A"] else None
    if picks.diameter_A is not None and pixel_size_A is not None:
        diameter_px = picks.diameter_A / pixel_size_A
    else:
        diameter_px = min(image.shape) / 15
    centers_xy_px = picks[micrograph][["x_px", "y_px"]].to_numpy(float)
    marks = [Marks(centers_xy_px, "picks")]
    name = Path(str(row["name"])).name
    figure = overlay(image, marks, diameter_px=diameter_px, title=name, pixel_size_A=pixel_size_A)
    if path is not None:
        from cryoflow.storage.files import write_atomically

        write_atomically(Path(path), png(figure))
    return figure


def montage(
    boxes: Array, captions: Sequence[str] = (), *, columns: int = 10, title: str = "", color: str = INK
) -> Figure:
    """Return boxes side by side, each on its own gray scale.

    Parameters
    ----------
    boxes : (n, side, side) float
    captions
        One below each box, or none at all.
    columns
        Boxes of a row; fewer boxes leave room, so that those of all montages on a page are of one size.
    """
    n = len(boxes)
    rows = max(1, -(-n // columns))
    head = 0.35 if title else 0.05
    figure = new_figure((columns * 0.8, rows * (0.98 if captions else 0.82) + head + (0.05 if captions else 0)))
    grid = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.28 if captions else 0.04}
    )
    foot = 0.17 if captions else 0.03
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.005, right=0.995, bottom=foot / height, top=1 - head / height)
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i < n:
            low, high = np.percentile(boxes[i], (1, 99))
            axes.imshow(boxes[i], cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
            if i < len(captions):
                axes.set_title(shown(captions[i]), fontsize=6, pad=1.5, y=-0.2, color=color)
    if title:
        figure.text(
            0.005, 1 - 0.06 / figure.get_figheight(), shown(title), va="top", fontsize=9, weight="bold", color=color
        )
    return figure


def shown(text: str) -> str:
    """Return a name as matplotlib can draw it: a dollar sign begins no formula, and bytes that are no UTF-8 are a
    mark."""
    return text.encode(errors="replace").decode().replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file, the same for the same figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def jpeg(figure: Figure, *, dpi: int = 150) -> bytes:
    """Return a figure that is mostly micrograph as the bytes of a JPEG file, for noise a fifth of the PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="jpeg", dpi=dpi, facecolor="white", pil_kwargs={"quality": 85, "subsampling": 0})
    return stream.getvalue()


def new_figure(size_in: tuple[float, float]) -> Figure:
    """Return an empty figure that needs no display, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_in)
    FigureCanvasAgg(figure)
    return figure


def _circles(axes: Axes, marks: Sequence[Marks], diameter_px: float) -> None:
    from matplotlib.collections import EllipseCollection

    for mark in marks:
        centers = np.asarray(mark.centers_xy_px, float).reshape(-1, 2)
        if len(centers):
            # Time to draw a circle grows with its size: one of a claimed pixel size of 1e-9 A would take for ever.
            largest = float(np.ptp(axes.get_xlim()) + np.ptp(axes.get_ylim()))
            size = np.full(len(centers), min(diameter_px, largest))
            axes.add_collection(
                EllipseCollection(
                    size,
                    size,
                    np.zeros(len(centers)),
                    units="xy",
                    offsets=centers,
                    offset_transform=axes.transData,
                    facecolors="none",
                    edgecolors=mark.color,
                    linewidths=1.2,
                )
            )


def _scale_bar(axes: Axes, nx: int, ny: int, pixel_size_A: float) -> None:
    """Draw a bar of a round number of nanometres, about a sixth of the width."""
    wanted_nm = nx * pixel_size_A / 60
    length_nm = min((1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), key=lambda nm: abs(np.log(nm / wanted_nm)))
    length_px = length_nm * 10 / pixel_size_A
    x, y = 0.97 * nx, 0.97 * ny
    axes.plot((x - length_px, x), (y, y), color="black", lw=4.5, solid_capstyle="butt")
    axes.plot((x - length_px, x), (y, y), color="white", lw=3, solid_capstyle="butt")
    label = axes.text(x - length_px / 2, y - 0.02 * ny, f"{length_nm} nm", color="white", ha="center", va="bottom")
    label.set(fontsize=8, bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0})


def dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Give axes this page's look."""
    axes.set_title(shown(title), fontsize=9, weight="bold", color=INK, loc="left")
    axes.set_xlabel(x_label, fontsize=8, color=INK)
    axes.set_ylabel(y_label, fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.5)
    axes.set_axisbelow(True)
