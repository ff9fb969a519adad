"""./baton, the door, with stand-ins for everything that it starts: turns, an interrupted build, no root."""
import os
import shutil
import subprocess
import tempfile
import time

from cluster import SOURCE

STANDINS = {
    "dpkg-query": "shift 2; for p; do printf 'installed=%s ' $p; done",
    "cargo": "echo cargo 1.99.0",
    "cmake": "mkdir -p build/release/cli; touch build/release/build.ninja build/release/CMakeCache.txt",
    "ninja": "case \"$*\" in *' -n '*) echo more;; *) echo begin >> turns; sleep 1; echo end >> turns; printf '#!/bin/sh\\necho served\\n' > build/release/cli/baton;"
             " chmod +x build/release/cli/baton; exit ${NINJA_RC:-0};; esac",
}


class Door:
    """A folder "a b" with ./baton and stand-ins."""

    def __enter__(self):
        self.root = os.path.join(tempfile.mkdtemp(prefix="baton-door-"), "a b")
        self.bin = os.path.join(self.root, "bin")
        os.makedirs(self.bin)
        shutil.copy(os.path.join(SOURCE, "baton"), self.root)
        for name, text in STANDINS.items():
            self.standin(name, text)
        return self

    def __exit__(self, *_):
        shutil.rmtree(os.path.dirname(self.root))

    def standin(self, name, text):
        path = os.path.join(self.bin, name)
        with open(path, "w") as f:
            f.write("#!/bin/bash\n" + text + "\n")
        os.chmod(path, 0o755)

    def start(self, *arguments, **environment):
        env = {"PATH": self.bin + ":/usr/bin:/bin", "HOME": self.root, "LANG": "xx_XX.ISO-8859-1", **environment}
        return subprocess.Popen(["./baton", *arguments], cwd=self.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments, **environment):
        p = self.start(*arguments, **environment)
        out, err = p.communicate(timeout=60)
        return p.returncode, out, err


def two_at_once(door):
    first = door.start("ps")
    time.sleep(0.3)
    second = door.start("ps")
    for p in (first, second):
        out, err = p.communicate(timeout=60)
        assert p.returncode == 0 and out == "served\n", (p.returncode, out, err)
    assert "waiting for it" in err, err
    with open(os.path.join(door.root, "turns")) as f:
        assert f.read().split() == ["begin", "end"] * 2


def interrupted(door):
    code, _, err = door.run("ps", NINJA_RC="130")
    assert code == 130 and "the same command again goes on" in err, (code, err)
    code, _, err = door.run("ps", NINJA_RC="1")
    assert code == 1 and "the build failed" in err, (code, err)


def no_root(door):
    door.standin("dpkg-query", "true")
    door.standin("id", "echo 1000")
    door.standin("sudo", "echo sudo: no rights for you >&2; exit 1")
    code, _, err = door.run("ps")
    assert code == 1 and "could not install" in err and "no rights for you" in err, (code, err)


with Door() as door:
    for check in (two_at_once, interrupted, no_root):
        check(door)
        print("passed %s" % check.__name__, flush=True)
    code, out, _ = door.run()
    assert code == 0 and "usage: ./baton" in out
print("passed")
