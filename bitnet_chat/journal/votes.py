"""Votes between replies to the same message, and their sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

MOST_REPLIES = 64
"""Maximum number of replies of one vote; a longer list of a damaged journal is not read."""


@dataclass(frozen=True, slots=True)
class VotedReply:
    """A reply of a vote. ``row``: its message. ``model``, ``engine``: empty if they are not known."""

    row: int
    model: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """The choice between replies. ``created``: seconds since the epoch."""

    id: int
    conversation: int
    created: float
    blind: bool
    """Whether the models were hidden until the choice."""
    replies: tuple[VotedReply, ...]
    """The replies in the order in which they were shown."""
    chosen: int | None
    """Row of the preferred reply; None: none was better."""
    damage: str = ""
    """Description of invalid values in the row; empty without any."""

    def as_json(self) -> dict[str, object]:
        """The vote for JSON output."""
        replies = [{"message": each.row, "model": each.model, "engine": each.engine} for each in self.replies]
        facts: dict[str, object] = {"id": self.id, "conversation": self.conversation, "created": self.created}
        return facts | {"blind": self.blind, "replies": replies, "chosen": self.chosen}


@dataclass(frozen=True, slots=True)
class Count:
    """A number of votes, and the number of blind ones among them."""

    all: int = 0
    blind: int = 0

    def plus(self, blind: bool) -> Count:
        """One more vote."""
        return Count(self.all + 1, self.blind + blind)


@dataclass(frozen=True, slots=True)
class ModelVotes:
    """The votes with replies of one model: all of them, those that it won, and those without a preference."""

    model: str
    votes: Count = Count()
    chosen: Count = Count()
    ties: Count = Count()

    def as_json(self) -> dict[str, object]:
        """The sums for JSON output."""
        return {"model": self.model} | _as_json(votes=self.votes, chosen=self.chosen, ties=self.ties)


@dataclass(frozen=True, slots=True)
class PairVotes:
    """The votes with replies of two models. Votes for a third one are not counted. ``first`` < ``second``."""

    first: str
    second: str
    first_chosen: Count = Count()
    second_chosen: Count = Count()
    ties: Count = Count()

    def as_json(self) -> dict[str, object]:
        """The sums for JSON output."""
        counts = _as_json(first_chosen=self.first_chosen, second_chosen=self.second_chosen, ties=self.ties)
        return {"first": self.first, "second": self.second} | counts


def _as_json(**counts: Count) -> dict[str, object]:
    all: dict[str, object] = {name: count.all for name, count in counts.items()}
    return all | {f"blind_{name}": count.blind for name, count in counts.items()}


def by_model(votes: Iterable[Vote]) -> list[ModelVotes]:
    """The sums of each model, the one with the largest share of its votes first."""
    sums = dict[str, ModelVotes]()
    for vote in votes:
        winner = _chosen_model(vote)
        for model in {reply.model for reply in vote.replies}:
            each = sums.get(model, ModelVotes(model))
            each = replace(each, votes=each.votes.plus(vote.blind))
            if vote.chosen is None:
                each = replace(each, ties=each.ties.plus(vote.blind))
            elif model == winner:
                each = replace(each, chosen=each.chosen.plus(vote.blind))
            sums[model] = each
    return sorted(sums.values(), key=lambda each: (-each.chosen.all / each.votes.all, -each.votes.all, each.model))


def by_pair(votes: Iterable[Vote]) -> list[PairVotes]:
    """The sums of each pair of different models, in alphabetical order."""
    sums = dict[tuple[str, str], PairVotes]()
    for vote in votes:
        winner = _chosen_model(vote)
        for first, second in combinations(sorted({reply.model for reply in vote.replies}), 2):
            each = sums.get((first, second), PairVotes(first, second))
            if vote.chosen is None:
                each = replace(each, ties=each.ties.plus(vote.blind))
            elif winner == first:
                each = replace(each, first_chosen=each.first_chosen.plus(vote.blind))
            elif winner == second:
                each = replace(each, second_chosen=each.second_chosen.plus(vote.blind))
            sums[first, second] = each
    return [sums[pair] for pair in sorted(sums)]


def _chosen_model(vote: Vote) -> str | None:
    return next((reply.model for reply in vote.replies if reply.row == vote.chosen), None)
