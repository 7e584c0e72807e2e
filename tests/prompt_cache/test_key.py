"""Digests of identities and of conversations."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_chat.conversation import Message, Tool, ToolCall
from bitnet_chat.errors import FinishReason
from bitnet_chat.prompt_cache.key import StateIdentity, prefix_digests, text_digest

IDENTITY = StateIdentity("a" * 64, "llama.cpp", "b1", 1, 4096, "f16", "f16", "t", ("x",))
# Few signs, so that different structures often have the same text; surrogates stand for bytes that are not UTF-8.
TEXT = st.text(st.sampled_from('ab"[],:\x00\udcff\ud83d\ude00😀'), max_size=4)
JSON = st.recursive(TEXT | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=3)
TOOLS = st.lists(
    st.builds(Tool, TEXT, TEXT, st.dictionaries(TEXT, JSON, max_size=2)),
    max_size=2,
)
CALLS = st.lists(st.builds(ToolCall, TEXT, TEXT, TEXT), max_size=2).map(tuple)
ROLES = st.sampled_from(["user", "assistant", "tool"])
MESSAGES = st.lists(
    st.builds(
        lambda role, content, thinking, calls, id, tool: Message(role, content, None, thinking, calls, id, tool),
        *(ROLES, TEXT, TEXT, CALLS, TEXT, TEXT),
    ),
    max_size=3,
)
CONVERSATIONS = st.tuples(TEXT, TOOLS, MESSAGES)


@settings(max_examples=150, deadline=None)
@given(CONVERSATIONS, CONVERSATIONS)
def test_different_conversations_never_share_a_digest(
    one: tuple[str, list[Tool], list[Message]], other: tuple[str, list[Tool], list[Message]]
) -> None:
    for left in range(len(one[2]) + 1):
        for right in range(len(other[2]) + 1):
            same = (one[0], one[1], one[2][:left]) == (other[0], other[1], other[2][:right])
            same = same and [list(each.parameters) for each in one[1]] == [list(each.parameters) for each in other[1]]
            assert (prefix_digests(*one)[left] == prefix_digests(*other)[right]) is same


@given(CONVERSATIONS)
def test_a_prefix_has_the_digests_of_its_conversation(one: tuple[str, list[Tool], list[Message]]) -> None:
    system, tools, messages = one
    digests = prefix_digests(system, tools, messages)
    assert len(digests) == len(messages) + 1 == len(set(digests))
    assert all(len(digest) == 40 and not set(digest) - set("0123456789abcdef") for digest in digests)
    for count in range(len(digests)):
        assert prefix_digests(system, tools, messages[:count]) == digests[: count + 1]


def test_text_moved_between_fields_is_another_conversation() -> None:
    call = ToolCall("a", "b", "{}")
    variants = [
        prefix_digests("ab", (), [])[-1],
        prefix_digests("", (), [Message("user", "ab")])[-1],
        prefix_digests("", (), [Message("assistant", "ab")])[-1],
        prefix_digests("", (), [Message("assistant", "a", thinking="b")])[-1],
        prefix_digests("", (), [Message("assistant", "", thinking="ab")])[-1],
        prefix_digests("", (), [Message("user", "a"), Message("user", "b")])[-1],
        prefix_digests("a", (), [Message("user", "b")])[-1],
        prefix_digests("", (Tool("ab"),), [])[-1],
        prefix_digests("", (Tool("a", "b"),), [])[-1],
        prefix_digests("", (Tool("a"), Tool("b")), [])[-1],
        prefix_digests("", (), [Message("assistant", "", tool_calls=(call,))])[-1],
        prefix_digests("", (), [Message("assistant", "", tool_calls=(call, call))])[-1],
        prefix_digests("", (), [Message("tool", "a", call_id="b")])[-1],
        prefix_digests("", (), [Message("tool", "a", tool_name="b")])[-1],
    ]
    assert len(set(variants)) == len(variants)


def test_the_order_of_parameters_counts_and_the_finish_reason_does_not() -> None:
    one, other = Tool("t", "", {"a": 1, "b": 2}), Tool("t", "", {"b": 2, "a": 1})
    assert prefix_digests("", (one,), []) != prefix_digests("", (other,), [])
    cut, whole = Message("assistant", "x", FinishReason.INTERRUPTED), Message("assistant", "x", FinishReason.STOP)
    assert prefix_digests("", (), [cut]) == prefix_digests("", (), [whole])


def test_digests_do_not_depend_on_the_run() -> None:
    """Another encoding needs another ``FORMAT``."""
    assert prefix_digests("s", (Tool("t"),), [Message("user", "\udcff")]) == (
        "8480b713ec77972db716bc08b39fdabda82ce6d2",
        "35f5e4c391aa5b24aada0c3faa4ed13d6c1aaeea",
    )
    assert (IDENTITY.digest, text_digest("x")) == ("8759c23bcd5e6b6c", "e65d4a19b353cb59")


def test_every_field_of_an_identity_counts() -> None:
    digests = {IDENTITY.digest}
    for each in fields(StateIdentity):
        value = getattr(IDENTITY, each.name)
        other = value + 1 if isinstance(value, int) else (*value, "y") if isinstance(value, tuple) else value + "\udcff"
        digests.add(replace(IDENTITY, **{each.name: other}).digest)
    assert len(digests) == len(fields(StateIdentity)) + 1
    assert replace(IDENTITY, flags=("xy",)).digest != replace(IDENTITY, flags=("x", "y")).digest
