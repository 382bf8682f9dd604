# syntax=docker/dockerfile:1
# Checkpoints to bundles, TensorRT plans and model repositories. Build it from the root of the checkout:
#   docker build -f docker/export.Dockerfile -t chextriev-export .
# A plan runs on the TensorRT and the kind of GPU that built it: this is the release of serve.Dockerfile, and TensorRT
# comes from the image, not from a package.
ARG TRITON=26.11

FROM nvcr.io/nvidia/tensorrt:${TRITON}-py3 AS environment
WORKDIR /source
COPY constraints.txt ./
# The environment sees the image's Python packages, TensorRT among them; --without-pip, as that image lacks Debian's
# package for it. The image's own constraints would contradict ours.
ENV PIP_CONSTRAINT=/source/constraints.txt
RUN python3 -m venv --without-pip --system-site-packages /opt/chextriev \
 && python3 -m pip --python /opt/chextriev/bin/python3 install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY chextriev chextriev
COPY train train
COPY export export
COPY serving serving
COPY index index
COPY eval eval
RUN python3 -m pip --python /opt/chextriev/bin/python3 install --no-cache-dir --constraint constraints.txt \
    '.[train,gpu-export,index,eval,client,sign]' \
 && /opt/chextriev/bin/python3 -c "import tensorrt; print('TensorRT', tensorrt.__version__)"

FROM nvcr.io/nvidia/tensorrt:${TRITON}-py3
LABEL org.opencontainers.image.title="chextriev-export" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=environment /opt/chextriev /opt/chextriev
ENV PATH=/opt/chextriev/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# Bundles in, repositories out: a mounted folder that user 10001 (or the one of `docker run --user`) may write.
WORKDIR /work
# A job that ends, not a service.
HEALTHCHECK NONE
ENTRYPOINT ["chextriev"]
