"""Replies by rule: normal ones of many kinds, and runaways. For tests and for ``bench/guard.py``.

Each maker takes a random generator and makes another text with each; the texts are nobody's but ours.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random

WORDS = (  # noqa: SIM905
    "river stone morning letter window quiet engine number table green walk small answer paper under between light "
    "history market winter simple garden machine north example travel kitchen silver question music early forest "
    "memory bridge slowly across certain coffee seven island yellow often measure reason careful network harbour"
).split()
NAMES = "Ada Bjorn Chen Dalia Emil Fatou Goran Hana Ivo Jun".split()  # noqa: SIM905
HANZI = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏云腾致雨露结为霜金生丽水玉出昆冈"
KANA = "いろはにほへとちりぬるをわかよたれそつねならむうゐのおくやまけふこえて"


def sentence(random: Random, least: int = 4, most: int = 16) -> str:
    words = [random.choice(WORDS) for _ in range(random.randint(least, most))]
    return " ".join(words).capitalize() + random.choice("...?!")


def prose(random: Random, length: int = 2000) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        parts.append(" ".join(sentence(random) for _ in range(random.randint(2, 6))) + "\n\n")
    return "".join(parts)


def _lines(random: Random, least: int, most: int, line: Callable[[int], str]) -> str:
    return "".join(f"{line(number)}\n" for number in range(1, random.randint(least, most) + 1))


def bullets(random: Random) -> str:
    mark = random.choice(["-", "*", "  -", "•"])
    return _lines(random, 10, 80, lambda _: f"{mark} **{random.choice(WORDS)}**: {sentence(random, 1, 6)}")


def numbered(random: Random) -> str:
    return _lines(random, 10, 100, lambda number: f"{number}. {' '.join(random.sample(WORDS, random.randint(1, 4)))}")


def checklist(random: Random) -> str:
    return _lines(random, 10, 40, lambda number: f"- [ ] Day {number}: {random.choice(WORDS)}")


def numbers(random: Random) -> str:
    start, step = random.randint(0, 50), random.choice([1, 1, 2, 5, 10])
    separator = random.choice([", ", "\n", " ", ","])
    return separator.join(str(start + step * index) for index in range(random.randint(100, 900)))


def times_table(random: Random) -> str:
    factor = random.randint(2, 19)
    return _lines(random, 12, 100, lambda number: f"{factor} x {number} = {factor * number}")


def labels(random: Random) -> str:
    """Test data that counts: short names and no sentences."""
    form = random.choice(
        ["user{0}@example.com", "item {0}", "Row {0}, Seat {0}", "test_case_{0} ... ok", "File {0}.txt"]
    )
    return _lines(random, 40, 120, lambda number: form.format(number))


def table(random: Random) -> str:
    columns = random.randint(2, 12)
    head = "|".join(f" {random.choice(WORDS)} " for _ in range(columns))
    rule = "|".join(random.choice(["---", ":---:", "-" * random.randint(3, 30)]) for _ in range(columns))
    blank = random.random() < 0.4

    def row(number: int) -> str:
        cells = ["   " if blank and index else f" {random.randint(0, 99)} " for index in range(columns)]
        return f"| {number} |{'|'.join(cells)}|"

    return f"|{head}|\n|{rule}|\n{_lines(random, 5, 40, row)}"


def blank_form(random: Random) -> str:
    row = "|" + "     |" * random.randint(3, 9)
    rule = "+" + "-----+" * (row.count("|") - 1)
    return _lines(random, 6, 12, lambda _: f"{rule}\n{row}")


def log(random: Random) -> str:
    texts = [sentence(random, 2, 7) for _ in range(random.randint(1, 4))]
    second = random.randint(0, 40000)

    def line(number: int) -> str:
        now = second + number * random.randint(1, 3)
        clock = f"{now // 3600:02}:{now // 60 % 60:02}:{now % 60:02}"
        level = random.choice(["INFO", "INFO", "WARN", "DEBUG"])
        return f"2026-03-07T{clock}Z {level} [{random.randint(1, 9)}] {random.choice(texts)}"

    return _lines(random, 30, 200, line)


def retries(random: Random) -> str:
    text = " ".join(random.sample(WORDS, 3))
    return _lines(random, 3, 9, lambda _: f"error: {text}, retrying") + "error: giving up\n"


def ping(random: Random) -> str:
    return _lines(
        random,
        20,
        100,
        lambda number: f"64 bytes from 192.0.2.1: icmp_seq={number} ttl=64 time={random.random():.3f} ms",
    )


def base64_text(random: Random) -> str:
    data = random.randbytes(random.randint(500, 4000)) + bytes(random.randint(0, 200))
    text = base64.b64encode(data).decode()
    return "\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + "=="


def hex_dump(random: Random) -> str:
    data = random.randbytes(random.randint(200, 2000)) + bytes(random.randint(0, 600))
    return "".join(f"{at:08x}  {data[at : at + 16].hex(' ')}\n" for at in range(0, len(data), 16))


def csv(random: Random) -> str:
    return "id,name,amount,ok\n" + _lines(
        random,
        20,
        200,
        lambda number: f"{number},{random.choice(NAMES)},{random.randint(0, 3)}.00,{random.choice(['true', 'false'])}",
    )


def matrix(random: Random) -> str:
    size = random.randint(4, 20)
    diagonal = random.random() < 0.5
    return "\n".join(
        " ".join("1" if (row == column if diagonal else random.random() < 0.1) else "0" for column in range(size))
        for row in range(size)
    )


def json_text(random: Random) -> str:
    entries = [
        {"id": number, "name": random.choice(NAMES), "tags": random.sample(WORDS, 2), "parent": None, "ok": True}
        for number in range(random.randint(5, 60))
    ]
    return json.dumps({"entries": entries, "zeros": [0] * random.randint(10, 80)}, indent=random.choice([None, 2, 4]))


def html(random: Random) -> str:
    rows = "".join(
        f"    <tr>\n      <td>{random.choice(WORDS)}</td>\n      <td></td>\n      <td></td>\n    </tr>\n"
        for _ in range(random.randint(3, 30))
    )
    return f"<!DOCTYPE html>\n<p>Was <s>{random.choice(WORDS)}</s> once.</p>\n<table>\n{rows}</table>\n"


def code(random: Random) -> str:
    """Code in a block, with the arrays and the unrolled loops that code has."""
    name = random.choice(WORDS)
    zeros = "\n".join("    " + "0x00, " * 12 for _ in range(random.randint(4, 60)))
    calls = "".join(f"    {name}({random.randint(0, 9)});\n" for _ in range(random.randint(5, 40)))
    nops = '    asm("nop");\n' * random.randint(1, 60)
    block = f"int {name}[] = {{\n{zeros}\n}};\nvoid run(void) {{\n{calls}{nops}}}\n"
    return f"Here it is:\n\n```c\n{block}```\n\n{sentence(random)}"


def refrain_poem(random: Random) -> str:
    refrain = "\n".join(sentence(random, 4, 8) for _ in range(random.randint(1, 4)))
    stanzas = ["\n".join(sentence(random, 4, 8) for _ in range(4)) for _ in range(random.randint(3, 12))]
    return "".join(f"{stanza}\n\n{refrain}\n\n" for stanza in stanzas)


def song(random: Random) -> str:
    chorus = "\n".join([sentence(random, 3, 6)] * random.randint(2, 4) + [sentence(random, 3, 6)])
    syllable = random.choice(["la", "na", "oh", "hey", "doo"])
    sung = " ".join([syllable] * random.randint(6, 20)) + "\n"
    verses = [prose(random, 150).strip() for _ in range(random.randint(2, 5))]
    return (
        "".join(f"{verse}\n\n{chorus}\n\n{sung * random.randint(1, 4)}\n" for verse in verses) + f"{chorus}\n{chorus}\n"
    )


def counting_song(random: Random) -> str:
    """It counts down, and changes nothing but the number."""
    thing = f"{random.choice(WORDS)} {random.choice(WORDS)}s"
    return "".join(
        f"{number} {thing} on the wall, {number} {thing}. Take one down, {number - 1} {thing} on the wall.\n"
        for number in range(random.randint(30, 99), 0, -1)
    )


def cjk(random: Random) -> str:
    letters = random.choice([HANZI, KANA])
    text = "".join(
        "".join(random.choice(letters) for _ in range(random.randint(5, 20))) + random.choice("，。！？、")
        for _ in range(random.randint(20, 100))
    )
    return text + random.choice(["哈哈哈哈", "笑笑笑", "ーーーー"]) * random.randint(1, 20) + "。"


def ascii_art(random: Random) -> str:
    wide, high = random.randint(10, 40), random.randint(4, 16)
    mark = random.choice("#*@X█░")
    drawing = [
        "\n".join(mark * wide for _ in range(high)),
        "\n".join((mark + " ") * (wide // 2) for _ in range(high)),
        "\n".join(" " * (high - row) + mark * (2 * row + 1) for row in range(high)),
        f"+{'-' * wide}+\n" + f"|{' ' * wide}|\n" * high + f"+{'-' * wide}+",
    ]
    return random.choice(drawing) + "\n" + sentence(random)


def rules(random: Random) -> str:
    rule = random.choice("-=_*~#") * random.randint(20, 120)
    return "".join(f"{rule}\n{prose(random, 200)}" for _ in range(random.randint(2, 8)))


def dna(random: Random) -> str:
    text = "".join(random.choice("ACGT") for _ in range(random.randint(500, 3000)))
    text += "CAG" * random.randint(10, 60) + "A" * random.randint(20, 200)
    return "\n".join(text[at : at + 60] for at in range(0, len(text), 60))


def tosses(random: Random) -> str:
    return " ".join(random.choice(["heads", "tails"]) for _ in range(random.randint(100, 900)))


def laughter(random: Random) -> str:
    return f"{prose(random, 300)}{random.choice(['ha', 'no', '!', '😂', 'z', '.'])}" * 2 + "ha" * random.randint(
        10, 100
    )


def lines_to_copy(random: Random) -> str:
    """What a user has asked for: the same line a number of times."""
    line = sentence(random, 3, 5)
    return f"{line}\n" * random.randint(5, 11)


def dialogue(random: Random) -> str:
    """It is introduced, as dialogues are: names of roles at the beginning of lines are its content."""
    first, second = random.choice([("User", "Assistant"), ("Human", "Assistant"), tuple(random.sample(NAMES, 2))])
    gap = random.choice(["\n", "\n\n"])
    turns = gap.join(
        f"{first if turn % 2 == 0 else second}: {sentence(random)}" for turn in range(random.randint(4, 12))
    )
    return random.choice([f"Sure! Here it is:\n\n{turns}", turns, f"## {sentence(random)}\n\n{turns}"])


def credentials(random: Random) -> str:
    password = "".join(random.choice("abcdef0123456789") for _ in range(12))
    return f"{sentence(random)} Use these:\n\nHost: db.example.com\nUser: admin\nPassword: {password}\n\nUser: guest\n"


def about_templates(random: Random) -> str:
    """Special tokens that are spoken about, not used."""
    token = random.choice(["<|im_start|>", "<|eot_id|>", "<start_of_turn>", "[INST]", "</s>"])
    return (
        f'{sentence(random)} Each turn begins with `{token}`, and some write "{token}" or the {token} token.\n\n'
        f"```\n{token}user\nHello{token}\nUser: hi\n```\n\nSo `{token}user` is the beginning.\n{sentence(random)}"
    )


NORMAL: dict[str, Callable[[Random], str]] = {
    maker.__name__: maker
    for maker in (
        prose, bullets, numbered, checklist, numbers, times_table, labels, table, blank_form, log, retries, ping,
        base64_text, hex_dump, csv, matrix, json_text, html, code, refrain_poem, song, counting_song, cjk, ascii_art,
        rules, dna, tosses, laughter, lines_to_copy, dialogue, credentials, about_templates,
    )
}  # fmt: skip


def installed_python(random: Random, count: int, size: int = 12_000) -> Iterator[tuple[str, str]]:
    """Name and a piece of so many files of the standard library, as they are and without a code block around them."""
    import os

    files = sorted(Path(os.__file__).parent.glob("*.py"))
    for path in random.sample(files, min(count, len(files))):
        text = path.read_text("utf-8", "replace")
        at = text.find("\n", random.randrange(max(1, len(text) - size))) + 1
        yield path.name, text[at : at + size]


# Each makes a unit; the runaway is that unit for ever.


def _word(random: Random) -> str:
    return random.choice(WORDS) + " "


def _paragraph(random: Random) -> str:
    return prose(random, random.randint(200, 900))


def _verse(random: Random) -> str:
    """A unit that has a long repetition inside."""
    return f"{'-' * 80}\n" + f"{sentence(random)}\n" * 3 + f"{sentence(random)}\n"


def stammer(random: Random) -> str:
    """What a small model falls into: a few words, in no order that would repeat itself."""
    few = random.sample(WORDS, random.randint(3, 5))
    return " ".join(random.choice(few) for _ in range(600))


LOOPS: dict[str, Callable[[Random], str]] = {
    "a character": lambda random: random.choice("aA=.0!\n 哈"),
    "a word": _word,
    "a few words": lambda random: " ".join(random.sample(WORDS, 3)) + ", ",
    "a sentence": lambda random: sentence(random, 8, 14) + " ",
    "a line of a list": lambda random: f"- {sentence(random, 3, 8)}\n",
    "a paragraph": _paragraph,
    "paragraphs with rules": _verse,
    "a sentence in Chinese": lambda random: "".join(random.sample(HANZI, 12)) + "。",
    "question and answer": lambda random: f"Q: {sentence(random)}\nA: {sentence(random)}\n\n",
    "a row of a table": lambda random: (
        f"| {random.choice(WORDS)} | {random.randint(1, 99)} | {random.choice(WORDS)} |\n"
    ),
}
COUNTERS: dict[str, Callable[[str, int], str]] = {
    "a numbered list": lambda text, number: f"{number}. {text}\n",
    "in a line": lambda text, number: f"{number}) {text} ",
    "step of": lambda text, number: f"Step {number} of 500: {text}\n",
    "two counters": lambda text, number: f"In {1900 + number} they did {number} times what {text}\n",
}


def story() -> Iterator[str]:
    """What the scripted engine tells."""
    return (f"word{number} " for number in count())


def is_story(text: str) -> bool:
    whole = ""
    words = story()
    while len(whole) < len(text):
        whole += next(words)
    return whole.startswith(text)
