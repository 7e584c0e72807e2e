"""What an engine's log says about its end."""

from __future__ import annotations

from bitnet_chat.engine.log import EngineLog


def log(text: str) -> EngineLog:
    it = EngineLog(lambda line: None)
    it.feed(text.encode())
    it.close()
    return it


def test_progress_and_the_start_of_a_line_are_no_reason() -> None:
    """An engine that exits before its log thread has written why leaves the dots of the loading: another try may say
    it, and nobody is shown them."""
    assert log("D load\nI ").tail() == ""
    assert log("D load\n...........................\n").tail() == ""
    assert log(".....\nmain: prompt is too long\n").tail() == "main: prompt is too long"


def test_what_tells_most_comes_first() -> None:
    assert log("something\nE failed to open\nD debug\n").tail() == "E failed to open"
    assert log("something\nelse").tail(1) == "else"


def test_the_line_that_tells_the_cause_is_the_first() -> None:
    """Not the last one, which follows from it, nor what is said of models that load."""
    vocabulary = "".join(f"llm_load_vocab: control token: {n} '<|x|>' is not marked as EOG\n" for n in range(8))
    text = (
        "llm_load_vocab: missing pre-tokenizer type, using: 'default'\n"
        "llm_load_vocab: GENERATION QUALITY WILL BE DEGRADED!        \n"
        "llm_load_vocab: ************************************        \n"
        f"{vocabulary}"
        "llm_load_vocab: special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect\n"
        "llama_model_load: error loading model: missing tensor 'blk.0.attn_norm.weight'\n"
        "llama_load_model_from_file: failed to load model\n"
        "main: error: unable to load model\n"
    )
    tail = log(text).tail()
    assert tail.splitlines()[0] == "llama_model_load: error loading model: missing tensor 'blk.0.attn_norm.weight'"
    assert tail.splitlines()[1:] == text.splitlines()[-2:]


def test_what_points_elsewhere_comes_last_and_nothing_comes_twice() -> None:
    removed = "E gguf_init: tensor 'a' of type 36 (TYPE_IQ4_NL_4_4 REMOVED, use IQ4_NL with runtime repacking) has 768"
    lines = log(f"{removed}\nE gguf_init: failed to read tensor info\n{removed}\nE main: unable to load model\n").tail()
    assert lines.splitlines() == ["E gguf_init: failed to read tensor info", "E main: unable to load model", removed]
    assert log(f"{removed}\n").tail() == removed


def test_a_server_writes_the_time_in_front() -> None:
    assert log("0.00.006.335 I srv  init: error\n0.00.058.629 E main: failed to open x\n").tail() == (
        "0.00.058.629 E main: failed to open x"
    )


def test_a_debugger_that_an_abort_has_started_says_nothing() -> None:
    text = "ggml.c:1: GGML_ASSERT(x) failed\n30\t../sysdeps/unix/sysv/linux/wait4.c: No such file or directory.\n"
    assert log(text).tail() == "ggml.c:1: GGML_ASSERT(x) failed"


def test_a_log_file_that_is_kept_from_being_written_says_nothing() -> None:
    failed = "Failed to open logfile '/dev/null/log.log' with error 'Not a directory'"
    assert log(f"{failed}\nllama_model_load: error loading model: invalid magic\n").tail() == (
        "llama_model_load: error loading model: invalid magic"
    )
    assert log(f"{failed}\n").tail() == ""


def test_what_a_user_pastes_is_not_the_engines_log() -> None:
    """BitNet 2024 and llama-completion quote prompts and messages in their debug logs, line for line."""
    pasted = "n_ctx = 99\nn_past = 5\n\nD n_remain: 5\nmain: context full, swapping: n_past = 9\nE failed to allocate"
    seen: list[str] = []
    for size, length in ((1, 1 << 12), (7, 1 << 17), (1 << 20, 1 << 17)):
        it = EngineLog(seen.append)
        it.quotes("prompt", pasted.count("\n"))
        it.quotes("buffer", pasted.count("\n"))
        text = (
            f"I main: load\nD prompt: \"{pasted}\"\nD tokens: [ 'n_ctx = 9':1 ]\nI main: interactive\n"
            f"D buffer: '{pasted}'\nD input tokens: [ 'n_past':1 ]\nD n_remain: -3\nD eval: [ 'x':1 ]\nD n_past = 7\n"
            f"D buffer: 'context full{'.' * length} context full\n"
        ).encode()
        for at in range(0, len(text), size):
            it.feed(text[at : at + size])
        it.close()
        assert seen == ["I main: load", "I main: interactive", "D n_remain: -3", "D n_past = 7"], size
        assert it.lines() == tuple(seen)
        assert it.tail() == ""
        seen.clear()


def test_lines_that_go_on_with_another_explain_nothing() -> None:
    assert log("I main: Input prefix: '\n<|im_start|>user'\n\ttop_k = 40\n").tail() == ""
    assert log("I main: load\nterminate called after throwing\n  what():  error\n").tail() != ""


def test_what_ik_says_of_any_model_explains_nothing() -> None:
    text = (
        "Failed to open logfile 'x' with error 'y'\n"
        "llm_load_print_meta: rope_finetuned   = unknown\nllama_model_loader: unknown type i2_s\n"
        "main: context full and n_predict == --2 => stopping\n"
    )
    assert log(text).tail().splitlines() == text.splitlines()[-2:]
