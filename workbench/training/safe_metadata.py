"""Reading a checkpoint without running what is in it.

torch.distributed.checkpoint keeps its table of contents, ``.metadata``, as a pickle and unpickles
it without restriction; an entry declared as bytes is unpickled too. Tensors themselves are read
with ``weights_only=True``. Here the table may name only the classes that such a table is made of,
and only tensors.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

_CONTENTS = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}


class TensorReader(FileSystemReader):
    """Reads a checkpoint folder of tensors; nothing else in it is unpickled.

    Raises:
        ValueError: from ``read_metadata``: the table names another class, or is damaged.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = self._get_metadata_path(kwargs.get("rank"))
        with self.fs.create_stream(path, "rb") as stream:
            metadata = read_table(stream)
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def read_table(stream: Any) -> Metadata:
    """A checkpoint's table of contents.

    Raises:
        ValueError: it names a class that it has no need of, holds something that is no tensor,
            or is damaged.
    """
    try:
        table = _TableUnpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"its .metadata is refused: {error}") from error
    if not isinstance(table, Metadata):
        raise ValueError("its .metadata is refused: it holds no table of contents")
    entries = table.state_dict_metadata.items()
    odd = [name for name, entry in entries if not isinstance(entry, TensorStorageMetadata)]
    if odd:
        raise ValueError(f"its .metadata is refused: {odd[0]!r} is not a tensor")
    return table


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = name in _CONTENTS.get(module, ())
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not (allowed or dtype):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        # The same classes, under the name that Python 3.13 gives their module.
        return super().find_class(module.replace("pathlib._local", "pathlib"), name)
