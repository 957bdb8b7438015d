"""Finds the file on this machine that a spec names; imports no torch."""


def python_file(rest: str) -> str | None:
    """The file of `MODULE:FACTORY` or `FILE.py:FACTORY`, relative to the current folder.

    >>> python_file("nets/vit.py:build"), python_file("nets.vit:build")
    ('nets/vit.py', 'nets/vit.py')
    """
    where = rest.rpartition(":")[0]
    return where if where.endswith(".py") else f"{where.replace('.', '/')}.py"
