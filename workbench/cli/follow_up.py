"""Commands that a person is told to go on with: what they open is what has just been shown."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from workbench.cli.common import own_command

if TYPE_CHECKING:
    from workbench.workspace import Workspace


def follow_up(workspace: Workspace, tracking_uri: str, *words: str) -> str:
    """A command of this program on the same workspace and store, as a shell takes it.

    The store is named unless the command finds it by itself. A password in its address is not
    shown: the person has to put it in again.

    Args:
        words: the command and its arguments.
    """
    from workbench.tracking import default_uri, redact
    from workbench.user_config import default_tracking_uri

    parts = [*words, "--workspace", str(workspace.root)]
    found = default_tracking_uri() or default_uri(workspace.root)
    if tracking_uri != found:
        parts += ["--tracking-uri", redact(tracking_uri)]
    return shlex.join([own_command(), *parts])
