"""The line that is being typed, as it is shown: made safe like all other text, and erased when the window changes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.layout.screen import Screen as Drawn
from prompt_toolkit.layout.utils import explode_text_fragments

from bitnet_chat.stream.sanitize import visible, visible_characters
from bitnet_chat.terminal import wraps_anew


class ShownSafely(Processor):
    """What is typed, pasted or found in the history is shown like the words of a model: nothing in it reorders or hides
    the rest. It is sent as it is."""

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


def erase_all(app: Application[str], variables: Mapping[str, str]) -> None:
    """``app`` erases all that it has drawn when its window has become narrower: most terminals wrap the rows anew, and
    there are more of them above the cursor than prompt_toolkit has drawn."""
    if not wraps_anew(variables):
        return
    renderer, output = app.renderer, app.output
    erase = renderer.erase

    def erase_wrapped(leave_alternate_screen: bool = True) -> None:
        drawn = renderer.last_rendered_screen
        if drawn is not None:
            at = drawn.get_cursor_position(app.layout.current_window)
            output.cursor_up(rows_more(drawn, at.x, at.y, output.get_size().columns))
        erase(leave_alternate_screen)

    setattr(renderer, "erase", erase_wrapped)  # noqa: B010 -- a method is assigned, which a type checker forbids


def rows_more(drawn: Drawn, x: int, y: int, columns: int) -> int:
    """Rows above the cursor, at ``x`` and ``y`` of what was drawn, that there are in addition in ``columns`` cells."""
    if columns < 1:
        return 0
    cells = [_cells(drawn.data_buffer[row]) for row in range(y + 1)]
    above = sum(max(size - 1, 0) // columns for size in cells[:y])
    return above + min(x, max(cells[y] - 1, 0)) // columns


def _cells(row: Mapping[int, Char]) -> int:
    """Cells of a row that were written: blanks at its end are not."""
    return max((at + cell.width for at, cell in row.items() if cell.char.strip(" ")), default=0)
