"""``config.toml`` as text: values, and the commented file that ``bitnet-chat config edit`` begins with."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from bitnet_chat import config
from bitnet_chat.errors import UsageError

# Beyond what JSON escapes: DEL, which TOML wants escaped, and what a terminal or an eye may take for something else.
_ESCAPED = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")

_TITLE = """\
# Settings of bitnet-chat. Each line shows a default: take its # away to change it.
# A persona, BITNET_CHAT_* variables and flags win over this file; `bitnet-chat config show` tells which did.
"""


def value(value: Any) -> str:
    """As TOML: JSON's spelling is TOML's for texts, numbers that are finite, true and false, and lists of texts."""
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@cache
def documentation() -> dict[str, str]:
    """The docstring of each setting, on one line. They are in the source alone: empty where that is not there."""
    docs = dict.fromkeys((each.name for each in fields(config.Settings)), "")
    with contextlib.suppress(OSError, SyntaxError):
        tree = ast.parse(Path(config.__file__).read_text("utf-8"))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
        name = ""
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
                docs[name] = " ".join(str(node.value.value).split())
    return docs


def commented() -> str:
    """All settings with what they mean and their defaults, as comments."""
    defaults = config.Settings()
    parts = [_TITLE]
    for name, words in documentation().items():
        parts.append(f"# {words}\n#{name} = {value(getattr(defaults, name))}\n")
    return "\n".join(parts)


def create(path: Path) -> None:
    """The commented file, mode 0600, unless there is one. Raises UsageError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(commented())
        except OSError:  # a full disk: half a file would be taken for a whole one
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{error.filename or path} cannot be written: {error.strerror}") from None
