# nanochat in a container. Not run here.
#   docker build -t nanochat .
#   docker run --rm -it --gpus all --ipc=host --env-file .env -v nanochat:/base nanochat --recipe gpt2
#   docker run --rm -it -v nanochat:/base nanochat                        without GPUs: the tiny world
#   docker run --rm -it --gpus all -v nanochat:/base -p 127.0.0.1:8000:8000 -e NANOCHAT_API_KEY --entrypoint nanochat nanochat serve --host 0.0.0.0
# Everything that it makes is in the volume /base. `docker stop -t 60` gives a training time to save.
FROM python:3.12-slim-bookworm
# A compiler: for the native code, and for torch.compile while it trains.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /nanochat
COPY . .
# PyPI's torch for Linux brings CUDA with it.
RUN python -m venv .venv && EXTRAS="[wandb]" bash -c '. dev/setup.sh'
ENV PATH=/nanochat/.venv/bin:$PATH NANOCHAT_BASE_DIR=/base
VOLUME /base
EXPOSE 8000
ENTRYPOINT ["nanochat", "speedrun"]
