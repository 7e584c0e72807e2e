"""Several replies to one message, of one model or of two, and the choice of the one that continues the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_chat.backends.wrappers.recording import record_variants
from bitnet_chat.conversation import Conversation
from bitnet_chat.events import Completed
from bitnet_chat.repl.variants_view import VariantReply, VariantsView
from bitnet_chat.text.sanitize import one_line

if TYPE_CHECKING:
    from bitnet_chat.backend import Backend, ReplyOptions
    from bitnet_chat.journal import JournalRecorder, MessageRecord, StoredConversation
    from bitnet_chat.repl.branches import Branches
    from bitnet_chat.repl.comparison import Comparison
    from bitnet_chat.repl.display import ReplyDisplay
    from bitnet_chat.repl.interfaces import UserInterface


@dataclass(frozen=True, slots=True)
class ReplyChoice:
    """The result. ``generated``: the replies that were made, None: one that was not begun. ``conversation``: with the
    reply that continues it; None: the conversation is unchanged. ``stored``: it in the journal; None: not known.
    ``line``: a sentence for the user."""

    generated: Sequence[VariantReply | None]
    conversation: Conversation | None
    stored: StoredConversation | None
    line: str


class ReplyChooser:
    """Requests, shows and stores several replies to a message, and lets the user choose one of them."""

    def __init__(
        self, recorder: JournalRecorder, branches: Branches, display: ReplyDisplay, console: UserInterface
    ) -> None:
        self._recorder, self._branches, self._display, self._console = recorder, branches, display, console
        self._view: VariantsView | Comparison | None = None

    def interrupt(self) -> None:
        """Stop the running replies."""
        if self._view is not None:
            self._view.interrupt()

    async def variants(
        self, backend: Backend, conversation: Conversation, options: ReplyOptions, count: int
    ) -> ReplyChoice:
        """Request ``count`` replies to ``conversation``. Without a choice the first one continues it."""
        before = await self._branches.last_reply()
        events = record_variants(backend, self._recorder, conversation, options, count)
        titles = [f"{number} of {count}" for number in range(1, count + 1)]
        view = self._view = VariantsView(events, lambda _: backend, titles, self._display, backend.interrupt)
        try:
            replies = await view.run()
        finally:
            self._view = None
        whole = [number for number, reply in enumerate(replies) if reply is not None and reply.is_whole]
        if not whole:
            return await self._unchanged(replies, before)
        first = whole[0]
        if len(whole) > 1:
            what = f"number {first + 1}"
            chosen = await self._console.choose("Which reply continues the conversation?", count, what, what)
            first = chosen - 1 if chosen and chosen - 1 in whole else first
        rows = await self._branches.replies(count)
        line = f"Reply {first + 1} of {count} continues the conversation."
        return await self._chosen(replies, conversation, replies[first], rows[first] if rows else None, line)

    async def compare(
        self,
        present: Backend,
        other: Backend,
        asked: Conversation,
        current: Conversation,
        options: ReplyOptions,
        blind: bool,
    ) -> ReplyChoice:
        """Request the reply of another model to ``asked``, and that of the present model, unless the ``current``
        conversation ends with it."""
        from bitnet_chat.repl.comparison import Comparison

        before = await self._branches.last_reply()
        existing = _existing_reply(present.status().model, asked, current, before)
        comparison = self._view = Comparison((present, other), asked, options, self._recorder, existing, blind=blind)
        try:
            compared = await comparison.run(self._display, self._console)
        finally:
            self._view = None
        generated = compared.replies if comparison.generates_both else compared.replies[1:]
        chosen = compared.chosen
        if chosen is None and len(asked.messages) > len(current.messages):  # it has no reply yet
            whole = [model for model, reply in enumerate(compared.replies) if reply is not None and reply.is_whole]
            chosen = min(whole, default=None)
        if chosen is None or (chosen == 0 and not comparison.generates_both):
            return await self._unchanged(generated, before)
        names = [one_line(each.status().model) for each in (present, other)]
        model = f" with {names[0]}: /model {names[1]} switches" if chosen else ""
        line = f"The reply of {names[chosen]} continues the conversation{model}."
        return await self._chosen(generated, asked, compared.replies[chosen], compared.rows[chosen], line)

    async def _chosen(
        self,
        generated: Sequence[VariantReply | None],
        asked: Conversation,
        reply: VariantReply | None,
        row: int | None,
        line: str,
    ) -> ReplyChoice:
        """``row``: of the reply in the journal; None: not known."""
        assert reply is not None and isinstance(reply.event, Completed)
        conversation = asked.with_assistant(reply.event.text, reply.event.reason, reply.thinking, reply.calls)
        stored = None if row is None else await self._branches.through_reply(row)
        return ReplyChoice(generated, conversation, stored, line)

    async def _unchanged(self, generated: Sequence[VariantReply | None], before: MessageRecord | None) -> ReplyChoice:
        """``before``: the reply at the end of the conversation."""
        stored = None if before is None else await self._branches.through_reply(before.row)
        return ReplyChoice(generated, None, stored, "The conversation is unchanged.")


def _existing_reply(
    model: str, asked: Conversation, current: Conversation, last: MessageRecord | None
) -> MessageRecord | None:
    """The reply of ``model`` to ``asked`` at the end of the ``current`` conversation. ``last``: its last reply in
    the journal."""
    reply = current.last
    if reply is None or reply.role != "assistant" or len(asked.messages) > len(current.messages):
        return None
    from bitnet_chat.journal import MessageRecord

    if last is None or last.message.content != reply.content:
        return MessageRecord(0, reply, 0.0, model)
    return last if last.model == model else None
