"""For every folder: the real servers that tests start, and how hypothesis runs."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = (
    "tests.servers.prometheus",
    "tests.servers.fault_proxy",
    "tests.servers.extractor",
    "tests.servers.kubernetes",
    "tests.servers.postgresql",
    "tests.servers.s3",
    "tests.servers.shop",
    "tests.servers.kafka",
    "tests.servers.alertmanager",
)

# No deadline: the first call of a kernel compiles it, and the machine is shared. A failure prints how to repeat it.
settings.register_profile("foreshock", deadline=None, print_blob=True)
settings.load_profile("foreshock")
