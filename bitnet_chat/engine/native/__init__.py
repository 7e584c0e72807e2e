"""The native engine: a child process that has loaded a prebuilt library, and exchanges lines of JSON with this program.

The child is :mod:`bitnet_chat.engine.native.__main__`. The parent imports only
:mod:`bitnet_chat.engine.native.protocol` and :mod:`bitnet_chat.engine.native.client`; the child does not import the
client.
"""
