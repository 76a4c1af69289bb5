# The panel's own image, never a model server's: those are pulled or built by the panel, and run beside it.
#
#   docker build -t slipway .
#   docker run -d --name slipway --network host \
#     --user "$(id -u):$(id -g)" --group-add "$(stat -c %g /var/run/docker.sock)" \
#     -v /var/run/docker.sock:/var/run/docker.sock \
#     -v "$HOME/slipway:$HOME/slipway" -e SLIPWAY_HOME="$HOME/slipway" slipway
#
# The data folder lies at the same path inside as outside: Docker mounts it into the servers by that path. The same holds
# for every folder that SLIPWAY_MODEL_ROOTS names; HOME is /tmp here, so without it models lie in the data folder.
# The panel sees GPUs with `--gpus all` only, and logins to registries where DOCKER_CONFIG names a mounted folder.
# Embedded servers and the runs' workers live in this container and end with it; servers in Docker go on.
# Off loopback (SLIPWAY_HOST) a password is asked for: SLIPWAY_PASSWORD, else one that `docker logs` shows.
# BASE: any image with glibc 2.35 or newer, Python 3.11 or 3.12 with its venv module, and libpython.
ARG BASE=python:3.12-slim
FROM ${BASE}

# Where pip looks and what it trusts, for people behind a mirror. The history of the image keeps them: no password here.
ARG PIP_INDEX_URL
ARG PIP_CERT

WORKDIR /opt/slipway
RUN python3 -m venv .venv
COPY requirements.lock ./
RUN .venv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY app app
COPY backends backends
COPY storage storage
COPY assets assets
RUN .venv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation -e . \
 && .venv/bin/python -m compileall -q app backends storage \
 && mkdir -p /var/lib/slipway && chown 1000:1000 /var/lib/slipway

ENV PATH=/opt/slipway/.venv/bin:$PATH \
    SLIPWAY_HOME=/var/lib/slipway \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
USER 1000:1000
EXPOSE 7860
# Asks as the panel was told by the environment to listen, past any proxy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "\
import http.client, os, sys; \
panel = http.client.HTTPConnection(os.environ.get('SLIPWAY_HOST') or '127.0.0.1', \
                                   int(os.environ.get('SLIPWAY_PORT') or 7860), timeout=4); \
panel.request('GET', '/slipway/health'); \
sys.exit(panel.getresponse().status != 200)"]
ENTRYPOINT ["slipway"]
CMD ["panel"]
