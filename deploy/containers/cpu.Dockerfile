# trait-service on CPUs, Linux x86-64. UNTESTED: linted (hadolint) and never built, as no container engine was at hand.
#
#   docker build -f deploy/containers/cpu.Dockerfile -t trait-steering:cpu .
#   docker run --rm -p 127.0.0.1:8000:8000 -e VLLM_CPU_KVCACHE_SPACE=4 trait-steering:cpu Qwen/Qwen2.5-0.5B-Instruct --insecure
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/trait
ENV PATH=/opt/trait/bin:$PATH
# Pins first: they change seldom, and take the time. torch is the CPU's build, which PyPI does not have.
COPY deploy/requirements-service-cpu.txt deploy/
RUN pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' deploy/requirements-service-cpu.txt)" \
    && pip install --no-deps -r deploy/requirements-service-cpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY client client
COPY extraction extraction
COPY datasets/traits datasets/traits
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 trait && useradd --uid 10001 --gid 10001 --create-home trait \
    && install -d -o trait -g trait /data/vectors /data/models
COPY --from=build /opt/trait /opt/trait
COPY deploy/containers/probe.py /usr/local/bin/probe
ENV PATH=/opt/trait/bin:$PATH HF_HOME=/data/models TRAIT_HOME=/data VLLM_NO_USAGE_STATS=1
USER 10001:10001
WORKDIR /home/trait
VOLUME ["/data/vectors", "/data/models"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["python", "/usr/local/bin/probe"]
# There is no C++ compiler in the image, so the service runs eager.
ENTRYPOINT ["trait-service", "serve"]
CMD ["--help"]
