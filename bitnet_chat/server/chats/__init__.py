"""Conversations of the journal over HTTP: any number may watch a reply, and a stream that broke goes on."""
