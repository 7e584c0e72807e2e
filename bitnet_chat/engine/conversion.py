"""Conversion of models from I2_S to IQ2_BN for an engine of ik_llama.cpp, once for each model, with a check.

Such an engine loads an I2_S file without an error, and computes wrong results. Its ``llama-quantize`` converts the file
correctly (measured with the shape of BitNet 2B4T: 1,188 MB to 803 MB in 24 to 48 s), and the result is also faster.
Known errors in the metadata are corrected. The weights and some replies of the converted file are checked before it
gets its name::

    <models>/NAME.iq2_bn.gguf, .iq2_bn.json     for an installed model
    <cache>/converted/NAME-….iq2_bn.gguf        for another file
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from bitnet_chat import paths
from bitnet_chat.engine import processors
from bitnet_chat.engine.binary import Dialect, EngineBinary, EngineVariant
from bitnet_chat.engine.install import packages
from bitnet_chat.engine.known_answer_model import FIRST_TOKEN, prompt_text, question
from bitnet_chat.engine.known_answer_results import ANSWERS
from bitnet_chat.engine.native.client import NativeClient, command
from bitnet_chat.errors import ModelError, NativeClientError
from bitnet_chat.models import store, tensor_types
from bitnet_chat.models.gguf import GGUFTensor, opened, read_header
from bitnet_chat.models.info import ModelInfo, read_info
from bitnet_chat.models.known_faults import repair
from bitnet_chat.models.registry import CONVERTED
from bitnet_chat.models.store import write_json
from bitnet_chat.util import file_lock, pip
from bitnet_chat.util.progress import Progress, ProgressClock, duration, size

ARCHITECTURES = frozenset(("bitnet-b1.58", "bitnet", "llama"))
"""Architectures for which the results of a converted file were compared with a reference."""
_COUNTER = re.compile(rb"^\[ *(\d+)/ *(\d+)\]")
_BYTES_PER_SECOND = 30_000_000
"""Bytes of the source that are converted per second: 1,188 MB in 24 to 48 s with two cores."""
_MARGIN = 50_000_000
"""Free disk space in bytes that must remain."""
_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class ConversionSource:
    """The source of a converted file, stored beside it as JSON. ``size``, ``modified``: bytes and modification time in
    ns of the source. ``engine``: version of the engine that converted it.
    """

    source: str
    size: int
    modified: int
    engine: str
    converted: int
    """Size of the converted file in bytes."""


def is_for(engine: EngineBinary, info: ModelInfo) -> bool:
    """Return whether the engine needs a converted file of the model, and a program that converts it exists."""
    is_affected = engine.make is EngineVariant.IK and any(kind == "I2_S" for kind, _ in info.tensor_types)
    return is_affected and info.header.architecture in ARCHITECTURES and quantizer(engine) is not None


def quantizer(engine: EngineBinary) -> Path | None:
    """Return the ``llama-quantize`` of an engine of ik_llama.cpp: its own, else that of the prebuilt one; None if
    neither exists.
    """
    name = "llama-quantize" + (".exe" if sys.platform == "win32" else "")
    folders = [engine.path] if engine.dialect is Dialect.NATIVE else []
    if (package := packages.by_name("bitnet")) is not None:
        folders.append(packages.folder_of(package))
    beside = [engine.path.resolve().with_name(name)] if engine.dialect is not Dialect.NATIVE else []
    own = [folder / packages.SITE / "ik_llama_cpp" / "bin" / name for folder in folders]
    return next((path for path in (*beside, *own) if path.is_file()), None)


def target_of(source: Path) -> Path:
    """Return the path of the converted file of a model."""
    source = source.resolve()
    if source.parent == paths.models_dir().resolve():
        return source.with_name(f"{source.stem}{CONVERTED}.gguf")
    number = sha256(os.fsencode(source)).hexdigest()[:8]
    return paths.cache_dir() / "converted" / f"{source.stem}-{number}{CONVERTED}.gguf"


def present(source: Path) -> Path | None:
    """Return the converted file if it is complete and was made from the current source, else None. Raises nothing."""
    target = target_of(source)
    try:
        origin = ConversionSource(**json.loads(target.with_suffix(".json").read_text("utf-8")))
        status = source.stat()
        same = (origin.size, origin.modified) == (status.st_size, status.st_mtime_ns)
        return target if same and target.stat().st_size == origin.converted else None
    except (OSError, ValueError, TypeError):
        return None


def announcement(source: Path) -> str:
    """Return a line about the conversion with its sizes and estimated time. Raises ModelError."""
    info = read_info(source)
    seconds = max(1, info.header.size // _BYTES_PER_SECOND)
    sizes = f"{size(info.header.size)} → {size(_expected(info))}"
    return f"{source.stem} is converted for this engine ({sizes}, about {duration(seconds)}, once)"


def obtain(
    source: Path,
    engine: EngineBinary,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    check: Callable[[Path, Path, EngineBinary], None] | None = None,
) -> Path:
    """Return the converted file of a model, converting it if necessary. Blocks. An interrupted conversion starts again
    from the beginning.

    ``check``: called with source, converted file and engine; raises ModelError if the converted file is wrong. Default:
    :func:`require`. Raises ModelError.
    """
    if (found := present(source)) is not None:
        return found

    check = check or require
    target, clock = target_of(source), ProgressClock(on_progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)

        def wait(holder: str) -> None:
            clock.step("Waiting for another conversion" + (f" (process {holder})" if holder else ""))

        with file_lock.held(target.with_suffix(".lock"), wait):
            if (found := present(source)) is not None:  # another process has converted it
                return found
            return _convert(source, target, engine, clock, check)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(target.parent, _expected(read_info(source))) from error
        raise ModelError(
            f"{source} cannot be converted in {target.parent}: {error.strerror or error}",
            remedy="choose another place with BITNET_CHAT_DATA=FOLDER and BITNET_CHAT_CACHE=FOLDER",
        ) from error


def replace_source(source: Path) -> None:
    """Replace an installed model by its converted file, and update its record. Raises OSError if it is missing."""
    converted = present(source)
    if converted is None:
        raise FileNotFoundError(target_of(source))
    model = store.find(source.stem)
    converted.replace(source)
    converted.with_suffix(".json").unlink(missing_ok=True)
    if model is not None and model.record is not None:
        record = replace(
            model.record,
            converted="IQ2_BN",
            size=source.stat().st_size,
            sha256=pip.sha256(source),
        )
        store.write_record(source, record)


def _convert(
    source: Path,
    target: Path,
    engine: EngineBinary,
    clock: ProgressClock,
    check: Callable[[Path, Path, EngineBinary], None],
) -> Path:
    info, status = read_info(source), source.stat()
    if shutil.disk_usage(target.parent).free < (needed := _expected(info) + _MARGIN):
        raise _no_space(target.parent, needed)
    part = target.with_suffix(".part")
    better = repair(info.header)
    clock.step(f"Converting {source.stem}")
    try:
        _quantize(source, part, engine, better.overrides, clock.at)
        _write_template(part, better.header.chat_template)
        clock.step(f"Checking {source.stem}")
        check(source, part, engine)
        origin = ConversionSource(str(source), status.st_size, status.st_mtime_ns, engine.version, part.stat().st_size)
        part.replace(target)
        write_json(target.with_suffix(".json"), asdict(origin))
    finally:
        part.unlink(missing_ok=True)
    return target


def _quantize(
    source: Path, part: Path, engine: EngineBinary, overrides: tuple[str, ...], at: Callable[[int, int], None]
) -> None:
    program = quantizer(engine)
    if program is None:
        raise ModelError(
            f"{source} cannot be converted: llama-quantize of {engine.path} is missing",
            remedy="bitnet-chat engine install bitnet installs one",
        )
    words = [str(program), "--allow-requantize", *(word for each in overrides for word in ("--override-kv", each))]
    words += [str(source), str(part), "iq2_bn", str(processors.allowed().default)]
    last: list[str] = []
    with _running(words, program.parent.parent / "lib") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := _COUNTER.match(line):
                at(int(found[1]), int(found[2]))
            elif text := line.decode("utf-8", "replace").strip():
                last = [*last[-5:], text]
        code = process.wait()
    if code or not part.is_file():
        how = f"signal {-code}" if code < 0 else f"status {code}"
        raise ModelError(
            f"{source} could not be converted: {program.name} ended with {how}",
            remedy="download the file again, or use a BitNet build as the engine, which needs no conversion",
            detail="\n".join(last),
        )


@contextlib.contextmanager
def _running(words: list[str], libraries: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that ends with the block, and with this program."""
    environment = dict(os.environ)
    for name in ("PATH", "DYLD_LIBRARY_PATH"):  # where Windows and macOS search its libraries
        environment[name] = os.pathsep.join(filter(None, (str(libraries), environment.get(name))))
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform == "win32":
        return None
    else:  # noqa: RET505  # without the else, mypy reports the rest as unreachable for this platform
        from bitnet_chat.engine.transport.preexec import make_preexec

        return make_preexec()


def _write_template(path: Path, template: str) -> None:
    """Replace the chat template in a file by ``template``, extended to the same length by a Jinja comment. A template
    that is too long is not written; then the one in the file is corrected when the model is loaded.
    """
    old, new = read_header(path).chat_template.encode(), template.encode()
    gap = len(old) - len(new)
    if old == new or gap < 4:
        return
    with opened(path) as cursor:
        length = cursor.contents().tensors_at
    key = _string(_TEMPLATE.encode()) + struct.pack("<I", 8)
    with path.open("r+b") as file:
        head = file.read(length)
        at = head.find(key + _string(old))
        if at >= 0:
            file.seek(at)
            file.write(key + _string(new + b"{#" + b" " * (gap - 4) + b"#}"))


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _expected(info: ModelInfo) -> int:
    """Estimate the size of the converted file in bytes. An embedding in F16 becomes Q6_K."""
    saved = info.shape.vocabulary * info.shape.width * 16 // 13 * any(kind == "F16" for kind, _ in info.tensor_types)
    return max(info.header.size // 3, info.header.size - saved)


def _no_space(folder: Path, needed: int) -> ModelError:
    return ModelError(
        f"the model cannot be converted: {size(needed)} are needed in {folder},"
        f" {size(shutil.disk_usage(folder).free)} are free",
        remedy="free some space, or choose another place with BITNET_CHAT_DATA=FOLDER and BITNET_CHAT_CACHE=FOLDER",
    )


_BATCH = 48
"""Tokens of the prompt of the check: ik_llama.cpp computes some types wrongly in batches of 32 and more. With the shape
of 2B4T, evaluating them one by one takes 3 s.
"""
_REPLY = 4
"""Tokens of each reply of the check."""
_TEXTS = (
    "one two three four five six seven eight nine ten and then",
    "def add(first, second): return first + second and then",
    "He opened the old door, a dog began to bark, and then",
)
"""Prompts with the same end: a model whose matrices have no effect continues all of them in the same way."""
_LONG = "The capital of France is Paris, and the capital of Italy is Rome. " * 3
_SECONDS = 600.0
"""Time limit of one run of an engine program in seconds, including loading."""


def require(source: Path, converted: Path, engine: EngineBinary) -> None:
    """Check a converted file: its weights are those of the source, and the engine computes it correctly. A small model
    is converted too, and must give its known answers. Raises ModelError if not. Blocks for seconds.
    """
    if read_info(converted).is_cut_off:
        raise _wrong(source, "the converted file is truncated")
    if different := next(_differences(source, converted), ""):
        raise _wrong(source, f"the weights of {different} changed")
    try:
        _require_known_answers(source, converted.parent, engine)
        with _completions(engine, converted) as complete:
            _require_replies(complete, source)
    except NativeClientError as error:
        raise _wrong(source, f"the engine cannot run it: {error}") from error


def _wrong(source: Path, what: str) -> ModelError:
    return ModelError(
        f"{source} was not converted correctly: {what}",
        remedy="download the file again, or use a BitNet build as the engine, which needs no conversion",
    )


_Complete = Callable[[str, int, bool], str]
"""Return the greedy continuation of a text: at most so many tokens; the prompt in one batch, or token by token."""


@contextlib.contextmanager
def _completions(engine: EngineBinary, model: Path, first: str = "") -> Iterator[_Complete]:
    """Load a model and complete texts. ``first``: text of the token before each prompt, which a program adds by itself.
    One thread, which takes seconds: several are much slower while another program uses a processor. Raises
    NativeClientError.
    """
    if engine.dialect is not Dialect.NATIVE:
        yield lambda text, count, one_by_one: _completed(engine, model, text, count, one_by_one=one_by_one)
        return
    with NativeClient(command(engine, model, context_size=4 * _BATCH, threads=1, batch_size=128)) as client:

        def complete(text: str, count: int, one_by_one: bool) -> str:
            tokens = client.tokenize([(first + text, True)])
            greedy = {"temperature": 0.0}
            # Only the last token of each prompt is evaluated, because the rest is in the cache.
            for end in range(1, len(tokens)) if one_by_one else ():
                client.complete(tokens[:end], max_tokens=1, sampling=greedy)
            return client.complete(tokens, max_tokens=count, sampling=greedy).text

        yield complete


def _completed(engine: EngineBinary, model: Path, text: str, count: int, *, one_by_one: bool) -> str:
    """Run an engine program for one completion. Raises NativeClientError."""
    words = [str(engine.path), "-m", str(model), "-p", text, "-n", str(count), "-c", str(4 * _BATCH), "-t", "1"]
    words += ["--temp", "0", "--no-display-prompt", "-b", "1" if one_by_one else "128"]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, preexec_fn=_die_with_parent()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeClientError(str(error)) from error
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise NativeClientError(f"{engine.path.name} ended with status {done.returncode}: {last}")
    return done.stdout.decode("utf-8", "replace").strip("\r\n")


def _require_known_answers(source: Path, folder: Path, engine: EngineBinary) -> None:
    """Convert a small model of the same architecture, in ``folder``, and compare its replies with those of a
    reference."""
    name = read_info(source).header.architecture
    small = next(each for each in ANSWERS if each.weights == "I2_S" and each.architecture == name)
    with tempfile.TemporaryDirectory(prefix=".known-answers-", dir=folder) as place:
        path, converted = Path(place) / "small.gguf", Path(place) / "converted.gguf"
        small.write(path)
        try:
            _quantize(path, converted, engine, (), lambda done, total: None)
        except ModelError as error:
            raise _wrong(source, "a small model cannot be converted in the same way") from error
        with _completions(engine, converted, FIRST_TOKEN) as complete:
            said = [complete(prompt_text(question(number)), len(text), False) for number, text in ANSWERS[small]]
    right = sum(one == text for one, (_, text) in zip(said, ANSWERS[small], strict=True))
    # Rounding of the embedding, to Q6_K, may change one: its logits correlate with those before by 0.994 to 0.997.
    if right < len(said) - 1:
        known = ", ".join(text for _, text in ANSWERS[small])
        raise _wrong(source, f"a small model, converted in the same way, replies {', '.join(said)} instead of {known}")


def _require_replies(complete: _Complete, source: Path) -> None:
    if len({complete(text, _REPLY, False) for text in _TEXTS}) == 1:
        raise _wrong(source, "its answers do not depend on the words before the last one")
    if complete(_LONG, _REPLY, True) != complete(_LONG, _REPLY, False):
        raise _wrong(source, "its answers in one batch and token by token differ")


def _differences(source: Path, converted: Path) -> Iterator[str]:
    """Yield the names of matrices whose first or last row differs."""
    before, after = _matrices(source), _matrices(converted)
    for name, (tensor, at) in before.items():
        if tensor.kind != tensor_types.I2_S:
            continue
        columns, rows = tensor.shape
        other, there = after.get(name, (tensor, at))
        if other.kind != tensor_types.IQ2_BN or other.shape != tensor.shape:
            yield name
            continue
        size, new_size = (tensor_types.row_size(kind, columns) for kind in (tensor_types.I2_S, tensor_types.IQ2_BN))
        scale = tensor_types.scale(_read(source, at + rows * size, 4))
        for row in (0, rows - 1):
            old = tensor_types.codes(tensor_types.I2_S, _read(source, at + row * size, size))
            new = _read(converted, there + row * new_size, new_size)
            if old != tensor_types.codes(tensor_types.IQ2_BN, new) or abs(tensor_types.scale(new) - scale) > 1e-6 * abs(
                scale
            ):
                yield name


def _matrices(path: Path) -> dict[str, tuple[GGUFTensor, int]]:
    """Return the matrices by name, each with the position of its weights in the file."""
    with opened(path) as cursor:
        contents = cursor.contents()
        tensors = list(cursor.tensors(contents))
        alignment = int(contents.values.get("general.alignment", 32))
        start = -(-cursor.position // alignment) * alignment
    return {each.name.decode("utf-8", "replace"): (each, start + each.offset) for each in tensors}


def _read(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(size)
