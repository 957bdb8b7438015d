"""Declares every option once, in groups; a command takes the groups that it needs.

Nothing here imports torch, numpy or matplotlib, so that `--help` and usage errors are answered at
once. A group checks its own values when it is made. Groups have no generated `__eq__` or
`__repr__`, since generating them would slow the start-up.
"""
