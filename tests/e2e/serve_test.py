"""What a new user does: serve, ask, look, stop; and what must be gone afterwards."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from cluster import ANY, BINARY, PREFILL_DECODE, SHARED, STORIES, Cluster, manifest, need

need(STORIES)


def shared_memory():
    return set(os.listdir("/dev/shm"))


def alive(pid):
    try:
        os.kill(pid, 0)
        return open("/proc/%d/stat" % pid).read().split(")")[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def check_serving(c):
    rows = c.ps()
    assert [r["name"] for r in rows] == ["supervisor", "coordinator", "prefill-0", "decode-0"], rows
    for r in rows:
        assert r["state"] == "ready" and r["pid"] > 0 and "address" in r and r["role"], r
    for w in rows[2:]:
        assert set(w["kv_blocks"]) >= {"total", "free", "cached", "active"} and w["transfers_open"] == 0, w
    for path in ("/health", "/live", "/ready", "/version", "/v1/models", "/metrics"):
        assert c.get(path).status == 200, path
    ids, r = c.generate("Once upon a time", 20)
    assert len(ids) == 20
    assert r.headers["x-baton-path"] == "remote-prefill", r.headers
    assert r.headers["x-baton-prefill-worker"] == "prefill-0" and r.headers["x-baton-decode-worker"] == "decode-0"
    assert r.headers["x-request-id"] and r.headers["x-baton-cached-tokens"] == "0"
    text, finish = "", None
    for headers, event in c.stream("/v1/completions", {"model": "default", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}):
        for choice in event["choices"]:
            text += choice["text"]
            finish = choice["finish_reason"] or finish
    assert text == r.json()["choices"][0]["text"] and finish == "length", (text, finish)


def check_memory(c):
    """A worker takes what its plan says: weights and KV, and 100 MB for everything else."""
    for w in c.ps()[2:]:
        plan = re.match(r"weights ([\d.]+) (\w+) \+ KV .* limit .*\(.*\)$", w["memory"])
        assert plan, w["memory"]
        weights = float(plan[1]) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[plan[2]]
        used = dict(re.findall(r"(\w+):\s+(\d+) kB", open("/proc/%d/status" % w["pid"]).read()))
        beside_kv = 1024 * (int(used["VmRSS"]) - int(used["RssShmem"]))
        assert beside_kv <= weights + 100e6, (w["memory"], beside_kv)


def check_choices(c):
    """Several choices differ from each other and come again under the same seed."""
    body = {"model": "default", "prompt": "One day", "max_tokens": 24, "n": 3, "temperature": 1.0, "seed": 5}
    first, again = (sorted((o["index"], o["text"]) for o in c.post("/v1/completions", body).json()["choices"]) for _ in range(2))
    assert first == again and len({text for _, text in first}) == 3, (first, again)
    other = sorted((o["index"], o["text"]) for o in c.post("/v1/completions", dict(body, seed=6)).json()["choices"])
    assert other != first


def check_metrics(c):
    """promtool finds nothing to say about what the coordinator and each worker serve."""
    addresses = [c.address] + [w["metrics_address"] for w in c.workers()]
    for address in addresses:
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read()
        connection.close()
        assert b"baton_kv_blocks{" in text and b"baton_build_info{" in text, (address, text[:300])
        if shutil.which("promtool"):
            r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
            assert r.returncode == 0, (address, r.stdout, r.stderr)
    coordinator = c.get("/metrics").body.decode()
    assert c.metric("baton_kv_transfer_bytes_total", coordinator) > 0 and c.metric("baton_ttft_seconds_count", coordinator) >= 2


def check_logs(c):
    times = [json.loads(line)["ts"] for line in c.command("logs").stdout.splitlines()]
    assert len(times) > 4 and times == sorted(times), times
    assert {json.loads(line)["worker"] for line in c.command("logs", "coordinator").stdout.splitlines()} == {"coordinator"}
    assert c.command("logs", "nobody").returncode == 1


def test_life():
    before = shared_memory()
    with Cluster(STORIES) as c:
        check_serving(c)
        check_choices(c)
        check_memory(c)
        check_metrics(c)
        pids = [r["pid"] for r in c.ps()]
        second = c.command("serve", STORIES, "--port", "0", "--detach")
        assert second.returncode == 1 and "already runs" in second.stderr, second
        address = c.address
        assert c.command("down").returncode == 0
        for pid in pids:
            assert not alive(pid), pid
        assert shared_memory() == before, shared_memory() - before
        assert not os.path.exists(c.home + "/state/cluster.json")
        host, port = address.rsplit(":", 1)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, int(port)))
        assert json.loads(c.command("ps", "-o", "json").stdout) == []


def test_foreground_stops_on_ctrl_c():
    c = Cluster(STORIES)
    p = subprocess.Popen([BINARY, "serve", STORIES, "--port", "0"], env=dict(os.environ, BATON_HOME=c.home), stdout=subprocess.PIPE, text=True)
    out = ""
    while "Stop it" not in out:
        line = p.stdout.readline()
        assert line, out
        out += line
    assert "curl -N http://127.0.0.1:" in out, out
    p.send_signal(signal.SIGINT)
    assert p.wait(20) == 0
    c.remove()


def test_supervisor_killed_leaves_nothing():
    before = shared_memory()
    with Cluster(STORIES) as c:
        pids = [r["pid"] for r in c.ps()]
        check_logs(c)
        old = c.command("logs").stdout.splitlines()
        os.kill(pids[0], signal.SIGKILL)
        c.wait_until(lambda: not any(alive(p) for p in pids), 20, "children end with their supervisor")
        assert [r["state"] for r in c.ps()] == ["down"] * 4, c.ps()
        assert shared_memory() == before, shared_memory() - before
        again = c.command(*c.serve_arguments())
        assert again.returncode == 0, again.stderr
        check_logs(c)
        assert not set(old) & set(c.command("logs").stdout.splitlines()), "logs of the cluster before"


def test_state_folder_removed():
    """ps and down find the cluster again, a process that dies comes back, and logs go on."""
    with Cluster(STORIES) as c:
        shutil.rmtree(c.home + "/state")
        c.wait_until(lambda: len(c.ps()) == 4 and all(r["state"] == "ready" for r in c.ps()), 20, "the files are written anew")
        decode = c.ps()[3]
        os.kill(decode["pid"], signal.SIGKILL)
        c.wait_until(lambda: c.ps()[3]["pid"] != decode["pid"] and all(r["state"] == "ready" for r in c.ps()), 20, "decode-0 comes back")
        assert len(c.generate("One day", 10)[0]) == 10
        log = c.command("logs", "supervisor").stdout
        assert "process started anew" in log and "out of memory" in log, log
        assert c.command("serve", STORIES, "--port", "0", "--detach").returncode == 1, "the folder is taken"
        pids = [r["pid"] for r in c.ps()]
        assert c.command("down").returncode == 0
        assert not any(alive(p) for p in pids)


def test_record_of_a_killed_supervisor():
    """down signals nobody whose pid was somebody else's before."""
    with Cluster(STORIES) as c:
        pids = [r["pid"] for r in c.ps()]
        os.kill(pids[0], signal.SIGKILL)
        c.wait_until(lambda: not any(alive(p) for p in pids), 20, "children end with their supervisor")
        bystander = subprocess.Popen(["sleep", "60"])
        record = c.home + "/state/cluster.json"
        with open(record) as f:
            text = f.read()
        with open(record, "w") as f:
            f.write(text.replace(str(pids[0]), str(bystander.pid)))
        assert c.command("down").returncode == 0
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()
        assert not os.path.exists(record)


def test_started_with_nothing_open():
    c = Cluster(STORIES)
    p = subprocess.run(["/bin/sh", "-c", 'exec "$0" serve "$1" --port 0 --detach <&- >&- 2>&-', BINARY, STORIES], env=dict(os.environ, BATON_HOME=c.home), timeout=120)
    assert p.returncode == 0
    assert c.command("serve", STORIES, "--port", "0", "--detach").returncode == 1, "the lock is held"
    assert all(r["state"] == "ready" for r in c.ps())
    assert c.command("down").returncode == 0
    c.remove()


def test_refusals():
    c = Cluster(STORIES)
    for model, code, words in (("/no/such.gguf", 1, "no such model"), (os.path.join(SHARED, "models/README.md"), 3, "README.md"),
                               (os.path.join(SHARED, "models/stories260K-mixtral8x"), 3, "stories260K-mixtral8x")):
        r = c.command("serve", model, "--port", "0", "--detach")
        assert r.returncode == code and words in r.stderr and len(r.stderr.strip().splitlines()) == 1, (model, r)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        r = c.command("serve", STORIES, "--port", str(port), "--detach")
        assert r.returncode == 3 and str(port) in r.stderr, r
    truncated = os.path.join(c.home, "cut.gguf")
    with open(STORIES, "rb") as f, open(truncated, "wb") as out:
        out.write(f.read()[:500000])
    r = c.command("serve", truncated, "--port", "0", "--detach")
    assert r.returncode == 3 and "cut.gguf" in r.stderr, r
    bad = os.path.join(c.home, "bad.yaml")
    with open(bad, "w") as f:
        f.write("apiVersion: baton/v1\nkind: Cluster\nspec:\n  pools: {prefil: {rol: any}}\n")
    r = c.command("validate", bad)
    assert r.returncode == 2 and "bad.yaml:4:" in r.stderr and "did you mean role?" in r.stderr, r
    assert c.command("serve", "-f", bad).returncode == 2
    with open(bad, "w") as f:
        f.write("apiVersion: baton/v1\nkind: Cluster\nspec: {model: {source: /no/such.gguf}}\n")
    r = c.command("validate", bad)
    assert r.returncode == 0 and "the model is not here" in r.stdout, r
    r = c.command("serve", bad)
    assert r.returncode == 2 and "baton serve -f" in r.stderr, r
    assert c.command("--version").returncode == 0
    r = c.command("ps", "--url", "127.0.0.1:1")
    assert r.returncode == 1 and "127.0.0.1:1" in r.stderr, r
    r = c.command("nonsense")
    assert r.returncode == 2 and "no command nonsense" in r.stderr, r
    assert c.command("serve", "--port", "99999").returncode == 2
    assert c.command("down").returncode == 0
    assert not [n for n in os.listdir(c.home + "/state") if n not in ("lock", "logs", "logs.previous", "manifest.yaml")], os.listdir(c.home + "/state")
    c.remove()


def test_a_new_build_under_a_running_cluster():
    """Who dies after it comes back as what runs, not as what lies there now."""
    folder = tempfile.mkdtemp(prefix="baton-build-")
    binary = os.path.join(folder, "baton")
    shutil.copy(BINARY, binary)
    with Cluster(STORIES, manifest(ANY), binary=binary) as c:
        want, _ = c.generate("One day", 10)
        before = c.process("any-0")["pid"]
        os.remove(binary)
        shutil.copy(BINARY, binary)
        os.kill(before, signal.SIGKILL)
        c.wait_until(lambda: c.process("any-0")["pid"] not in (0, before) and c.process("any-0")["state"] == "ready", 20, "the worker is back")
        assert c.generate("One day", 10)[0] == want
    shutil.rmtree(folder)


def test_two_clusters_side_by_side():
    with Cluster(STORIES, manifest(ANY)) as a, Cluster(STORIES, manifest(PREFILL_DECODE)) as b:
        one, r = a.generate("One day", 10)
        two, s = b.generate("One day", 10)
        assert one == two
        assert r.headers["x-baton-path"] == "local" and s.headers["x-baton-path"] == "remote-prefill"


for name, test in list(globals().items()):
    if name.startswith("test_"):
        start = time.monotonic()
        test()
        print("passed %s (%.1f s)" % (name, time.monotonic() - start), flush=True)
