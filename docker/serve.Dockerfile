# syntax=docker/dockerfile:1
# The server: NVIDIA's Triton, and beside it an environment for our models. Build it from the root of the checkout:
#   docker build -f docker/serve.Dockerfile -t chextriev-serve .
# TRITON is the release of export.Dockerfile, whose TensorRT built the plans.
ARG TRITON=26.11

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY chextriev chextriev
COPY train train
COPY export export
COPY serving serving
COPY index index
COPY eval eval
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Triton's Python backend embeds the Python that it finds first in PATH. Its own image makes the environment, so that
# the interpreter is the same; --without-pip, as that image lacks Debian's package for it.
FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3 AS environment
COPY serving/requirements.txt /tmp/requirements.txt
COPY --from=wheel /wheels /tmp/wheels
RUN python3 -m venv --without-pip /opt/chextriev \
 && python3 -m pip --python /opt/chextriev/bin/python3 install --no-cache-dir --no-deps --only-binary :all: \
    --requirement /tmp/requirements.txt /tmp/wheels/*.whl \
 && /opt/chextriev/bin/python3 -c "import chextriev.serving.doctor.health, faiss, onnxruntime, pyarrow"

FROM nvcr.io/nvidia/tritonserver:${TRITON}-py3
LABEL org.opencontainers.image.title="chextriev-serve" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=environment /opt/chextriev /opt/chextriev
COPY docker/entrypoint.py /opt/chextriev/entrypoint.py
# Nothing is written into the image at run time: its root may be mounted read-only.
ENV PATH=/opt/chextriev/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# The model repository, mounted read-only; certificates and the key of the restricted interfaces come as secrets.
WORKDIR /models
EXPOSE 8001 8002
# A model whose process has died still calls itself ready, so health is an answer to a real inference.
HEALTHCHECK --interval=30s --timeout=25s --start-period=180s --retries=3 \
    CMD ["python3", "-m", "chextriev.serving.doctor.health", "/models"]
ENTRYPOINT ["python3", "/opt/chextriev/entrypoint.py"]
