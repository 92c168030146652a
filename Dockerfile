# Pin the base by its digest: --build-arg BASE=docker.io/library/python@sha256:...
ARG BASE=docker.io/library/python:3.12-slim-bookworm
# Extra of twinforce to install: server or cuda. The defaults build an image for the CPU.
ARG EXTRA=server
# Processors that the bundled models are compiled for, so that no container has to: x86-64-v3, or
# nothing. The machine that builds must be one of them; on other machines than x86-64, nothing is
# compiled.
ARG COMPILED_FOR=x86-64-v3
# Compiler of the final image. It compiles kernels for GPUs, and native models that are not bundled, at
# the first start; without one, those are served uncompiled on the CPU. By default there is one only
# where the bundled models are not compiled here, and for GPUs.
ARG COMPILER=auto

# hadolint ignore=DL3006
FROM ${BASE} AS builder
ARG EXTRA
ARG COMPILED_FOR
# Extras for models of other projects, such as orb,mace (docs/models.md lists those that go together),
# oidc for tokens of an issuer, and tracing for traces.
ARG FAMILIES=
# Package index for torch without CUDA; PyPI has it with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/twinforce
ENV PATH=/opt/twinforce/bin:$PATH
WORKDIR /src
# hadolint ignore=DL3008
RUN if [ -n "$COMPILED_FOR" ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends g++ \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# What is installed is pinned by hashes where there is a lock file, and by versions otherwise. These are
# layers of their own, so that a change of the code installs nothing else again.
COPY constraints.txt loc[k]s ./locks/
RUN if [ "$EXTRA" = cuda ]; then exit 0; fi; \
    if [ -f locks/torch-cpu.lock ]; then \
        pip install --no-deps --require-hashes --extra-index-url "$TORCH_INDEX" --requirement locks/torch-cpu.lock; \
    else \
        pip install --no-deps --constraint locks/constraints.txt --extra-index-url "$TORCH_INDEX" torch; \
    fi
RUN if [ -f "locks/$EXTRA.lock" ]; then \
        pip install --no-deps --require-hashes --requirement "locks/$EXTRA.lock"; \
    fi
COPY . .
RUN if [ -f "locks/$EXTRA.lock" ]; then \
        pip install --no-deps --no-build-isolation .; \
    else \
        pip install --constraint locks/constraints.txt ".[$EXTRA]"; \
    fi \
    && if [ -n "$FAMILIES" ]; then pip install --constraint locks/constraints.txt ".[$FAMILIES]"; fi
RUN if [ -n "$COMPILED_FOR" ]; then \
        python -m twinforce_models.potentials.hybrid_net.compilation.bundled "$COMPILED_FOR"; \
    fi

# hadolint ignore=DL3006
FROM ${BASE}
ARG EXTRA
ARG COMPILED_FOR
ARG COMPILER
# hadolint ignore=DL3008
RUN if [ "$COMPILER" = auto ]; then \
        COMPILER=g++; \
        if [ "$EXTRA$(uname -m)" = serverx86_64 ] && [ -n "$COMPILED_FOR" ]; then COMPILER=; fi; \
    fi; \
    if [ -n "$COMPILER" ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends "$COMPILER" \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# Mount a volume at ~/.cache to keep compiled models and downloads for the next container.
RUN groupadd --gid 10001 twinforce \
    && useradd --uid 10001 --gid 10001 --create-home twinforce \
    && install --directory --mode=700 --owner=twinforce --group=twinforce /home/twinforce/.cache \
    # The service listens to the network only with keys (mount a file and set TWINFORCE_KEYS), or if
    # TWINFORCE_INSECURE=true says that everyone may use it.
    && printf 'host = "0.0.0.0"\nmetrics_port = 8002\n' > /etc/twinforce.toml
COPY --from=builder /opt/twinforce /opt/twinforce
ENV PATH=/opt/twinforce/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TRITON_CACHE_DIR=/home/twinforce/.cache/triton \
    CUDA_CACHE_PATH=/home/twinforce/.cache/cuda \
    TWINFORCE_CONFIG=/etc/twinforce.toml

ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="TwinForce" \
      org.opencontainers.image.description="Energies and forces from machine-learned interatomic potentials, over gRPC and REST" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

USER 10001:10001
WORKDIR /home/twinforce
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8002/health/ready')"]
ENTRYPOINT ["twinforce-server"]
