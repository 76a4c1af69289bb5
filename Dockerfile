# The panel's own image, never a model server's: those are pulled or built by the panel, and run beside it.
#
#   docker build -t slipway .
#   docker run -d --name slipway --network host \
#     --user "$(id -u):$(id -g)" --group-add "$(stat -c %g /var/run/docker.sock)" \
#     -v /var/run/docker.sock:/var/run/docker.sock \
#     -v "$HOME/slipway:$HOME/slipway" -e SLIPWAY_HOME="$HOME/slipway" slipway
#
# The data folder lies at the same path inside as outside: Docker mounts it into the servers by that path.
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
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", \
  "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('SLIPWAY_PORT', '7860') + '/slipway/health', timeout=4)"]
ENTRYPOINT ["slipway"]
CMD ["panel"]
