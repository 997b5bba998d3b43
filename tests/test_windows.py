"""What Windows lacks, taken away here: the library imports, writes files and trains without it."""

PROGRAM = """
import os, random, signal, sys, torch  # random and torch: on Windows they do without
from pathlib import Path

sys.modules["fcntl"] = None
del os.register_at_fork, signal.SIGHUP
from spikediff.cli import COMMANDS, module_of
from spikediff.progress import StopSignal
from spikediff.files.writing import FolderLock, flush, put_in_place, unfinished, write_whole

for command in COMMANDS:
    module_of(command)
folder = Path(sys.argv[1])
write_whole(folder / "file", "old")
write_whole(folder / "file", "new")
assert (folder / "file").read_text() == "new"
unfinished(folder / "run").mkdir()
put_in_place(unfinished(folder / "run"), folder / "run")
FolderLock(folder / "run").release()
with StopSignal() as stop:
    signal.raise_signal(signal.SIGTERM)
print(sorted(p.name for p in folder.iterdir()), stop.received)
"""


def test_without_locks_forks_and_hang_ups(tmp_path, fresh_process):
    done = fresh_process.run(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['file', 'run'] SIGTERM"
