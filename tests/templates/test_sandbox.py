"""Chat templates of others: what they may take, what is said of those that fail, and that nothing waits for them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import token_model
from program import fake_engine, run

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.doctor.finding import FindingStatus
from bitnet_chat.doctor.model import judge
from bitnet_chat.errors import FinishReason, ModelError
from bitnet_chat.events import Completed, Event
from bitnet_chat.models.info import read_info
from bitnet_chat.templates import sandbox
from bitnet_chat.templates.builtin import OWN
from bitnet_chat.templates.chat_template import ChatTemplate
from bitnet_chat.templates.jinja import JinjaProgram
from bitnet_chat.templates.sandbox import SandboxedProgram, program_of
from bitnet_chat.templates.sandbox.protocol import SandboxLimits

LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
NESTED = "{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}"
SLOW, NOW = SandboxLimits(seconds=0.2), datetime(2026, 11, 29)
LONG = "{% for i in range(2000) %}{{ 'x' * 1000 }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (LOOPS, "fails: it takes longer than"),
        (NESTED, "fails: it takes longer than"),
        ("{{ lipsum(n=100000000) }}", "fails: it takes longer than"),
        ("{{ 'a' * 3000000000 }}", "fails: it exceeds the memory"),
        ("{{ messages[0].content.ljust(3000000000) }}", "fails: it exceeds the memory"),
        (LONG, "fails: it writes more than 1,"),
    ],
)
def test_a_template_has_limits(source: str, said: str) -> None:
    begun = psutil.Process().memory_info().rss
    with pytest.raises(ModelError, match=f"the chat template of x {said}"):
        ChatTemplate(source, name="of x", read=lambda text: SandboxedProgram(text, SLOW)).marks()
    assert psutil.Process().memory_info().rss - begun < 200_000_000


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ 1 | dictsort }}", "fails: AttributeError: "),
        ("{{ cycler() }}", "fails: RuntimeError: "),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError: "),
        ("{{ messages | nonsense }}", "cannot be read: "),
        ("{{ messages[7].content }}", "fails: .* has no element 7"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails: RecursionError: "),
        ("{{ raise_exception('only ' + 'x' * 9999) }}", "refused this conversation: only x{200,300}\n"),
    ],
)
def test_whatever_a_template_raises_is_said_in_one_line(source: str, said: str) -> None:
    for read in (JinjaProgram, program_of):
        with pytest.raises(ModelError, match=f"^the chat template of x {said}") as raised:
            ChatTemplate(source, name="of x", read=read).marks()
        assert "\n" not in raised.value.what and "--chat-template" in raised.value.remedy


def test_one_process_answers_and_goes_with_its_template() -> None:
    source = "{{ messages | tojson }}{{ strftime_now('%d.%m.%Y') }}"
    program = program_of(source)
    assert program_of(source) is program and isinstance(program, SandboxedProgram)
    assert program.run({"messages": ["é\udc80"]}, NOW) == '["é\udc80"]29.11.2026'
    assert program._child.process is not None
    program._child.process.kill()  # the next request starts another one
    program._child.process.wait()
    assert program.run({"messages": [1]}, NOW) == "[1]29.11.2026"
    process = psutil.Process(program.pid)
    del program
    assert not process.is_running()
    assert all(isinstance(program_of(each), JinjaProgram) for each in OWN)  # none for our own


def test_memory_is_looked_at_where_the_system_does_not_limit_it() -> None:
    hungry = "x = b'1' * 200_000_000; import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", hungry]) as process:
        with sandbox._MemoryWatch(process, SandboxLimits(memory=100_000_000)) as watch:
            process.wait(30)
        assert watch.reason == "it takes more than 100 MB of memory"


class Blocked:
    """A template that takes as long as the test wants for one message."""

    def __init__(self, source: str) -> None:
        self._program = JinjaProgram(source)

    def run(self, variables: Mapping[str, Any], now: datetime) -> str:
        if any("block" in message["content"] for message in variables["messages"]):
            blocked.set()
            assert released.wait(30)
        return self._program.run(variables, now)


blocked, released = threading.Event(), threading.Event()


def test_nothing_waits_for_a_template(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs on while one renders, and a reply can be stopped."""
    monkeypatch.setattr(sandbox, "program_of", Blocked)
    settings = Settings(engine=str(fake_engine(tmp_path)), model=str(model), chat_template="chatml")

    async def replies(backend: LocalEngineBackend, text: str) -> list[Event]:
        return [event async for event in backend.reply(Conversation().with_user(text), ReplyOptions())]

    async def main() -> None:
        backend = LocalEngineBackend(settings)
        try:
            asked = asyncio.ensure_future(replies(backend, "block"))
            assert await asyncio.to_thread(blocked.wait, 30)
            backend.interrupt()
            (*_, end) = await asyncio.wait_for(asked, 20)
            assert isinstance(end, Completed) and end.reason is FinishReason.INTERRUPTED and not released.is_set()
            released.set()
            (*_, end) = await replies(backend, "say hello")
            assert isinstance(end, Completed) and end.text == "hello"
        finally:
            released.set()
            await backend.close()

    asyncio.run(main())


def test_a_model_whose_template_fails_is_told_everywhere(tmp_path: Path, home: Path) -> None:
    special = {"bos": "<s>", "eos": "</s>", "last": "</s>", "end": "</s>", "special": ["<s>", "</s>"]}
    path = tmp_path / "greedy.gguf"
    token_model.write(path, template="{{ 'a' * 3000000000 }}", adds_bos=True, name="greedy", **special)
    flags = ("-m", str(path), "--engine", str(fake_engine(tmp_path)))
    done = run(*flags, "hello")
    said = b"the chat template of greedy fails: it exceeds the memory limit"
    assert done.returncode == 4 and said in done.stderr and b"Traceback" not in done.stderr
    done = run("models", "info", "--json", str(path))
    assert "its chat template fails: it exceeds the memory" in json.loads(done.stdout)["faults"][0]
    found = next(each for each in judge(read_info(path), context=0, names=None, engine="") if each.name == "template")
    assert found.status is FindingStatus.BROKEN and "fails: it exceeds the memory" in found.seen
