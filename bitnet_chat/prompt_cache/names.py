"""The names of the files in the folder of states. Pure.

A state is ``STEM.state``. It is usable once its record ``STEM.OWNER.json`` or ``STEM.json`` exists, and does not change
after that, because a stem is used once. ``STEM.part`` is a record that is being written, ``STEM.OWNER.owner`` an empty
file that names a further owner. A stem is ``IDENTITY-DIGEST.WRITER``: the digests of the identity and of the last
boundary, and the pid, start time and a number of the process that wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

KEY_LENGTH = 57
_NAME = re.compile(
    r"(?P<stem>[0-9a-f]{16}-[0-9a-f]{40}\.\d{1,10}-\d{1,15}-\d{1,10})"
    r"(?:\.(?P<journal>[0-9a-f]{16})-(?P<conversation>\d{1,19})-(?P<message>\d{1,19}))?"
    r"\.(?P<kind>state|json|part|owner)"
)


@dataclass(frozen=True, slots=True)
class StateOwner:
    """A conversation in a journal that a state belongs to, with a message of it."""

    journal: str
    """See :meth:`bitnet_chat.prompt_cache.store.StateStore.owner`."""
    conversation: int
    message: int

    def __str__(self) -> str:
        return f"{self.journal}-{self.conversation}-{self.message}"


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files of the folder at one time, by stem."""

    states: frozenset[str]
    records: dict[str, StateOwner | None]
    parts: frozenset[str]
    owners: dict[str, frozenset[StateOwner]]
    """Further owners."""

    def owners_of(self, stem: str) -> frozenset[StateOwner]:
        """All owners of a state: the one in the name of its record, and the further ones."""
        first = self.records.get(stem)
        return self.owners.get(stem, frozenset()) | ({first} if first is not None else frozenset())

    @property
    def usable(self) -> list[str]:
        """The stems of the committed states."""
        return [stem for stem in self.records if stem in self.states]

    @property
    def unfinished(self) -> frozenset[str]:
        """The stems of states that are being written, or whose process ended before the commit."""
        return (self.states | self.parts) - self.records.keys()


def key(identity: str, prefix: str) -> str:
    """The beginning of a stem. ``identity`` and ``prefix``: digests, the latter of the last boundary, see
    :mod:`bitnet_chat.prompt_cache.key`."""
    return f"{identity}-{prefix}"


def identity_of(stem: str) -> str:
    """The digest of the identity."""
    return stem[:16]


def digest_of(stem: str) -> str:
    """The digest of the last boundary."""
    return stem[17:KEY_LENGTH]


def stem(key: str, process: str, number: int) -> str:
    """``process``: as :func:`bitnet_chat.util.process_identity.this_process` gives it."""
    pid, _, start = process.partition(":")
    return f"{key}.{pid}-{round(float(start) * 100)}-{number}"


def process_of(stem: str) -> str:
    """The process that wrote the state."""
    pid, start, _ = stem[KEY_LENGTH + 1 :].split("-")
    return f"{pid}:{int(start) / 100:.2f}"


def state_name(stem: str) -> str:
    return f"{stem}.state"


def part_name(stem: str) -> str:
    return f"{stem}.part"


def record_name(stem: str, owner: StateOwner | None) -> str:
    return f"{stem}.json" if owner is None else f"{stem}.{owner}.json"


def owner_name(stem: str, owner: StateOwner) -> str:
    return f"{stem}.{owner}.owner"


def listing(names: Iterable[str]) -> FolderListing:
    """Group the names of a folder by kind. Other names are ignored."""
    states, parts = set[str](), set[str]()
    records: dict[str, StateOwner | None] = {}
    owners: dict[str, set[StateOwner]] = {}
    for match in filter(None, map(_NAME.fullmatch, names)):
        stem, journal, conversation, message, kind = match.groups()
        owner = StateOwner(journal, int(conversation), int(message)) if journal else None
        if kind == "json":
            records[stem] = owner
        elif kind == "owner" and owner is not None:
            owners.setdefault(stem, set()).add(owner)
        elif kind in ("state", "part") and owner is None:
            (states if kind == "state" else parts).add(stem)
    further = {stem: frozenset(each) for stem, each in owners.items()}
    return FolderListing(frozenset(states), records, frozenset(parts), further)


def files_of(listing: FolderListing, stem: str) -> list[str]:
    """All files of a state in the order of their removal. The state is first: a record without a state always comes
    from an interrupted removal, but a state without a record may be one that is being written."""
    names = [state_name(stem)] if stem in listing.states else []
    if stem in listing.records:
        names.append(record_name(stem, listing.records[stem]))
    further = (owner_name(stem, owner) for owner in listing.owners.get(stem, ()))
    return [*chain(names, further), *([part_name(stem)] if stem in listing.parts else ())]
