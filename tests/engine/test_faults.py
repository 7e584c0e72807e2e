"""Model files that are known to be wrong, and templates that are seen to be: mended, refused or told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llama3_file
import pytest
from program import run

from bitnet_chat.backend import ReplyOptions
from bitnet_chat.backends.factory import open_backend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.doctor import model as doctor
from bitnet_chat.doctor.finding import FindingStatus
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.protocols import EngineOptions, common_flags
from bitnet_chat.errors import FinishReason, ModelError
from bitnet_chat.events import Completed, Event, Failed, Notice
from bitnet_chat.models.gguf import ModelHeader, read_header
from bitnet_chat.models.info import read_info
from bitnet_chat.models.known_faults import FAULTS, OVERRIDE, faults_in, repair
from bitnet_chat.models.template_selection import prepare
from bitnet_chat.models.vocabulary import read_tokenizer
from bitnet_chat.templates.builtin import TEMPLATES
from bitnet_chat.templates.chat_template import ChatTemplate
from bitnet_chat.templates.checks import flaws

TIMEOUT = 60
ASKED = Conversation().with_user("it's")
LLAMA_BPE = "tokenizer.ggml.pre=str:llama-bpe"
BACKENDS = ("classic", "modern", "llama-server")


@pytest.fixture(scope="module")
def microsoft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the metadata of Microsoft's own 2B4T."""
    return llama3_file.write(tmp_path_factory.mktemp("models") / "microsoft.gguf")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as it ought to be."""
    folder = tmp_path_factory.mktemp("models")
    return llama3_file.write(folder / "right.gguf", template=TEMPLATES["bitnet"], pre="llama-bpe")


@pytest.fixture(params=BACKENDS)
def settings(request: pytest.FixtureRequest, classic: EngineBinary, modern: EngineBinary) -> Settings:
    """Each backend with an engine of its own."""
    settings = Settings(temperature=0.0, ctx=512, threads=1, journal=False)
    if request.param == "llama-server":
        return replace(settings, backend="llama-server", engine=str(classic.path))
    return replace(settings, engine=str((classic if request.param == "classic" else modern).path))


def replies(settings: Settings, *conversations: Conversation) -> list[list[Event]]:
    async def main() -> list[list[Event]]:
        backend = open_backend(settings, "")
        try:
            async with asyncio.timeout(TIMEOUT):
                options = ReplyOptions(max_tokens=8)
                return [[event async for event in backend.reply(each, options)] for each in conversations]
        finally:
            await backend.close()

    return asyncio.run(main())


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def end(events: list[Event]) -> Completed:
    last = events[-1]
    assert isinstance(last, Completed), last
    return last


# Files that are known to be wrong


@pytest.mark.engine
def test_microsofts_file_answers_and_one_line_says_why(settings: Settings, microsoft: Path, right: Path) -> None:
    """The reply is ``yes`` only behind ``Assistant: ``, and ends only where ``<|eot_id|>`` ends a turn."""
    first, second = replies(replace(settings, model=str(microsoft)), ASKED, ASKED)
    (line,) = notices(first)
    assert "was corrected" in line and "chat template" in line and "bitnet" in line and "llama-bpe" in line
    assert not notices(second)
    (expected,) = replies(replace(settings, model=str(right)), ASKED)
    assert not notices(expected)
    for events in (first, expected):
        assert (end(events).text, end(events).reason) == ("yes", FinishReason.STOP)
    assert end(first).stats.prompt_tokens == end(expected).stats.prompt_tokens  # 's is one token in both


def test_a_template_that_the_user_gives_is_used_as_it_is(microsoft: Path, classic: EngineBinary) -> None:
    said = repair(read_header(microsoft), keeps_template=True)
    assert said.header.chat_template == read_header(microsoft).chat_template
    assert "template" not in said.note and "llama-bpe" in said.note
    assert said.note.startswith("microsoft was corrected")  # the name of the file


def test_the_engine_is_told_where_it_takes_it(classic: EngineBinary, microsoft: Path) -> None:
    options = EngineOptions(microsoft, overrides=(LLAMA_BPE,))
    flags = common_flags(classic, options)
    assert flags[flags.index(OVERRIDE) + 1] == LLAMA_BPE
    assert OVERRIDE not in common_flags(classic, EngineOptions(microsoft))
    untold = repair(read_header(microsoft), takes_overrides=False)
    assert not untold.overrides and f"not corrected: the engine was not given {OVERRIDE} {LLAMA_BPE}" in untold.note
    assert untold.header.chat_template == TEMPLATES["bitnet"] and untold.header.pre_tokenizer == ""


@pytest.mark.engine
def test_an_override_of_the_users_own_is_not_doubled(classic: EngineBinary, microsoft: Path) -> None:
    pre, other = "tokenizer.ggml.pre=str:llama-bpe", "tokenizer.ggml.add_bos_token=bool:true"
    for backend, value in (("engine", pre), ("llama-server", pre), ("engine", other), ("llama-server", other)):
        own = (OVERRIDE, value)
        settings = Settings(model=str(microsoft), engine=str(classic.path), backend=backend, engine_args=own, ctx=512)
        (events,) = replies(replace(settings, temperature=0.0, threads=1, journal=False), ASKED)
        assert ("not corrected" in notices(events)[0]) == (value == pre) and end(events).text == "yes"


def test_our_own_tokenizer_follows(microsoft: Path, right: Path, tmp_path: Path) -> None:
    other = llama3_file.write(tmp_path / "other.gguf", pre="falcon")
    counts = [read_tokenizer(path).count("it's").count for path in (microsoft, right, other)]  # type: ignore[union-attr]
    assert counts == [3, 3, 4]


def test_models_info_names_the_faults(microsoft: Path, right: Path) -> None:
    told = json.loads(run("models", "info", "--json", str(microsoft)).stdout)["faults"]
    assert len(told) == 2 and "placeholder" in told[0] and "tokenizer.ggml.pre" in told[1]
    assert json.loads(run("models", "info", "--json", str(right)).stdout)["faults"] == []
    assert "placeholder of the converter" in run("models", "info", str(microsoft)).stdout.decode()


def judged(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in doctor.judge(read_info(path), context=0, names=None, engine=""):
        if each.status is not FindingStatus.OK:
            found.setdefault(each.name, []).append(f"{each.status.value} {each.seen}")
    return found


def test_doctor_names_the_faults(microsoft: Path, right: Path, tmp_path: Path) -> None:
    first, second = judged(microsoft)["metadata"]
    assert first.startswith("warn its chat template is a placeholder") and "llama-bpe is used" in second
    assert judged(right) == {}
    unbegun = llama3_file.write(tmp_path / "a.gguf", template=llama3_file.CHATML_UNBEGUN, pre="llama-bpe")
    assert "does not begin the reply" in judged(unbegun)["template"][0]
    ended = llama3_file.write(tmp_path / "b.gguf", template="{{ messages[-1].content + eos_token }}", pre="llama-bpe")
    (seen,) = judged(ended)["template"]
    assert seen.startswith("broken ") and "<|end_of_text|>" in seen and "leaves out messages" in seen


def test_what_is_known_is_data() -> None:
    for fault in FAULTS:
        assert fault.source and fault.description and fault.correction
        assert bool(fault.template) != bool(fault.pre_tokenizer)
        assert not fault.template or fault.template in TEMPLATES


def header(**more: object) -> ModelHeader:
    facts: dict[str, object] = {
        "path": Path("m.gguf"),
        "architecture": "llama",
        "name": "m",
        "context_length": 4096,
        "chat_template": "",
        "bos": "<|begin_of_text|>",
        "eos": "<|end_of_text|>",
        "adds_bos": True,
        "control_tokens": frozenset(),
        "tensor_count": 1,
        "size": 1,
        "tokenizer": "gpt2",
        "vocabulary_size": 128_256,
    }
    return ModelHeader(**(facts | more))  # type: ignore[arg-type]


def test_other_vocabularies_and_other_templates_are_left_alone() -> None:
    for others in ({"vocabulary_size": 151_936}, {"tokenizer": "llama"}, {"bos": "<s>"}, {"pre_tokenizer": "qwen2"}):
        assert faults_in(header(**others)) == ()
    assert [fault.pre_tokenizer for fault in faults_in(header(pre_tokenizer="default"))] == ["llama-bpe"]
    foreign = header(chat_template=llama3_file.PLACEHOLDER, vocabulary_size=32_000, bos="<s>", pre_tokenizer="x")
    assert faults_in(foreign) == ()  # <|eot_id|> is not one of its tokens: refused, as any template that ends so


@pytest.mark.parametrize("name", ["falcon_e", "falcon3"])
def test_a_name_that_the_engine_does_not_know(name: str) -> None:
    falcon = header(pre_tokenizer=name, vocabulary_size=131_072, bos="<|begin_of_text|>")
    assert faults_in(falcon, lambda word: word == name) == ()
    said = repair(falcon, lambda word: False)
    assert said.overrides == (LLAMA_BPE,) and name in said.note


# Templates that are seen to be wrong

TURN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
BEGIN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
WITHOUT_SYSTEM = TURN.replace("messages %}", "messages if m.role != 'system' %}") + BEGIN
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
THINKING = TURN + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"


@pytest.mark.parametrize(
    ("source", "words", "fatal"),
    [
        (llama3_file.PLACEHOLDER, ("ends with </s>", "system prompts"), True),
        ("{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}", ("ends with <|im_end|>",), True),
        (TURN, ("does not begin the reply",), False),
        (WITHOUT_SYSTEM, ("leaves out system prompts",), False),
        ("{{ messages[-1].content }}" + BEGIN, ("leaves out messages", "system prompts"), False),
        (INST, (), False),
        (THINKING, (), False),
        *((source, (), False) for source in TEMPLATES.values()),
    ],
)
def test_what_is_seen_in_a_template(source: str, words: tuple[str, ...], fatal: bool) -> None:
    found = flaws(ChatTemplate(source, name="t", bos="<s>", eos="</s>"), "</s>")
    assert len(found) == len(words) and all(word in flaw.what for word, flaw in zip(words, found, strict=True))
    assert any(flaw.is_fatal for flaw in found) == fatal


def test_a_refusal_is_no_silence() -> None:
    """A template that raises for a system prompt has it folded into the first message."""
    assert flaws(ChatTemplate(TEMPLATES["gemma"], name="t"), "") == ()


@pytest.mark.engine
def test_a_template_that_ends_the_reply_is_refused(settings: Settings, right: Path) -> None:
    source = "{% for m in messages %}{{ m.content + '<|eot_id|>' }}{% endfor %}"
    (events,) = replies(replace(settings, model=str(right), chat_template=source), ASKED)
    failed = events[-1]
    assert isinstance(failed, Failed) and isinstance(failed.error, ModelError)
    assert "ends with <|eot_id|>" in failed.error.what and "--chat-template" in failed.error.remedy


def test_a_template_that_only_a_server_can_read(classic: EngineBinary, right: Path) -> None:
    """As before: an engine on a terminal gets a rendered text, a server renders it by itself."""
    heard: list[str] = []
    odd = "{% unheard_of %}{{ messages[-1].content }}{% endunheard_of %}"
    found = prepare(right, odd, heard.append, engine=classic.path, takes_overrides=True)
    assert found.replaces == odd and not heard
    with pytest.raises(ModelError, match="cannot be read"):
        _ = found.template


@pytest.fixture
def unheard(tmp_path: Path) -> Iterator[Path]:
    template = TEMPLATES["bitnet"].replace("in messages %}", "in messages if m.role != 'system' %}")
    yield llama3_file.write(tmp_path / "unheard.gguf", template=template, pre="llama-bpe")


@pytest.mark.engine
def test_a_template_without_a_system_role_is_told_once(settings: Settings, unheard: Path) -> None:
    asked = ASKED.with_system("be brief")
    first, second = replies(replace(settings, model=str(unheard)), asked, asked)
    (line,) = notices(first)
    assert "leaves out system prompts" in line and not notices(second)
    assert end(first).text == "yes"


def test_the_bundled_model_is_not_told_of(model: Path, right: Path) -> None:
    for path in (model, right):
        assert judged(path) == {}
