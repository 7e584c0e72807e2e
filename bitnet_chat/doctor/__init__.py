"""What could be wrong on this computer, looked at and judged: ``bitnet-chat doctor``.

Each module gathers the facts of one subject and judges them; the judgments that need thought are functions without
I/O. Nothing is changed, and everything is bounded in time.
"""
