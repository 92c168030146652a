FROM python:3.12-slim

# For the CPU as it stands; for CUDA: --build-arg EXTRA=cuda --build-arg TORCH_INDEX=
# EXTRA is what of twinforce is installed; TORCH_INDEX, where torch comes from: empty, PyPI (CUDA).
ARG EXTRA=server
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Compiles native models at the first start; without it they are served uncompiled.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# A volume for ~/.cache keeps what is compiled or downloaded for the next container.
RUN useradd --uid 10001 --create-home twinforce \
    && install --directory --mode=700 --owner=twinforce /home/twinforce/.cache
WORKDIR /src

# In a layer of its own, which a change of the code does not rebuild.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --no-deps \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch

COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRA}]"

USER 10001
WORKDIR /home/twinforce
ENV TWINFORCE_HOST=0.0.0.0
EXPOSE 8000 8001
ENTRYPOINT ["twinforce-server"]
