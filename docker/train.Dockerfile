# syntax=docker/dockerfile:1
# Data, training, evaluation and tuning, on a processor or an NVIDIA GPU. Build it from the root of the checkout:
#   docker build -f docker/train.Dockerfile -t chextriev-train .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS environment
WORKDIR /source
COPY constraints.txt ./
ENV PIP_CONSTRAINT=/source/constraints.txt
# torch first and by itself: its version decides which builds of the rest fit, and it changes less often than our source.
RUN python -m venv /opt/chextriev \
 && /opt/chextriev/bin/pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY chextriev chextriev
COPY train train
COPY export export
COPY serving serving
COPY index index
COPY eval eval
RUN /opt/chextriev/bin/pip install --no-cache-dir --constraint constraints.txt '.[train,export,index,eval,dicom,tune,sign]'

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="chextriev-train" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=environment /opt/chextriev /opt/chextriev
ENV PATH=/opt/chextriev/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# Study tables, features and runs: a mounted folder that user 10001 (or the one of `docker run --user`) may write.
WORKDIR /work
# A job that ends, not a service.
HEALTHCHECK NONE
ENTRYPOINT ["chextriev"]
