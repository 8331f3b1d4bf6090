"""Versions in memory, ready to predict: loaded on first use, the least recently used dropped for want of room."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache
from sqlalchemy.orm import Session

from app.db.tables import Version
from app.models import service as models
from app.runs.preprocessing import Preprocessing, load_preprocessing
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core import MultitaskClassifier, load_module_weights
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import build_tasks, check_task
from mtl_core.specs import TaskSpec


@dataclass(frozen=True)
class LoadedVersion:
    """A version ready to predict.

    Attributes:
        model: The model's name.
        number: The version's number.
        tasks: The tasks that can be asked for; the network has more where tasks have slices.
        classifier: The network, in evaluation mode.
        fields: Shape and dtype of one example of each field.
        preprocessing: How raw columns become fields, and what classes are called.
        encoders: Sentence encoders for columns of text.
        activations: Numbers that one example takes on its way through all tasks together.
        bytes: Size of the weights.
    """

    model: str
    number: int
    tasks: list[str]
    classifier: MultitaskClassifier
    fields: dict[str, FieldShape]
    preprocessing: Preprocessing
    encoders: SentenceEncoders
    activations: int
    bytes: int


class LoadedVersions:
    """The versions that this process keeps in memory.

    Args:
        store: Where weights are.
        settings: Sets the limits.
        encoders: Sentence encoders for columns of text.
    """

    def __init__(self, store: ArtifactStore, settings: Settings, encoders: SentenceEncoders) -> None:
        self._store = store
        self._encoders = encoders
        self._limits = settings.limits
        self._max_bytes = settings.model_cache_bytes
        self._cache: LRUCache[tuple[str, int, str], LoadedVersion] = LRUCache(
            self._max_bytes, getsizeof=lambda loaded: loaded.bytes
        )
        self._lock = Lock()

    def get(self, session: Session, model: str, wanted: str | int) -> LoadedVersion:
        """Return a version, loading it if need be.

        Raises:
            NotFound: If there is no such model or version.
            DamagedArtifactError: If its weights are not what they should be.
        """
        version = models.find_version(session, models.get(session, model), wanted)
        # With the checksum, a model that was removed and made again is not taken for the old one.
        key = (version.model, version.number, f"{version.sha256} {version.preprocessing}")
        with self._lock:
            loaded = self._cache.get(key)
            if loaded is None:
                loaded = self._load(version)
                # A version larger than the whole cache serves this request and is dropped.
                if loaded.bytes <= self._max_bytes:
                    self._cache[key] = loaded
        return loaded

    def _load(self, version: Version) -> LoadedVersion:
        specs = [TaskSpec.model_validate(spec) for spec in version.tasks]
        fields = {
            name: FieldShape(field["shape"], field["dtype"], vocabulary=field.get("vocabulary"))
            for name, field in version.fields.items()
        }
        preprocessing = load_preprocessing(self._store, version.preprocessing)
        self._encoders.check(preprocessing.fields)
        classifier = MultitaskClassifier(build_tasks(specs), name=version.model)
        load_module_weights(classifier, self._store.load_tensors(version.sha256))
        classifier.eval()
        reports = [check_task(spec, self._limits, fields) for spec in specs]
        return LoadedVersion(
            model=version.model,
            number=version.number,
            tasks=[spec.name for spec in specs],
            classifier=classifier,
            fields=fields,
            preprocessing=preprocessing,
            encoders=self._encoders,
            activations=sum(report.activations or 0 for report in reports),
            bytes=version.bytes,
        )
