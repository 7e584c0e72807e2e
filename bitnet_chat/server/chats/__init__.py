"""Conversations of the journal over HTTP: any number of clients may read a reply, and a broken stream resumes."""
