"""The names of the files in the folder of states. Pure.

A state is ``STEM.state`` and, from the moment on that it is usable, ``STEM.OWNER.json`` or ``STEM.json`` with its
record. A stem is never used again, so that a file never changes after that moment. ``STEM.part`` is a record that is
being written, ``STEM.OWNER.owner`` an empty file that names a further owner. A stem is ``IDENTITY-PREFIX.WRITER``: the
two digests of the key, and pid, start and a number of the process that has written it.
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
    """The place in a journal that a state belongs to: the last message that it covers."""

    journal: str
    """See :meth:`bitnet_chat.prompt_cache.store.StateStore.owner`."""
    conversation: int
    message: int

    def __str__(self) -> str:
        return f"{self.journal}-{self.conversation}-{self.message}"


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The folder at one moment, by stems."""

    states: frozenset[str]
    records: dict[str, StateOwner | None]
    parts: frozenset[str]
    owners: dict[str, frozenset[StateOwner]]
    """Further owners."""

    def owners_of(self, stem: str) -> frozenset[StateOwner]:
        first = self.records.get(stem)
        return self.owners.get(stem, frozenset()) | ({first} if first is not None else frozenset())

    @property
    def usable(self) -> list[str]:
        """The stems of the states that were committed."""
        return [stem for stem in self.records if stem in self.states]

    @property
    def unfinished(self) -> frozenset[str]:
        """The stems of states that are being written, or that a process has left behind."""
        return (self.states | self.parts) - self.records.keys()


def key(identity: str, prefix: str) -> str:
    """The beginning of a stem. ``identity`` and ``prefix``: digests, see :mod:`bitnet_chat.prompt_cache.key`."""
    return f"{identity}-{prefix}"


def identity_of(stem: str) -> str:
    """The digest of the identity."""
    return stem[:16]


def digest_of(stem: str) -> str:
    """The digest of the boundary."""
    return stem[17:KEY_LENGTH]


def stem(key: str, process: str, number: int) -> str:
    """``process``: as :func:`bitnet_chat.util.process_identity.this_process` gives it."""
    pid, _, start = process.partition(":")
    return f"{key}.{pid}-{round(float(start) * 100)}-{number}"


def process_of(stem: str) -> str:
    """The process that has written the state."""
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
    """Sort the names of a folder; files with other names are ignored."""
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
    """All files of a state in the order of their removal: a record without a state is a removal that was cut off, at
    any time and by any process, a state without a record may be one that is being written."""
    names = [state_name(stem)] if stem in listing.states else []
    if stem in listing.records:
        names.append(record_name(stem, listing.records[stem]))
    further = (owner_name(stem, owner) for owner in listing.owners.get(stem, ()))
    return [*chain(names, further), *([part_name(stem)] if stem in listing.parts else ())]
