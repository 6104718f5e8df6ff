"""The grid of styles: what is framed, and what is written beside it."""

import torch

from nucstyle.report.pictures import FRAME_COLOUR, style_grid

FRAME = torch.tensor([int(FRAME_COLOUR[place : place + 2], 16) for place in (1, 3, 5)])


def grid_of(rows, framed, row_names=None):
    names = row_names or [f"row {number}" for number in range(len(rows))]
    columns = [f"column {number}" for number in range(len(rows[0]))]
    return style_grid(rows, row_names=names, column_names=columns, framed=framed)


def test_a_frame_lies_close_around_its_tile_also_where_the_cell_is_larger():
    large, small = torch.zeros(3, 200, 200), torch.zeros(3, 120, 160)
    grid = grid_of([[large, large], [small, small]], [None, 1])
    blue = ((grid * 255).round() == FRAME[:, None, None]).all(dim=0)
    ys, xs = blue.nonzero(as_tuple=True)
    assert int(ys.max() - ys.min()) + 1 == 120 + 8
    assert int(xs.max() - xs.min()) + 1 == 160 + 8
    assert int(blue.sum()) == 128 * 168 - 120 * 160


def test_a_row_without_a_frame_has_none():
    tile = torch.rand(3, 120, 120)
    grid = grid_of([[tile, tile]], [None])
    assert not ((grid * 255).round() == FRAME[:, None, None]).all(dim=0).any()


def test_a_name_of_two_lines_takes_two_lines():
    """The second line is written below the first: there is ink in more rows, and no more ink beside it."""
    tile = torch.ones(3, 120, 120)

    def inked(name):
        left = grid_of([[tile]], [None], [name])[:, 45:].min(dim=0).values < 0.5
        return int(left.any(dim=1).sum()), int(left.any(dim=0).sum())

    one, two = inked("nuclei"), inked("nuclei\nnuclei")
    assert two[0] > one[0]
    assert two[1] == one[1]
