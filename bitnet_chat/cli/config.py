"""``bitnet-chat config show|path|edit|personas``, and ``config.toml`` as text."""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from bitnet_chat import config, paths
from bitnet_chat.cli.messages import can_prompt, confirm
from bitnet_chat.cli.parser import Parser, add_settings, parse
from bitnet_chat.conversation.export import json_text
from bitnet_chat.errors import UsageError
from bitnet_chat.text.sanitize import one_line, visible


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`."""
    flags, given = parse(arguments, parser())
    if flags.verb == "show":
        return _show(flags, given)
    if flags.verb == "edit":
        return _edit(paths.config_file())
    if flags.verb == "personas":
        return _personas(flags)
    print(visible(str(paths.config_file())))
    return 0


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(prog="bitnet-chat config", description="The settings and their sources.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    showing = verbs.add_parser(
        "show",
        help="every value with its source, as TOML; flags are taken into account",
        usage="bitnet-chat config show [--json] [FLAG …] [-- ENGINE-FLAG …]",
        argument_default=argparse.SUPPRESS,
    )
    add_settings(showing)
    verbs.add_parser("path", help="path of config.toml")
    verbs.add_parser("edit", help="editor ($EDITOR) with config.toml; a new file lists all settings")
    listing = verbs.add_parser("personas", help="the personas with their paths", argument_default=argparse.SUPPRESS)
    for each in (showing, listing):
        each.add_argument("--json", action="store_true", help="JSON output")
    return parser


def _show(flags: argparse.Namespace, given: dict[str, Any]) -> int:
    values = {name: _masked(name, each) for name, each in config.sourced(given).items()}
    if hasattr(flags, "json"):
        entries = {name: {"value": each.value, "origin": each.origin} for name, each in values.items()}
        print(json_text(entries, indent=2))
    else:
        lines = [f"{name} = {value(each.value)}" for name, each in values.items()]
        width = min(max(map(len, lines)), 32)
        for line, each in zip(lines, values.values(), strict=True):
            print(f"{visible(line):<{width}}  # {one_line(each.origin)}")
    for variable in config.unknown_variables():
        print(
            f"bitnet-chat: unknown environment variable ${one_line(variable)} is ignored"
            f"{config.did_you_mean(variable, _variables())}",
            file=sys.stderr,
        )
    return 0


def _masked(name: str, value: config.SettingValue) -> config.SettingValue:
    """Return ``value``, or a mask if the setting is a secret."""
    secret = name in config.SECRET and value.value
    return config.SettingValue("(secret)", value.origin) if secret else value


def _variables() -> list[str]:
    return [config.ENVIRONMENT_PREFIX + name.upper() for name in documentation()]


def _edit(path: Path) -> int:
    from bitnet_chat.util.editor import edit_file

    create(path)
    while True:
        edit_file(path)
        try:
            config.load({}, {})
            return 0
        except UsageError as error:
            if not _asks_to_edit_again(error):
                raise UsageError(
                    error.what,
                    remedy="the file is invalid; correct it with bitnet-chat config edit",
                ) from None


def _asks_to_edit_again(error: UsageError) -> bool:
    """Show the error and ask whether to edit the file again. Returns False without a terminal."""
    if not can_prompt():
        return False
    print(f"bitnet-chat: {visible(str(error))}", file=sys.stderr)
    return confirm("Edit it again?", usually=True)


def _personas(flags: argparse.Namespace) -> int:
    entries: list[dict[str, Any]] = []
    for name in config.names():
        try:
            each = config.find(name)
        except UsageError as error:
            entries.append({"name": name, "problem": error.what})
        else:
            source = "shipped" if each.shipped else str(each.source)
            settings = {key: _masked(key, config.SettingValue(value, "")).value for key, value in each.values.items()}
            entries.append({"name": name, "description": each.description, "source": source, "settings": settings})
    if hasattr(flags, "json"):
        print(json_text(entries, indent=2))
        return 0
    width = max((len(entry["name"]) for entry in entries), default=0)
    for entry in entries:
        words = entry.get("problem") or entry["description"] or "no description"
        place = f"  [{entry['source']}]" if entry.get("source", "shipped") != "shipped" else ""
        print(f"{one_line(entry['name']):<{width}}  {one_line(words + place)}")
    print(f"\nAdd your own in {one_line(str(config.folder()))} as NAME.toml: a description, and any settings.")
    return 0


# Characters that JSON does not escape: control characters, which TOML requires to be escaped, and invisible or
# reordering ones.
_ESCAPED = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")

_TITLE = """\
# Settings of bitnet-chat. Each line shows a default: remove the # to change it.
# A persona, BITNET_CHAT_* variables and flags override this file; `bitnet-chat config show` shows the sources.
"""


def value(value: Any) -> str:
    """Return a value as TOML: the JSON form, which is valid TOML for strings, finite numbers, booleans and lists of
    strings.
    """
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@cache
def documentation() -> dict[str, str]:
    """Return the description of each setting, on one line, by name. They are read from the source of
    :class:`bitnet_chat.config.Settings`, and empty without it.
    """
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
    """Return the text of a new ``config.toml``: all settings with their descriptions and defaults, as comments."""
    defaults = config.Settings()
    parts = [_TITLE]
    for name, words in documentation().items():
        parts.append(f"# {words}\n#{name} = {value(getattr(defaults, name))}\n")
    return "\n".join(parts)


def create(path: Path) -> None:
    """Write :func:`commented` to ``path``, with mode 0600, unless it exists. Raises UsageError if it cannot be
    written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(commented())
        except OSError:  # such as a full disk: an incomplete file would count as existing
            path.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{error.filename or path} cannot be written: {error.strerror}") from None
