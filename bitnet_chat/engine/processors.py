"""The processors that an engine may use. Standard library only."""

from __future__ import annotations

import os
import sys


def usable() -> int:
    count = os.cpu_count() or 1
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))  # a container may have fewer than the machine
    return count


def excess(threads: int) -> str:
    """A line for the user about more threads than there are processors for; empty where there are not."""
    count = usable()
    if threads <= count:
        return ""
    # At each layer of a model all threads wait for one another, also for those that have no processor yet.
    place = "one processor" if count == 1 else f"{count} processors"
    return f"{threads} threads on {place} wait for one another: replies may be many times slower than with -t {count}"
