# One image for every service; the command picks which: `serve integrations`, `serve ingress`, `serve delivery`.
#
# Everything that is installed comes from the lock files, with hashes. What builds the package stays behind.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements.lock requirements-dev.lock ./
RUN python -m venv /opt/textway \
 && /opt/textway/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
# The package's builder and what it needs, picked out of the developers' lock file.
RUN python -m venv /opt/builder \
 && awk '/^[a-z0-9-]+==/ {wanted = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} wanted' \
      requirements-dev.lock > builder.lock \
 && /opt/builder/bin/pip install --no-cache-dir --require-hashes -r builder.lock
COPY pyproject.toml README.md LICENSE ./
COPY generated ./generated
COPY gateway ./gateway
COPY servicekit ./servicekit
COPY services ./services
RUN /opt/builder/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/textway/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /opt/textway/bin/pip uninstall --yes --quiet setuptools pip

FROM ${BASE_IMAGE}
# The folders that volumes are mounted on: a new volume takes over whose they are.
RUN groupadd --system --gid 10001 textway \
 && useradd --system --uid 10001 --gid textway --no-create-home --home-dir /var/lib/textway textway \
 && install --directory --owner textway --group textway --mode 0700 \
      /var/lib/textway /var/lib/textway/keys /var/lib/textway/database /var/lib/textway/gateway
COPY --from=build /opt/textway /opt/textway
ENV PATH=/opt/textway/bin:$PATH \
    TEXTWAY_DATA_DIR=/var/lib/textway \
    TEXTWAY_LOG_FORMAT=json
WORKDIR /var/lib/textway
USER 10001:10001
EXPOSE 7101 7102 7103 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "services.launcher.health"]
ENTRYPOINT ["textway"]
CMD ["--help"]
