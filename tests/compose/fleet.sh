# The compose fleet for scripts: up and down, the operator's commands, faults, and waiting. Sourced by story.sh.

# Debian's docker and docker-compose are in /usr/bin; another client before them may lack compose.
export PATH=/usr/bin:$PATH BIN_FROM=prebuilt DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-secateur-story}
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi

declare -A ids # of the containers; they stay over restarts, and compose is slow to tell them
up() { # from nothing
    local service
    down
    "${compose[@]}" up -d --build
    for service in $("${compose[@]}" config --services); do ids[$service]=$("${compose[@]}" ps -q "$service"); done
}

down() { "${compose[@]}" down --volumes --timeout 5 >/dev/null 2>&1 || true; }

container() { echo "${ids[$1]}"; }
port() { docker port "$(container "$1")" 8080/tcp | head -n 1; }

operator() { # an operator's command, from the container of the link, which has the program; stdin goes along if `reads` is set
    docker exec ${reads:+-i} "$(container link)" /secateur "$@" --coordinator coordinator:7071
}

field() { # DEVICE FIELD: of what the coordinator knows of it
    operator device show "$1" --json | sed -nE "s/^ *\"$2\": \"?([^\",]*)\"?,?\$/\1/p" | head -n 1
}

own() { # DEVICE FIELD: of what the agent itself tells in its status.json
    docker cp "$(container "$1"):/data/status.json" - 2>/dev/null | tar -xO 2>/dev/null \
        | sed -nE "s/.*\"$2\":\"?([^\",}]*).*/\1/p"
}

plain() { sed 's/\x1b\[[0-9;]*m//g'; } # without colours
says() { docker logs "$(container "$1")" 2>&1 | plain; } # SERVICE: its log

infer() { # DEVICE [ID]: an inference on a black picture, as an application asks for it
    local zeros
    zeros=$(printf '0,%.0s' {1..783})0
    curl --silent --fail --max-time 10 "http://$(port "$1")/v2/models/lenet5/infer" \
        --data "{\"id\":\"${2:-}\",\"inputs\":[{\"name\":\"input\",\"datatype\":\"FP32\",\"shape\":[1,1,28,28],\"data\":[$zeros]}]}" \
        | grep -q '"outputs"'
}

label() { # DEVICE: an inference, and then what it was
    local id=$RANDOM$RANDOM
    infer "$1" "$id" && curl --silent --fail --output /dev/null "http://$(port "$1")/v2/models/lenet5/feedback" \
        --data "{\"id\":\"$id\",\"label\":3}"
}

overload() { # DEVICE: the largest batch that an application may ask for; it needs 25 MB
    local header='{"inputs":[{"name":"input","datatype":"FP32","shape":[4096,1,28,28],"parameters":{"binary_data_size":12845056}}]}'
    { printf %s "$header" && head -c 12845056 /dev/zero; } \
        | curl --silent --max-time 20 --output /dev/null --data-binary @- -H "Inference-Header-Content-Length: ${#header}" \
            "http://$(port "$1")/v2/models/lenet5/infer" || true
}

kill_9() { # SERVICE: the host's pid, because `docker kill` counts as a wish to stop, after which nothing is restarted
    kill -9 "$(docker inspect --format '{{.State.Pid}}' "$(container "$1")")"
}

restarts() { docker inspect --format '{{.RestartCount}}' "$(container "$1")"; }
restarted() { [[ $(restarts "$1") -gt $2 ]]; } # SERVICE BEFORE

wait_until() { # SECONDS WHAT COMMAND…: polls until the command holds
    local start=$SECONDS limit=$1 what=$2
    shift 2
    until "$@"; do
        if ((SECONDS - start >= limit)); then
            echo "not within $limit s: $what" >&2
            operator device list >&2 || true
            return 1
        fi
        sleep 0.2
    done
    echo "· $what (after $((SECONDS - start)) s)"
}

claim() { # WHAT COMMAND…: holds now
    local what=$1
    shift
    "$@" || { echo "does not hold: $what" >&2; return 1; }
    echo "· $what"
}
