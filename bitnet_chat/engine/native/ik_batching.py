"""Continuous batching for ik_llama.cpp: one thread evaluates all sequences. Each batch has the last token of every
running reply, and, in the remaining space, the next part of a prompt.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from bitnet_chat.engine.native.ik_context import BatchPart, IkContext
from bitnet_chat.engine.native.ik_model import IkModel
from bitnet_chat.engine.native.ik_sampling import IkSampler
from bitnet_chat.engine.native.library import GenerationRequest, Outcome, ReplySink, Sequences, common
from bitnet_chat.errors import ContextFullError, NativeRequestError

_Result = TypeVar("_Result")


class _Task:
    """A running reply. ``tokens``: those of its sequence, the first ``size`` of which are the prompt and the first
    ``done`` of which are evaluated.
    """

    def __init__(self, generation: GenerationRequest, sink: ReplySink, sampler: IkSampler) -> None:
        self.sink, self.sampler, self.limit = sink, sampler, generation.max_tokens
        self.tokens, self.size = list(generation.tokens), len(generation.tokens)
        self.sequence = self.done = self.cached = 0
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.ended = threading.Event()

    @property
    def waiting(self) -> int:
        """Number of tokens that are not evaluated yet."""
        return len(self.tokens) - self.done

    @property
    def has_ended(self) -> bool:
        return self.outcome is not None or self.error is not None

    def end(self, outcome: Outcome | None, error: Exception | None = None) -> None:
        self.outcome, self.error = outcome, error


class IkScheduler:
    """Runs replies in a thread. :meth:`complete` and :meth:`call` may be called on any thread, and block."""

    def __init__(self, model: IkModel, context: IkContext, *, window: int, batch: int, sequences: int) -> None:
        """Start the thread. ``window``: tokens of one sequence. ``batch``: maximum tokens of a batch."""
        self._model, self._context, self._window, self._batch = model, context, window, batch
        self._sequences = Sequences(sequences)
        self._tasks: list[_Task] = []
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="scheduler", daemon=True).start()

    def complete(self, generation: GenerationRequest, sink: ReplySink) -> Outcome:
        """See :meth:`bitnet_chat.engine.native.library.Library.complete`."""
        self._model.check(generation.tokens)
        model = self._model
        sampler = IkSampler(model.library, self._context.pointer, model.vocabulary, model.size, generation.sampling)
        try:
            if generation.grammar:
                sampler.obey(generation.grammar)
            task = _Task(generation, sink, sampler)
            sink.when_stopped(self._context.abort)
            self._calls.put(lambda: self._begin(task))
            task.ended.wait()
        finally:
            sampler.close()
        if task.outcome is None:
            raise task.error or NativeRequestError("failed", "the reply ended without a reason")
        return task.outcome

    def call(self, work: Callable[[IkContext, Sequences], _Result]) -> _Result:
        """Run ``work`` on the thread between two batches, and return its result. Raises its exception."""
        results: list[_Result] = []
        errors: list[Exception] = []
        done = threading.Event()

        def attempt() -> None:
            try:
                results.append(work(self._context, self._sequences))
            except Exception as error:
                errors.append(error)
            done.set()

        self._calls.put(attempt)
        done.wait()
        if errors:
            raise errors[0]
        return results[0]

    def _run(self) -> None:
        while True:
            while not self._tasks or not self._calls.empty():
                self._calls.get()()
            try:
                self._step()
            except Exception as error:  # the contents of the cache are unknown then
                for task in self._tasks:
                    task.done = self._context.remove(task.sequence, 0)
                    task.end(None, error)
            for task in [task for task in self._tasks if task.has_ended]:
                self._finish(task)

    def _begin(self, task: _Task) -> None:
        """Assign a sequence to a task, with as much of the prompt as it, or another sequence, has evaluated."""
        prompt, sequences = task.tokens, self._sequences
        for other in self._tasks:
            sequences.put(other.sequence, tuple(other.tokens[: other.done]))
        donor = sequences.donor(prompt)
        task.sequence = sequences.take(prompt)
        kept, shared = (common(sequences.evaluated(each), prompt) for each in (task.sequence, donor))
        most = task.size - 1  # the last token must be evaluated for its logits
        if shared > kept:
            self._context.copy(donor, task.sequence, min(shared, most))
        task.cached = task.done = self._context.remove(task.sequence, min(max(kept, shared), most))
        self._context.compact()
        self._tasks.append(task)
        task.sink.prefill(task.done, task.size, task.cached)

    def _finish(self, task: _Task) -> None:
        self._tasks.remove(task)
        self._sequences.put(task.sequence, tuple(task.tokens[: task.done]))
        self._sequences.release(task.sequence)
        task.ended.set()

    def _step(self) -> None:
        self._context.arm()
        for task in self._tasks:
            if task.sink.is_cut:
                task.end("cut")
        plan, places = self._evaluate()
        outputs = iter(places)
        for task, part in plan:
            task.done += len(part.tokens)
            if len(task.tokens) == task.size:
                task.sink.prefill(task.done, task.size, task.cached)
            if part.outputs:
                self._continue(task, self._context.logits(next(outputs)))

    def _evaluate(self) -> tuple[list[tuple[_Task, BatchPart]], list[int]]:
        """Evaluate the next batch. Returns its parts and the positions of their outputs in the batch; both empty after
        an abort.
        """
        room = self._batch
        while plan := self._plan(room):
            try:
                places = self._context.evaluate([part for _, part in plan])
                return ([], []) if places is None else (plan, places)
            except ContextFullError:  # the free cells are not contiguous: try a smaller batch
                room //= 2
        if room == 0:
            raise NativeRequestError("failed", "the cache has no free cell")
        return [], []

    def _plan(self, room: int) -> list[tuple[_Task, BatchPart]]:
        """Return the parts of the next batch, at most ``room`` tokens, replies before prompts."""
        plan = []
        for task in sorted(self._tasks, key=lambda task: task.waiting):
            tokens = task.tokens[task.done : task.done + room]
            if tokens and not task.has_ended:
                plan.append((task, BatchPart(task.sequence, task.done, tokens, int(len(tokens) == task.waiting))))
                room -= len(tokens)
        return plan

    def _continue(self, task: _Task, logits: int) -> None:
        token = task.sampler.draw(logits, task.tokens)
        if token is None or self._model.ends(token):
            task.end("cut" if task.sink.token(token, b"") else "stop")
        else:
            task.sampler.accept(token)
            task.tokens.append(token)
            if task.sink.token(token, self._model.piece(token)):
                task.end("cut")
            elif len(task.tokens) - task.size == task.limit:
                task.end("length")
            elif len(task.tokens) >= self._window:
                task.end("context_full")
