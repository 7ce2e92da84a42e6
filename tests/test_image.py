"""The image: a Dockerfile that its linter accepts, and kernels that are complete, portable and found where they lie.

The image itself is not built here: that needs a container engine and a registry. Everything that its build runs is.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import foreshock

ROOT = Path(__file__).parents[1]
GENERIC = {"NUMBA_CPU_NAME": "generic"}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of kernels as the build of the image fills it."""
    folder = tmp_path_factory.mktemp("image") / "kernels"
    command = [sys.executable, ROOT / "tools/image/compile_kernels.py"]
    subprocess.run(command, check=True, env={**os.environ, **GENERIC, "NUMBA_CACHE_DIR": str(folder)})
    return folder


def _compiled(folder: Path) -> set[str]:
    """The functions with a cache in a folder, as `module.function`."""
    return {path.name.rpartition("-")[0] for path in folder.rglob("*.nbi")}


def _is_kept(kernel: Any) -> bool:
    """Whether numba keeps this function compiled: one that only others use is compiled into those."""
    return type(kernel._cache).__name__ != "NullCache"


def test_hadolint_accepts_the_dockerfile() -> None:
    """Every rule, none ignored."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_kernel_is_compiled_in_the_image(kernels: Path) -> None:
    """A kernel that is missing would be compiled in the pod, by each replica, while detectors wait."""
    wanted = set()
    for module in pkgutil.walk_packages(foreshock.__path__, "foreshock."):
        if ".migrations." in module.name:  # scripts that only Alembic can run
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if hasattr(value, "py_func") and value.py_func.__module__ == module.name and _is_kept(value):
                wanted.add(f"{module.name.rpartition('.')[2]}.{name}")
    assert wanted - _compiled(kernels) == set()


def test_the_entrypoint_copies_the_kernels_and_nothing_is_compiled_again(kernels: Path, tmp_path: Path) -> None:
    """From a read-only folder to a fresh scratch volume, as in a pod; what runs then reads them and writes none."""
    scratch, tools = tmp_path / "scratch/kernels", tmp_path / "bin"
    scratch.parent.mkdir()
    tools.mkdir()
    (tools / "foreshock").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tools/image/compile_kernels.py "$@"\n')
    (tools / "foreshock").chmod(0o755)
    image = tmp_path / "image"
    shutil.copytree(kernels, image)
    before = {path.relative_to(kernels) for path in kernels.rglob("*") if path.is_file()}
    environment = {
        **os.environ,
        **GENERIC,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "NUMBA_CACHE_DIR": str(scratch),
        "FORESHOCK_KERNELS": str(image),
        "NUMBA_DEBUG_CACHE": "1",
    }
    done = subprocess.run(
        [ROOT / "tools/image/entrypoint"], check=True, env=environment, capture_output=True, text=True
    )
    assert "data loaded from" in done.stdout
    assert "data saved to" not in done.stdout
    assert {path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file()} == before


def test_the_image_holds_what_the_dockerfile_copies_and_nothing_else() -> None:
    """Each path that is copied from the context is let through by .dockerignore, which refuses all the rest."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = [words.split()[:-1] for words in re.findall(r"(?m)^COPY (?!--from)(.*)$", dockerfile)]
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists(), path
        assert f"!{path}" in rules, path


def test_the_image_runs_as_nobody_and_installs_by_hash() -> None:
    """Neither root nor a name that Kubernetes cannot check; every installation but that of our own wheel has hashes."""
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    assert re.findall(r"(?m)^USER (.*)$", dockerfile) == ["10001:10001"]
    installs = re.findall(r"pip install [^&\n]*", dockerfile)
    assert len(installs) == 4
    assert [each for each in installs if "--require-hashes" not in each and "/build/dist/*.whl" not in each] == []
    assert dockerfile.count("FROM ") == 2
