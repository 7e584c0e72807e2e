"""Lines of ours beside what was asked for: whole words at the edge of a terminal, as they are everywhere else."""

from __future__ import annotations

import sys
from typing import TextIO

from bitnet_chat import terminal


def tell(text: str, stream: TextIO | None = None, *, said: bool = False) -> None:
    """Writes whole lines that are safe for a terminal already, to stderr or to ``stream``. ``said``: they
    are those of a conversation, with code that is left as it is."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        from bitnet_chat.text.wrap import WordWrapper, wrapped

        columns = terminal.size(stream)[0]
        text = WordWrapper(lambda: columns).feed(text) if said else wrapped(text, columns)
    print(text, file=stream, flush=True)
