"""``workbench.toml``: what a person or a team would else write into every command.

The file is looked for in the current directory and its parents, as ruff looks for pyproject.toml.
An option takes the place of an environment variable, which takes the place of the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from workbench.errors import RequestError, nearest_name
from workbench.pretrained import bundled_folder
from workbench.settings import FrozenConfig

FILE_NAME = "workbench.toml"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
PROFILES = "profiles"
"""The table of ``[slurm]`` that holds named sets of its settings."""

_SQLITE = "sqlite:///"
_SECRET = re.compile(r"(?i)pass(word|wd)?|pwd|token|secret|api_?key")

Model = TypeVar("Model", bound=BaseModel)


class UserConfig(FrozenConfig):
    """The file's content; paths are absolute.

    Attributes:
        weights: files of metrics' networks by name, as ``--weights NAME=PATH`` takes them.
        slurm: settings of Slurm jobs, which ``workbench.launching`` checks, and their profiles.
    """

    workspace: Path | None = None
    tracking_uri: str | None = None
    weights: dict[str, Path] = Field({})
    slurm: dict[str, Any] = Field({})


def find_user_config() -> Path | None:
    """The nearest ``workbench.toml`` at or above the current directory."""
    here = Path.cwd()
    files = (folder / FILE_NAME for folder in (here, *here.parents))
    return next((file for file in files if file.is_file()), None)


def load_user_config() -> UserConfig:
    """The nearest file's content; empty where there is none.

    Raises:
        RequestError: it cannot be read, has an unknown key (names the nearest) or a wrong value, or
            holds a password or a token.
    """
    file = find_user_config()
    if file is None:
        return UserConfig()
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"Cannot read {file}: {error}.") from None
    _check_no_secrets(values, file)
    config = validate_table(UserConfig, values, file)
    return config.model_copy(
        update={
            "workspace": config.workspace and _absolute(config.workspace, file).resolve(),
            "tracking_uri": _absolute_store(config.tracking_uri, file),
            "weights": {
                name: path if bundled_folder(path) else _absolute(path, file)
                for name, path in config.weights.items()
            },
        }
    )


def default_tracking_uri() -> str | None:
    """The store of who names none: $MLFLOW_TRACKING_URI, else the file's; None for the workspace's.

    Raises:
        RequestError: as :func:`load_user_config`.
    """
    return os.environ.get(TRACKING_VARIABLE) or load_user_config().tracking_uri


def slurm_tables(profile: str | None) -> dict[str, Mapping[str, Any]]:
    """The file's Slurm settings by table name: those of all jobs, then the profile's.

    Raises:
        RequestError: no such profile, or as :func:`load_user_config`.
    """
    tables = dict(load_user_config().slurm)
    profiles = tables.pop(PROFILES, {})
    if profile is None:
        return {"slurm": tables}
    if profile not in profiles:
        where = find_user_config() or FILE_NAME
        raise RequestError(
            f"{where} has no [slurm.{PROFILES}.{profile}]{nearest_name(profile, profiles)} "
            f"Profiles: {', '.join(profiles) or 'none'}."
        )
    return {"slurm": tables, f"slurm.{PROFILES}.{profile}": profiles[profile]}


def validate_table(model: type[Model], values: Any, file: Path | None, table: str = "") -> Model:
    """A table of the file as its model.

    Args:
        table: its name, "" for the top level.

    Raises:
        RequestError: one line with the file, the key, and the nearest key that there is.
    """
    prefix = f"{table}." if table else ""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            raise _unknown_key(f"{file}", prefix, key, model.model_fields) from None
        message = item["msg"].removeprefix("Value error, ")
        raise RequestError(f"{file}: {prefix}{key}: {message} (got {item['input']!r}).") from None


def _unknown_key(file: str, prefix: str, key: str, known: Iterable[str]) -> RequestError:
    names = list(known)
    return RequestError(
        f"{file}: unknown key {prefix + key!r}{nearest_name(key, names)} "
        f"Known: {', '.join(prefix + name for name in names)}."
    )


def _check_no_secrets(values: Mapping[str, Any], file: Path, prefix: str = "") -> None:
    """Refuse passwords and tokens: the file is read, copied and committed by everyone."""
    for key, value in values.items():
        if isinstance(value, dict):
            _check_no_secrets(value, file, f"{prefix}{key}.")
        elif isinstance(value, list):
            each = {f"{key}[{place}]": item for place, item in enumerate(value)}
            _check_no_secrets(each, file, prefix)
        elif _SECRET.search(key) or (isinstance(value, str) and _has_secret(value)):
            raise RequestError(
                f"{file}: {prefix}{key} holds a password or token, which does not belong in this "
                "file: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                "MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_URI in the environment."
            )


def _has_secret(text: str) -> bool:
    if "://" not in text:
        return bool(_SECRET.search(text.partition("=")[0])) and "=" in text  # export HF_TOKEN=...
    parts = urlsplit(text)
    named = parts.password is not None or bool(
        # a server's user without a password is a token; a database's is a name
        parts.username and parts.scheme in ("http", "https")
    )
    fields = [field.partition("=")[0] for field in re.split("[&;]", parts.query)]
    return named or any(_SECRET.search(field) for field in fields)


def _absolute(path: Path, file: Path) -> Path:
    return file.parent / path.expanduser()


def _absolute_store(uri: str | None, file: Path) -> str | None:
    """An SQLite store's path is relative to the file, as all are."""
    path = "" if uri is None else uri.removeprefix(_SQLITE)
    if uri is None or path == uri or path.startswith(("/", ":")) or not path:
        return uri
    return f"{_SQLITE}{(file.parent / path).resolve()}"
