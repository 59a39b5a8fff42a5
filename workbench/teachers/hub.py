"""Teachers of the Hugging Face hub, through its own client and cache.

A teacher is a repository at a commit: ``owner/name``, or ``owner/name@revision`` with a branch, a
tag or a commit. Whatever is asked for is resolved to its commit first, and the snapshot that is
used is that commit's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from workbench.errors import RequestError
from workbench.teachers._torchvision import prepare_torchvision
from workbench.teachers.folder import MODEL_INDEX, NOTES, SCHEDULER, check_kind, quiet_libraries
from workbench.teachers.student_pipeline import STUDENT_RECORD, check_not_student

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]*)?")
"""owner/name, or owner/name@revision."""

TOKEN_VARIABLE = "HF_TOKEN"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(hub_id: str, revision: str | None = None) -> Path:
    """The local snapshot of a pipeline; fetches what the cache lacks, safetensors weights only.

    What it is is checked before gigabytes are fetched, and everything is fetched at one commit.

    Args:
        hub_id: ``owner/name``, or ``owner/name@revision``.
        revision: over the one in ``hub_id``; the default branch if neither names one.

    Raises:
        RequestError: offline and not cached, unreachable, gated, refused, no such repository or
            revision, or no flow-matching teacher; says the way out.
    """
    prepare_torchvision()
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository, wanted = split_revision(hub_id, revision)
    with readable_errors(repository, wanted):
        local = not _hub_answers(repository, wanted)
        index = Path(
            hf_hub_download(repository, MODEL_INDEX, revision=wanted, local_files_only=local)
        )
        commit = revision_of(index.parent)
        # Notes and a student's record are there only if workbench wrote the pipeline.
        for name in (SCHEDULER, NOTES, STUDENT_RECORD):
            with suppress(EntryNotFoundError):
                hf_hub_download(repository, name, revision=commit, local_files_only=local)
        check_kind(index.parent)
        check_not_student(hub_id, index.parent)  # by its record, or by the index of a saved copy
        with quiet_libraries():
            folder = DiffusionPipeline.download(
                repository, revision=commit, use_safetensors=True, local_files_only=local
            )
        return Path(folder)


def _hub_answers(repository: str, revision: str | None, timeout_s: float = 10.0) -> bool:
    """Whether the hub can be reached and works; a download would take half a minute to find out.

    Raises:
        HfHubHTTPError: it answers with a refusal.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(repository, revision=revision, timeout=timeout_s)
    except HfHubHTTPError as error:
        if (_status(error) or 0) >= 500:  # what is cached will do
            return False
        raise
    except (hub_connection_error(), ConnectionError):
        return False
    return True


def split_revision(hub_id: str, revision: str | None = None) -> tuple[str, str | None]:
    """(owner/name, revision or None) of ``owner/name@revision``; the argument wins."""
    repository, _, named = hub_id.partition("@")
    return repository, revision or named or None


def revision_of(folder: Path) -> str | None:
    """The commit of a snapshot in the hub's cache; None for any other folder."""
    name = folder.resolve().name
    is_snapshot = folder.resolve().parent.name == "snapshots" and _COMMIT.fullmatch(name)
    return name if is_snapshot else None


def cached_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """The cached snapshot, if it has a pipeline index; other files may be missing."""
    from huggingface_hub import try_to_load_from_cache

    repository, wanted = split_revision(hub_id, revision)
    index = try_to_load_from_cache(repository, MODEL_INDEX, revision=wanted)
    return Path(index).parent if isinstance(index, str) else None


def check_access(hub_id: str, timeout_s: float = 10.0) -> int:
    """Bytes that a download of the repository's pipeline would fetch, after asking for access.

    Raises:
        RequestError: as :func:`download`.
    """
    from huggingface_hub import HfApi, auth_check

    repository, wanted = split_revision(hub_id)
    with readable_errors(repository, wanted):
        auth_check(repository)
        info = HfApi().model_info(
            repository, revision=wanted, files_metadata=True, timeout=timeout_s
        )
    return sum(file.size or 0 for file in info.siblings or () if _is_fetched(file.rfilename))


def _is_fetched(name: str) -> bool:
    """Components' files, without weights in other formats and variants (``model.fp16...``)."""
    component, _, file = name.partition("/")
    if not file:
        return component in (MODEL_INDEX, NOTES)
    weights = Path(file).suffix in (".safetensors", ".bin", ".pt", ".msgpack", ".onnx", ".h5")
    return not weights or bool(re.fullmatch(r"[^.]+(-\d+-of-\d+)?\.safetensors", file))


def has_token() -> bool:
    """Whether the hub's client finds an access token, in the environment or from a login."""
    from huggingface_hub import get_token

    return bool(get_token())


@contextmanager
def readable_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turns the client's errors into one line that says what to do and never shows the token."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise RequestError(gated_message(repository)) from None
    except RepositoryNotFoundError:
        raise RequestError(
            f"There is no folder {repository!r} here and no public repository of that name on the "
            f"hub. For a private one set {TOKEN_VARIABLE}."
        ) from None
    except RevisionNotFoundError:
        raise RequestError(
            f"The hub's {repository} has no revision {revision!r}; a branch, a tag or a commit of "
            f"https://huggingface.co/{repository}/commits is expected."
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise RequestError(_unreachable(repository)) from None
    except EntryNotFoundError:
        raise RequestError(f"The hub's {repository} has no {MODEL_INDEX}: no pipeline.") from None
    except HfHubHTTPError as error:
        if _status(error) == 401 and has_token():
            raise RequestError(_unknown_token(repository)) from None
        raise RequestError(f"The hub failed for {repository}: {one_line(error)}") from None
    except hub_connection_error():
        raise RequestError(_unreachable(repository)) from None
    except OSError as error:
        raise RequestError(f"The hub failed for {repository}: {one_line(error)}") from None
    except ValueError as error:  # the client refuses some names that look like ids
        raise RequestError(f"{repository!r} is no hub id: {one_line(error)}") from None


def hub_connection_error() -> type[Exception]:
    """The base class of the hub client's errors: of httpx or httpx2, by the client's version."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast(type[Exception], HfHubHTTPError.__mro__[1])


def _unreachable(repository: str) -> str:
    return (
        f"The hub cannot be reached and {repository} is not in its cache. Go online (and unset "
        f"HF_HUB_OFFLINE), or fetch it elsewhere with `hf download {repository}` and pass the "
        "folder, or point HF_HOME at a cache that has it."
    )


def gated_message(repository: str) -> str:
    """What to do about a gated repository, with and without a token."""
    page = f"https://huggingface.co/{repository}"
    if not has_token():
        return (
            f"The hub's {repository} is gated and there is no access token. Accept its licence at "
            f"{page} and set {TOKEN_VARIABLE} to a token of that account."
        )
    return (
        f"The hub's {repository} is gated and refused the access token of {TOKEN_VARIABLE} (or of "
        f"the last login). Accept its licence at {page} with the token's account; a fine-grained "
        "token must also allow reading gated repositories."
    )


def _unknown_token(repository: str) -> str:
    return (
        f"The hub does not know the access token of {TOKEN_VARIABLE} (or of the last login), asked "
        f"for {repository}. Make a new one at https://huggingface.co/settings/tokens."
    )


def _status(error: Any) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def one_line(error: Exception) -> str:
    """The start of a message, the token taken out should it ever be in there."""
    from huggingface_hub import get_token

    text, token = " ".join(str(error).split()), get_token()
    return (text.replace(token, "***") if token else text)[:300]
