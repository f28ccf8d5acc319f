"""The report of an evaluation or an audit: a dictionary, a table, or one page that opens offline.

::

    frame.py                     the scores with one number a row
    page.py                      the page, by page.html, parts.html and page.css
        summary.py               how good, how private, what to look at
        sections.py              the parts of the page, in their order
            quality.py           what those about quality show, by sections/*.html
            privacy.py           what those about privacy show
            reading.py           how to read each number, and when it lies
        figures.py               what plots draw, by page.js
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """What was measured, and how to show it.

    Args:
        scores: Plain numbers, texts, lists and dictionaries by section; "kind" is "evaluation" or
            "audit". A section that is missing or None is left out of the page, with the reason.
        pictures: What the plots draw: "distributions", "trends", "curves" and "losses", each of
            which may be missing.
    """

    scores: Mapping[str, Any]
    pictures: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The scores, ready for ``json.dumps``; a copy."""
        return copy.deepcopy(dict(self.scores))

    def to_frame(self) -> pd.DataFrame:
        """The scores with one number a row.

        Returns:
            Columns "section", "name", "column" (of the table, None for a number about all of it),
            "value", and "low" and "high" of its interval (NaN if there is none).
        """
        from genesis.evaluation.report.frame import tidy

        return tidy(self.scores)

    def to_html(self) -> str:
        """The whole page in one string: styles, scripts and Plotly are inside of it."""
        from genesis.evaluation.report.page import render

        return render(self.scores, self.pictures)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file.

        Raises:
            DataError: The folder is missing or the disk refuses.
        """
        from genesis.tables import check_output, replace_file

        check_output(path, suffixes=None)
        # A name that UTF-8 cannot hold (half a surrogate pair) gets a question mark instead.
        page = self.to_html().encode("utf-8", "replace")
        with replace_file(path) as temporary:
            temporary.write_bytes(page)
