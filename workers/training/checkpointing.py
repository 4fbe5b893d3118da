"""Durable checkpoints: weights as safetensors beside a weights-only state, both with their SHA-256 in the shard's row."""

import io
import json
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from service.errors import ArtifactCorrupt
from service.storage.files import Store

Record = dict[str, Any]
T = TypeVar("T")


def write_bytes(store: Store, key: str, content: bytes) -> Record:
    """Store bytes under a key; the record has what is needed to check them later."""
    return store.write(key, content)._asdict()


def pack(tensors: dict[str, Tensor], aliases: dict[str, str] | None = None) -> bytes:
    """Tensors sorted by name as safetensors, with the other names of those that have several; the same tensors give the same bytes."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return save(plain, metadata={"temper": json.dumps({"format": 1, "aliases": aliases or {}}, sort_keys=True)})


def unpack(content: bytes) -> dict[str, Tensor]:
    """The tensors of `pack`."""
    return load(content)


class Buffers:
    """Copies of what a checkpoint holds, tensors into memory of the copy before: fresh memory takes longer than the copy."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[Any, ...], Tensor] = {}

    def copy(self, value: Any) -> Any:
        """The value with all its tensors and containers copied; good until the next call."""
        fresh: dict[tuple[Any, ...], Tensor] = {}
        copied = self._copy(value, (), fresh)
        self._tensors = fresh
        return copied

    def _copy(self, value: Any, place: tuple[Any, ...], fresh: dict[tuple[Any, ...], Tensor]) -> Any:
        if isinstance(value, Tensor):
            buffer = self._tensors.get(place)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = torch.empty_like(value, device="cpu", memory_format=torch.contiguous_format, requires_grad=False)
            fresh[place] = buffer
            return buffer.copy_(value.detach())
        if isinstance(value, dict):
            return {key: self._copy(part, (*place, key), fresh) for key, part in value.items()}
        if isinstance(value, list | tuple):
            if value and all(isinstance(part, int | float) for part in value):
                return type(value)(value)
            return type(value)(self._copy(part, (*place, i), fresh) for i, part in enumerate(value))
        return value


class Writer:
    """Writes checkpoints on a thread of its own, into memory that is there already.

    What only an optimizer's step changes is copied there too, while the training thread computes the next gradient: that
    thread calls `settled` before it moves a weight. All else it copies itself, which is little.
    """

    def __init__(self, store: Store, prefix: str, committed: Callable[[Record], None]) -> None:
        self._store = store
        self._prefix = prefix
        self._committed = committed
        self._thread: threading.Thread | None = None
        self._buffers, self._still = Buffers(), Buffers()
        self._copied = threading.Event()
        self._copied.set()
        self._count = 0
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, weights: dict[str, Tensor], rest: dict[str, Any], about: Record, *, lasting: str = "") -> None:
        """Write this soon; weights whose names begin with `lasting` are not copied, since nobody writes to them."""
        self.wait()
        moving = {name: tensor for name, tensor in weights.items() if not (lasting and name.startswith(lasting))}
        still = {
            "weights": {name: tensor for name, tensor in moving.items() if isinstance(tensor, nn.Parameter)},
            "optimizer": rest["optimizer"],
        }
        held = self._buffers.copy(
            {
                "weights": {name: tensor for name, tensor in moving.items() if name not in still["weights"]},
                "rest": {name: value for name, value in rest.items() if name != "optimizer"},
            }
        )
        held["weights"] |= {name: tensor for name, tensor in weights.items() if name not in moving}
        self._count += 1
        self._copied.clear()
        name = f"{self._prefix}/{self._count:06d}"
        self._thread = threading.Thread(target=self._write, args=(name, held, still, about), name="checkpoint")
        self._thread.start()

    def settled(self) -> None:
        """Until the last save has its copies: before weights or an optimizer's state are written to."""
        self._copied.wait()

    def _write(self, name: str, held: dict[str, Any], still: dict[str, Any], about: Record) -> None:
        try:
            try:
                copies = self._still.copy(still)
            finally:
                self._copied.set()
            state = io.BytesIO()
            torch.save({**held["rest"], "optimizer": copies["optimizer"]}, state)
            files = {
                "weights": write_bytes(self._store, f"{name}.safetensors", pack(held["weights"] | copies["weights"])),
                "state": write_bytes(self._store, f"{name}.state", state.getvalue()),
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
        self._buffers, self._still = Buffers(), Buffers()


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
    for summary in (*record.get("done", ()), *record.get("waiting", ())):
        for name in ("file", "history", "moments", "gradients"):
            if summary.get(name) is not None:
                store.read(summary[name])
    weights = unpack(store.read(record["files"]["weights"]))
    rest = torch.load(io.BytesIO(store.read(record["files"]["state"])), weights_only=True)
    return weights, rest
