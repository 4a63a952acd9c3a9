# glance on a GPU that is rented, or in a box of your own: `docker build -t glance .`, docs/install.md.
#
# No CUDA base image: the torch wheel brings the CUDA libraries that it was built for, and the driver
# comes from the host, whose NVIDIA runtime is asked for it by the two NVIDIA_ variables below.
FROM python:3.12-slim-bookworm

# gcc: Triton compiles a launcher for its kernels while they run. tini: process 1, which passes
# signals on and ends what is left behind. sshd and rsync: for hosts that leave them to the image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev openssh-server rsync tini \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*

ENV VIRTUAL_ENV=/opt/glance \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never

# What changes seldom comes first: seven gigabytes that are neither built nor pushed again when only
# glance itself has changed. pyproject.toml holds the pins and the date up to which packages count.
WORKDIR /build
RUN pip install --no-cache-dir uv==0.13.9
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv "$VIRTUAL_ENV" && uv pip install -r pyproject.toml --extra cuda

COPY README.md LICENSE NOTICE ./
COPY glance glance
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps . && ln -s "$VIRTUAL_ENV/bin/glance" /usr/local/bin/ && glance --version

# Everything that shall outlive the container is in one folder, which any user may write to: models,
# runs, caches, and the key by which glance knows its own checkpoints again.
ENV HOME=/workspace \
    USER=glance \
    HF_HOME=/workspace/huggingface \
    XDG_CACHE_HOME=/workspace/.cache \
    XDG_STATE_HOME=/workspace/.local/state \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --chmod=755 docker/start.sh /usr/local/bin/start
RUN mkdir -p /workspace && chmod 1777 /workspace \
    && echo 'cd /workspace' > /etc/profile.d/workspace.sh
VOLUME /workspace
WORKDIR /workspace
EXPOSE 22

ENTRYPOINT ["tini", "--", "start"]
