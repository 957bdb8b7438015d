"""Makes HTML pages of one file that hold their style, scripts and data.

A content security policy forbids everything else: a page reads no other file and makes no network
requests.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def fill(folder: Path, *, scripts: Sequence[str], images: str, **places: str) -> str:
    """A page from `page.html`, `style.css` and the scripts of a folder, and the parts all share.

    Each `{{name}}` of the template is replaced once, with `policy`, `style`, `script` or one of the
    `places`. Inserted text is not searched again, so a picture's name may look like a place.

    Args:
        folder: where the parts lie.
        scripts: names of files; they become one script, in this order.
        images: the policy's source of pictures, such as `'self'`.
        places: other text to insert: HTML, JSON of `as_data`, or text that is already escaped.
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
    """JSON for a script element; it cannot end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def part(folder: Path, name: str) -> str:
    """The text of one file of a page."""
    return (folder / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
