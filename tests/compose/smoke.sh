#!/usr/bin/env bash
# The compose fleet: up, converged to its budgets, one agent killed and recovered, down. Takes the programs in dist/.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Debian's docker and docker-compose are in /usr/bin; another client before them may lack compose.
export PATH=/usr/bin:$PATH BIN_FROM=prebuilt DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
export COMPOSE_PROJECT_NAME=secateur-smoke
readonly GATEWAYS=5

if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi

down() {
    local code=$?
    if ((code != 0)); then "${compose[@]}" logs --no-color --tail 40 || true; fi
    "${compose[@]}" down --volumes --timeout 5 >/dev/null 2>&1 || true
    exit "$code"
}
trap down EXIT

operator() { # an operator's command, from the container of the link, which has the program
    docker exec "$("${compose[@]}" ps -q link)" /secateur "$@" --coordinator coordinator:7071
}

count() { # FIELD: devices for which it is true
    operator device list --json 2>/dev/null | grep -c "\"$1\": true" || true
}

converged() {
    [[ $(count met) -eq $GATEWAYS && $(count connected) -eq $GATEWAYS ]] \
        && operator status --json | grep -q '"settled": true'
}

wait_until() { # SECONDS WHAT COMMAND…: polls until the command holds
    local start=$SECONDS limit=$1 what=$2
    shift 2
    until "$@"; do
        if ((SECONDS - start >= limit)); then
            echo "not within $limit s: $what" >&2
            operator device list >&2 || true
            return 1
        fi
        sleep 1
    done
    echo "$what: after $((SECONDS - start)) s"
}

restarts() { docker inspect --format '{{.RestartCount}}' "$victim"; }
restarted() { [[ $(restarts) -gt $before ]]; }

"${compose[@]}" up -d --build
wait_until 180 "the fleet runs and keeps its budgets" converged
operator device list

# The host's pid, because `docker kill` counts as a wish to stop, after which nothing is restarted.
victim=$("${compose[@]}" ps -q bytes)
before=$(restarts)
kill -9 "$(docker inspect --format '{{.State.Pid}}' "$victim")"
wait_until 60 "the killed agent is started again" restarted
wait_until 120 "the fleet is whole again" converged
