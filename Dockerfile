# syntax=docker/dockerfile:1
# One image for everything of ours: API, workers, preparation, simulators. What a container does is its command.

FROM python:3.13-slim AS build
WORKDIR /app
# Exactly the locked files, by hash; nothing is built from source, so the slim image needs no compiler.
COPY requirements.lock ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
       --require-hashes --no-deps --only-binary :all: -r requirements.lock
COPY . .
# Editable: the examples and the sources that name this build lie beside the packages.
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps -e . \
    && /opt/venv/bin/python -m compileall -q /app

FROM python:3.13-slim
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
# Not by a name that the record knows: what is decided in here must not pass for our own doing (apps/cli/remote.py).
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent service \
    && install -d -o service -g service /var/lib/orderwright
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
ENV ORDERWRIGHT_DATA_DIR=/var/lib/orderwright ORDERWRIGHT_LOG_JSON=true
USER 10001:10001
ENTRYPOINT ["orderwright"]
CMD ["--help"]
