"""The program on a platform that has none of the modules that pseudo-terminals need."""

from __future__ import annotations

import sys

for _name in ("termios", "tty", "pty", "fcntl", "resource", "ptyprocess"):
    sys.modules[_name] = None  # type: ignore[assignment]  # importing it raises ImportError

from bitnet_chat.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
