"""JSON files of a teacher's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench.errors import RequestError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RequestError: the file is missing, unreadable or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"The teacher folder {path.parent} has no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"The teacher's file {path} is damaged: {error}.") from None
    if not isinstance(content, dict):
        raise RequestError(f"The teacher's file {path} is damaged: it holds no JSON object.")
    return content
