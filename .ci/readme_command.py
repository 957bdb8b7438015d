"""Print a command that the README gives, so that what is tested is what is promised.

    python .ci/readme_command.py README.md test

prints the fenced block that follows `<!-- command: test -->`.
"""

import re
import sys
from pathlib import Path


def main() -> None:
    """Find the block and print it."""
    path, name = sys.argv[1:]
    text = Path(path).read_text(encoding="utf-8")
    match = re.search(rf"<!-- command: {re.escape(name)} -->\s*```\w*\n(.*?)```", text, re.DOTALL)
    if match is None:
        sys.exit(f"{path}: no command named {name}")
    print(match[1].strip())


if __name__ == "__main__":
    main()
