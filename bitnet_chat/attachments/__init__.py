"""Attachments of a message: read into text (``reading``), put into the message in one format (``attachment``).

``mentions`` finds each ``@path`` in typed text. A front end reads the named files, shows :func:`Attachment.described`,
and sends :func:`with_attachments`. Text of a model is never searched.
"""

from bitnet_chat.attachments.attachment import Attachment, Mention, mentions, rough_count, typed, with_attachments

__all__ = ["Attachment", "Mention", "mentions", "rough_count", "typed", "with_attachments"]
