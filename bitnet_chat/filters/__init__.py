"""Filters of a streaming reply: thinking, tool calls, stop texts, role markers, repetition. Pure.

A filter has ``feed`` for each piece of text and ``flush`` for the end. It holds back only text that may belong to a
marker, and its result does not depend on how the reply is cut into pieces.
"""
