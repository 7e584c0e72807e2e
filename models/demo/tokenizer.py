"""The byte-level BPE of the demo model.

The pre-tokenizer is GPT-2's, because llama.cpp knows it under the name "gpt-2" and the ids must be the same on both
sides. All 256 bytes are base tokens, so every input can be written down and read back, whatever it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from corpus import Conversation
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

BOS = "<|bos|>"
START = "<|im_start|>"
END = "<|im_end|>"
PAD = "<|pad|>"
SPECIAL = (BOS, START, END, PAD)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A BPE with ``size`` tokens in all, special tokens included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer as :func:`train_tokenizer` made it and ``Tokenizer.save`` wrote it."""
    return Tokenizer.from_file(str(path))


class Noise:
    """What happens to user text in training, so that the model does not hang on single tokens.

    Some words are cut into smaller tokens than the tokenizer would choose, and a few tokens are replaced by others.
    """

    def __init__(self, tokenizer: Tokenizer, rng: random.Random, cut: float = 0.06, replace: float = 0.02) -> None:
        self.tokenizer = tokenizer
        self.rng, self.cut, self.replace = rng, cut, replace

    def encode(self, text: str) -> list[int]:
        """The ids of a disturbed version of the text."""
        pieces = [""]
        for before, character in zip(" " + text, text, strict=False):
            if before.isalpha() and character.isalpha() and self.rng.random() < self.cut:
                pieces.append("")
            pieces[-1] += character
        size = self.tokenizer.get_vocab_size()
        return [
            self.rng.randrange(len(SPECIAL), size) if self.rng.random() < self.replace else token
            for piece in pieces
            for token in self.tokenizer.encode(piece, add_special_tokens=False).ids
        ]


class ChatEncoder:
    """Conversations as token ids, with a mask over what the model has to learn to say."""

    def __init__(self, tokenizer: Tokenizer, noise: Noise | None = None) -> None:
        self.tokenizer = tokenizer
        self.noise = noise
        self.bos, self.start, self.end = (tokenizer.token_to_id(token) for token in (BOS, START, END))
        self.newline = self.plain("\n")
        self.roles = {role: [self.start, *self.plain(f"{role}\n")] for role in ("system", "user", "assistant")}

    def plain(self, text: str) -> list[int]:
        """User text: markers that a user types are text, as the engine treats them."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """Ids, and for each id whether it counts in the loss (the replies and the tokens that end them)."""
        ids = [self.bos]
        said = [False]

        def add(tokens: list[int], counts: bool = False) -> None:
            ids.extend(tokens)
            said.extend([counts] * len(tokens))

        if conversation.system is not None:
            add(self.roles["system"] + self.plain(conversation.system) + [self.end])
        for index, turn in enumerate(conversation.turns):
            if index or conversation.system is not None or conversation.newline_first:
                add(self.newline)
            noisy = self.noise is not None and len(turn.user) > 8 and not turn.exact and self.noise.rng.random() < 0.4
            words = self.noise.encode(turn.user) if self.noise and noisy else self.plain(turn.user)
            add(self.roles["user"] + words + [self.end] + self.newline + self.roles["assistant"])
            reply = self.plain(turn.reply)
            if turn.cut is None:
                add([*reply, self.end], counts=True)
            else:
                add(reply[: int(turn.cut * len(reply))], counts=True)
        return ids, said
