#!/usr/bin/env python3
"""How even four stores end under sequential, uniform and Zipf-hot writes, what rebalancing costs those who write meanwhile,
what a split costs, how soon load splits a region, and what turning the dial does to those who write. Real processes on this
machine: `PONTOON=path/to/pontoon benches/elastic.py [--seconds S] [WORKLOAD ...]` with `uniform`, `sequential`, `zipf`, `split`,
`react` and `dial`; all of them by default."""

import argparse
import collections
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

PONTOON = os.environ.get("PONTOON", "pontoon")
PLACEMENT = "127.0.0.1:11379"
OFFSET = "9000"
REGION = "4MiB"
VALUE = "4KiB"


def pontoon(*words):
    """The answer of a command as JSON."""
    done = subprocess.run([PONTOON, *words, "--output", "json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"pontoon {' '.join(words)}: {done.stderr or done.stdout}")
    return json.loads(done.stdout)


class Cluster:
    """Four stores, their settings in proportion to a load that two cores bear; merging is off, since it would undo the splits of
    `split`."""

    def __init__(self, region, requests, balance="true", share="30"):
        self.dir = tempfile.mkdtemp(prefix="pontoon-elastic-")
        self.environment = dict(
            os.environ,
            PONTOON_CONFIG_STORE_SPLIT__REGION_BYTES=region,
            PONTOON_CONFIG_STORE_SPLIT__REQUESTS_PER_SECOND=requests,
            PONTOON_CONFIG_PLACEMENT_BALANCE__ENABLED=balance,
            PONTOON_CONFIG_PLACEMENT_BALANCE__REST="1m",
            PONTOON_CONFIG_PLACEMENT_BALANCE__REBALANCE_SHARE=share,
            PONTOON_CONFIG_PLACEMENT_MERGE__ENABLED="false",
        )
        self.dev("--stores", "4", "--port-offset", OFFSET, "--detach")

    def dev(self, *words):
        subprocess.run([PONTOON, "dev", "--dir", self.dir, *words], env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.dev("stop")
        subprocess.run(["rm", "-rf", self.dir], check=True)

    def regions(self):
        return pontoon("region", "list", "--placement", PLACEMENT)

    def requests(self):
        """Writes that each store has served as a leader so far."""
        served = {}
        for store in pontoon("store", "list", "--placement", PLACEMENT):
            if store["state"] == "up":
                with urllib.request.urlopen(f"http://{store['status_address']}/metrics") as page:
                    text = page.read().decode()
                counts = re.findall(r'^server_request_seconds_count\{kind="raw_put"\} (\d+)', text, re.MULTILINE)
                served[store["id"]] = sum(int(count) for count in counts)
        return served

    def until_quiet(self, limit_s=600):
        """Waits until none runs and none has begun for 45 s; seconds until the last one began."""
        start = time.time()
        while time.time() - start < limit_s:
            ages = [operator["age_ms"] / 1000 for operator in pontoon("operator", "history", "--placement", PLACEMENT)]
            last = max(start, time.time() - min(ages, default=0))
            if time.time() - last > 45 and not pontoon("status", "--placement", PLACEMENT)["operators_running"]:
                return last - start
            time.sleep(1)
        raise SystemExit(f"operators go on after {limit_s} s")


def bench(workload, seconds, *more, value=VALUE):
    return pontoon(
        "bench", "put", "--placement", PLACEMENT, "--pattern", workload, "--duration", f"{seconds}s", "--value-size", value, *more
    )


def off(counts):
    """The largest distance from the mean, in percent of it, and the counts themselves."""
    mean = statistics.mean(counts)
    return f"{100 * max(abs(count - mean) for count in counts) / mean:.0f} % ({', '.join(f'{count:.0f}' for count in counts)})"


def spread(cluster, stores):
    """How far stores are from even."""
    replicas, leaders, sizes = (collections.Counter({store: 0 for store in stores}) for _ in range(3))
    regions = cluster.regions()
    for region in regions:
        leaders[region["leader_store"]] += 1
        for peer in region["peers"]:
            replicas[peer["store"]] += 1
            sizes[peer["store"]] += region["approximate_bytes"] / 2**20
    return f"{len(regions)} regions; off the mean: replicas {off(replicas.values())}, leaders {off(leaders.values())}, MiB {off(sizes.values())}"


def p99(report):
    return report["put"]["p99_us"] / 1000


def line(name, report):
    put = report["put"]
    print(
        f"  {name}: {report['throughput']:.0f}/s, p50 {put['p50_us'] / 1000:.2f} ms, p99 {p99(report):.2f} ms, "
        f"max {put['max_us'] / 1000:.0f} ms, {report['errors']} errors",
        flush=True,
    )


def workload(name, seconds, rate, keys):
    """One workload on a fresh cluster, again when it is quiet, and (uniform) once more while a fifth store fills."""
    print(f"{name}: {rate}/s of {VALUE} for {seconds} s on 4 stores, regions of {REGION}", flush=True)
    words = ["--rate", str(rate), "--keys", str(keys)]
    with Cluster(REGION, str(rate * 15 // 100)) as cluster:
        first = bench(name, seconds, *words)
        line("from one region", first)
        stores = sorted(cluster.requests())
        print(f"  at its end: {spread(cluster, stores)}")
        print(f"  last operator began {cluster.until_quiet():.0f} s later: {spread(cluster, stores)}", flush=True)
        # Sequential keys are all new; what overwrites them tells what is quiet.
        again = "uniform" if name == "sequential" else name
        before = cluster.requests()
        quiet = bench(again, seconds / 2, *words)
        line(f"again, {again}", quiet)
        after = cluster.requests()
        served = [after[store] - before[store] for store in stores]
        print(f"  writes served by the hottest store: {max(served) / statistics.mean(served):.2f} times the mean ({served})")
        print(f"  p99 while it spread: {p99(first) / p99(quiet):.2f} times the quiet one")
        if name == "uniform":
            cluster.dev("add-store")
            filling = bench(name, seconds / 2, *words)
            line("while a fifth store fills", filling)
            stores = sorted(cluster.requests())
            print(f"  at its end: {spread(cluster, stores)}")
            print(f"  last operator began {cluster.until_quiet():.0f} s later: {spread(cluster, stores)}", flush=True)
            # The same regions, keys and values, before and after: what is quiet changes as files become more.
            quieter = bench(name, seconds / 2, *words)
            line("quiet again, on five stores", quieter)
            print(f"  p99 while it fills: {p99(filling) / p99(quiet):.2f} times that before, {p99(filling) / p99(quieter):.2f} times that after")


def split(seconds, rate, keys):
    """Splits by command, one every second, while clients write everywhere. Values are small enough that no engine flushes meanwhile:
    with larger ones all three replicas flush at the same moment, and on a small machine that hides what a split costs."""
    value = "128B"
    print(f"split: {rate}/s of {value} for {seconds} s while a region is cut every second", flush=True)
    words = ["--rate", str(rate), "--keys", str(keys), "--clients", "16"]
    with Cluster("1GiB", "1000000", balance="false") as cluster:
        bench("uniform", 5, *words, value=value)
        quiet = bench("uniform", seconds / 2, *words, value=value)
        line("without splits", quiet)
        result = {}
        writers = threading.Thread(target=lambda: result.update(bench("uniform", seconds, *words, value=value)))
        writers.start()
        terms = {region["id"]: region["term"] for region in cluster.regions()}
        time.sleep(3)
        ordered = []
        for cut in random.Random(0).sample(range(1, keys), int(seconds) - 4):
            key = f"bench/{cut:012}"
            region = pontoon("region", "find", key, "--placement", PLACEMENT)
            begin = time.time() * 1000
            pontoon("region", "split", str(region["id"]), "--key", key, "--placement", PLACEMENT)
            ordered.append((begin, time.time() * 1000))
            time.sleep(max(0, 1 - (time.time() - begin / 1000)))
        writers.join()
        line("with splits", result)
        # The slowest operation that ended in an interval that a split touched, or in none.
        touched, other = [], []
        for interval in result["timeline"][:-1]:
            start = result["began_unix_ms"] + interval["at_ms"]
            here = any(start < end + 100 and begin < start + 100 for begin, end in ordered)
            (touched if here else other).append(interval["max_us"] / 1000)
        elected = sum(region["term"] - terms.get(region["id"], 1) for region in cluster.regions())
        print(f"  {len(ordered)} splits, {len(cluster.regions())} regions, terms that began (elections and transfers): {elected}")
        for title, slowest in (("tenths of a second with a split", touched), ("without one", other)):
            slowest.sort()
            print(
                f"  slowest operation in {title}: median {statistics.median(slowest):.1f} ms, "
                f"p90 {slowest[len(slowest) * 9 // 10]:.1f} ms, max {slowest[-1]:.1f} ms ({len(slowest)} of them)",
                flush=True,
            )


def react(seconds, rate, keys):
    """From the first write of a load above the limit to the region that it makes, and how the load is divided then."""
    limit = rate * 2 // 3
    print(f"react: {rate}/s of 128B on one region that splits above {limit}/s", flush=True)
    with Cluster("1GiB", str(limit), balance="false") as cluster:
        # The warm-up would be part of the load, and what is reported begins after it.
        words = ["--rate", str(rate), "--keys", str(keys), "--clients", "16", "--warmup", "0s"]
        result = {}
        writers = threading.Thread(target=lambda: result.update(bench("uniform", seconds, *words, value="128B")))
        writers.start()
        while len(regions := cluster.regions()) < 2:
            time.sleep(0.1)
        split = time.time()
        edges = sorted(key_number(region["start"], keys) for region in regions)
        writers.join()
        line("meanwhile", result)
        print(f"  split after {split - result['began_unix_ms'] / 1000:.1f} s", flush=True)
        # Keys are drawn evenly, so the share of the keys is that of the load.
        widths = [100 * (end - start) / keys for start, end in zip(edges, [*edges[1:], keys])]
        print(f"  shares of the load: {', '.join(f'{width:.0f} %' for width in widths)}", flush=True)


def key_number(key, keys):
    """The number in a key of the bench; what lies before or after all of them is the first or the last."""
    digits = re.search(r"bench/(\d{1,12})", key or "")
    return min(int(digits.group(1).ljust(12, "0")), keys) if digits else 0


def dial(seconds, rate, keys):
    """What those who write see of a fifth store that fills, with the dial at its default and wide open."""
    for share in ("30", "100"):
        print(f"dial: {rate}/s of {VALUE}, rebalance_share {share}", flush=True)
        words = ["--rate", str(rate), "--keys", str(keys)]
        with Cluster("16MiB", "1000000", share=share) as cluster:
            bench("uniform", seconds, *words)
            cluster.until_quiet()
            quiet = bench("uniform", seconds / 2, *words)
            line("quiet", quiet)
            stores = set(cluster.requests())
            cluster.dev("add-store")
            filling = bench("uniform", seconds / 2, *words)
            line("while a fifth store fills", filling)
            new = [store for store in cluster.requests() if store not in stores]
            held = sum(
                region["approximate_bytes"] / 2**20
                for region in cluster.regions()
                for peer in region["peers"]
                if peer["store"] in new
            )
            print(f"  it took in {held:.0f} MiB; p99 {p99(filling) / p99(quiet):.2f} times the quiet one", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=int, default=1000, help="writes per second")
    parser.add_argument("--keys", type=int, help="as many as the rate writes in the time, by default")
    parser.add_argument("workloads", nargs="*", default=["uniform", "sequential", "zipf", "split", "react", "dial"])
    args = parser.parse_args()
    args.keys = args.keys or int(args.rate * args.seconds)
    for name in args.workloads:
        if name in ("split", "react", "dial"):
            {"split": split, "react": react, "dial": dial}[name](args.seconds, args.rate, args.keys)
        else:
            workload(name, args.seconds, args.rate, args.keys)


if __name__ == "__main__":
    main()
