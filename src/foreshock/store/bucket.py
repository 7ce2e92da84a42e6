"""Model artifacts in an S3 bucket, or in anything that speaks its API: the contract of `store/artifacts.py`.

Objects are written with `If-None-Match`, so that the first writer of a name is the only one. The time of an object
cannot be set: an empty one, `touched`, beside the two files says when an artifact was last put.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from foreshock.core.access import MAX_SECRET_BYTES, read_secret
from foreshock.core.errors import ArtifactDamaged, ArtifactMissing, StoreUnavailable
from foreshock.store.artifacts import ARRAYS, MANIFEST, Artifacts, aside_name, check_size, is_digest

if TYPE_CHECKING:
    from obstore.store import ClientConfig  # it does not exist at runtime

TOUCHED = "touched"
_READ = "read"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_CODE = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")  # the only word of an answer that is repeated
_STATUS = re.compile(r"[Ss]tatus(?: code)?:? (\d{3})")

Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[!-~]+$")]


def split_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`.

    Raises:
        ValueError: it is no such address.

    """
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, parts.path.removeprefix("/").removesuffix("/")
    if parts.scheme != "s3" or not _BUCKET.fullmatch(bucket) or parts.query or parts.fragment:
        raise ValueError("must be s3://bucket or s3://bucket/prefix, with a bucket of 3 to 63 small letters and digits")
    if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")) or len(prefix) > 512):
        raise ValueError("must have a prefix of letters, digits, '-', '_', '.' and '/'")
    return bucket, prefix


class BucketSettings(BaseModel):
    """How to reach the bucket that `artifacts: s3://bucket/prefix` names.

    Without keys the login is that of the environment, as every AWS tool finds it: AWS_ACCESS_KEY_ID and its siblings, a
    web identity (IRSA), the instance's role.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    endpoint: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, description="The server, http(s)://host:port, where it is not that of AWS in the region."
    )
    region: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = Field(
        default=None, description="The region; AWS_REGION where it is unset, else us-east-1."
    )
    path_style: bool = Field(default=True, description="https://host/bucket/key; false for https://bucket.host/key.")
    access_key_id: Text | None = Field(default=None, description="The name of the login.")
    access_key_id_file: Path | None = Field(default=None, description="A mounted secret with it.")
    secret_access_key: SecretStr | None = Field(default=None, description="The secret of the login.")
    secret_access_key_file: Path | None = Field(
        default=None, description="A mounted secret with it; it may be rotated."
    )
    session_token_file: Path | None = Field(default=None, description="A mounted secret with a session's token.")
    ca_file: Path | None = Field(default=None, description="Whom to trust beside the system's authorities.")
    timeout_s: int = Field(
        default=30, ge=1, le=300, alias="timeout", description="How long a request may take, in seconds."
    )

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("write the address of the server as http://host:port or https://host:port")
        if "@" in parts.netloc:
            raise ValueError("take the login out of the url and set access_key_id and secret_access_key_file")
        _ = parts.port  # a port that is no number is a ValueError with a sentence
        return url.rstrip("/")

    @model_validator(mode="after")
    def _whole_login(self) -> Self:
        for name in ("access_key_id", "secret_access_key"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ValueError(f"set one of {name} and {name}_file")
        if self._has("access_key_id") != self._has("secret_access_key"):
            raise ValueError("set the access_key_id and the secret_access_key, or their _file, together")
        if self.session_token_file is not None and not self.has_login:
            raise ValueError("session_token_file needs access_key_id and secret_access_key, or their _file")
        if self.ca_file is not None and (self.endpoint or "").startswith("http://"):
            raise ValueError("ca_file needs an endpoint that begins with https://")
        return self

    @property
    def has_login(self) -> bool:
        """Whether the settings say who we are, and not the environment."""
        return self._has("access_key_id")

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None or getattr(self, f"{name}_file") is not None


class BucketStore(Artifacts):
    """The artifacts in a bucket, shared by all replicas; a call blocks for some time-outs at most."""

    def __init__(self, url: str, settings: BucketSettings) -> None:
        """Open nothing yet: a bucket that is away is found by the first call.

        Raises:
            ValueError: the URL is none of a bucket.
            StoreUnavailable: `ca_file` cannot be read or holds no certificate.

        """
        bucket, prefix = split_url(url)
        self._url = url.rstrip("/")
        self._store = _open(bucket, prefix, settings)

    def size_bytes(self, digest: str) -> int:
        return sum(self._size_bytes(digest, name) for name in (MANIFEST, ARRAYS))

    def touch(self, digests: Collection[str]) -> None:
        for digest in filter(is_digest, digests):
            with contextlib.suppress(ArtifactMissing):
                self._size_bytes(digest, MANIFEST)
                self._renew(digest)

    def garbage(self, live: Collection[str], *, older_than_s: float) -> tuple[str, ...]:
        newest_s: defaultdict[str, float] = defaultdict(float)
        names: defaultdict[str, list[str]] = defaultdict(list)
        with self._mapped("", "", "cleaned"):
            for chunk in obstore.list(self._store):
                for each in chunk:
                    digest, _, name = each["path"].partition("/")
                    if is_digest(digest) and digest not in live:
                        newest_s[digest] = max(newest_s[digest], each["last_modified"].timestamp())
                        names[digest].append(name)
            old = sorted(digest for digest, at_s in newest_s.items() if at_s < older_than_s)
            for digest in old:  # the manifest first, so that a half-removed artifact is none
                for name in sorted(names[digest], key=lambda name: name != MANIFEST):
                    obstore.delete(self._store, f"{digest}/{name}")
        return tuple(old)

    def _write(self, digest: str, files: Mapping[str, bytes]) -> None:
        was_there = [not self._create(digest, name, data) for name, data in files.items()]
        if any(was_there):
            self._renew(digest)

    def _create(self, digest: str, name: str, data: bytes) -> bool:
        """Write a file unless it is there; False where it was."""
        key = f"{digest}/{name}"
        with self._mapped(digest, name, "written"):
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                pass
            else:
                return True
        with contextlib.suppress(ArtifactDamaged, ArtifactMissing):
            if self._read(digest, name, len(data), exact=True) == data:
                return False
        self._aside(digest, name)  # it bears the name of bytes that it does not hold
        with self._mapped(digest, name, "written"):
            obstore.put(self._store, key, data, use_multipart=False)
        return True

    def _renew(self, digest: str) -> None:
        with self._mapped(digest, TOUCHED, "written"):
            obstore.put(self._store, f"{digest}/{TOUCHED}", b"", use_multipart=False)

    def _read(self, digest: str, name: str, limit_bytes: int, *, exact: bool) -> bytes:
        with self._mapped(digest, name, _READ):
            answer = obstore.get(self._store, f"{digest}/{name}")
            check_size(self._place(digest, name), answer.meta["size"], limit_bytes, exact=exact)
            data = bytearray()
            for chunk in answer.stream():  # a server may send another amount than it says
                data += chunk
                check_size(self._place(digest, name), len(data), limit_bytes, exact=False)
            return bytes(data)

    def _size_bytes(self, digest: str, name: str) -> int:
        with self._mapped(digest, name, _READ):
            return int(obstore.head(self._store, f"{digest}/{name}")["size"])

    def _aside(self, digest: str, name: str) -> str | None:
        aside = aside_name(name)
        try:
            with self._mapped(digest, name, _READ):
                obstore.copy(self._store, f"{digest}/{name}", f"{digest}/{aside}")
                obstore.delete(self._store, f"{digest}/{name}")
        except (StoreUnavailable, ArtifactMissing):  # another reader was faster, or we may only read
            return None
        return aside

    def _place(self, digest: str, name: str) -> str:
        return "/".join(filter(None, (self._url, digest, name)))

    @contextlib.contextmanager
    def _mapped(self, digest: str, name: str, done: str) -> Iterator[None]:
        place = self._place(digest, name)
        try:
            yield
        except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError) as error:
            code = _code(error)
            if isinstance(error, FileNotFoundError) and done == _READ and code in {"", "NoSuchKey", "status 404"}:
                raise ArtifactMissing(f"{place} is not there: train again, or restore the bucket.") from error
            if code == "NoSuchBucket":
                raise StoreUnavailable(f"{place} could not be {done}: there is no such bucket; create it.") from error
            raise StoreUnavailable(
                f"{place} could not be {done} ({code or 'access denied'}); check the keys of the bucket, and "
                "that they may list it and read, write and delete below the prefix."
            ) from error
        except (BaseError, OSError, ValueError) as error:
            raise StoreUnavailable(
                f"{place} could not be {done} ({_code(error) or type(error).__name__}); check that the bucket's server "
                "runs and that endpoint, region and ca_file are right; it will be tried again."
            ) from error


def _open(bucket: str, prefix: str, settings: BucketSettings) -> S3Store:
    options: dict[str, Any] = {"virtual_hosted_style_request": not settings.path_style}
    if settings.region is not None:
        options["region"] = settings.region
    if settings.endpoint is not None:
        parts = urlsplit(settings.endpoint)
        options["endpoint"] = (
            settings.endpoint if settings.path_style else parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()
        )
    if settings.has_login:
        options["credential_provider"] = _Login(settings)
    timeout = timedelta(seconds=settings.timeout_s)
    client: ClientConfig = {
        "timeout": timeout,
        "connect_timeout": timedelta(seconds=min(5, settings.timeout_s)),
        "allow_http": (settings.endpoint or "").startswith("http://"),
    }
    if settings.ca_file is not None:
        client["root_certificate"] = _secret("ca_file", settings.ca_file, 1024 * 1024)
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options=client,
            retry_config={"max_retries": 2, "retry_timeout": timeout},
            **options,
        )
    except (BaseError, ValueError) as error:
        raise StoreUnavailable(
            f"s3://{bucket} cannot be opened ({type(error).__name__}); check endpoint, region and ca_file of s3."
        ) from error


class _Login:
    """Who we are, read from the files again and again, so that keys may be rotated."""

    def __init__(self, settings: BucketSettings) -> None:
        self._settings = settings

    def __call__(self) -> dict[str, Any]:
        settings = self._settings
        secret = settings.secret_access_key
        return {
            "access_key_id": settings.access_key_id or _text("access_key_id_file", settings.access_key_id_file),
            "secret_access_key": secret.get_secret_value()
            if secret is not None
            else _text("secret_access_key_file", settings.secret_access_key_file),
            "token": None
            if settings.session_token_file is None
            else _text("session_token_file", settings.session_token_file),
            "expires_at": datetime.now(UTC),  # so that it is asked for each request, and the files are read again
        }


def _text(field: str, path: Path | None) -> str:
    assert path is not None
    return _secret(field, path, MAX_SECRET_BYTES).decode(errors="replace").strip()


def _secret(field: str, path: Path, most_bytes: int) -> bytes:
    try:
        return read_secret(path, most_bytes=most_bytes)
    except ValueError as error:
        raise StoreUnavailable(f"s3.{field}: {error}.") from error


def _code(error: BaseException) -> str:
    """The server's word for what is wrong, or its status; the rest of an answer may hold anything."""
    text = str(error)
    if (code := _CODE.search(text)) is not None:
        return code[1]
    return f"status {status[1]}" if (status := _STATUS.search(text)) is not None else ""
