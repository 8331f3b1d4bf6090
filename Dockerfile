# Any image with Python 3.11 or newer on its path serves as the base.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What every stage shares.
FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/taskloom/bin:$PATH

# What Taskloom runs on, in layers that only a change of pyproject.toml or constraints.txt builds anew.
FROM base AS dependencies
# PyTorch's CPU build. For the CUDA build, several GB, from PyPI: --build-arg TORCH_INDEX=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv /opt/taskloom
COPY pyproject.toml constraints.txt ./
# The extra index is asked for PyTorch alone.
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --no-cache-dir --no-deps ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r torch.txt
# With what exports to ONNX need.
RUN python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
      print(*project["dependencies"], *project["optional-dependencies"]["onnx"], sep="\n")' > requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r requirements.txt

FROM dependencies AS build
COPY LICENSE NOTICE README.md ./
COPY app app
COPY mtl_core mtl_core
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps . && pip check

FROM base AS runtime
RUN groupadd --gid 10001 taskloom \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin taskloom \
    && install -d -o taskloom -g taskloom -m 0750 /data
COPY --from=build /opt/taskloom /opt/taskloom
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TASKLOOM_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["taskloom"]
# On an address that others can reach, `serve` starts only with API keys, or when TASKLOOM_ALLOW_OPEN=true lets it do without.
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
