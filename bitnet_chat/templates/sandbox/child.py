"""The process of one chat template: reads the source, then renders conversations until its input ends.

It sets its own limits. The limit of CPU time ends it during any computation, even if its parent was killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from bitnet_chat.errors import TemplateFaultError
from bitnet_chat.templates.jinja import JinjaProgram
from bitnet_chat.templates.sandbox.protocol import SandboxLimits, read_request, write_answer


def run() -> None:
    """Serve requests from stdin on stdout."""
    source, to = sys.stdin.buffer, sys.stdout.buffer
    import jinja2.ext
    import jinja2.sandbox  # noqa: F401  # before the first limit, since it takes a second on a slow computer

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    program: JinjaProgram | None = None
    while (request := read_request(source)) is not None:
        limits, content = request
        given = json.loads(content)
        answer: dict[str, Any] = {}
        try:
            with _limited(limits):
                if program is None:
                    program = JinjaProgram(given["source"])
                else:
                    now = datetime.fromisoformat(given["now"])
                    answer["text"] = program.run(given["variables"], now, limits.output)
        except TemplateFaultError as fault:
            answer = {"fault": fault.kind, "text": fault.text}
        write_answer(to, json.dumps(answer).encode("ascii"))


@contextlib.contextmanager
def _limited(limits: SandboxLimits) -> Iterator[None]:
    """Apply the limits during the block."""
    if sys.platform == "win32":
        # Ends the process with exit code 1 during any computation; measures wall-clock time.
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            faulthandler.dump_traceback_later(3 * limits.seconds, exit=True, file=nowhere)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
    else:  # an explicit branch, because mypy would otherwise report unreachable code
        import resource

        former = resource.getrlimit(resource.RLIMIT_AS)
        with contextlib.suppress(OSError, ValueError):  # macOS defines the limit without supporting it
            resource.setrlimit(resource.RLIMIT_AS, (limits.memory, former[1]))
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, former)
