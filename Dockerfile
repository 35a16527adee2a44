# One image for the three controllers; compose.yaml picks the command. Any base with Python 3.11 or
# newer and pip will do: docker build --build-arg BASE=python:3.12-slim .
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/evac/bin:$PATH
RUN python3 -m venv /opt/evac
COPY requirements/runtime.txt /build/requirements/runtime.txt
RUN pip install --require-hashes --only-binary :all: -r /build/requirements/runtime.txt
COPY common /build/common
COPY services /build/services
WORKDIR /build
RUN pip install --no-deps --no-build-isolation \
        ./common ./services/api ./services/scheduler ./services/monitor \
    && pip uninstall --yes uv_build pip

FROM ${BASE}
LABEL org.opencontainers.image.title="evac" \
      org.opencontainers.image.description="High availability for plain KVM/libvirt hosts" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --no-create-home --shell /usr/sbin/nologin evac
COPY --from=build /opt/evac /opt/evac
ENV PATH=/opt/evac/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER evac
STOPSIGNAL SIGTERM
CMD ["evac-api", "--help"]
