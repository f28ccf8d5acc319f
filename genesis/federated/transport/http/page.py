"""The live page of a run: one HTML document that asks the server for the status by itself.

Two fences keep what clients say from being more than text. The script writes it as text alone; and
the content security policy lets the browser run that one script, whose hash is named in it, load
nothing from elsewhere, and refuse any text that would be parsed as HTML.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from string import Template

__all__ = ["POLICY", "page"]


def _read(name: str) -> str:
    """A file beside this one."""
    return resources.files("genesis.federated.transport.http").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    """How the policy names an inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_STYLE, _SCRIPT = _read("page.css"), _read("page.js")
_PAGE = Template(_read("page.html")).substitute(style=_STYLE, script=_SCRIPT)

POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The Content-Security-Policy header that the page is to be sent with."""


def page() -> str:
    """The page, which needs nothing but ``v1/status`` beside its own address."""
    return _PAGE
