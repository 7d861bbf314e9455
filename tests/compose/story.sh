#!/usr/bin/env bash
# The story of the compose fleet: it converges, and endures a bad line, a crash in mid-update, a partition, an OOM kill, a
# coordinator that is killed, and a bad model. Each chapter waits for states, never for a time; what the operator's
# commands say is compared with story.golden. Takes the programs in dist/, and builds them where there are none.
#
#   tests/compose/story.sh                 tells it and takes the fleet down
#   KEEP=1 tests/compose/story.sh          leaves the fleet up, however it ends
#   GOLDEN=write tests/compose/story.sh    writes story.golden anew
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/compose/fleet.sh
readonly GATEWAYS=8 GOLDEN_FILE=tests/compose/story.golden
told=$(mktemp)
fleet=$(mktemp)

end() {
    local code=$?
    if ((code != 0)); then "${compose[@]}" logs --no-color --tail 60 || true; fi
    if [[ -z ${KEEP:-} ]]; then down; fi
    rm -f "$told" "$fleet"
    exit "$code"
}
trap end EXIT

chapter() { # TITLE COMMAND
    local start=$SECONDS
    printf '\n── %s\n' "$1" | tee -a "$told"
    "$2"
    echo "── took $((SECONDS - start)) s"
}

steady() { # what is measured, counted or chosen anew on each run becomes N, and gaps between columns become alike
    sed -E -e 's/[0-9]+(\.[0-9]+)? (µs|ms|s)/N µs/g' -e 's/[0-9]+(\.[0-9]+)? (B|KiB|MiB)/N KiB/g' \
        -e 's/[0-9]+(\.[0-9]+)? (%|points|plans|re-prunes)/N \2/g' -e 's/[0-9]+(\.[0-9]+)?[kM]\b/N/g' \
        -e 's/(plan|after|generation) [0-9]+/\1 N/g' -e 's/line-[1-3]/line-N/g' \
        -e 's/\(-?[0-9.]+(–| to )[0-9.]+\)/(N)/g' -e 's/ [0-9]+\.[0-9]+ \(N\)/ N (N)/' \
        -e 's/([0-9] of [0-9]) +[0-9]+ +N \(N\) .*/\1 N (N)/' \
        -e 's/(^| )([0-9a-f]{16}|[0-9]{4,})( |$)/\1N\3/g' -e '/^  before:/d' -e 's/ {2,}/  /g'
}

secateur() { # an operator's command: what it prints is shown, and told to the golden file
    local said
    said=$(operator "$@")
    printf '$ secateur %s\n%s\n' "$*" "$said"
    printf '$ secateur %s\n%s\n' "$*" "$(steady <<<"$said")" >>"$told"
}

change() { # SED-SCRIPT: the declared fleet, changed so from now on
    sed -i "$1" "$fleet"
    reads=y secateur apply -f /dev/stdin <"$fleet"
}

count() { # FIELD: devices for which it is true
    operator device list --json 2>/dev/null | grep -c "\"$1\": true" || true
}

converged() {
    [[ $(count met) -eq $GATEWAYS && $(count connected) -eq $GATEWAYS ]] \
        && operator status --json 2>/dev/null | grep -q '"settled": true'
}

rests() { # DEVICE RUNG: it is connected, and runs and has measured this rung
    [[ $(field "$1" rung_label) == "$2" && $(field "$1" met) == true && $(field "$1" connected) == true ]]
}

converges() {
    up
    wait_until 240 "all $GATEWAYS gateways keep their budgets" converged
    secateur status
    secateur device list
    claim "top tells the same as one JSON document" top_in_json
}

top_in_json() { operator top --json | tr -d ' \n' | grep -q '^{"status":{.*"devices":\[{.*"rollouts":\[.*}$'; }

downloads() { sed -nE 's/.* downloading from=([0-9]+) .*/\1/p'; } # of a log: where downloads began, in order

line_is_bad() {
    local before
    before=$(says slow | downloads | wc -l)
    change '/class = "slow"/,/budget/ s/macs = "[0-9]*%"/macs = "75%"/'
    wait_until 120 "the update arrived over the bad line" rests slow "macs 75%"
    local from=($(says slow | downloads | tail -n +$((before + 1))))
    claim "the line broke, and the download went on where it was: from ${from[*]}" \
        [ "${#from[@]}" -gt 1 -a "${from[-1]}" -gt 0 ]
}

began_at() { # of the agent `slow` as it runs now: where its first download began
    docker logs --since "$(docker inspect --format '{{.State.StartedAt}}' "$(container slow)")" "$(container slow)" 2>&1 \
        | plain | downloads | head -n 1
}

half_there() { [[ $(own slow state) == downloading && $(own slow received_bytes) -ge 81920 ]]; }

crash() {
    local before received from
    change '/class = "slow"/,/budget/ s/macs = "[0-9]*%"/macs = "100%"/'
    wait_until 60 "more than 80 KiB of its update are there" half_there
    received=$(own slow received_bytes)
    before=$(restarts slow)
    kill_9 slow
    wait_until 60 "the killed agent is started again" restarted slow "$before"
    wait_until 120 "it runs what it was to run" rests slow dense
    from=$(began_at)
    claim "killed with $received bytes and more of it, it lost 64 KiB at most and went on at $from" \
        [ "$from" -gt 0 -a "$from" -ge $((received - 65536)) ]
}

is() { [[ $(field "$1" "$2") == "$3" ]]; } # DEVICE FIELD VALUE

partition() {
    local network=${COMPOSE_PROJECT_NAME}_default device before
    device=$(container roomy)
    before=$(field roomy sequence)
    docker network disconnect "$network" "$device"
    wait_until 60 "the coordinator sees it gone" is roomy connected false
    secateur device why roomy
    wait_until 60 "it serves its applications all the same, and what they tell waits in its outbox" outbox_fills
    docker network connect "$network" "$device"
    wait_until 150 "it is back" is roomy connected true
    wait_until 30 "what it measured has arrived" arrived roomy "$before"
    secateur device why roomy
}

outbox_fills() { label roomy && [[ $(own roomy waiting_reports) -ge 3 ]]; }
arrived() { # DEVICE SEQUENCE: nothing waits but the report just taken, and the coordinator has newer ones than this
    [[ $(own "$1" waiting_reports) -le 1 && $(field "$1" sequence) -gt $2 ]]
}

out_of_memory() {
    local device before since
    device=$(container memory)
    since=$(date +%s)
    before=$(restarts memory)
    wait_until 30 "an application gets its answer" infer memory
    wait_until 60 "applications that ask too much have it killed, and it is started again" overloaded "$before"
    claim "its memory limit killed it" oom "$device" "$since"
    wait_until 90 "the fleet is whole again" converged
    wait_until 30 "an application gets its answer" infer memory
}

overloaded() { # RESTARTS
    overload memory
    restarted memory "$1"
}

oom() { # CONTAINER SINCE: the kernel killed it for its memory
    [[ -n $(docker events --since "$2" --until "$(($(date +%s) + 1))" --filter "container=$1" --filter event=oom) ]]
}

books() { operator device list --json | grep -E '"(name|variant|generation|received_bytes)":'; }

coordinator_restarts() {
    local before known plan
    wait_until 60 "all is at rest" converged
    known=$(books)
    plan=$(operator plan show)
    before=$(restarts coordinator)
    kill_9 coordinator
    wait_until 60 "the killed coordinator is started again" restarted coordinator "$before"
    wait_until 120 "the fleet is whole again" converged
    claim "the plan is the same" [ "$(operator plan show)" = "$plan" ]
    claim "nobody was sent an update again" [ "$(books)" = "$known" ]
    secateur status
}

stage_is() { operator rollout status line --json | grep -q "\"stage\": \"$1\""; }

bad_model() {
    local model=(--calibration /examples/calibration.npz) known forecast one canary
    # Neurons dropped at random, nothing refitted, and no validation data that could warn: only the devices can tell.
    docker exec "$(container link)" /secateur prune /examples/lenet5.onnx "${model[@]}" --method random --macs 40% \
        -o /tmp/thin.onnx >/dev/null
    secateur model add /tmp/thin.onnx --name lenet5-thin "${model[@]}"
    wait_until 60 "all is at rest" converged
    known=$(lines_books)
    sed -i "$(line_runs lenet5-thin)" "$fleet"
    forecast=$(reads=y operator apply -f /dev/stdin --dry-run --json <"$fleet" | sed -nE 's/^ *"update_bytes": ([0-9]+),?$/\1/p')
    one=$((forecast / 3))
    change ''
    wait_until 120 "the canary's own labels tell: it is taken back" stage_is rolled_back
    secateur rollout status line
    wait_until 90 "the fleet is whole again" converged
    canary=$(comm -13 <(echo "$known") <(lines_books) | cut -d ' ' -f 1)
    claim "one device has moved, there and back: $canary" [ "$(wc -w <<<"$canary")" -eq 1 ]
    claim "the way back cost no byte" \
        [ "$(field "$canary" received_bytes)" -eq $(($(grep "^$canary " <<<"$known" | cut -d ' ' -f 4) + one)) ]
    change "$(line_runs lenet5)"
    wait_until 90 "the fleet is whole again" converged
    secateur top
}

line_runs() { echo '/class = "line"/,/budget/ s/model = ".*"/model = "'"$1"'"/'; } # MODEL: a change of the fleet file
lines_books() { # of each device of the line: name, variant, generation, bytes received
    local device
    for device in line-1 line-2 line-3; do
        echo "$device $(field $device variant) $(field $device generation) $(field $device received_bytes)"
    done
}

[[ -x dist/secateur ]] || .ci/programs
cp deploy/fleet.toml "$fleet"
echo "to watch it: docker exec -it \$(docker ps -q -f name=${COMPOSE_PROJECT_NAME}.link) /secateur top --coordinator coordinator:7071"
chapter "eight gateways converge" converges
chapter "a slow line that loses and breaks" line_is_bad
chapter "a crash in mid-update" crash
chapter "a partition" partition
chapter "out of memory" out_of_memory
chapter "the coordinator is killed" coordinator_restarts
chapter "a bad model" bad_model

if [[ ${GOLDEN:-} == write ]]; then cp "$told" "$GOLDEN_FILE"; fi
diff -u "$GOLDEN_FILE" "$told" || { echo "the operator was told something else than $GOLDEN_FILE says" >&2; exit 1; }
echo "the story holds, in $SECONDS s"
