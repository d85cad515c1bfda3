# Topaz 0.3.20 on a CPU, as `cryoflow picker` calls it. Topaz is GPL-3 software of its authors; the image installs it unchanged.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE}
LABEL org.opencontainers.image.title="topaz for cryoflow" org.opencontainers.image.version="0.3.20"
RUN useradd --create-home --uid 1000 cryoflow && python3 -m venv /opt/topaz
RUN /opt/topaz/bin/pip install --quiet --no-cache-dir "topaz-em==0.3.20"
ENV PATH=/opt/topaz/bin:$PATH PYTHONNOUSERSITE=1
USER cryoflow
WORKDIR /home/cryoflow
CMD ["topaz", "--help"]
