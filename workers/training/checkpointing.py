"""Durable checkpoints: weights as safetensors beside a weights-only state, both with their SHA-256 in the shard's row."""

import io
import json
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from service.errors import ArtifactCorrupt
from service.storage.files import Store

Record = dict[str, Any]
T = TypeVar("T")


def write_bytes(store: Store, key: str, content: bytes) -> Record:
    """Store bytes under a key; the record has what is needed to check them later."""
    return store.write(key, content)._asdict()


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Tensors sorted by name as safetensors; the same tensors give the same bytes."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return save(plain, metadata={"temper": json.dumps({"format": 1, "aliases": {}}, sort_keys=True)})


def unpack(content: bytes) -> dict[str, Tensor]:
    """The tensors of `pack`."""
    return load(content)


class Writer:
    """Writes checkpoints on a thread of its own; the training thread pays for a copy in memory.

    A save asked for while one is being written is left out: the next epoch's end comes soon.
    """

    def __init__(self, store: Store, prefix: str, committed: Callable[[Record], None]) -> None:
        self._store = store
        self._prefix = prefix
        self._committed = committed
        self._thread: threading.Thread | None = None
        self._buffers: dict[str, Tensor] = {}
        self._count = 0
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, weights: dict[str, Tensor], rest: dict[str, Any], about: Record) -> None:
        """Copy now, write soon."""
        self.wait()
        for name, tensor in weights.items():
            if name in self._buffers and self._buffers[name].shape == tensor.shape:
                self._buffers[name].copy_(tensor)
            else:
                self._buffers[name] = tensor.detach().clone().cpu()
        packed = io.BytesIO()
        torch.save(rest, packed)
        self._count += 1
        name = f"{self._prefix}/{self._count:06d}"
        self._buffers = {name: self._buffers[name] for name in weights}
        held = dict(self._buffers)
        self._thread = threading.Thread(target=self._write, args=(name, held, packed.getvalue(), about), name="checkpoint")
        self._thread.start()

    def _write(self, name: str, weights: dict[str, Tensor], rest: bytes, about: Record) -> None:
        try:
            files = {
                "weights": write_bytes(self._store, f"{name}.safetensors", pack(weights)),
                "state": write_bytes(self._store, f"{name}.state", rest),
            }
            self._committed({**about, "files": files})
        except BaseException as error:
            self._failure = error

    def wait(self) -> None:
        """Until the last save is on the disk; raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Forget the buffers: the next member has its own."""
        self.wait()
        self._buffers.clear()


def newest(record: Record | None, load: Callable[[Record], T], say: Callable[[str, str], None]) -> tuple[Record, T] | None:
    """The newest checkpoint that loads, and what it gives; a record names the one before it as `previous`. None: from the start.

    `load` raises ArtifactCorrupt where the bytes are not those that were written; `say` is told of it.
    """
    while record is not None:
        older: Record | None = record.get("previous")
        try:
            return record, load(record)
        except ArtifactCorrupt as error:
            say(f"{error.detail} {'The one before it is used.' if older is not None else 'The shard begins anew.'}", "warning")
        record = older
    return None


def read(store: Store, record: Record) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and the rest of a checkpoint, whose finished members' files fit as well; raises ArtifactCorrupt.

    Nothing but tensors and plain values is ever unpickled.
    """
    for summary in record.get("done", ()):
        store.read(summary["file"])
        store.read(summary["history"])
    weights = unpack(store.read(record["files"]["weights"]))
    rest = torch.load(io.BytesIO(store.read(record["files"]["state"])), weights_only=True)
    return weights, rest
