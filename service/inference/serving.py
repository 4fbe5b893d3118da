"""Models in memory: loaded once, checked against their digests, warmed, and kept while they are asked."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from service.inference.asking import ask
from service.inference.model import Model, from_files
from service.storage.files import Store
from service.tricks.modes import Asking

MOST_MODELS = 32


class Shelf:
    """The models that this process serves; the least recently asked one leaves when there are too many."""

    def __init__(self, store: Store, most: int = MOST_MODELS) -> None:
        self._store = store
        self._most = most
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, model_id: str, files: Mapping[str, Any]) -> Model:
        """The model of that id; a hundred first requests load it once. Raises ArtifactCorrupt."""
        with self._lock:
            if model_id in self._models:
                self._models.move_to_end(model_id)
                return self._models[model_id]
            loading = self._loading.setdefault(model_id, threading.Lock())
        with loading:
            with self._lock:
                if model_id in self._models:
                    return self._models[model_id]
            model = self._load(files)
            with self._lock:
                self._models[model_id] = model
                self._loading.pop(model_id, None)
                while len(self._models) > self._most:
                    self._models.popitem(last=False)
            return model

    def forget(self, model_id: str) -> None:
        """Drop a model that was deleted."""
        with self._lock:
            self._models.pop(model_id, None)

    def _load(self, files: Mapping[str, Any]) -> Model:
        model = from_files(lambda name: self.read(files[name]))
        # The first forward pass sets up kernels and allocators; no caller should wait for it.
        ask(model, torch.zeros((1, *model.encoding.shape)), Asking().axes(model))
        return model

    def read(self, record: Mapping[str, Any]) -> bytes:
        """A stored file's bytes; raises ArtifactCorrupt where they are not those that were written."""
        return self._store.read(record)
