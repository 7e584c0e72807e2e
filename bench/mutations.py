"""How many small mutations of pure modules their own tests catch: ``python bench/mutations.py [--each 6] [--seed 0]``.

A mutation changes one comparison, operator, constant, ``and``, ``not`` or flag of a dataclass. For each, the tests of
that module alone run in a copy of the checkout until one fails: the mutation is caught. The others are printed.
Tests that start an engine are left out, and hypothesis does not shrink what it finds. POSIX only.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    "text/utf8.py": "tests/text/test_utf8.py",
    "text/sse.py": "tests/text/test_sse.py",
    "text/cell_width.py": "tests/text/test_cell_width.py",
    "text/wrap.py": "tests/text/test_wrap.py tests/text/test_wrap_answers.py",
    "filters/stop_texts.py": "tests/filters/test_stop_texts.py",
    "filters/continuation.py": "tests/filters/test_continuation.py",
    "filters/role_markers.py": "tests/filters/test_fence_tracker.py tests/filters/test_reply_guard.py",
    "filters/repetition.py": "tests/filters/test_repetition.py tests/filters/test_repetition_answers.py",
    "filters/thinking.py": "tests/filters/test_thinking.py",
    "filters/tool_calls.py": "tests/filters/test_toolcalls.py tests/filters/test_tool_call_repair.py",
    "context/token_count.py": "tests/context/test_token_count.py",
    "conversation/message.py": "tests/conversation/test_message.py",
    "conversation/stdin_encoding.py": "tests/templates/test_stdin_encoding.py",
    "journal/codec.py": "tests/journal/test_codec.py",
    "journal/columns.py": "tests/journal/test_columns.py",
    "tools/schema.py": "tests/tools/test_schema.py",
    "models/names.py": "tests/models/test_part_names.py tests/models/test_model_names.py",
    "templates/special_tokens.py": "tests/templates/test_special_tokens.py",
}
UNCHANGED = {
    "text/utf8.py": [("32 to 33", "_JOINED = 32", "how often pieces are joined: memory only")],
    "text/wrap.py": [
        ("comparison", 'if first < "\\u0e00":', "U+0E00 is not assigned"),
        ("0 to 1", "if blanks is not None else 0", "the pattern matches every line"),
        ("0 to 1", "if columns is not None else 0", "without a terminal nothing is wrapped"),
        ("0 to 1", "self._sent = 0", "a word in front of the unit takes a cell at least"),
        ("comparison", 'and (self._tail < "\\u0300")', "U+0300 joins nothing that follows"),
    ],
    "text/cell_width.py": [
        ("4 to 5", "text[-4 * max(columns, 1) :]", "how much of the end is looked at: time only"),
        ("1 to 2", "text[-4 * max(columns, 1) :]", "the result for 0 columns is empty anyway"),
        ("comparison", "elif room > 0:", "a piece in 0 columns is empty"),
    ],
    "filters/stop_texts.py": [
        ("operator", "default=0) - 1", "longer ends are not beginnings: time only"),
        ("0 to 1", "default=0) - 1", "the default is not used: without stop texts nothing waits"),
        ("comparison", "len(stop) > length", "a whole stop text was found before"),
    ],
    "filters/continuation.py": [
        ("3 to 4", "max(0, len(reply) - 3)", "how much is looked at: time only"),
        ("2 to 3", "[min(2, len(text) - len(text.rstrip(", "nothing is left of two line breaks in both cases"),
    ],
    "filters/role_markers.py": [
        ("1 to 2", 'default=(-1, "")', "any negative number: not found"),
        ("0 to 1", "self._reach = max(map(len, branches), default=0)", "without markers nothing is searched"),
    ],
    "context/token_count.py": [
        ("4096 to 4097", "LIMIT = 4096", "how many counts are kept: memory only"),
        ("4000000 to 4000001", "CHARACTER_LIMIT = 4_000_000", "the same"),
        ("0 to 1", "self._characters = 0", "the same"),
    ],
    "conversation/message.py": [("1 to 2", "range(len(self.messages) - 1, -1, -1)", "the last message twice")],
    "conversation/stdin_encoding.py": [("128 to 129", "range(128)", "the pattern matches none of these")],
    "tools/schema.py": [("1 to 2", "depth = -1", "any negative number: not known yet")],
    "filters/repetition.py": [
        ("1 to 2", "< wanted - 1", "a first look, before the repetitions are counted"),
        ("comparison", "< wanted - 1", "the same: an endless list has more of them"),
        ("and/or", "if len(texts) == 1 or _words(texts) < _COUNTER_WORDS", "the same: each unit is looked at again"),
    ],
    "filters/tool_calls.py": [
        ("0 to 1", "self._scanned = 0", "set again where a call begins"),
        ("1 to 2", "self._string = -1", "any negative number: no string"),
        ("1 to 2", "self._scanned, self._string = 0, -1", "any negative number: no string"),
        ("comparison", "if self._string >= 0:", "a body that begins with a string is not a call anyway"),
        ("0 to 1", "if self._string >= 0:", "a body that begins with a string is not a call anyway"),
        ("False to True", "at_end: bool = False) -> None:", "only the end of a reply is white space alone"),
    ],
}
"""Mutations that a caller cannot see: of a line with this text, each with the reason."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
OPTIONS = (
    *("-q", "-x", "-m", "not engine", "--timeout=30"),
    *("-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
)
Mutation = tuple[ast.AST, Callable[[], None], str]


def mutations(tree: ast.Module) -> Iterator[Mutation]:
    """Each node that can be changed, what changes it in place, and what that is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for at, operator in enumerate(node.ops):
                if type(operator) in SWAPS:
                    yield node, lambda n=node, a=at: n.ops.__setitem__(a, SWAPS[type(n.ops[a])]()), "comparison"  # type: ignore[misc]
        elif isinstance(node, ast.BoolOp):
            yield node, lambda n=node: setattr(n, "op", SWAPS[type(n.op)]()), "and/or"  # type: ignore[misc]
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in SWAPS:
            yield node, lambda n=node: setattr(n, "op", SWAPS[type(n.op)]()), "operator"  # type: ignore[misc]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, lambda n=node: setattr(n, "operand", ast.UnaryOp(ast.Not(), n.operand)), "not"  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
            changed = not node.value if isinstance(node.value, bool) else node.value + 1
            yield node, lambda n=node, v=changed: setattr(n, "value", v), f"{node.value} to {changed}"  # type: ignore[misc]


def annotations(tree: ast.Module) -> set[int]:
    """Nodes of types, of which nothing runs. The flags of a decorator of a class are not among them."""
    found: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            parts.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts.append(node.returns)
        found |= {id(inner) for part in parts if part is not None for inner in ast.walk(part)}
    return found


class Module:
    """A module in a copy of the checkout, with its tests."""

    def __init__(self, checkout: Path, name: str) -> None:
        self.name, self._checkout = name, checkout
        self._path = checkout / "bitnet_chat" / name
        self._source = self._path.read_text("utf-8")
        self._tree = ast.parse(self._source)
        skipped = annotations(self._tree)
        if stale := [text for _, text, _ in UNCHANGED.get(name, ()) if text not in self._source]:
            sys.exit(f"{name} has no such lines (see UNCHANGED): {stale}")
        self.places = [
            place
            for place, (node, _, what) in enumerate(mutations(self._tree))
            if id(node) not in skipped and not self._is_unseen(node, what)
        ]

    def _is_unseen(self, node: ast.AST, what: str) -> bool:
        return any(what == kind and text in self._line(node) for kind, text, _ in UNCHANGED.get(self.name, ()))

    def _line(self, node: ast.AST) -> str:
        return self._source.splitlines()[getattr(node, "lineno", 1) - 1].strip()

    def passes(self) -> bool:
        """Whether all tests of the module pass, in a process that begins with pytest imported."""
        process = os.fork()
        if not process:
            os.chdir(self._checkout)
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            sys.path.insert(0, str(self._checkout))
            os._exit(pytest.main([*OPTIONS, *MODULES[self.name].split()]))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status > 2:  # 1: a test has failed, 2: an import
            sys.exit(f"pytest ended with status {status}: {' '.join([*OPTIONS, MODULES[self.name]])}")
        return status == 0

    def escapes(self, place: int) -> str:
        """The mutation of this number if the tests do not catch it; empty if they do."""
        mutant = copy.deepcopy(self._tree)
        node, change, what = list(mutations(mutant))[place]
        line = self._line(node)
        change()
        self._path.write_text(ast.unparse(ast.fix_missing_locations(mutant)), "utf-8")
        try:
            return f"{self.name}:{getattr(node, 'lineno', 0)}: {what}: {line}" if self.passes() else ""
        finally:
            self._path.write_text(self._source, "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=6, help="mutations of a module at most; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice")
    parser.add_argument("modules", nargs="*", help="modules, all unless given")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    caught = total = 0
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, checkout, ignore=ignored)
        sys.dont_write_bytecode = True
        os.environ |= {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutations", phases=phases, database=None, derandomize=True)
        hypothesis.settings.load_profile("mutations")
        for name in MODULES:
            module = Module(checkout, name)
            chosen = sorted(chance.sample(module.places, min(arguments.each or len(module.places), len(module.places))))
            if arguments.modules and name not in arguments.modules:
                continue
            if not module.passes():
                sys.exit(f"{MODULES[name]} fails without a mutation")
            found = 0
            for place in chosen:
                if escaped := module.escapes(place):
                    print(f"  {escaped}", flush=True)
                else:
                    found += 1
            print(f"{name}: {found} of {len(chosen)}", flush=True)
            caught, total = caught + found, total + len(chosen)
    print(f"{caught} of {total} mutations caught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
