# vllm-router, the balancer in front of the replicas. UNTESTED: linted (hadolint) and never built; the same package runs in
# tests/deploy/test_replicas.py.
#
#   docker build -f deploy/containers/router.Dockerfile -t trait-steering-router .
FROM python:3.11-slim-bookworm
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY deploy/requirements-router.txt /tmp/requirements.txt
RUN pip install --no-deps -r /tmp/requirements.txt && rm /tmp/requirements.txt \
    && useradd --uid 10001 --create-home router
COPY deploy/containers/probe.py /usr/local/bin/probe
USER 10001
WORKDIR /home/router
EXPOSE 8000 29000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["python", "/usr/local/bin/probe", "/readiness"]
ENTRYPOINT ["vllm-router", "--host", "0.0.0.0", "--port", "8000", "--prometheus-host", "0.0.0.0", "--prometheus-port", "29000"]
