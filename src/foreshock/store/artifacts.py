"""Model artifacts, addressed by the sha256 of their manifest: immutable, atomic, never unpickled.

`<folder>/<digest>/manifest.json` beside `arrays.safetensors`; a bucket (`store/bucket.py`) holds the same names, so
that one can be copied to the other. The manifest is written last: without it there is no artifact. A file that is not
what its digest says is kept aside under another name, and never overwritten.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from foreshock.core.errors import ArtifactDamaged, ArtifactMissing, StoreUnavailable
from foreshock.store.artifact_format import (
    MAX_ARRAY_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    AnyArray,
    decode_arrays,
    decode_manifest,
    encode,
)

MANIFEST, ARRAYS = "manifest.json", "arrays.safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = ".writing-"
_READ = "read"


class Artifacts(ABC):
    """What goes in comes out bit for bit; a wrong digest is refused; two writers of one digest agree."""

    def put(self, arrays: Mapping[str, AnyArray], manifest: Mapping[str, Any]) -> str:
        """Write an artifact durably and return its digest; an artifact that is there already is left as it is.

        Raises:
            ValueError: a dtype, a rank, a key or a value that no artifact may hold.
            ArtifactDamaged: the artifact is beyond the limits of what would be read back.
            StoreUnavailable: the store is full, read-only or away; nothing of the artifact can be seen.

        """
        encoded = encode(arrays, manifest)
        self._write(encoded.digest, {ARRAYS: encoded.arrays, MANIFEST: encoded.manifest})
        return encoded.digest

    def get(self, digest: str) -> tuple[dict[str, Any], dict[str, AnyArray]]:
        """Read an artifact: the manifest as it was put, and its arrays; no limit is checked after its memory was taken.

        Raises:
            ArtifactDamaged: a file is not what the digest says; it was set aside under another name.
            ArtifactMissing: there is no such artifact.
            StoreUnavailable: the store cannot be read now.

        """
        if not is_digest(digest):
            raise ArtifactDamaged("An artifact's address is the 64 hex digits of a sha256: this one is not.")
        with self._set_aside_if_damaged(digest, MANIFEST):
            promise = decode_manifest(self._read(digest, MANIFEST, MAX_MANIFEST_BYTES, exact=False), digest)
        with self._set_aside_if_damaged(digest, ARRAYS):
            arrays = decode_arrays(promise, self._read(digest, ARRAYS, promise.size_bytes, exact=True))
        return promise.document, arrays

    def files(self, digest: str) -> dict[str, bytes]:
        """The two files of an artifact, as checked as `get` checks them; raises as it does."""
        self.get(digest)
        limits = {MANIFEST: MAX_MANIFEST_BYTES, ARRAYS: MAX_ARRAY_FILE_BYTES}
        return {name: self._read(digest, name, limit, exact=False) for name, limit in limits.items()}

    def put_files(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Write what `files` of another store returned; raises as `put` does, and where it is not of this digest."""
        decode_arrays(decode_manifest(files[MANIFEST], digest), files[ARRAYS])
        self._write(digest, {ARRAYS: files[ARRAYS], MANIFEST: files[MANIFEST]})

    @abstractmethod
    def size_bytes(self, digest: str) -> int:
        """How much room the two files of an artifact take.

        Raises:
            ArtifactMissing: there is no such artifact.
            StoreUnavailable: the store cannot be read now.

        """

    @abstractmethod
    def touch(self, digests: Collection[str]) -> None:
        """Let the grace of garbage collection begin now; an artifact that is not there is no error.

        Raises:
            StoreUnavailable: the store cannot be written now.

        """

    @abstractmethod
    def garbage(self, live: Collection[str], *, older_than_s: float) -> tuple[str, ...]:
        """Remove and return the artifacts that are not among `live` and were last put before `older_than_s` (UTC).

        Raises:
            StoreUnavailable: the store cannot be read or written now.

        """

    @abstractmethod
    def _write(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Bring each file, in this order, to its name as a whole, unless it is there; the grace begins now."""

    @abstractmethod
    def _read(self, digest: str, name: str, limit_bytes: int, *, exact: bool) -> bytes:
        """The whole file, refused as `ArtifactDamaged` by its size before memory is taken for it."""

    @abstractmethod
    def _aside(self, digest: str, name: str) -> str | None:
        """Rename a damaged file, so that nobody reads it again and somebody may look at it; None where it cannot be."""

    @abstractmethod
    def _place(self, digest: str, name: str) -> str:
        """Where a file is, for a sentence."""

    @contextlib.contextmanager
    def _set_aside_if_damaged(self, digest: str, name: str) -> Iterator[None]:
        try:
            yield
        except ArtifactDamaged as error:
            aside = self._aside(digest, name)
            raise ArtifactDamaged(
                f"{error} {self._place(digest, name)} was {f'set aside as {aside}' if aside else 'left in place'}; "
                "train again or restore a backup."
            ) from error


class ArtifactStore(Artifacts):
    """The artifacts in a folder, which may be shared by replicas."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size_bytes(self, digest: str) -> int:
        with _mapped(self._folder / digest, _READ):
            return sum((self._folder / digest / name).stat().st_size for name in (MANIFEST, ARRAYS))

    def touch(self, digests: Collection[str]) -> None:
        for digest in digests:
            folder = self._folder / digest
            with _mapped(folder, "marked"):
                if is_digest(digest) and folder.is_dir():
                    os.utime(folder)

    def garbage(self, live: Collection[str], *, older_than_s: float) -> tuple[str, ...]:
        removed = []
        with _mapped(self._folder, "cleaned"):
            for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
                if not is_digest(folder.name) or folder.stat().st_mtime >= older_than_s:
                    continue
                if folder.name in live:
                    for leftover in folder.glob(f"{_TEMPORARY}*"):  # of a writer that was killed
                        leftover.unlink(missing_ok=True)
                    continue
                (folder / MANIFEST).unlink(missing_ok=True)  # first, so that a half-removed artifact is none
                shutil.rmtree(folder)
                removed.append(folder.name)
        return tuple(removed)

    def _write(self, digest: str, files: Mapping[str, bytes]) -> None:
        folder = self._folder / digest
        with _mapped(folder, "written"):
            new = not folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                _write(folder / name, data)
            os.utime(folder)  # garbage collection counts its grace from here
            if new:
                _sync_folder(self._folder)

    def _read(self, digest: str, name: str, limit_bytes: int, *, exact: bool) -> bytes:
        if not self._folder.is_dir():
            raise StoreUnavailable(f"The artifact folder {self._folder} is not there: mount it or restore it.")
        path = self._folder / digest / name
        with _mapped(path, _READ), path.open("rb") as file:
            check_size(str(path), os.fstat(file.fileno()).st_size, limit_bytes, exact=exact)
            return file.read(limit_bytes)

    def _aside(self, digest: str, name: str) -> str | None:
        aside = _aside(self._folder / digest / name)
        return aside.name if aside is not None else None

    def _place(self, digest: str, name: str) -> str:
        return str(self._folder / digest / name)


def is_digest(text: str) -> bool:
    """Whether this can be an address; anything else never becomes a path."""
    return _DIGEST.fullmatch(text) is not None


def check_size(place: str, size_bytes: int, limit_bytes: int, *, exact: bool) -> None:
    """Refuse a file by its size alone.

    Raises:
        ArtifactDamaged: it is larger than the limit, or where that is exact another size than it.

    """
    if size_bytes > limit_bytes or (exact and size_bytes != limit_bytes):
        raise ArtifactDamaged(
            f"{place} has {size_bytes} bytes where {'' if exact else 'at most '}{limit_bytes} belong."
        )


def aside_name(name: str) -> str:
    """A name that nobody reads, for a damaged file."""
    return f"{name}.damaged-{secrets.token_hex(4)}"


@contextlib.contextmanager
def _mapped(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if done == _READ and isinstance(error, FileNotFoundError):
            raise ArtifactMissing(f"{path} is not there: train again, or restore the artifact folder.") from error
        raise StoreUnavailable(
            f"{path} could not be {done} ({error.strerror}); check the disk and the permissions of the artifact folder."
        ) from error


def _write(path: Path, data: bytes) -> None:
    """Bring `data` to `path` as a whole: temporary file, fsync, rename, fsync of the folder."""
    if path.exists():
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
        _aside(path)  # it bears the name of bytes that it does not hold
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path | None:
    """Rename a damaged file, so that nobody reads it again and somebody may look at it; None where it cannot be."""
    aside = path.with_name(aside_name(path.name))
    try:
        path.rename(aside)
    except OSError:  # another reader was faster, or the folder is read-only: the error that follows says so
        return None
    return aside
