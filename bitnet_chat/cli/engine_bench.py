"""``bitnet-chat engine bench``: prefill and decode speed of each engine that can run a model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from bitnet_chat import config
from bitnet_chat.conversation.export import json_text
from bitnet_chat.engine import known_answer_results, speeds
from bitnet_chat.engine.selection import EngineOption, EngineRequest, contenders, judge
from bitnet_chat.engine.speeds import EngineSpeed
from bitnet_chat.engine_checks import benchmark, known_answers
from bitnet_chat.errors import BitnetChatError, FinishReason
from bitnet_chat.text.sanitize import one_line
from bitnet_chat.util.progress import ProgressClock, ProgressLine

if TYPE_CHECKING:
    from bitnet_chat.models.info import ModelInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bench`` to its parser."""
    parser.add_argument("-m", "--model", metavar="MODEL", default="", help="file or name (default: the model in use)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", default=0, help="threads (default: as for a reply)")
    parser.add_argument("--engine", metavar="PATH", default="", help="only this engine")
    parser.add_argument("--json", action="store_true", help="JSON output")


def run(flags: argparse.Namespace) -> int:
    """Measure the engines, store the speeds for the selection of engines, and print them. Returns the exit code.

    Raises EngineNotFoundError or ModelError if there is nothing to measure.
    """
    from bitnet_chat.backends.local_engine import engine_request, model_path
    from bitnet_chat.models.info import read_info

    given = {name: value for name in ("model", "threads", "engine") if (value := getattr(flags, name))}
    settings, configured = config.load(given)
    wish = engine_request(settings, configured)
    wish.require()
    model = model_path(settings, lambda infos: judge(wish)(infos))
    info = read_info(model)
    measured: dict[EngineOption, EngineSpeed] = {}
    line = ProgressLine(sys.stderr)
    clock = ProgressClock(line)
    try:
        clock.step("Checking known answers")
        _check_known_answers(wish, info)
        found = contenders(wish, info)
        problems = {each: each.obstacle for each in found if each.obstacle}
        for each in (each for each in found if not each.obstacle):
            try:
                measured[each] = benchmark.measure(each, model, settings, clock)
            except BitnetChatError as error:
                problems[each] = error.what
    except KeyboardInterrupt:
        line.close()
        return FinishReason.INTERRUPTED.exit_code
    finally:
        line.close()
    kind = {each: "IQ2_BN" if each.converts else info.quantization for each in found}
    speeds.keep({(known_answer_results.key(each.engine), kind[each]): speed for each, speed in measured.items()})
    rows = [_row(each, kind[each], measured.get(each), problems.get(each, "")) for each in found]
    if flags.json:
        print(json_text({"model": str(model), "engines": rows}, indent=2))
        return 0
    print(one_line(f"{model.name}, tokens per second:"))
    width = max(len(str(row["engine"])) for row in rows)
    print(f"{'engine':{width}}  type      prefill   decode")
    for row in rows:
        figures = f"{row['prefill']:7}  {row['decode']:7}" if row["prefill"] else one_line(str(row["problem"]))
        print(f"{row['engine']:{width}}  {row['type']:8}  {figures}")
    return 0


def _check_known_answers(wish: EngineRequest, info: ModelInfo) -> None:
    """Check the known answers of each engine that may run the model, because only a correct one is measured."""
    for each in contenders(wish, info):
        types = each.types(info)
        known_answers.check(
            each.engine, [one for one in known_answer_results.offered(each.engine) if one.weights in types]
        )


def _row(contender: EngineOption, kind: str, speed: EngineSpeed | None, problem: str) -> dict[str, object]:
    return {
        "engine": contender.name,
        "path": str(contender.engine.path),
        "version": contender.engine.version,
        "type": kind,
        "prefill": round(speed.prefill, 1) if speed else None,
        "decode": round(speed.decode, 1) if speed else None,
        "problem": problem,
    }
