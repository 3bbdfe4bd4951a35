#!/usr/bin/env bash
# Ten thousand regions, or as many as REGIONS says, on a three-store cluster of this machine: how long the splits take, what an
# idle replica costs in memory and an idle store in processor time, and how long a restart takes. Needs the binary:
# `PONTOON=path/to/pontoon benches/regions.sh [DIR]`.
set -euo pipefail
pontoon=${PONTOON:-pontoon}
regions=${REGIONS:-10000}
dir=${1:-$(mktemp -d)}
export PONTOON_PLACEMENT=127.0.0.1:10379
export PONTOON_CONFIG_PLACEMENT_MERGE__ENABLED=false # empty regions would go
seconds() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(seconds)" 'BEGIN { printf "%.1f s", to - from }'; }
stores() { python3 -c 'import json, sys; print(*(s["pid"] for s in json.load(open(sys.argv[1]))["stores"]))' "$dir/cluster.json"; }
memory() { for pid in $(stores); do awk '/VmRSS/ { printf "%.0f MiB  ", $2 / 1024 }' "/proc/$pid/status"; done; echo; }
ticks() { for pid in $(stores); do awk '{ print $14 + $15 }' "/proc/$pid/stat"; done; }
# Processor time of each store over half a minute, in hundredths of a core.
idle() {
    local before after
    mapfile -t before < <(ticks)
    sleep 30
    mapfile -t after < <(ticks)
    for at in "${!before[@]}"; do
        awk -v ticks=$((after[at] - before[at])) -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.1f %%  ", 100 * ticks / hz / 30 }'
    done
    echo
}
key() { printf 'k%08d' "$1"; }
# The first id in JSON; Python takes longer to start than a split takes.
first_id() { awk -F'[:, ]+' '/"id"/ && !id { id = $3 } END { print id }'; }
# Splits [from, from + count) in ten, and each tenth again, until every piece is one region.
split() {
    local from=$1 count=$2 id keys=() step at
    [ "$count" -le 1 ] && return
    step=$(((count + 9) / 10))
    for ((at = from + step; at < from + count; at += step)); do
        keys+=(--key "$(key "$at")")
    done
    id=$("$pontoon" region find "$(key "$from")" --output json | first_id)
    "$pontoon" region split "$id" "${keys[@]}" >/dev/null 2>&1
    for ((at = from; at < from + count; at += step)); do
        split "$at" $((at + step <= from + count ? step : from + count - at))
    done
}
report() {
    echo "regions: $("$pontoon" region list --output json | python3 -c 'import json, sys; print(len(json.load(sys.stdin)))')"
    echo "resident memory of the stores: $(memory)"
    echo "processor time of the idle stores: $(idle)"
}

"$pontoon" dev --dir "$dir" --port-offset 8000 --detach >/dev/null
trap '"$pontoon" dev --dir "$dir" stop >/dev/null' EXIT
sleep 5
report
start=$(seconds)
split 0 "$regions"
echo "split: $(since "$start")"
sleep 10
report
"$pontoon" bench mixed --clients 64 --duration 10s --keys 100000
start=$(seconds)
"$pontoon" dev --dir "$dir" stop >/dev/null
echo "stop: $(since "$start")"
start=$(seconds)
"$pontoon" dev --dir "$dir" --port-offset 8000 --detach >/dev/null
echo "start again until it serves: $(since "$start")"
for ((at = 0; at < regions; at += (regions + 99) / 100)); do
    "$pontoon" kv put "$(key "$at")" after >/dev/null
done
echo "a key in every hundredth region written: $(since "$start") after the start"
sleep 10
report
