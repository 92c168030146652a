FROM python:3.12-slim

# The defaults build an image for the CPU. For CUDA: --build-arg EXTRA=cuda --build-arg TORCH_INDEX=
# EXTRA is the extra of twinforce to install. TORCH_INDEX is the package index for torch; if it is
# empty, torch comes from PyPI (with CUDA).
ARG EXTRA=server
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# The compiler builds native models at the first start; without it they are served uncompiled.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# Mount a volume at ~/.cache to keep compiled models and downloads for the next container.
RUN useradd --uid 10001 --create-home twinforce \
    && install --directory --mode=700 --owner=twinforce /home/twinforce/.cache
WORKDIR /src

# A separate layer, so that a change of the code does not reinstall torch.
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --no-deps \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch

COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRA}]"

USER 10001
WORKDIR /home/twinforce
# The service listens to the network only with keys (mount a file and set TWINFORCE_KEYS), or if
# TWINFORCE_INSECURE=true says that everyone may use it.
ENV TWINFORCE_HOST=0.0.0.0
EXPOSE 8000 8001
ENTRYPOINT ["twinforce-server"]
