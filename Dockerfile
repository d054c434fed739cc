# One image for every part of a federation, on CPU and GPU: the package index has no CPU build of torchvision.

# What pyproject.toml says of dependencies, and nothing else of it: so that the layer with them, gigabytes, is made anew
# only when they change.
FROM python:3.11-slim-bookworm AS needs
COPY pyproject.toml docker/needs.py ./
RUN python needs.py

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends nginx-light \
    && rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled/default \
    && pip install --no-cache-dir uv \
    && useradd --uid 10001 --create-home fedshield \
    && for folder in superlink gateway server operator $(seq -f client-%g 0 99); \
       do install -d -o fedshield "/federation/$folder"; done \
    && install -d -o fedshield /state /runs /spool \
    && chown fedshield /federation

# The containers' disks are read-only: bytecode that is not there now would be made anew for each of Flower's processes.
ENV VIRTUAL_ENV=/opt/fedshield PATH=/opt/fedshield/bin:$PATH UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_HOME=/tmp/flwr FEDSHIELD_CACHE=/tmp/fedshield
# What stops a container stops what again.sh has started in it, too.
ENV TINI_KILL_PROCESS_GROUP=1

COPY --from=needs needs.txt constraints.txt overrides.txt /
RUN uv venv /opt/fedshield && uv pip install -r /needs.txt -c /constraints.txt --overrides /overrides.txt

WORKDIR /app
COPY . .
RUN uv pip install --no-deps .

USER fedshield
WORKDIR /home/fedshield
