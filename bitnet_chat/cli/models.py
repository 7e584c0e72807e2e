"""``bitnet-chat models list|pull|info|rm|verify``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat import config, paths
from bitnet_chat.cli import conversion
from bitnet_chat.cli.first_run import EngineOffer
from bitnet_chat.cli.messages import may_remove
from bitnet_chat.cli.parser import Parser
from bitnet_chat.conversation.export import json_text
from bitnet_chat.errors import FinishReason, UsageError
from bitnet_chat.models import store
from bitnet_chat.models.catalog import BITNET_ENGINE, Catalog, CatalogItem
from bitnet_chat.models.registry import is_name
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.progress import Progress, ProgressLine, size

if TYPE_CHECKING:
    from bitnet_chat.engine.selection import EngineRequest
    from bitnet_chat.models.hugging_face import OfferedModel
    from bitnet_chat.models.model_download import PulledModel
    from bitnet_chat.models.registry import ModelSource


def run(arguments: Sequence[str]) -> int:
    """See :data:`bitnet_chat.cli.VERBS`."""
    flags = parser().parse_args(arguments)
    match flags.verb:
        case "list":
            return _list(flags)
        case "pull":
            return _pull(flags)
        case "info":
            return _info(flags)
        case "verify":
            return _verify(flags)
        case _:
            return _remove(flags)


def parser() -> Parser:
    """See :data:`bitnet_chat.cli.VERBS`."""
    parser = Parser(prog="bitnet-chat models", description="Installed and available models.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    listing = verbs.add_parser("list", help="installed and available models, and which fit into memory")
    listing.add_argument("--engine", metavar="PATH", help="engine for the comparison")
    listing.add_argument("-c", "--ctx", type=_count, default=0, metavar="N", help="context window for the comparison")
    pulling = verbs.add_parser("pull", help="download of a model; an interrupted one resumes")
    pulling.add_argument(
        "model",
        metavar="MODEL",
        help="name of the list, hf:user/repo:QUANT, hf:user/repo/file.gguf[@revision] or a URL; "
        "hf:user/repo lists its files",
    )
    pulling.add_argument("--name", default="", help="name for the model")
    pulling.add_argument(
        "--only-converted",
        action="store_true",
        help="removal of the original of a model that the engine needs converted",
    )
    pulling.add_argument("--if-missing", action="store_true", help="no download if a model is installed")
    pulling.add_argument("--yes", action="store_true", help="installation of a missing engine without confirmation")
    pulling.add_argument("--without-engine", action="store_true", help=argparse.SUPPRESS)
    informing = verbs.add_parser("info", help="metadata of a model file")
    informing.add_argument("model", metavar="FILE", help="a file, or a name")
    checking = verbs.add_parser("verify", help="check of models against their hashes")
    checking.add_argument("names", nargs="*", metavar="NAME", help="default: all installed models")
    removing = verbs.add_parser("rm", help="permanent deletion of models")
    removing.add_argument("names", nargs="+", metavar="NAME")
    removing.add_argument("-y", "--yes", action="store_true", help="no confirmation")
    for each in (listing, pulling, informing, checking, removing):
        each.add_argument("--json", action="store_true", help="JSON output")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens")
    return int(text)


def _print_json(content: object) -> None:
    print(json_text(content, indent=2))


# list


def _list(flags: argparse.Namespace) -> int:
    from bitnet_chat.engine import selection
    from bitnet_chat.models import catalog

    wish = _engine_request(flags.engine or "")
    found = catalog.take(selection.judge(wish), flags.ctx, missing=selection.missing_for_bitnet(wish))
    if flags.json:
        _print_json([asdict(item) for item in found.items])
        return 0
    for line in _listed(found):
        print(line)
    return 0


def _engine_request(given: str = "") -> EngineRequest:
    """Return a request for the engine of the flag or of the settings, else for any that is installed."""
    from bitnet_chat.engine.selection import EngineRequest

    settings, configured = config.load({})
    return EngineRequest(given or settings.engine, configured, limit=settings.probe_timeout)


def _listed(found: Catalog) -> list[str]:
    here = [item for item in found.items if item.installed and not item.bundled and not item.program]
    elsewhere = [item for item in found.items if item.program]
    ours = [item for item in found.items if item.bundled]
    there = [item for item in found.items if not item.installed]
    width = max((len(item.name) for item in found.items), default=0)
    lines = [one_line(f"Installed in {paths.models_dir()}:")] if here else []
    lines += [_row(item, width) for item in here]
    lines += [f"  {name}: {size(count)} of an interrupted download" for name, count in found.unfinished]
    if elsewhere:
        lines += ["Models of other programs, used in place:", *(_row(item, width, item.path) for item in elsewhere)]
    if here or elsewhere:
        mark = "* is used without -m" if found.choice.name else "-m auto"
        instead = "; the bundled one is used" if ours and not found.choice.name else ""
        lines.append(f"{mark}: {one_line(found.choice.reason)}{instead}")
    if ours:
        others = (
            "Bundled: a demo model for tests and offline use"
            if here or elsewhere
            else "Only the bundled demo model is installed"
        )
        answers = "" if found.choice.name else ", used without -m"
        lines += [
            f"{others}{answers}:",
            *(_row(replace(item, auto=False), width) for item in ours),
        ]
    elif not (here or elsewhere):
        lines.insert(0, "No model is installed.")
    if there:
        lines += ["Available with bitnet-chat models pull NAME:", *(_row(item, width) for item in there)]
        if not all(item.checked for item in there):
            lines.append(
                "not checked: the sha256 of the file is not known in advance; a pull compares it with that of the hub"
            )
    return lines


def _row(item: CatalogItem, width: int, path: str = "") -> str:
    held = f"{'' if item.size_is_exact else '~'}{size(item.size)}" if item.size else "?"
    needs = f"needs {size(item.memory)}" if item.memory else ""
    fits = one_line(item.obstacle) or {True: "fits", False: "more memory than is free", None: ""}[item.fits]
    quantization = one_line(item.quantization)
    notes = "  ".join(
        filter(
            None,
            (
                "embedding" if item.kind == "embedding" else "",
                fits,
                "" if item.checked else "not checked",
                one_line(path),
            ),
        )
    )
    return f"{'*' if item.auto else ' '} {item.name:{width}}  {held:>8}  {quantization:9}  {needs:13}  {notes}".rstrip()


# pull


def _pull(flags: argparse.Namespace) -> int:
    from bitnet_chat.models.registry import entries, parse
    from bitnet_chat.models.resolve import present

    if flags.if_missing and present():
        return 0
    source = parse(flags.model, entries(), flags.name)
    if source.repo and not source.file:
        from bitnet_chat.models import hugging_face

        models = hugging_face.offered(hugging_face.files(source))
        if not source.quantization:
            return _show_offered(source, models, flags)
        source = hugging_face.pick(source, models)
    given = {"install": "no"} if flags.without_engine else {"install": "yes"} if flags.yes else {}
    engine = EngineOffer(source.name, *config.load(given))
    if flags.model in entries() and (code := engine.provide(flags.model)):
        return code
    pulled = _download(source)
    if pulled is None:
        return FinishReason.INTERRUPTED.exit_code
    model = pulled.model
    if code := engine.provide(str(model.path)):
        return code
    if not flags.without_engine and (missing := engine.describe(str(model.path))):
        print(f"bitnet-chat: {one_line(missing)}", file=sys.stderr)
    conversion.after_pull(model.path, _engine_request(), alone=flags.only_converted)
    if flags.json:
        record = asdict(model.record) if model.record else {}
        _print_json({"name": model.name, "path": str(model.path), "was_here": pulled.was_here} | record)
    else:
        state = "is already installed" if pulled.was_here else f"is installed, {size(model.size)}"
        print(one_line(f"{model.name} {state}: bitnet-chat -m {model.name}"))
        if not pulled.was_here and model.record and model.record.license:
            print(one_line(f"licence: {model.record.license}"))
    return 0


def _download(source: ModelSource) -> PulledModel | None:
    """Download a model with progress. Returns None if the user has stopped it. Raises ModelError."""
    from bitnet_chat.models.model_download import pull

    line = ProgressLine(sys.stderr)
    told: set[str] = set()

    def wait(holder: str) -> None:
        if holder not in told:
            told.add(holder)
            print(f"bitnet-chat: waiting: process {holder or '?'} is also pulling {source.name}", file=sys.stderr)

    try:
        pulled = pull(source, on_bytes=_show_bytes(line, f"Fetching {source.name}"), on_wait=wait)
    except KeyboardInterrupt:
        line.close()
        print("bitnet-chat: stopped; run the same command to resume", file=sys.stderr)
        return None
    finally:
        line.close()
    if pulled.warning:
        print(f"bitnet-chat: {one_line(pulled.warning)}", file=sys.stderr)
    return pulled


def _show_offered(source: ModelSource, models: Sequence[OfferedModel], flags: argparse.Namespace) -> int:
    if flags.json:
        _print_json([asdict(each) for each in models])
        return 0
    if not models:
        raise UsageError(
            f"{source.origin} contains no GGUF model", remedy="look for a repository NAME-GGUF, which many models have"
        )
    print(f"{source.origin} contains:")
    width = max(len(each.quantization) for each in models)
    for each in models:
        held = size(each.size) if each.size else "?"
        parts = f" ({each.parts} parts)" if each.parts > 1 else ""
        print(f"  {each.quantization:{width}}  {held:>7}  {one_line(each.file)}{parts}")
    at = f"@{source.revision}" if source.revision else ""
    choice = next((each.quantization for each in models if each.quantization), "QUANT")
    print(f"Available with bitnet-chat models pull hf:{source.repo}:{choice}{at}")
    return 0


def _show_bytes(line: ProgressLine, step: str) -> Callable[[int, int], None]:
    """Return a callback that shows the bytes done and in total on ``line``. Bytes of an earlier run do not count for
    the rate.
    """
    began, first = time.monotonic(), -1

    def show(done: int, total: int) -> None:
        nonlocal first
        first = done if first < 0 else first
        passed = time.monotonic() - began
        fresh = done - first
        eta = (total - done) * passed / fresh if total and fresh > 0 and passed > 1 else None
        detail = f"{size(done)} of {size(total)}" if total else size(done)
        line(Progress(step, done, total, passed, eta, detail))

    return show


# info


def _info(flags: argparse.Namespace) -> int:
    from bitnet_chat.models.info import read_info
    from bitnet_chat.models.registry import entries
    from bitnet_chat.models.resolve import find, resolve

    known = entries()
    if not Path(flags.model).exists() and find(flags.model) is None and flags.model in known:
        entry = known[flags.model]
        facts: dict[str, object] = {
            "name": entry.name,
            "title": entry.title,
            "installed": False,
            "origin": entry.origin,
            "kind": entry.kind,
            "size": entry.bytes or None,
            "size_is_exact": bool(entry.size),
            "checked": entry.checked,
            "sha256": entry.sha256,
            "quantization": entry.quantization,
            "parameters": entry.parameters,
            "context_length": entry.context or None,
            "memory": entry.memory(),
            "engine": BITNET_ENGINE if entry.engine == "bitnet" else "any",
            "chat_template": entry.template,
            "sampling": dict(entry.sampling),
            "license": entry.license,
        }
    else:
        from bitnet_chat.engine.selection import judge
        from bitnet_chat.models.catalog import described

        facts = described(read_info(resolve(flags.model, judge=judge(_engine_request())).path))
    if flags.json:
        _print_json(facts)
        return 0
    shown = {key: _words(key, value) for key, value in facts.items()}
    width = max(map(len, shown))
    for key, text in shown.items():
        if text:
            print(f"{key.replace('_', ' '):{width}}  {one_line(text)}")
    return 0


def _words(key: str, value: object) -> str:
    if key in ("size", "memory") and isinstance(value, int):
        return f"{size(value)} ({value} bytes)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    if key == "parameters" and isinstance(value, int):
        return f"{value / 1e9:.2f} B" if value > 1e8 else f"{value / 1e6:.1f} M"
    return "" if value is None else str(value)


# rm, verify


def _remove(flags: argparse.Namespace) -> int:
    names = list(dict.fromkeys(flags.names))
    for name in names:
        if not is_name(name) or (store.find(name) is None and not store.leftovers(name)):
            raise _not_installed(name, "removed")
    if not flags.yes:
        found = {name: store.find(name) for name in names}
        if not may_remove(
            [f"{name}  {size(at.size) if at else 'an interrupted download'}" for name, at in found.items()]
        ):
            return 1
    freed = sum(store.remove(name) for name in names)
    if flags.json:
        _print_json({"removed": names, "freed": freed})
    else:
        print(f"removed: {', '.join(names)}; {size(freed)} are free again")
    return 0


def _not_installed(name: str, done: str) -> UsageError:
    from bitnet_chat.models import other_programs
    from bitnet_chat.models.resolve import bundled

    other = other_programs.find(name)
    if other is not None:
        return other_programs.refusal(other, done)

    ours = bundled()
    if ours is not None and ours.name == name:
        return UsageError(f"{name} is the bundled model and cannot be removed")
    return UsageError(f"model {name!r} is not installed", remedy="bitnet-chat models list shows them")


def _verify(flags: argparse.Namespace) -> int:
    from bitnet_chat.models.registry import entries
    from bitnet_chat.models.verify import verify

    models = []
    for name in flags.names or [each.name for each in store.installed()]:
        found = store.find(name)
        if found is None:
            raise _not_installed(name, "verified")
        models.append(found)
    known, line, verdicts = entries(), ProgressLine(sys.stderr), []
    try:
        for model in models:
            verdicts.append(verify(model, known, _show_bytes(line, f"Reading {model.name}")))
    finally:
        line.close()
    if flags.json:
        _print_json([asdict(each) | {"ok": not each.problems} for each in verdicts])
    for each in () if flags.json else verdicts:
        whose = f"its sha256 matches the {each.compared_with}" if each.compared_with else "its hash is not known"
        print(one_line(f"{each.name}: {'; '.join(each.problems) or f'complete; {whose}'}"))
    return FinishReason.BAD_MODEL.exit_code if any(each.problems for each in verdicts) else 0
