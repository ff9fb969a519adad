#!/usr/bin/env python3
"""benchmarks/gpu/pack.sh and run.sh: the archive is small enough to carry, its programs start in an empty environment,
every step without a device says so in JSON, a budget that is too short leaves steps, and the step `serve` serves.

usage: gpu_pack_test.py SOURCE BUILD
"""
import json
import os
import subprocess
import sys
import tarfile
import tempfile

source, build = (os.path.abspath(p) for p in sys.argv[1:3])
folder = tempfile.TemporaryDirectory(prefix="baton-gpu-pack-")
place = folder.name


def run(*arguments, **variables):
    """run.sh with nothing in the environment but `variables`; its exit code and the steps by name."""
    out = os.path.join(place, "out")
    done = subprocess.run(["/bin/bash", "pack/run.sh", *arguments], cwd=place, env={"OUT": out, **variables},
                          capture_output=True, text=True, timeout=300)
    print(done.stdout[-3000:], done.stderr[-2000:])
    with open(os.path.join(out, "steps.jsonl")) as lines:
        steps = [json.loads(line) for line in lines]
    assert len({s["step"] for s in steps}) == len(steps), "one line a step"
    return done.returncode, {s["step"]: s for s in steps}


shared = os.environ.get("BATON_SHARED", os.path.join(source, "..", "shared"))
model = os.path.join(shared, "models", "stories260K-f32.gguf")
pack = os.path.join(place, "made", "pack")
os.mkdir(os.path.dirname(pack))
print(subprocess.run([os.path.join(source, "benchmarks/gpu/pack.sh"), build, pack], check=True, text=True,
                     capture_output=True, env={**os.environ, "MODEL": model}).stdout)
assert os.path.getsize(pack + ".tgz") < 60 << 20
with tarfile.open(pack + ".tgz") as archive:
    archive.extractall(place)

has_device = os.path.exists("/dev/nvidiactl")
if not has_device:
    code, steps = run()
    assert code == 0 and len(steps) >= 12, steps
    for step in steps.values():
        assert step["status"] == "skipped" and ("device cuda" in step["why"] or "no model was packed" in step["why"]), step
    assert os.path.getsize(os.path.join(place, "out", "gpu-out.tgz")) > 0
code, steps = run(BUDGET="1")
assert code == 4 and all(s["status"] == "left" for s in steps.values()), steps
code, steps = run("unknown_step")
assert code == 2, code
if os.path.exists(model):
    code, steps = run("serve", "serve_pd", DEVICE="cpu")
    for step in ("serve", "serve_pd"):
        assert steps[step]["status"] == "ok", steps[step]
        with open(os.path.join(place, "out", step + ".json")) as rows:
            assert len(rows.read().strip()) > 0
