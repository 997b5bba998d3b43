"""Programs in fresh processes, where torch and diffusers are imported already.

Importing them takes seconds, and a dozen tests need a process of their own. One server imports
them once, and forks for every program. It imports nothing of spikediff, but the programs share the
bytecode that the first of them writes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

SERVER = """
import gc, json, os, signal, sys, traceback
import accelerate, matplotlib.figure, sklearn.datasets, torch
import diffusers.pipelines.pipeline_utils, diffusers.models.unets.unet_2d

gc.freeze()
sys.pycache_prefix, sys.dont_write_bytecode = sys.argv[1], False
running = set()
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        pid, status = os.waitpid(order["wait"], os.WNOHANG)
        running.discard(pid)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        break
    running.add(pid)
    print(pid, flush=True)
else:  # the tests are over, or were killed
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    sys.exit()

os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for descriptor, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a test run under nohup ignores it
os.chdir(order["folder"])
os.environ.clear()
os.environ.update(order["environment"])
sys.path[:] = order["path"]
sys.argv[1:] = order["arguments"]
status = 1
try:
    exec(order["program"], {"__name__": "__main__"})
    status = 0
except SystemExit as ended:
    status = ended.code
except BaseException:
    traceback.print_exc()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # taking everything down would take longer than most programs
"""


@dataclass(frozen=True)
class Finished:
    """How a program ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


class Server:
    """What forks for programs; it is started by the first of them."""

    def __init__(self, folder):
        self._folder, self._process = folder, None

    def _ask(self, **order):
        if self._process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", SERVER, str(self._folder / "bytecode")]
            self._process = subprocess.Popen(command, **pipes)
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def run(self, program, *arguments):
        """Run a program; return what it said."""
        said = self._folder / str(len(list(self._folder.iterdir())))
        said.mkdir()
        pid = self._ask(
            program=program,
            arguments=[str(argument) for argument in arguments],
            environment=dict(os.environ),
            path=sys.path,
            folder=os.getcwd(),
            stdout=str(said / "stdout"),
            stderr=str(said / "stderr"),
        )
        deadline = time.monotonic() + 180
        while (status := self._ask(wait=pid)) is None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        return Finished(status, *((said / name).read_text() for name in ("stdout", "stderr")))

    def close(self):
        if self._process is not None:
            self._process.communicate()
