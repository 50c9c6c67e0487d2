# The service, its jobs and the command line, with the embedded model. docs/kubernetes.md says how to build and run it.
#   docker build --build-arg VARIANT=cuda --tag text2mask:0.1.0-cuda .
#   docker build --build-arg VARIANT=cpu --tag text2mask:0.1.0-cpu .
# Linted by tests/configs/test_dockerfile.py. Not built where it was written: no builder was at hand.

# cuda: torch as published, which brings CUDA's libraries; the node brings the driver. cpu: the same, less what torch
# does not load on a CPU.
ARG VARIANT=cuda
# By version and not by digest: a digest would have to be looked up in a registry, and names one architecture's or
# index's state of a day, without the security fixes that are published under the same version since. Pin it in your own
# build: --build-arg PYTHON=3.11.13-slim-bookworm@sha256:...
ARG PYTHON=3.11.13-slim-bookworm

FROM python:${PYTHON} AS wheels
# All that the lock names, each file held to its hash; development's tools among it, which stay in this stage.
COPY requirements.lock /src/
RUN pip wheel --no-cache-dir --disable-pip-version-check --require-hashes --requirement /src/requirements.lock \
    --wheel-dir /wheels
COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY pipeline /src/pipeline
COPY deployments /src/deployments
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-index --find-links /wheels --no-deps --wheel-dir /wheels /src

# From those files alone, so that what is installed is what was verified.
FROM wheels AS cuda
RUN python -m venv /opt/text2mask \
 && /opt/text2mask/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --find-links /wheels \
    "text2mask[local,serve,jobs,tracing]"

# torch and torchvision stay the pair that the lock names. A torch from another index (`+cpu`) would want torchvision
# from there too (one of each does not import: `operator torchvision::nms does not exist`), and the lock has no hashes for
# either. What goes is what torch loads for a GPU, or for `compile`, alone.
FROM cuda AS cpu
RUN /opt/text2mask/bin/pip uninstall --yes triton cuda-bindings cuda-pathfinder nvidia-cusolver nvidia-nvtx \
 && rm /opt/text2mask/lib/python3.11/site-packages/nvidia/cudnn/lib/libcudnn_*

FROM ${VARIANT} AS chosen

FROM python:${PYTHON}
ARG VARIANT
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="text2mask" \
      org.opencontainers.image.description="Words in, masks out: GroundingDINO and SAM as one service with Ray Serve" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}-${VARIANT}" \
      org.opencontainers.image.revision="${REVISION}"
# wget: KubeRay's probe of a worker is `bash -c "wget ... | grep success && wget ... | grep success"`. No compiler:
# `image_encoder.compile` wants one, and an image of your own on top of this.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/*
# Numbers, as Kubernetes cannot tell from a name that a user is not root. Nothing that runs may change what it runs.
RUN groupadd --gid 10001 text2mask \
 && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/text2mask --shell /usr/sbin/nologin text2mask
COPY --from=chosen /opt/text2mask /opt/text2mask
COPY configs /opt/text2mask/configs
ENV PATH=/opt/text2mask/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    TEXT2MASK_CHECKPOINTS=/weights
USER 10001:10001
WORKDIR /home/text2mask
EXPOSE 8000
# For docker alone; Kubernetes has probes of its own.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
  CMD ["bash", "-c", "wget -q -T 4 -O /dev/null http://127.0.0.1:${TEXT2MASK_PORT:-8000}/healthz"]
ENTRYPOINT ["text2mask"]
# On the container's own loopback address, until you name keys and another: see docs/kubernetes.md.
CMD ["serve"]
