"""The classic dialect: BitNet before July 2026, llama-completion, llama-cli before December 2025.

Its history is ours: the rendered conversation goes in as the initial prompt, and what stands around each user message
is given once, as ``--in-prefix`` and ``--in-suffix``. It has no commands, and reads a typed message as plain text.
"""

from __future__ import annotations

from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.dialects import EngineOptions, Launch, common_flags
from bitnet_chat.prompt.template import ChatTemplate, as_text
from bitnet_chat.prompt.verbatim import encode_lines
from bitnet_chat.stream.classic import ClassicFramer
from bitnet_chat.stream.framer import Framer

# "5: debug": the only level that tells every token. Measured: no difference in speed (5,000 tokens/s with or without).
_VERBOSITY = "5"


class ClassicTalk:
    """See :class:`bitnet_chat.engine.dialects.Talk`."""

    closes_interrupted = False
    no_message: bytes | None = None  # an empty line makes it go on with its own reply
    max_tokens: int | None = None

    def __init__(
        self, binary: EngineBinary, options: EngineOptions, template: ChatTemplate, control_tokens: frozenset[str]
    ) -> None:
        self._binary, self._options = binary, options
        self._template, self._marks = template, template.marks()
        self._control_tokens = control_tokens

    def launch(self, history: Conversation) -> Launch:
        binary, options, marks = self._binary, self._options, self._marks
        history, changed = as_text(history, self._control_tokens)
        opening = self._template.opening(history, marks)
        argv = [str(binary.path), *common_flags(binary, options)]
        argv += ["--interactive", "--interactive-first", "--no-display-prompt"]
        argv += ["--in-prefix", marks.in_prefix, "--in-suffix", marks.in_suffix]
        # A limit here would be one budget for the whole life of the process, the user's own tokens included.
        argv += ["--n-predict", "-1"]
        for flag in ("-no-cnv", "--no-context-shift"):  # a context that is full must say so, not forget in silence
            if binary.has(flag):
                argv.append(flag)
        if binary.colour_takes_value:
            argv += ["--log-verbosity", _VERBOSITY]
        prompt = opening.prompt
        if not prompt and not self._template.adds_bos:
            prompt = "\n"  # this engine refuses an empty prompt unless it can put a BOS there
        notes: tuple[str, ...] = ()
        if changed:
            tokens = f"{changed} special token{'s' * (changed > 1)}"
            notes = (f"{tokens} in the history kept as text by an invisible joiner",)
        return Launch(
            argv=(*argv, *options.extra),
            framer=ClassicFramer(marks.in_prefix, marks.in_suffix, ordered=binary.colour_takes_value),
            # --file takes away one newline at the end.
            prompt=prompt + "\n" * prompt.endswith("\n"),
            prompt_flag="--file",
            lead=opening.lead,
            notes=notes,
        )

    def message(self, text: str, framer: Framer) -> bytes:
        return encode_lines(text)

    def clearing(self) -> bytes | None:
        return None
