# One image for api, worker and Flower; compose.yaml says what each runs.
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scripts scripts
COPY jsm_queue jsm_queue
COPY api api
COPY workers workers
# An image travels to other CPUs than the one it was built on; set this to "" to build for this one.
ARG CMAKE_ARGS="-DGGML_NATIVE=OFF"
# Where the CPU build of torch lies, if the default index shall not decide.
ARG PIP_EXTRA_INDEX_URL=""
RUN python scripts/install.py api worker parquet postgres

FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home jsm && install -d -o jsm -g jsm /data/pool /data/invite /data/worker
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER jsm
