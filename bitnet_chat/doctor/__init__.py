"""Checks of the installation with findings and remedies: ``bitnet-chat doctor``.

Each module collects the facts of one subject and judges them; non-trivial judgements are functions without I/O. Nothing
is changed, and everything is bounded in time.
"""
