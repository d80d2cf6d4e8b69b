"""What JSON files of this package have in common: an object that names its format and version."""

from __future__ import annotations

import json
from typing import Any

from loquent.errors import LoquentError


def read_document(
    text: str, name: str, *, what: str, wanted_format: str, version: int, error: type[LoquentError]
) -> dict[str, Any]:
    """The object in `text`, of that format and version.

    Args:
        text: from a file that is not trusted.
        name: of the file, for messages.
        what: the content, for messages, such as "motion".
        error: what to raise.

    Raises:
        LoquentError: the text is not such a document.
    """
    try:
        document = json.loads(text)
    except (RecursionError, ValueError) as cause:
        where = f"line {cause.lineno}: {cause.msg}" if isinstance(cause, json.JSONDecodeError) else str(cause)
        where = "nested too deeply" if isinstance(cause, RecursionError) else where
        raise error(f"{name}: is not JSON ({where})") from cause
    if not isinstance(document, dict) or document.get("format") != wanted_format:
        raise error(f"{name}: is JSON, but no {what}; wanted an object with format {wanted_format!r}")
    if document.get("version") != version:
        raise error(f"{name}: version {document.get('version')!r} is not known; this program reads {version}")
    return document
