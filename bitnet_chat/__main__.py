"""``python -m bitnet_chat``: the same as the console script."""

import sys

from bitnet_chat.cli import main

if __name__ == "__main__":
    sys.exit(main())
