"""Checks of the installation: ``bitnet-chat doctor``. :mod:`bitnet_chat.doctor.checks` runs all of them.

Each module examines one subject and returns findings with remedies. Judgements that are not trivial are functions
without I/O. A check changes nothing, and its time is limited.
"""
