"""Filters of a reply while it streams: thoughts, tool calls, stop texts, role markers, repetition. Pure."""
