"""Names of output files; see `textseg.naming`."""

from __future__ import annotations

from ..naming import image_stems, query_slugs

__all__ = ["image_stems", "query_slugs"]
