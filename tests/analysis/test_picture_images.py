"""Pictures look as they did: each beside a small image of it that was looked at.

Texts are taken away and panels put at fixed places, since fonts differ between machines, and both images are
averaged over blocks of four pixels, since versions of matplotlib draw an edge up to a pixel to the side. So
matplotlib 3.9 and 3.11 differ by at most 0.4 of 255 grey values in the root mean square, and by up to 5.7 in
heat maps, whose every cell has edges; a picture with its signs turned round differs by 4 or more, a heat map
by 44.

``python tests/analysis/test_picture_images.py`` draws the images anew. Look at them before they are kept.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parent / "pictures"
if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parents[1]))

from long_names import calls  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Text  # noqa: E402

NAMES = sorted(calls())
TOLERANCE = dict.fromkeys(NAMES, 2.0) | {"program_genes": 10.0, "program_shifts": 10.0}


def plain(name: str, sign: float = 1.0) -> Image.Image:
    """A picture without a word, its panels at fixed places, at a low resolution."""
    draw, given, options = calls(sign)[name]
    figure: Figure = draw(*given, **options)
    figure.draw_without_rendering()  # makes the ticks
    for text in figure.findobj(Text):
        text.set_visible(not text.get_text())  # an arrow between programs is a note without words
    for legend in [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]:
        legend.set_visible(False)
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.tick_params(labelbottom=False, labelleft=False)
        place = axis.get_subplotspec()
        axis.set_visible(axis.get_visible() and place is not None)  # without the bar of colours
        if place is not None:
            axis.set_position(place.get_position(figure))
    written = BytesIO()
    figure.savefig(written, format="png", dpi=60)
    return Image.open(written).convert("RGB")


def blocks(image: Image.Image) -> np.ndarray:
    """Means over blocks of four by four pixels."""
    return np.asarray(image.reduce(4), dtype=float)


def distance(one: Image.Image, other: Image.Image) -> float:
    """Root of the mean square difference, in grey values of 255; without end where sizes differ."""
    a, b = blocks(one), blocks(other)
    return float(np.sqrt(((a - b) ** 2).mean())) if a.shape == b.shape else np.inf


@pytest.mark.parametrize("name", NAMES)
def test_it_looks_as_it_did(name: str) -> None:
    assert distance(plain(name), Image.open(FOLDER / f"{name}.png").convert("RGB")) < TOLERANCE[name]


@pytest.mark.parametrize("name", NAMES)
def test_it_looks_different_with_the_signs_turned_round(name: str) -> None:
    assert distance(plain(name, -1.0), Image.open(FOLDER / f"{name}.png").convert("RGB")) > TOLERANCE[name]


def test_the_images_are_small_and_each_is_of_a_picture() -> None:
    kept = sorted(FOLDER.glob("*.png"))
    assert [path.stem for path in kept] == NAMES
    assert all(path.stat().st_size < 30_000 for path in kept)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in NAMES:
        plain(one).quantize(256, dither=Image.Dither.NONE).save(FOLDER / f"{one}.png", optimize=True)
