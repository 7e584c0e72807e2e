"""The journal: every conversation in one SQLite file, written while it happens.

It is the truth about a conversation; what an engine remembers is a copy. Front ends write through a
:class:`Recorder`, which never waits and never raises, and read through a :class:`Journal`. Nothing here knows a front
end or an engine.
"""

from bitnet_chat.journal.entry import Entry, Hit, Record, State, Stored
from bitnet_chat.journal.journal import Journal
from bitnet_chat.journal.recorder import Recorder

__all__ = ["Entry", "Hit", "Journal", "Record", "Recorder", "State", "Stored"]
