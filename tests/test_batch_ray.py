"""`textseg batch --ray`: the same results, through the death of an actor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textseg.batch.on_ray import _pool_size, run_ray
from textseg.batch.stages import Job
from textseg.cli import main
from textseg.errors import InputError, MissingDependencyError

REPO = Path(__file__).parent.parent
ACTOR = b"MapWorker(MapBatches(_Model))"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed in range(40):
        path = folder / f"{seed % 3}" / f"{seed:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(seed).integers(0, 255, (6, 10, 3))
        Image.fromarray(np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)).save(path)
    (folder / "0" / "broken.png").write_bytes(b"no image")
    return folder


def tree(out: Path) -> dict[str, bytes]:
    """All files but the journal, in the order of finishing, and what a kill left behind."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "journal.jsonl" and path.suffix != ".tmp"
    }


def below(pid: int) -> Iterator[int]:
    """The processes under a process."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        # Threads come and go.
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield int(child)
                yield from below(int(child))


def working_actor(pid: int) -> int | None:
    """A process under this one that holds a model and is past loading it."""
    for child in below(pid):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{child}/cmdline").read_bytes()
            if ACTOR in title and b"__init__" not in title:
                return child
    return None


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the actor under /proc")
def test_two_actors_of_which_one_is_killed_give_the_local_results(
    photos: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed")
    words = [sys.executable, "-m", "textseg", "batch", str(photos), "-q", "dog", "-q", "a cat",
             "--model", str(tiny_folder), "--threads", "1", "--samples", "8", "--workers", "1",
             "--device", "cpu", "--format", "mask,rle,coco"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    environment.pop("RAY_ADDRESS", None)
    local, ray = tmp_path / "local", tmp_path / "ray"
    journal = ray / "journal.jsonl"
    command = [*words, "-o", str(ray), "--ray", "--actors", "2"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
        try:
            actor = None
            while actor is None:
                assert run.poll() is None, run.stderr and run.stderr.read()
                time.sleep(0.02)
                actor = working_actor(run.pid)
            os.kill(actor, signal.SIGKILL)
            assert journal.read_bytes().count(b"\n") < 41
            _, errors = run.communicate()
        finally:
            run.terminate()
    assert run.returncode == 1, errors
    assert "broken.png" in errors
    done = subprocess.run([*words, "-o", str(local)], env=environment)
    assert done.returncode == 1
    assert tree(ray) == tree(local)
    assert journal.read_bytes().count(b"\n") == 41


def test_without_ray_one_line_says_what_to_install(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"textseg\[ray\]"):
        next(run_ray(Job(output=str(tmp_path)), []))
    words = ["batch", str(photos), "-q", "dog", "-o", str(tmp_path / "out"), "--ray"]
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


class _Cluster:
    def __init__(self, **resources: float) -> None:
        self._resources = resources

    def cluster_resources(self) -> dict[str, float]:
        return self._resources


def test_the_pool_fits_the_cluster() -> None:
    job = Job(output="unused", threads=2)
    assert _pool_size(_Cluster(CPU=8.0, GPU=4.0), job, None) == (True, 4)
    assert _pool_size(_Cluster(CPU=8.0, GPU=4.0), job, 3) == (True, 3)
    assert _pool_size(_Cluster(CPU=8.0), job, None) == (False, 3)
    on_cpu = Job(output="unused", threads=2, device="cpu")
    assert _pool_size(_Cluster(CPU=5.0, GPU=4.0), on_cpu, None) == (False, 2)
    with pytest.raises(InputError, match=r"actors must be at most 3.*got 4"):
        _pool_size(_Cluster(CPU=8.0), job, 4)
    with pytest.raises(InputError, match="threads must leave a core"):
        _pool_size(_Cluster(CPU=2.0), job, None)
