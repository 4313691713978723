"""Shares of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from flowbench.common import system
from flowbench.common.errors import UsageError
from flowbench.schedule import resources
from flowbench.schedule.executors.local import SPIN_COUNT, LocalExecutor
from flowbench.schedule.resources import GpuPool, Slots, choose_gpus, share


@pytest.fixture
def machine_of(monkeypatch: pytest.MonkeyPatch):
    """Makes this a machine of so many cores and GPUs."""

    def make(cores: int, gpus: int) -> None:
        monkeypatch.setattr(system, "cores", lambda: cores)
        monkeypatch.setattr(system, "gpus", lambda: [str(place) for place in range(gpus)])

    return make


@pytest.mark.parametrize(
    ("device", "jobs", "precision", "gpus", "expected"),
    [
        ("auto", None, None, 0, Slots(8, "auto", 1, (), "float32")),
        ("auto", None, None, 2, Slots(2, "cuda", 4, ("0", "1"), "tf32")),  # so that a worker without its GPU fails
        ("cuda", 4, "bfloat16", 2, Slots(4, "cuda", 2, ("0", "1"), "bfloat16", per_gpu=2)),
        ("cpu", None, None, 2, Slots(8, "cpu", 1, (), "float32")),
        ("cpu", 16, None, 0, Slots(16, "cpu", 1, (), "float32")),
        ("cpu", 1, "bfloat16", 0, Slots(1, "cpu", 8, (), "bfloat16")),
    ],
)
def test_slots(machine_of, device, jobs, precision, gpus, expected) -> None:
    machine_of(cores=8, gpus=gpus)
    assert share(device, jobs, precision, gpus=choose_gpus(device, None)) == expected


@pytest.mark.parametrize(
    ("per_gpu", "jobs", "threads", "expected"),
    [
        (1, None, None, (2, 8, 1)),
        (3, None, None, (6, 2, 3)),
        (3, 4, None, (4, 4, 2)),  # jobs caps the total
        (3, 20, None, (6, 2, 3)),
        (3, 1, None, (1, 16, 1)),
        (40, None, None, (80, 1, 40)),  # never less than a thread
        (2, None, 5, (4, 5, 2)),
        (None, None, 3, (2, 3, 1)),
    ],
)
def test_groups_that_share_a_gpu(machine_of, per_gpu, jobs, threads, expected) -> None:
    machine_of(cores=16, gpus=2)
    made = share("auto", jobs, gpus=("0", "1"), per_gpu=per_gpu, threads=threads)
    assert (made.jobs, made.threads, made.per_gpu) == expected


def test_threads_on_a_cpu(machine_of) -> None:
    machine_of(cores=8, gpus=0)
    assert share("cpu", 2, threads=3) == Slots(2, "cpu", 3)


def test_per_gpu_is_rejected_on_a_cpu(machine_of) -> None:
    machine_of(cores=8, gpus=0)
    with pytest.raises(UsageError, match=r"--per-gpu.*--jobs"):
        share("cpu", None, per_gpu=2)


# Which GPUs


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [(None, ("4", "GPU-b2c1", "MIG-77aa")), ("all", ("4", "GPU-b2c1", "MIG-77aa")), ("1", ("GPU-b2c1",)),
     ("2, 0", ("MIG-77aa", "4"))],
)  # fmt: skip
def test_gpus_are_counted_among_the_visible(monkeypatch, wanted, chosen) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b2c1,MIG-77aa")
    assert choose_gpus("cuda", wanted) == chosen


@pytest.mark.parametrize(
    ("device", "gpus", "wanted", "words"),
    [
        ("auto", 2, "0,9", ["'0,9'", "'9'", "all, 0, 1"]),
        ("auto", 2, "one", ["'one'", "all, 0, 1"]),
        ("auto", 2, "", ["''", "all, 0, 1"]),
        ("auto", 2, "-1", ["'-1'"]),
        ("cuda", 2, "1,1", ["'1,1'", "twice", "--per-gpu"]),
        ("cpu", 2, "all", ["'all'", "--device cpu"]),
        ("auto", 0, "0", ["'0'", "no CUDA device"]),
    ],
)
def test_missing_gpus_are_rejected(machine_of, device, gpus, wanted, words) -> None:
    machine_of(cores=8, gpus=gpus)
    with pytest.raises(UsageError) as error:
        choose_gpus(device, wanted)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("stack", "gpus", "expected"), [(None, 0, 1), (None, 1, 8), (3, 0, 3), (1, 2, 1)])
def test_how_many_seeds_are_stacked(stack: int | None, gpus: int, expected: int) -> None:
    assert resources.stack_size(stack, gpus) == expected


# Who trains on which


def test_the_gpu_with_the_fewest_groups_is_lent_first() -> None:
    cards = GpuPool(("a", "b", "c"))
    with ExitStack() as first, ExitStack() as others:
        assert first.enter_context(cards.assign()) == "a"
        assert [others.enter_context(cards.assign()) for _ in range(3)] == ["b", "c", "a"]
        others.close()
        assert [others.enter_context(cards.assign()) for _ in range(3)] == ["b", "c", "a"]
        first.close()
        assert [others.enter_context(cards.assign()) for _ in range(2)] == ["a", "b"]


def test_gpu_of_a_failed_group_is_lent_again() -> None:
    cards = GpuPool(("a", "b"))
    with pytest.raises(OSError, match="no process"), cards.assign():
        raise OSError("no process")
    with cards.assign() as gpu:
        assert gpu == "a"


def test_without_a_gpu_none_is_lent() -> None:
    with GpuPool(()).assign() as gpu:
        assert gpu is None


def test_worker_sees_only_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    seen = LocalExecutor(Slots(2, "cuda", 3, ("0", "1")))._environment("1")
    assert seen["CUDA_VISIBLE_DEVICES"] == "1"
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # the order of nvidia-smi
    assert seen["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,MIG-77aa")
    seen = LocalExecutor(Slots(2, "cuda", 3, choose_gpus("cuda", "1")))._environment("MIG-77aa")
    assert seen["CUDA_VISIBLE_DEVICES"] == "MIG-77aa"
    assert "CUDA_DEVICE_ORDER" not in seen
    for device in ("cpu", "auto"):  # also a GPU that nvidia-smi does not list is left alone
        assert LocalExecutor(Slots(jobs=2, device=device, threads=1))._environment(None)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, {"GOMP_SPINCOUNT": SPIN_COUNT}),
        ({"GOMP_SPINCOUNT": "300000"}, {"GOMP_SPINCOUNT": "300000"}),  # the user's choice
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_idle_threads_of_a_worker_soon_sleep(monkeypatch: pytest.MonkeyPatch, given, seen) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment = LocalExecutor(Slots(1, "cpu", 2))._environment(None)
    assert {name: environment[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in environment} == seen


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_a_worker_keeps_freed_memory_for_its_next_update(monkeypatch: pytest.MonkeyPatch) -> None:
    work = "import resource\nfor _ in range(50): x = bytearray(2**21)\n"
    count = "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    environment = LocalExecutor(Slots(1, "cpu", 1))._environment(None)
    faults = []
    for each in (environment, {k: v for k, v in environment.items() if not k.startswith("MALLOC_")}):
        ended = subprocess.run(
            [sys.executable, "-c", work + count], env=each, capture_output=True, text=True, check=True
        )
        faults.append(int(ended.stdout))
    assert faults[0] < faults[1]
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")  # the user's choice
    assert LocalExecutor(Slots(1, "cpu", 1))._environment(None)["MALLOC_TRIM_THRESHOLD_"] == "0"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP there")
def test_the_openmp_of_torch_reads_the_spin_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    environment = {**LocalExecutor(Slots(1, "cpu", 2))._environment(None), "OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-c", "import torch"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in ended.stderr


def test_workers_fill_the_gpus_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real processes, which say what they see and wait for each other."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    say = "import json, os, sys; print(json.dumps({'gpu': os.environ['CUDA_VISIBLE_DEVICES']})); sys.stdout.flush()"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{say}; os.read(0, 1)" < {tmp_path}/gate\n')
    program.chmod(0o755)
    os.mkfifo(tmp_path / "gate")
    monkeypatch.setattr(sys, "executable", str(program))
    engine = LocalExecutor(Slots(4, "cuda", 1, ("5", "6"), per_gpu=2))
    seen: list[str] = []
    told = threading.Semaphore(0)

    def tell(event: dict[str, str]) -> None:
        seen.append(event["gpu"])
        told.release()

    with (tmp_path / "log").open("w") as log, ThreadPoolExecutor(4) as pool:
        working = [pool.submit(engine.work, [tmp_path], [], log, tell) for _ in range(4)]
        gate = os.open(tmp_path / "gate", os.O_RDWR)
        try:
            assert all(told.acquire(timeout=60) for _ in range(4))
            os.write(gate, b"....")
            for work in working:
                work.result(timeout=60)
        finally:
            engine.stop(0)
            os.close(gate)
    assert sorted(seen) == ["5", "5", "6", "6"]
