"""Lines of the program on stderr, wrapped at words to the width of the terminal."""

from __future__ import annotations

import sys
from typing import TextIO

from bitnet_chat import terminal


def tell(text: str, stream: TextIO | None = None, *, said: bool = False) -> None:
    """Write whole lines that are already sanitized, to stderr or to ``stream``. ``said``: they are part of a
    conversation, with code left unwrapped.
    """
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        from bitnet_chat.text.wrap import WordWrapper, wrapped

        columns = terminal.size(stream)[0]
        text = WordWrapper(lambda: columns).feed(text) if said else wrapped(text, columns)
    print(text, file=stream, flush=True)
