# trait-service on NVIDIA GPUs, from vLLM's own image. UNTESTED: linted (hadolint), never built, and no GPU has run it.
#
#   docker build -f deploy/containers/cuda.Dockerfile -t trait-steering:cuda .
#   docker run --rm --gpus all --ipc=host -p 127.0.0.1:8000:8000 trait-steering:cuda Qwen/Qwen2.5-7B-Instruct --insecure
FROM vllm/vllm-openai:v0.32.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY client client
COPY extraction extraction
COPY datasets/traits datasets/traits
# What is in vLLM's image stays as it is; only what is missing is added.
RUN python3 -m pip freeze --exclude-editable > /tmp/image.txt \
    && python3 -m pip install --constraint /tmp/image.txt ".[service-cuda]" \
    && rm /tmp/image.txt \
    && groupadd --gid 10001 trait && useradd --uid 10001 --gid 10001 --create-home trait \
    && install -d -o trait -g trait /data/vectors /data/models
COPY deploy/containers/probe.py /usr/local/bin/probe
ENV HF_HOME=/data/models TRAIT_HOME=/data VLLM_NO_USAGE_STATS=1
USER 10001:10001
WORKDIR /home/trait
VOLUME ["/data/vectors", "/data/models"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 CMD ["python3", "/usr/local/bin/probe"]
ENTRYPOINT ["trait-service", "serve"]
CMD ["--help"]
