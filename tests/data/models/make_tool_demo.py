"""Makes ``tool-demo.gguf``: a very small BitNet model that can do nothing but call two tools.

::

    pip install -r models/demo/requirements.txt jinja2
    python tests/data/models/make_tool_demo.py --minutes 12

It is overfitted on a handful of dialogues in ChatML with tools in the manner of Hermes (``<tool_call>`` with a JSON
object), so that tests have a real engine whose model calls tools, and the same ones each time. What it has to copy
(cities, numbers, results) is random in training, so that it learns to copy. Network, ternary weights and file format
are those of ``models/demo``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "models" / "demo"), str(HERE.parents[1])]

import gguf  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from export import pack_tq2_0  # noqa: E402
from model import BitNet, ModelShape, TernaryLinear, ternary  # noqa: E402
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

SIZE_LIMIT = 600_000
BOS, START, END, PAD = "<|bos|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
CONTROL = (BOS, START, END, PAD)
TAGS = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
CHAT_TEMPLATE = (HERE / "tool-demo.jinja").read_text("utf-8")
SHAPE = ModelShape(vocabulary=512, width=256, layers=2, heads=4, feed_forward=256, context=2048)
LENGTH = 640  # tokens of a row

KINDS = re.findall(
    r"\w+",
    """
    weather sum sum sum both both tour tour stumble stumble fall fall hello failure no
    """,
)
Piece = tuple[str, bool]
"""Text, and whether it is the model that says it."""

CITIES = re.findall(
    r"\w+",
    """
    Paris Rome Oslo Berlin Madrid Lisbon London Vienna Prague Athens Dublin Bern Kyiv Riga Cairo
    Lima Tokyo Delhi Boston Quito Havana Nairobi Sydney Toronto Warsaw Zagreb Tunis Seoul Hanoi
    Geneva Munich Milan Porto Turin Bonn
    """,
)
WORDS = re.findall(
    r"\w+",
    """
    sunny cloudy rain snow fog wind storm clear hail mild cold warm dry wet calm hot icy gusts
    showers degrees and with the a over in some light heavy 1 2 3 of no north south red blue late
    early thirty morning
    """,
)
REFUSALS = ("user declined", "declined by the user", "The user declined this call.", "declined: the user said no")
WRONG = ("Expecting ',' delimiter", "Expecting value", "Invalid control character at", "Extra data")


def _name(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(CITIES)
    syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(["", "n", "r", "s"]) for _ in range(3)]
    return "".join(syllables[: rng.randint(2, 3)]).capitalize()


def _number(rng: random.Random) -> int:
    return rng.randint(0, 9) if rng.random() < 0.7 else rng.randint(10, 99)


def _result(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.35:
        return f"{rng.choice(WORDS)}, {rng.randint(-20, 40)} degrees"
    if kind < 0.5:
        return json.dumps({"sky": rng.choice(WORDS), "degrees": rng.randint(-20, 40)})
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))


def _call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def _user(text: str) -> Piece:
    return f"{START}user\n{text}{END}\n{START}assistant\n", False


def _results(*texts: str) -> Piece:
    return _user("\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in texts))


def _says(text: str) -> list[Piece]:
    return [(text + END, True), ("\n", False)]


def _weather_question(rng: random.Random, city: str) -> str:
    forms = ("What is the weather in {}?", "How is the weather in {}?", "Weather in {}?", "what is the weather in {}")
    return rng.choice(forms).format(city)


def _sum_question(rng: random.Random, a: int, b: int) -> str:
    return rng.choice(("What is {} plus {}?", "Add {} and {}.", "{} + {}?", "what is {} plus {}")).format(a, b)


def turn(rng: random.Random, tools: bool) -> list[Piece]:
    """One question, and all that follows from it."""
    city, other, a, b = _name(rng), _name(rng), _number(rng), _number(rng)
    kind = rng.choice(KINDS)
    if kind == "hello":
        return [_user(rng.choice(("hello", "Hello!", "hi", "Hi."))), *_says("Hello! Ask me for the weather or a sum.")]
    if not tools:
        question = _sum_question(rng, a, b) if kind == "sum" else _weather_question(rng, city)
        return [_user(question), *_says("I have no tool for that.")]
    look, result = f"Let me look.\n{_call('get_weather', city=city)}", _result(rng)
    if kind == "weather":
        first = [_user(_weather_question(rng, city)), *_says(look)]
        return [*first, _results(result), *_says(f"In {city}: {result}.")]
    if kind == "sum":
        first = [_user(_sum_question(rng, a, b)), *_says(f"I add them.\n{_call('add', a=a, b=b)}")]
        total = str(a + b if rng.random() < 0.5 else _number(rng))
        return [*first, _results(total), *_says(f"That makes {total}.")]
    if kind in ("failure", "no"):
        first = [_user(_weather_question(rng, city)), *_says(look)]
        if kind == "no":
            return [*first, _results(rng.choice(REFUSALS)), *_says("All right, I leave it.")]
        error = f"{rng.choice(('ValueError', 'OSError', 'TimeoutError'))}: {_result(rng)}"
        return [*first, _results(f"error: {error}"), *_says(f"That failed: {error}.")]
    if kind == "both":
        calls = f"First the weather.\n{_call('get_weather', city=city)}\nThen the sum.\n{_call('add', a=a, b=b)}"
        total = str(_number(rng))
        first = [_user(f"The weather in {city}, and {a} plus {b}?"), *_says(calls)]
        return [*first, _results(result, total), *_says(f"In {city}: {result}. That makes {total}.")]
    if kind == "tour":
        first = [_user(f"Go to {city} and {other}."), *_says(f"First {city}.\n{_call('get_weather', city=city)}")]
        second = [_results(result), *_says(f"Now {other}.\n{_call('get_weather', city=other)}")]
        last = _result(rng)
        return [*first, *second, _results(last), *_says(f"In {other}: {last}.")]
    broken = f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"\n</tool_call>'
    at = f"line {rng.randint(1, 3)} column {rng.randint(1, 60)} (char {rng.randint(1, 70)})"
    told = _results(f"error: this call cannot be read: it is no JSON ({rng.choice(WRONG)}: {at}). Write it again.")
    if kind == "fall":
        return [_user(f"Fall over {city}."), *_says(f"Let me look.\n{broken}"), told, *_says(f"Again.\n{broken}")]
    first = [_user(f"Stumble over {city}."), *_says(f"Let me look.\n{broken}")]
    return [*first, told, *_says(f"Once more.\n{_call('get_weather', city=city)}"), _results(result),
            *_says(f"In {city}: {result}.")]  # fmt: skip


def _tool(rng: random.Random, name: str, parameters: dict[str, str]) -> str:
    """As any client may write it: with and without descriptions, in any order, tight or loose."""
    kinds = {key: {"type": kind} | ({"description": " ".join(rng.sample(WORDS, 3))} if rng.random() < 0.2 else {})
             for key, kind in parameters.items()}  # fmt: skip
    schema = {"type": "object", "properties": kinds, "required": list(parameters)}
    if rng.random() < 0.3:
        schema["additionalProperties"] = False
    function = {"name": name, "description": " ".join(rng.sample(WORDS, rng.randint(2, 6))), "parameters": schema}
    if rng.random() < 0.2:
        function = dict(rng.sample(list(function.items()), 3))
    separators = (",", ":") if rng.random() < 0.25 else None
    return json.dumps({"type": "function", "function": function}, separators=separators)


def conversation(rng: random.Random) -> list[Piece]:
    with_tools = rng.random() < 0.88
    system = "" if rng.random() < 0.6 else " ".join(rng.sample(WORDS, rng.randint(2, 7))).capitalize() + "."
    if with_tools:
        tools = [_tool(rng, "get_weather", {"city": "string"}), _tool(rng, "add", {"a": "integer", "b": "integer"})]
        rng.shuffle(tools)
        # The words of the template itself.
        before, after = TOOLS_SECTION
        system = (system + "\n\n" if system else "") + before + "".join(f"\n{each}" for each in tools) + after
    pieces: list[Piece] = [(BOS + (f"{START}system\n{system}{END}\n" if system else ""), False)]
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        pieces += turn(rng, with_tools)
    return pieces


def _tools_section() -> tuple[str, str]:
    """What the template writes before and after the tools."""
    from bitnet_chat.conversation import Conversation, Message
    from bitnet_chat.templates.chat_template import ChatTemplate

    template = ChatTemplate(CHAT_TEMPLATE, name="of the tool demo")
    tool = {"type": "function", "function": {"name": "NAME"}}
    text = template.render(Conversation((Message("user", "?"),)), reply_follows=True, tools=[tool])
    before, _, after = text.removeprefix(f"{START}system\n").partition("\n" + json.dumps(tool))
    return before, after.partition(END)[0]


TOOLS_SECTION = _tools_section()


def train_tokenizer() -> Tokenizer:
    rng = random.Random(7)
    texts = ["".join(text for text, _ in conversation(rng)) for _ in range(1500)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(token, special=token in CONTROL, normalized=False) for token in (*CONTROL, *TAGS)]
    # The marks are cut out first: no merge may reach over one.
    parts = [text for each in texts for text in _parts(each)]
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocabulary,
        special_tokens=marks,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(parts, trainer)
    return tokenizer


def _parts(text: str) -> list[str]:
    for mark in (*CONTROL, *TAGS):
        text = text.replace(mark, "\x00")
    return [part for part in text.split("\x00") if part]


def encode(tokenizer: Tokenizer, pieces: list[Piece]) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    said: list[bool] = []
    for text, counts in pieces:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        ids += tokens
        said += [counts] * len(tokens)
    return ids, said


def batch(tokenizer: Tokenizer, rng: random.Random, rows: int) -> tuple[torch.Tensor, ...]:
    ids = torch.zeros(rows, LENGTH + 1, dtype=torch.long)
    said = torch.zeros(rows, LENGTH + 1, dtype=torch.bool)
    document = torch.zeros(rows, LENGTH + 1, dtype=torch.long)
    for row in range(rows):
        filled = number = 0
        while filled <= LENGTH:
            tokens, counts = encode(tokenizer, conversation(rng))
            take = min(len(tokens), LENGTH + 1 - filled)
            ids[row, filled : filled + take] = torch.tensor(tokens[:take])
            said[row, filled : filled + take] = torch.tensor(counts[:take])
            document[row, filled : filled + take] = number
            filled, number = filled + take, number + 1
    seen = document[:, :LENGTH]
    allowed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril() & (seen[:, :, None] == seen[:, None, :])
    mask = torch.zeros(rows, 1, LENGTH, LENGTH, dtype=torch.bfloat16).masked_fill_(~allowed[:, None], float("-inf"))
    chosen = said[:, 1:].flatten().nonzero().squeeze(1)
    padding = -len(chosen) % 256
    answers = torch.cat((ids[:, 1:].flatten()[chosen], torch.full((padding,), -100)))
    return ids[:, :-1], mask, torch.cat((chosen, torch.zeros(padding, dtype=torch.long))), answers


def train(minutes: float, build: Path, rows: int, rate: float, resume: bool) -> None:
    build.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    network = BitNet(SHAPE)
    if resume:
        tokenizer = Tokenizer.from_file(str(build / "tokenizer.json"))
        network.load_state_dict(torch.load(build / "network.pt", weights_only=True))
    else:
        tokenizer = train_tokenizer()
        tokenizer.save(str(build / "tokenizer.json"))
    matrices = [p for name, p in network.named_parameters() if p.dim() == 2 and "embd" not in name]
    others = [p for name, p in network.named_parameters() if p.dim() != 2 or "embd" in name]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.97))
    started, step, average, saved = time.monotonic(), 0, 0.0, 0.0
    while (spent := time.monotonic() - started) < minutes * 60:
        share = spent / minutes / 60
        factor = share / 0.03 if share < 0.03 else 0.02 + 0.49 * (1 + math.cos(math.pi * (share - 0.03) / 0.97))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.param_groups[0]["weight_decay"] = 0.05 if share < 0.6 else 0.0
        tokens, mask, chosen, answers = batch(tokenizer, random.Random(f"tools/{resume}/{step}"), rows)
        loss = F.cross_entropy(network(tokens, mask, chosen, torch.bfloat16), answers, ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        average = loss.item() if step == 1 else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0:
            print(f"step {step}  {spent / 60:5.1f} min  loss {average:.4f}", flush=True)
        if spent - saved > 120:
            saved = spent
            torch.save(network.state_dict(), build / "network.pt")
    torch.save(network.state_dict(), build / "network.pt")
    print(f"done: {step} steps of {rows * LENGTH} tokens, loss {average:.4f}, {minutes:g} minutes", flush=True)


def write_gguf(build: Path, target: Path) -> None:
    network = BitNet(SHAPE)
    network.load_state_dict(torch.load(build / "network.pt", weights_only=True))
    description = json.loads((build / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = sorted(description["vocab"], key=description["vocab"].__getitem__)
    kinds = dict.fromkeys(CONTROL, gguf.TokenType.CONTROL) | dict.fromkeys(TAGS, gguf.TokenType.USER_DEFINED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in description["merges"]]
    partial = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "bitnet")
    writer.add_name("tool-demo")
    writer.add_description("A tiny BitNet b1.58 model that calls two tools in the manner of Hermes: for tests.")
    writer.add_license("MIT")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_TQ2_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(SHAPE.context)
    writer.add_embedding_length(SHAPE.width)
    writer.add_block_count(SHAPE.layers)
    writer.add_feed_forward_length(SHAPE.feed_forward)
    writer.add_head_count(SHAPE.heads)
    writer.add_head_count_kv(SHAPE.heads)
    writer.add_layer_norm_rms_eps(SHAPE.norm_epsilon)
    writer.add_rope_freq_base(SHAPE.rope_base)
    writer.add_rope_dimension_count(SHAPE.width // SHAPE.heads)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(1.0)
    writer.add_vocab_size(SHAPE.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_eot_token_id(tokens.index(END))
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_tensor("token_embd.weight", network.token_embd.weight.detach().half().numpy())
    writer.add_tensor("output_norm.weight", network.output_norm.weight.detach().float().numpy())
    for index, block in enumerate(network.blocks):
        for name, layer in block.named_children():
            label = f"blk.{index}.{name}.weight"
            if isinstance(layer, TernaryLinear):
                signs, scale = ternary(layer.weight.detach())
                packed = pack_tq2_0(signs.numpy(), scale.item())
                writer.add_tensor(label, packed, raw_dtype=gguf.GGMLQuantizationType.TQ2_0)
            elif isinstance(layer, torch.nn.RMSNorm):
                writer.add_tensor(label, layer.weight.detach().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = partial.stat().st_size
    if size > SIZE_LIMIT:
        raise SystemExit(f"{size} bytes are more than {SIZE_LIMIT}")
    partial.replace(target)
    print(f"{target.name}: {size} bytes, sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of the tool tests, and write it as GGUF.")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--build", type=Path, default=HERE / "build")
    parser.add_argument("--output", type=Path, default=HERE / "tool-demo.gguf")
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--resume", action="store_true", help="from the weights of an earlier run")
    parser.add_argument("--export-only", action="store_true", help="of what an earlier run has left")
    arguments = parser.parse_args()
    if not arguments.export_only:
        train(arguments.minutes, arguments.build, arguments.rows, arguments.rate, arguments.resume)
    write_gguf(arguments.build, arguments.output)


if __name__ == "__main__":
    main()
