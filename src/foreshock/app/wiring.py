"""Picks the implementation that the settings name."""

from __future__ import annotations

from foreshock.app.settings import Settings
from foreshock.store.artifacts import Artifacts, ArtifactStore
from foreshock.store.bucket import BucketStore


def open_artifacts(settings: Settings) -> Artifacts:
    """The models' bucket or folder; nothing of it is asked yet.

    Raises:
        StoreUnavailable: the settings of the bucket name a file that cannot be used.

    """
    if settings.artifacts.startswith("s3://"):
        return BucketStore(settings.artifacts, settings.s3)
    return ArtifactStore(settings.artifacts_folder)
