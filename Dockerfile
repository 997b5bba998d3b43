# docker build -t spikediff . && docker run --rm -v "$PWD:/work" spikediff sample mnist
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /constraints.txt
COPY --from=build /wheels /wheels
# torch without CUDA; for a GPU, build with --build-arg TORCH_INDEX= and run with --gpus all.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX python -m pip install --no-cache-dir -c /constraints.txt /wheels/*.whl
RUN useradd --create-home spikediff && install -d -o spikediff /work
USER spikediff
WORKDIR /work
ENTRYPOINT ["spikediff"]
CMD ["--help"]
