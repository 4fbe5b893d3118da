# One image for the API, the worker and the migrations; docker-compose.yml says which of them a container is.
# The index that pip looks into beside the usual one decides which torch it has:
#   docker build .                            torch's CPU build
#   docker build --build-arg TORCH_INDEX= .   torch's default build, with CUDA: gigabytes more

FROM python:3.11.14-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/temper
WORKDIR /source
COPY constraints.txt pyproject.toml README.md ./
COPY service service
COPY workers workers
COPY temper temper
COPY migrations migrations
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" /opt/temper/bin/pip install --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt '.[server,s3]'

FROM python:3.11.14-slim-bookworm
# A new volume takes this folder's owner, so that the user below may write to it.
RUN useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/temper temper
COPY --from=build /opt/temper /opt/temper
ENV PATH=/opt/temper/bin:$PATH PYTHONUNBUFFERED=1 TEMPER_DATA=/var/lib/temper
WORKDIR /var/lib/temper
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD ["temper", "api", "--check"]
CMD ["temper", "api", "--host", "0.0.0.0"]
