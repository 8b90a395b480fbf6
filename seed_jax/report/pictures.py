"""A grid of pictures with names, as a figure of a page."""

from collections.abc import Mapping, Sequence

import numpy as np

from seed_jax.report import svg

COLUMNS = 6  # more would be too small on a phone
_GAP, _TILE = 4, 72  # points


def pictures(
    rows: Mapping[str, Mapping[str, np.ndarray]],
    columns: Sequence[str],
    *,
    title: str,
    caption: str = "",
    name: str = "plot",
) -> svg.Figure:
    """Draw one row of pictures per name, with the names of the columns above them.

    Args:
      rows: pictures uint8 `[H, W, 3]` by row and column; a row may lack columns, or have others.
      columns: those to show, from left to right; at most `COLUMNS` are large enough to see.
      title: of the figure.
      caption: shown below the figure.
      name: prefix of the ids inside the SVG; must be unique in a page.
    """
    width = 72 * svg.SIZE[0]
    tile = min(_TILE, (width - _GAP * (len(columns) - 1)) / len(columns))
    names = [svg.wrap(column, tile) for column in columns]
    top = 26 + svg.LINE * max(map(len, names))
    each = svg.LINE + tile + _GAP
    height = top + each * len(rows)
    with svg.canvas(name, height) as (figure, output):
        svg.title(figure, title)
        for i, lines in enumerate(names):
            for j, line in enumerate(lines):
                y = 1 - (26 + svg.LINE * (j + 0.5)) / height
                figure.text(i * (tile + _GAP) / width, y, line, va="center", color=svg.SOFT)
        for number, (row, tiles) in enumerate(rows.items()):
            begin = top + each * number
            y = 1 - (begin + svg.LINE / 2) / height
            figure.text(svg.MARGIN / width, y, row, va="center", color=svg.INK)
            for i, column in enumerate(columns):
                if column in tiles:
                    left, below = i * (tile + _GAP), height - begin - svg.LINE - tile
                    box = (left / width, below / height, tile / width, tile / height)
                    axes = figure.add_axes(box)
                    axes.imshow(tiles[column], interpolation="none")
                    axes.axis("off")
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    description = f"{title}: {', '.join(rows)}, each with {', '.join(columns)}."
    return svg.Figure(svg.inline(output.getvalue(), name, description), name, caption)
