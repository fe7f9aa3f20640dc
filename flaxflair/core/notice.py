"""Notice that every synthetic FLAIR carries in its header, in its sidecar and on its page."""

from __future__ import annotations

# At most 79 ASCII characters, which `descrip` of a NIfTI header holds.
NOTICE = "Synthetic FLAIR, research only, not for diagnosis"
NOTICE_KEY = "Notice"  # of sidecars
_MARK = "synthetic flair"


def is_notice(text: object) -> bool:
    """Whether a text, such as a header's description, marks an image as a synthetic FLAIR."""
    return isinstance(text, str) and _MARK in text.lower()
