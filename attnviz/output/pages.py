"""Pages of one file: template, style, script and data in one, under a policy that allows no more.

A page that is opened as a file may read no other, and asks nothing of the network.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def fill(folder: Path, *, scripts: Sequence[str], images: str, **places: str) -> str:
    """A page, made of `page.html`, `style.css` and the scripts of a folder, and of what all share.

    Each `{{name}}` of the template is filled once, with `policy`, `style`, `script` or one of the
    `places`: what is filled in is looked at no more, so a picture may be named as a place is.

    Args:
        folder: where the parts lie.
        scripts: names of files, which become one script, in this order.
        images: where pictures may come from, as the policy says it: `'self'`.
        places: what else is filled in: HTML, JSON of `as_data`, or text that is escaped already.
    """
    style = part(Path(__file__).parent, "pages.css") + part(folder, "style.css")
    script = "\n".join(part(folder, name) for name in scripts)
    policy = (
        f"default-src 'none'; img-src {images}; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    filled = {"policy": policy, "style": style, "script": script, **places}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], part(folder, "page.html"))


def as_data(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element, or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def part(folder: Path, name: str) -> str:
    """One of the files that pages are made of."""
    return (folder / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
