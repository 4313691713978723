# flowbench for NVIDIA GPUs; it also runs without one. docs/cluster.md shows how to build and run it.
# The CUDA version is that of torch in constraints.txt. The other CUDA libraries come with torch.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

# EGL renders videos without a display.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv libegl1 libgl1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-create-home --uid 10001 flowbench \
    && install --directory --owner flowbench /data

COPY . /src
RUN python3 -m venv /opt/flowbench \
    && /opt/flowbench/bin/pip install --no-cache-dir --constraint /src/constraints.txt "/src[log,video]" \
    && rm -rf /src

# With --user there is no account of this number: its home and its name are given here.
ENV PATH=/opt/flowbench/bin:$PATH HOME=/tmp USER=flowbench NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
USER 10001
WORKDIR /data
ENTRYPOINT ["flowbench"]
CMD ["--help"]
