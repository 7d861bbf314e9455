# One image each for coordinator, agent and operator, all from scratch. BIN_FROM=build compiles here and needs a
# registry for RUST_IMAGE; BIN_FROM=prebuilt takes the programs from ./dist (see README, "A fleet in containers").
ARG RUST_IMAGE=rust:1-bookworm
ARG BIN_FROM=build

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    T="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$T" \
      --package secateur-cli --package secateur-agent --package secateur-coordinator \
 && mkdir -p /out \
 && cp "target/$T/release/secateur" "target/$T/release/secateur-agent" "target/$T/release/secateur-coordinator" /out/

FROM scratch AS prebuilt
COPY dist/ /out/

FROM ${BIN_FROM} AS bin

FROM scratch AS agent
COPY --from=bin /out/secateur-agent /secateur-agent
ENTRYPOINT ["/secateur-agent"]

FROM scratch AS coordinator
COPY --from=bin /out/secateur-coordinator /secateur-coordinator
ENTRYPOINT ["/secateur-coordinator"]

FROM scratch AS operator
COPY --from=bin /out/secateur /secateur
COPY examples/ /examples/
ENTRYPOINT ["/secateur"]
