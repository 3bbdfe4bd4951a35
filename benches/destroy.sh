#!/usr/bin/env bash
# A store comes back to a cluster that has replaced it: a thousand peers, or as many as REGIONS says, are dead at once. How long
# it takes until the last of them is gone, and how often the store's disk was synced for that. Needs the binary:
# `PONTOON=path/to/pontoon benches/destroy.sh [DIR]`.
set -euo pipefail
pontoon=${PONTOON:-pontoon}
regions=${REGIONS:-1000}
dir=${1:-$(mktemp -d)}
export PONTOON_PLACEMENT=127.0.0.1:12379
export PONTOON_CONFIG_PLACEMENT_STORE_DOWN_AFTER=15s PONTOON_CONFIG_PLACEMENT_STORE_LOST_AFTER=15s PONTOON_CONFIG_PLACEMENT_MERGE__ENABLED=false
seconds() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(seconds)" 'BEGIN { printf "%.1f s", to - from }'; }
member() { python3 -c 'import json, sys; print(next(s[sys.argv[3]] for s in json.load(open(sys.argv[1]))["stores"] if s["name"] == sys.argv[2]))' "$dir/cluster.json" "$@"; }
# A number of a store's status page; nothing while it does not answer.
held() { curl -s "http://$(member "$1" status_addr)/status" | python3 -c 'import json, sys; print(json.load(sys.stdin)["region_count"])' 2>/dev/null || true; }
counter() { curl -s "http://$(member "$1" status_addr)/metrics" | awk -v name="$2" '$1 == name { print $2 }'; }
key() { printf 'k%08d' "$1"; }
# Splits [from, from + count) in ten, and each tenth again, until every piece is one region.
split() {
    local from=$1 count=$2 id keys=() step at
    [ "$count" -le 1 ] && return
    step=$(((count + 9) / 10))
    for ((at = from + step; at < from + count; at += step)); do
        keys+=(--key "$(key "$at")")
    done
    id=$("$pontoon" region find "$(key "$from")" --output json | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
    "$pontoon" region split "$id" "${keys[@]}" >/dev/null 2>&1
    for ((at = from; at < from + count; at += step)); do
        split "$at" $((at + step <= from + count ? step : from + count - at))
    done
}

"$pontoon" dev --dir "$dir" --port-offset 10000 --stores 4 --placements 1 --detach >/dev/null
trap '"$pontoon" dev --dir "$dir" stop >/dev/null' EXIT
for scheduler in balance-region balance-leader hot-write hot-read append-ahead; do
    "$pontoon" scheduler pause "$scheduler" 1h >/dev/null
done
split 0 "$regions"
for ((at = 0; at < regions; at++)); do
    key "$at"
    echo
done | xargs -P 4 -I{} "$pontoon" kv put {} value >/dev/null
for store in store-1 store-2 store-3 store-4; do echo "$store holds $(held "$store") regions"; done
left=$(held store-1)
"$pontoon" dev --dir "$dir" kill store-1 >/dev/null
start=$(seconds)
id=$("$pontoon" store list --output json | python3 -c 'import json, sys; print(next(s["id"] for s in json.load(sys.stdin) if s["address"] == sys.argv[1]))' "$(member store-1 addr)")
until [ "$("$pontoon" region list --output json | python3 -c 'import json, sys; print(sum(p["store"] == int(sys.argv[1]) for r in json.load(sys.stdin) for p in r["peers"]))' "$id")" = 0 ]; do
    sleep 1
done
echo "the cluster replaced its $left peers: $(since "$start")"
start=$(seconds)
# Traced only where it syncs; strace ends with it and counts.
strace -f --seccomp-bpf -c -e trace=fsync,fdatasync -o "$dir/syncs" "$pontoon" serve store --config "$dir/store-1.toml" >>"$dir/store-1.log" 2>&1 &
tracer=$!
until [ "$(held store-1)" = "$left" ] || [ "$(counter store-1 'server_background_tasks_total{kind="destroy"}')" -gt 0 ] 2>/dev/null; do :; done
echo "it is back: $(since "$start")"
until [ "$(held store-1)" = 0 ]; do sleep 0.1; done
echo "none is left: $(since "$start")"
echo "destroyed: $(counter store-1 'server_background_tasks_total{kind="destroy"}')"
kill "$(pgrep -P "$tracer")"
wait "$tracer" || true
cat "$dir/syncs"
