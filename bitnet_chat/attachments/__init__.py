"""Attachments of a message: files are read as text (``reading``) and put into the message in one format
(``attachment``).

``mentions`` finds each ``@path`` in typed text. A front end reads these files, shows :meth:`Attachment.described`, and
sends :func:`with_attachments`. Text of a model is never searched for mentions.
"""

from bitnet_chat.attachments.attachment import Attachment, Mention, mentions, rough_count, typed, with_attachments

__all__ = ["Attachment", "Mention", "mentions", "rough_count", "typed", "with_attachments"]
