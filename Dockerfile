FROM python:3.12-slim

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin cdc-counter

WORKDIR /src
COPY pyproject.toml README.md ./
COPY cdc_counter ./cdc_counter
COPY sql ./sql
COPY config ./config
RUN pip install --no-cache-dir . && rm -rf /src/*

USER cdc-counter
WORKDIR /
ENV CDC_COUNTER_CONFIG=/etc/cdc-counter/cdc-counter.toml
EXPOSE 8400
# SIGTERM drains: what is in flight is applied and confirmed before it ends.
ENTRYPOINT ["cdc-counter"]
CMD ["run"]
