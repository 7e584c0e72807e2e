"""Files that go with a message: read into text (``reading``), put into the message in one format (``attachment``).

``mentions`` finds the ``@path`` in what a user typed. A front end reads what the user named, shows
:func:`Attachment.described`, and sends :func:`with_attachments`. Nothing here looks at the words of a model.
"""

from bitnet_chat.attachments.attachment import Attachment, Mention, mentions, rough_count, typed, with_attachments

__all__ = ["Attachment", "Mention", "mentions", "rough_count", "typed", "with_attachments"]
