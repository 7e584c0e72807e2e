"""Corrections of prompt_toolkit's drawing: the input line is sanitized, and leaves no traces when the window
changes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import accumulate

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.layout.screen import Screen as Drawn
from prompt_toolkit.layout.utils import explode_text_fragments

from bitnet_chat.repl.screen import ERASE_BELOW
from bitnet_chat.terminal import wraps_anew
from bitnet_chat.text.sanitize import visible, visible_characters


class SafeDisplayProcessor(Processor):
    """Sanitizes the display of typed, pasted and recalled text, so that no character hides or reorders the others. The
    text that is sent is unchanged.
    """

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        given = transformation_input.fragments
        text = fragment_list_to_text(given)
        if visible(text) == text:
            return Transformation(given)
        shown = visible_characters(text)
        looks = [look for look, *_ in explode_text_fragments(given)]
        fragments: StyleAndTextTuples = list(zip(looks, shown, strict=True))
        starts = list(accumulate(map(len, shown), initial=0))

        def to_display(at: int) -> int:
            return starts[at] if at < len(starts) else starts[-1] + at - len(starts) + 1

        def to_source(at: int) -> int:
            return max((number for number, start in enumerate(starts) if start <= at), default=0)

        return Transformation(fragments, to_display, to_source)


def erase_on_resize(app: Application[str], variables: Mapping[str, str]) -> None:
    """Make ``app`` erase its whole drawing when the window becomes narrower.

    Most terminals reflow rows that no longer fit: there are then more rows above the cursor than prompt_toolkit has
    drawn, and it would leave some of them on the screen. This function counts and erases them, and moves the status bar
    from the last row of the window to the row below the input, where it can be erased too. ``variables``: the
    environment, from which the kind of the terminal is determined.
    """
    renderer, output = app.renderer, app.output
    report, reflows = renderer.report_absolute_cursor_row, wraps_anew(variables)

    def report_last_row(row: int) -> None:
        report(output.get_size().rows)  # no free rows below: prompt_toolkit draws only the rows it needs

    def erase(leave_alternate_screen: bool = True) -> None:
        drawn = renderer.last_rendered_screen
        if drawn is not None:
            at = drawn.get_cursor_position(app.layout.current_window)
            more = rows_more(drawn, at.x, at.y, output.get_size().columns) if reflows else 0
            output.cursor_backward(at.x)
            output.cursor_up(at.y + more)
        output.reset_attributes()
        output.write_raw(ERASE_BELOW)
        output.enable_autowrap()
        output.flush()
        renderer.reset(leave_alternate_screen=leave_alternate_screen)

    height = 0

    def drawn(_: object) -> None:
        """Draw everything again if the height has changed. The status bar has then moved, and its old row is a row of
        text: tmux still counts the erased cells there when it reflows, so the rows must be emptied completely.
        """
        nonlocal height
        screen = renderer.last_rendered_screen
        before, height = height, screen.height if screen is not None else 0
        if reflows and before and height and before != height and renderer.height_is_known:
            erase()
            report_last_row(0)  # erase() has reset the known position
            renderer.render(app, app.layout)

    if sys.platform != "win32":
        app.after_render += drawn
        # setattr, because mypy does not allow the assignment of methods.
        setattr(renderer, "report_absolute_cursor_row", report_last_row)  # noqa: B010
        setattr(renderer, "erase", erase)  # noqa: B010


def rows_more(drawn: Drawn, x: int, y: int, columns: int) -> int:
    """Count the additional rows above the cursor after a reflow of ``drawn`` to ``columns`` cells. ``x``, ``y``: the
    position of the cursor in the drawing.
    """
    if columns < 1:
        return 0
    cells = [_cells(drawn.data_buffer[row]) for row in range(y + 1)]
    above = sum(max(size - 1, 0) // columns for size in cells[:y])
    return above + min(x, max(cells[y] - 1, 0)) // columns


def _cells(row: Mapping[int, Char]) -> int:
    """Return the width of a row in cells, without spaces at its end."""
    return max((at + cell.width for at, cell in row.items() if cell.char.strip(" ")), default=0)
