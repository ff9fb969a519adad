"""bench serve --scenario, small: the shape of its JSON, what it counts, and that nothing fails or differs."""
import json
import os
import re

from cluster import ANY, PREFILL_DECODE, STORIES, Cluster, manifest, need, pools

need(STORIES)
SPREAD = {"n", "mean", "p50", "p95", "p99", "max"}
MEASURES = {"seconds", "requests", "failed", "dropped", "output_tokens", "output_tok_s", "ttft_ms", "itl_ms", "second_token_ms", "gaps_over_100_ms",
            "gaps_over_500_ms", "stages_ms", "paths", "processes", "servers_cpu_s", "client_cpu_s", "client_cpu_share", "others_cpu_s", "steal_s"}


def bench(c, scenarios, *options, code=0):
    result = c.command("bench", "serve", "--scenario", scenarios, "-o", "json", *options)
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout) if code == 0 else result.stderr


def check_measures(m):
    assert MEASURES <= set(m), MEASURES - set(m)
    assert m["failed"] == 0, m["first_error"]
    for key in ("ttft_ms", "itl_ms", "second_token_ms"):
        assert set(m[key]) == SPREAD, m[key]
        assert 0 <= m[key]["p50"] <= m[key]["p95"] <= m[key]["p99"] <= m[key]["max"], m[key]
    assert m["ttft_ms"]["n"] == m["requests"], m["phase"]
    assert 0 < m["servers_cpu_s"] and 0 < m["client_cpu_s"], m["phase"]
    for p in m["processes"]:
        assert 0 < p["rss_mib"] <= p["rss_peak_mib"] and p["cpu_s"] >= 0, p


def check_closed_loop(s, requests, out):
    check_measures(s)
    assert s["requests"] == requests and s["output_tokens"] == requests * out, s
    # A token is an event, unless its text waits for the next one (bytes of one character) or its step's report waited behind another
    # one: this model makes a token in less time than a message takes.
    assert 0 < s["itl_ms"]["n"] <= requests * (out - 1), s["itl_ms"]
    assert abs(s["output_tok_s"] - s["output_tokens"] / s["seconds"]) < 1e-6 * s["output_tok_s"]


def check_served(name, pools_of, path, workers):
    with Cluster(STORIES, manifest(pools(pools_of, kv={"memory": "16Mi"}))) as c:
        idle = bench(c, "idle", "--scale", "0.1")["scenarios"][0]
        assert idle["requests"] == 0 and 0 <= idle["summary"]["cpu_cores"] and idle["summary"]["worker_rss_mib"] > 1, idle
        result = bench(c, "S1,S2,S6,S7", "--scale", "0.1", "--seed", "5")
        assert result["seed"] == 5 and result["scale"] == 0.1 and result["machine"]["cores"] >= 1, result
        s1, s2, s6, s7 = result["scenarios"]
        assert [s["scenario"] for s in result["scenarios"]] == ["S1", "S2", "S6", "S7"]
        check_closed_loop(s1, 2, 128)
        check_closed_loop(s2, 4, 64)
        assert s1["paths"] == {path: 2}, s1["paths"]
        assert {p["name"] for p in s1["processes"]} == {"supervisor", "coordinator", *workers}, s1["processes"]
        storm = s6["phases"][0]
        assert storm["requests"] == storm["dropped"] == 10 and storm["failed"] == 0, storm
        assert set(s6["summary"]) == {"storm_s", "idle_ttft_ms", "next_ttft_ms", "next_over_idle", "cpu_s_in_2_s_after"}
        assert s7["summary"] == {"outputs": 4, "differ_again": 0, "differ_at_once": 0}, s7["summary"]
        for phase in s7["phases"]:
            check_measures(phase)
        # The same seed asks the same, and the prefix cache of an earlier run is none of a later one's.
        assert bench(c, "S1", "--scale", "0.1", "--seed", "5")["scenarios"][0]["failed"] == 0
        c.wait_idle()
        table = c.command("bench", "serve", "--scenario", "S1", "--scale", "0.1", "-o", "table").stdout
        assert re.search(r"output_tok_s\s+[1-9]", table), table
        assert "S8" in bench(c, "S8", code=2)
        # The older closed loop.
        loop = c.command("bench", "serve", "-c", "2", "-r", "4", "-p", "16", "-n", "8", "-o", "json")
        assert loop.returncode == 0 and json.loads(loop.stdout)["failed"] == 0, loop.stderr
    print("%s: scenarios are counted right" % name)


def check_gateway():
    c = Cluster(STORIES)
    g = bench(c, "G", "--model", STORIES, "--scale", "0.02")["scenarios"][0]
    assert g["scenario"] == "G" and g["failed"] == 0, g
    assert [p["phase"] for p in g["phases"]] == ["16 at once", "one at a time", "new connections", "second request of a connection",
                                                 "32 at once, 5 ms steps"], g["phases"]
    assert [p["requests"] for p in g["phases"]] == [40, 10, 4, 3, 8]
    for phase in g["phases"]:
        assert {p["name"] for p in phase["processes"]} == {"coordinator", "mock-0"}, phase["processes"]
        assert phase["output_tokens"] == 64 * phase["requests"], phase
        assert phase["paths"] == {"local": phase["requests"]}, phase["paths"]
    paced = g["phases"][4]  # a step takes as long as one of a real model's: a token is an event
    assert paced["requests"] * 63 * 0.5 < paced["itl_ms"]["n"] <= paced["requests"] * 63, paced["itl_ms"]
    for key in ("cpu_ms_per_request_loaded", "cpu_ms_per_request_alone", "cpu_ms_per_request_paced", "ttft_p50_ms", "added_ttft_ms",
                "new_connection_ttft_p50_ms", "second_request_ttft_p50_ms"):
        assert g["summary"][key] > 0, key
    print("gateway: measured by itself")
    return c


def check_mock_stays_out(c):
    """The worker that computes nothing joins no cluster but the benchmark's own."""
    path = os.path.join(c.home, "real.yaml")
    with open(path, "w") as f:
        f.write(manifest(ANY, model={"source": STORIES}))
    result = c.command("bench-mock-worker", "--manifest", path, "--join", "127.0.0.1:1")
    assert result.returncode == 1 and "no cluster of the gateway benchmark" in result.stderr, result.stderr
    with open(path, "w") as f:
        f.write(manifest({"any": {"role": "any", "device": "mock"}}))
    assert c.command("validate", path).returncode == 2
    c.remove()
    print("the mock engine cannot serve")


check_served("one worker", ANY, "local", ["any-0"])
check_served("split", PREFILL_DECODE, "remote-prefill", ["prefill-0", "decode-0"])
check_mock_stays_out(check_gateway())
