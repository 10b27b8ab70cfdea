# Training, scoring and export without a GPU:
#   docker build -t heatpose .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/work:/work" heatpose train experiment=quickstart
# Everything a command writes lies in the folder that is mounted at /work.
FROM python:3.11-slim

# OpenCV, which the converter loads, is linked with these.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv

WORKDIR /opt/heatpose
COPY pyproject.toml .python-version README.md LICENSE NOTICE THIRD_PARTY_NOTICES.md ./
COPY hatch_build.py ./
COPY conf conf
COPY src src
COPY exports/released exports/released
# The versions that the tests ran with (constraint-dependencies); the package itself is copied into the environment.
RUN UV_PYTHON_DOWNLOADS=never uv sync --no-dev --extra export --no-editable --no-cache

# Any user may run it: what libraries keep for themselves goes to /tmp.
ENV PATH=/opt/heatpose/.venv/bin:$PATH HOME=/tmp
WORKDIR /work
ENTRYPOINT ["heatpose"]
CMD ["--help"]
