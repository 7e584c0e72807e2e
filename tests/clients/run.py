"""Clients as they were published, in one process: ``python -I run.py URL NAME...`` writes one JSON object, by name.

Each module beside this file has ``main(url)``, which gives what its client got, or an awaitable of it. An empty URL:
they are imported and not called.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
import traceback
from pathlib import Path
from typing import Any


def main(url: str, *names: str) -> None:
    got: dict[str, Any] = {}
    for name in names:
        # Not by name: the module of langchain would take the place of the package.
        spec = importlib.util.spec_from_file_location(f"client_{name}", Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
            result = module.main(url) if url else None
            got[name] = asyncio.run(result) if inspect.iscoroutine(result) else result
        except Exception:
            got[name] = {"failed": traceback.format_exc()}
    print(json.dumps(got))


main(*sys.argv[1:])
