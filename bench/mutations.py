"""How many small mutations of pure modules their own tests notice: ``python bench/mutations.py [--each 8] [--seed 0]``.

A mutation turns one comparison, operator, constant, ``and`` or ``not`` of a module into another one. For each the tests
of that module alone run in a copy of the checkout; those that fail have caught it. What was not caught is printed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    "text/utf8.py": "tests/text/test_utf8.py",
    "text/sse.py": "tests/text/test_sse.py",
    "text/cell_width.py": "tests/text/test_wrap.py tests/text/test_cell_width.py tests/repl/test_repl_toolbar.py",
    "text/wrap.py": "tests/text/test_wrap.py",
    "filters/stop_texts.py": "tests/filters/test_stop_texts.py",
    "filters/continuation.py": "tests/filters",
    "filters/role_markers.py": "tests/filters",
    "filters/repetition.py": "tests/filters/test_repetition.py",
    "filters/thinking.py": "tests/filters/test_thinking.py",
    "filters/tool_calls.py": "tests/filters/test_toolcalls.py",
    "context/token_count.py": "tests/context/test_token_count.py",
    "conversation/message.py": "tests/conversation tests/journal/test_codec.py",
    "conversation/stdin_encoding.py": "tests/templates/test_stdin_encoding.py -m not(engine)",
    "journal/codec.py": "tests/journal/test_codec.py",
    "journal/columns.py": "tests/journal/test_journal_columns.py",
    "tools/schema.py": "tests/tools/test_tools.py",
    "templates/special_tokens.py": "tests/templates/test_special_tokens.py",
}
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


def mutations(tree: ast.Module) -> Iterator[tuple[ast.AST, Callable[[], None], str]]:
    """Each node that can be changed, what changes it in place, and what that is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, lambda n=node: n.ops.__setitem__(0, SWAPS[type(n.ops[0])]()), "comparison"  # type: ignore[misc]
        elif isinstance(node, ast.BoolOp):
            yield node, lambda n=node: setattr(n, "op", SWAPS[type(n.op)]()), "and/or"  # type: ignore[misc]
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not isinstance(node.left, ast.JoinedStr):
            yield node, lambda n=node: setattr(n, "op", SWAPS[type(n.op)]()), "operator"  # type: ignore[misc]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, lambda n=node: setattr(n, "op", ast.UAdd()), "not"  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
            changed = not node.value if isinstance(node.value, bool) else node.value + 1
            yield node, lambda n=node, v=changed: setattr(n, "value", v), f"{node.value} to {changed}"  # type: ignore[misc]


def of_annotations(tree: ast.Module) -> set[int]:
    """Nodes that are types or flags of decorators: nothing of them runs, or another test holds them."""
    left = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            parts.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts += [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            parts += node.decorator_list
        left |= {id(inner) for part in parts if part is not None for inner in ast.walk(part)}
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=8, help="mutations of a module at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice")
    parser.add_argument("modules", nargs="*", help="modules, all unless given")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    caught = total = 0
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__"))
        for name, tests in MODULES.items():
            if arguments.modules and name not in arguments.modules:
                continue
            path = checkout / "bitnet_chat" / name
            source = path.read_text("utf-8")
            tree = ast.parse(source)
            skipped = of_annotations(tree)
            places = [place for place, (node, _, _) in enumerate(mutations(tree)) if id(node) not in skipped]
            found = 0
            chosen = sorted(chance.sample(places, min(arguments.each, len(places))))
            for place in chosen:
                mutant = copy.deepcopy(tree)
                node, change, what = list(mutations(mutant))[place]
                change()
                path.write_text(ast.unparse(mutant), "utf-8")
                words = [word.replace("not(engine)", "not engine") for word in tests.split()]
                argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "60", *words]
                done = subprocess.run(argv, cwd=checkout, capture_output=True, text=True)
                if done.returncode:
                    found += 1
                else:
                    line = getattr(node, "lineno", 0)
                    print(f"  {name}:{line}: {what}: {source.splitlines()[line - 1].strip()}", flush=True)
            path.write_text(source, "utf-8")
            print(f"{name}: {found} of {len(chosen)}", flush=True)
            caught, total = caught + found, total + len(chosen)
    print(f"{caught} of {total} mutations caught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
