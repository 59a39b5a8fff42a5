"""Where a run was made: code, machine and packages, as tags. Nothing secret, no environment."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = ("workbench-sid", "torch", "diffusers", "transformers", "mlflow", "numpy")


def environment_tags(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Tags that say which code ran where.

    MLflow sets its commit tag from the script's folder, which for an installed command is not the
    checkout, and never says whether the checkout was clean. What cannot be found out is absent.
    """
    tags = {
        "host": platform.node(),
        "platform": platform.platform(),
        "version.python": platform.python_version(),
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        **git_tags(Path(__file__).resolve()),
    }
    user = _user()
    if user is not None:
        tags |= {"user": user, "mlflow.user": user}
    for package in packages:
        try:
            tags[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return tags


def git_tags(source: Path) -> dict[str, str]:
    """Commit and dirty flag of the checkout that tracks the file ``source``; empty without one.

    A file that merely lies inside somebody's checkout (a virtual environment there) has no commit.
    """
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return {}
    commit = _git(source.parent, "rev-parse", "HEAD")
    changes = _git(source.parent, "status", "--porcelain")
    if commit is None or changes is None:
        return {}
    dirty = "true" if changes else "false"
    return {
        "git.commit": commit,
        "git.dirty": dirty,
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": dirty,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a git hook GIT_DIR and its kin point at another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None
