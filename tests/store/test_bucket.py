"""What only a bucket has: a server that is away, hangs or refuses, keys that are rotated, TLS. Each is a sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore import exceptions
from pydantic import ValidationError
from tests.servers.s3 import KEY_ID, S3, SECRET, NewS3

from foreshock.core.errors import ArtifactMissing, StoreUnavailable
from foreshock.store.artifacts import ARRAYS, MANIFEST
from foreshock.store.bucket import BucketSettings, BucketStore, split_url

ARRAY = {"a": np.arange(1_000.0)}


def opened(s3: S3, bucket: str | None = None, **changed: Any) -> BucketStore:
    return BucketStore(f"s3://{bucket or s3.new_bucket()}/models", BucketSettings.model_validate(s3.settings | changed))


def test_a_killed_server_is_unavailable_and_nothing_is_lost(new_s3: NewS3) -> None:
    """While it is away every call fails with a sentence; when it is back the same object goes on by itself."""
    s3 = new_s3()
    store = opened(s3)
    digest = store.put(ARRAY, {})
    s3.kill()
    for call in (lambda: store.get(digest), lambda: store.put(ARRAY, {}), lambda: store.garbage((), older_than_s=2e9)):
        with pytest.raises(StoreUnavailable, match=r"could not be .* check that the bucket's server runs") as caught:
            call()
        assert caught.value.retryable
    s3.restart()
    assert store.get(digest)[1]["a"].tobytes() == ARRAY["a"].tobytes()


def test_a_hung_server_is_unavailable_within_the_deadline(new_s3: NewS3) -> None:
    """Under SIGSTOP the port accepts and nothing answers: a call ends after some time-outs, and works when it wakes."""
    s3 = new_s3()
    store = opened(s3, timeout=1)
    digest = store.put(ARRAY, {})
    with s3.paused():
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.get(digest)
        assert time.monotonic() - began_s < 6
    store.get(digest)


def test_wrong_keys_are_a_sentence_without_them(s3: S3) -> None:
    """The server's word for it, what to check, and neither half of the login."""
    for wrong in ({"secret_access_key": "canary-wrong-secret"}, {"access_key_id": "nobody-canary"}):
        store = opened(s3, **wrong)
        with pytest.raises(StoreUnavailable, match=r"check the keys of the bucket") as caught:
            store.put(ARRAY, {})
        assert "canary" not in str(caught.value)
        assert "canary-wrong-secret" not in repr(caught.value.__cause__)
        assert SECRET not in repr(store.__dict__)


def test_no_bucket_and_no_artifact_are_told_apart(s3: S3) -> None:
    """No such artifact: train again. No such bucket: create it, or correct its name; nothing is trained anew for it."""
    with pytest.raises(StoreUnavailable, match="there is no such bucket; create it"):
        opened(s3, "test-never-made").get("0" * 64)
    with pytest.raises(StoreUnavailable, match="there is no such bucket"):
        opened(s3, "test-never-made").put(ARRAY, {})
    with pytest.raises(ArtifactMissing, match="train again"):
        opened(s3).get("0" * 64)


def test_keys_are_read_from_files_again(s3: S3, tmp_path: Path) -> None:
    """Mounted secrets may be rotated: a wrong one is noticed, and the right one is used without a restart."""
    key_id, secret = tmp_path / "id", tmp_path / "secret"
    key_id.write_text(f"{KEY_ID}\n")
    secret.write_text("not yet\n")
    store = opened(
        s3, access_key_id=None, secret_access_key=None, access_key_id_file=key_id, secret_access_key_file=secret
    )
    with pytest.raises(StoreUnavailable):
        store.put(ARRAY, {})
    secret.write_text(f"{SECRET}\n")
    digest = store.put(ARRAY, {})
    secret.unlink()
    with pytest.raises(StoreUnavailable):
        store.get(digest)
    secret.write_text(SECRET)
    store.get(digest)


def test_keys_come_from_the_environment_where_the_settings_have_none(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every tool of AWS finds them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    store = opened(s3, access_key_id=None, secret_access_key=None)
    store.get(store.put(ARRAY, {}))


def test_tls_trusts_whom_it_is_told_to(new_s3: NewS3) -> None:
    """A server of a private authority is trusted by `ca_file` and by nothing else."""
    s3 = new_s3(tls=True)
    store = opened(s3)
    digest = store.put(ARRAY, {})
    assert store.get(digest)[1]["a"].tobytes() == ARRAY["a"].tobytes()
    with pytest.raises(StoreUnavailable):
        opened(s3, ca_file=None).put(ARRAY, {})


def test_the_names_in_a_bucket_are_those_of_a_folder(s3: S3) -> None:
    """So that `aws s3 sync` moves models between the two, and is their backup."""
    bucket = s3.new_bucket()
    digest = opened(s3, bucket).put(ARRAY, {})
    assert {path.name for path in (s3.folder / bucket / "models" / digest).iterdir()} == {MANIFEST, ARRAYS}


def test_every_error_of_the_library_is_ours(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever obstore raises becomes one of the tree; a new class of it that no base covers fails here."""
    store = opened(s3)
    classes = {each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert len(classes) > 8
    for each in {*classes, FileNotFoundError, OSError, ValueError}:

        def fails(*_: object, kind: type[Exception] = each, **__: object) -> None:
            raise kind("something")

        monkeypatch.setattr("foreshock.store.bucket.obstore.get", fails)
        with pytest.raises((StoreUnavailable, ArtifactMissing)):
            store.get("0" * 64)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint": "ftp://host"}, "http://host:port"),
        ({"endpoint": "http://user:pass-canary@host"}, "take the login out"),
        ({"access_key_id": "a"}, "together"),
        ({"secret_access_key": "canary"}, "together"),
        ({"access_key_id": "a", "access_key_id_file": "b", "secret_access_key": "c"}, "set one of access_key_id"),
        ({"session_token_file": "x"}, "needs access_key_id"),
        ({"endpoint": "http://host", "ca_file": "x"}, "https://"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    """Each with a sentence that says what to do, and without what was typed."""
    with pytest.raises(ValidationError, match=words) as caught:
        BucketSettings.model_validate(settings)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://b", "s3://Bucket", "s3://a@bucket/x", "s3://bucket/../x", "s3://bucket//x", "s3://bucket/x?y"],
)
def test_a_bad_address_is_refused(url: str) -> None:
    """A bucket is its name, and a prefix is plain words."""
    with pytest.raises(ValueError, match=r"must (be s3://bucket|have a prefix)"):
        split_url(url)


def test_good_addresses() -> None:
    """With and without prefix, with and without a slash at the end."""
    assert split_url("s3://bucket") == split_url("s3://bucket/") == ("bucket", "")
    assert split_url("s3://my.bucket-1/a/b.c/") == ("my.bucket-1", "a/b.c")
