"""Where on this machine lies what a spec names; free of torch."""


def python_file(rest: str) -> str | None:
    """Of `MODULE:FACTORY` or `FILE.py:FACTORY` the file, as it would be found from here.

    >>> python_file("nets/vit.py:build"), python_file("nets.vit:build")
    ('nets/vit.py', 'nets/vit.py')
    """
    where = rest.rpartition(":")[0]
    return where if where.endswith(".py") else f"{where.replace('.', '/')}.py"
