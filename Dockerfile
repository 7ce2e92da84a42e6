# The image of `foreshock operator` and `foreshock extractor`, for amd64 and arm64:
#
#   docker buildx build --platform linux/amd64,linux/arm64 --tag registry.example.org/foreshock:0.1.0 --push .
#
# Non-root, and made for a read-only root: it writes to /tmp, and to the folders of state and models that are mounted.
# Everything is installed from the locks with its hash, and the kernels are compiled here, for every CPU of the platform.

FROM python:3.11-slim-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 UV_LINK_MODE=copy

# uv, and what builds the package: neither is part of the image
COPY tools/setup/bootstrap.lock tools/setup/build.lock tools/setup/
RUN python -m pip install --require-hashes --only-binary :all: -r tools/setup/bootstrap.lock \
 && python -m pip install --require-hashes --only-binary :all: -r tools/setup/build.lock

# What it needs to run, in a layer that changes with the lock alone
COPY pyproject.toml requirements.lock ./
RUN uv venv /opt/foreshock/venv \
 && uv pip install --python /opt/foreshock/venv/bin/python --require-hashes --only-binary :all: \
      --constraints requirements.lock -r pyproject.toml

COPY README.md LICENSE ./
COPY src src
RUN uv build --wheel --no-build-isolation --python "$(command -v python)" --out-dir /build/dist \
 && uv pip install --python /opt/foreshock/venv/bin/python --no-deps /build/dist/*.whl \
 && /opt/foreshock/venv/bin/python -m compileall -q /opt/foreshock/venv/lib

# `generic`: compiled code is keyed by CPU, and must run on whatever node the pod meets
COPY tools/image tools/image
RUN NUMBA_CPU_NAME=generic NUMBA_CACHE_DIR=/opt/foreshock/kernels \
      /opt/foreshock/venv/bin/python tools/image/compile_kernels.py \
 && install -m 0755 tools/image/entrypoint /opt/foreshock/entrypoint


FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="foreshock" \
      org.opencontainers.image.description="Learns the normal operating envelope of services from Prometheus and alerts when one leaves it." \
      org.opencontainers.image.licenses="Apache-2.0"

# The figure of an alert as PNG needs letters: of a font of any version, so that security updates come by themselves
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends fonts-dejavu-core \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin foreshock
COPY --from=build /opt/foreshock /opt/foreshock

# Kernels are copied to NUMBA_CACHE_DIR at start: numba refuses a cache that it cannot write, even a complete one
ENV PATH=/opt/foreshock/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CPU_NAME=generic NUMBA_CACHE_DIR=/tmp/kernels
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080 8081
ENTRYPOINT ["/opt/foreshock/entrypoint"]
CMD ["--help"]
