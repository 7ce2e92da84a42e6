"""What the repository promises about itself: locks with hashes, change fragments, hooks that run what CI runs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "tools/setup/build.lock", "tools/setup/bootstrap.lock", "tools/envtest/go.lock")
SCRIPTS = [*sorted(path for path in (ROOT / "tools/setup").iterdir() if not path.suffix), ROOT / "tools/envtest/build"]
AREAS = {folder.name for folder in (ROOT / "src/foreshock").iterdir() if folder.is_dir()} | {
    "docs",
    "demo",
    "packaging",
}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(lock: str) -> None:
    """Which index is asked is the business of the machine that installs; what arrives is ours."""
    text = (ROOT / lock).read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text.partition("make lock\n")[2])
    assert entries
    assert [
        entry for entry in entries if not re.match(r"[\w.-]+==\S+[^\\]*\\\n    --hash=sha256:[0-9a-f]{64}", entry)
    ] == []


def test_the_lock_holds_everything_that_the_project_asks_for() -> None:
    """A dependency that was added without `make lock` is found here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    locked = set(re.findall(r"(?m)^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text()))
    names = {re.split(r"[\[<>=~! ;]", requirement)[0].lower() for requirement in wanted}
    assert names - locked == set()


def test_every_change_fragment_has_its_kind_and_area() -> None:
    """A release sorts the lines by kind, so that each needs one."""
    for fragment in (ROOT / "changes").iterdir():
        if fragment.name == "README.md":
            continue
        assert re.fullmatch(r"\d+-[a-z0-9-]+\.md", fragment.name), fragment
        for line in fragment.read_text().splitlines():
            match = re.fullmatch(r"\[(CHANGE|FEATURE|ENHANCEMENT|BUGFIX)\] ([a-z]+): [^ ].*\.", line)
            assert match is not None, (fragment, line)
            assert match[2] in AREAS, (fragment, line)


def test_hooks_and_ci_run_targets_that_the_makefile_has() -> None:
    """A hook never disagrees with CI, since both only call make."""
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].split() for hook in local["hooks"]]
    entries.append((ROOT / ".ci/run").read_text().splitlines()[-1].removeprefix("exec ").split())
    assert {words[0] for words in entries} == {"make"}
    assert {words[1] for words in entries} <= targets


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_set_up_scripts_are_sound_bash_that_stops_at_the_first_error(script: Path) -> None:
    """A set-up that goes on after an error leaves a machine that nobody understands."""
    assert "set -euo pipefail" in script.read_text()
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["checkout.yaml", "payment-service-monitor.yaml"])
def test_the_demo_applies_the_manifests_of_the_examples(name: str) -> None:
    """The package carries its own copies, so that an installed `foreshock demo` works: they are equal to the letter."""
    assert (ROOT / "src/foreshock/app/shop_manifests" / name).read_text() == (ROOT / "examples" / name).read_text()
