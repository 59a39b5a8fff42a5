"""Teachers of the Hugging Face hub, through its own client and cache."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from workbench.errors import RequestError
from workbench.teachers._torchvision import prepare_torchvision
from workbench.teachers.folder import MODEL_INDEX, NOTES, family_of, quiet_libraries


def download(hub_id: str) -> Path:
    """The local snapshot of a pipeline; fetches what the cache lacks, safetensors weights only.

    The class is checked before gigabytes are fetched.

    Raises:
        RequestError: offline and not cached, unreachable, gated, no such repository, or an
            unsupported class; says the way out.
    """
    prepare_torchvision()
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        index = Path(hf_hub_download(hub_id, MODEL_INDEX))
        family_of(index)
        with quiet_libraries():
            folder = Path(DiffusionPipeline.download(hub_id, use_safetensors=True))
        with suppress(EntryNotFoundError):  # only pipelines that workbench saved have notes
            hf_hub_download(hub_id, NOTES)
        return folder
    except GatedRepoError:
        raise RequestError(
            f"The hub's {hub_id} is gated. Accept its licence at "
            f"https://huggingface.co/{hub_id} and set HF_TOKEN to a token of that account."
        ) from None
    except RepositoryNotFoundError:
        raise RequestError(
            f"There is no folder {hub_id!r} here and no public repository of that name on the "
            "hub. For a private one set HF_TOKEN."
        ) from None
    except LocalEntryNotFoundError:
        raise RequestError(
            f"The hub cannot be reached and {hub_id} is not in its cache. Go online (and unset "
            f"HF_HUB_OFFLINE), or fetch it elsewhere with `hf download {hub_id}` and pass the "
            "folder, or point HF_HOME at a cache that has it."
        ) from None
    except EntryNotFoundError:
        raise RequestError(f"The hub's {hub_id} has no {MODEL_INDEX}: no pipeline.") from None
    except (HfHubHTTPError, OSError) as error:
        raise RequestError(f"The hub failed for {hub_id}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
