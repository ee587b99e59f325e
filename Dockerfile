# Stoker: `docker build -t stoker .`, then `docker run stoker --help`. Not built in CI.
# The same image is API, control plane and worker (CPU only: it has the bundled engine).

FROM python:3.11-slim AS build
RUN pip install --no-cache-dir 'uv>=0.8'
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/stoker UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# The packages first: they change less often than the code, and stay in a layer of their own.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY README.md LICENSE ./
COPY stoker stoker
COPY workflows workflows
COPY activities activities
COPY api api
COPY worker_agent worker_agent
COPY entrypoints entrypoints
RUN uv sync --frozen --no-dev --no-editable

FROM python:3.11-slim
# The bundled engine is linked against OpenMP's library.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home stoker \
    && install --directory --owner stoker --mode 700 /var/lib/stoker
COPY --from=build /opt/stoker /opt/stoker
ENV PATH=/opt/stoker/bin:$PATH STOKER_DATA_DIR=/var/lib/stoker
USER stoker
WORKDIR /var/lib/stoker
VOLUME /var/lib/stoker
EXPOSE 8410
ENTRYPOINT ["stoker"]
CMD ["--help"]
