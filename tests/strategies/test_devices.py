"""`strategies.nni_border.devices`: a GPU of its own for every trial, on a made-up list of GPUs."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from pathlib import Path

import pytest
import torch

from sedona_nni.errors import InputError
from sedona_nni.machine import usable_cores
from sedona_nni.strategies.nni_border import devices
from sedona_nni.strategies.nni_border.devices import (
    check_device,
    check_threads,
    claim_device,
    claim_devices,
)


@pytest.fixture(autouse=True)
def made_up_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["uuid-a", "uuid-b"])
    monkeypatch.setattr(devices, "RETRY_S", 0.01)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)


def _hold(claimed: multiprocessing.Queue[int]) -> None:
    with claim_device("cuda") as device:
        claimed.put(device.index)
        time.sleep(600)


def start_claiming() -> tuple[threading.Thread, threading.Event]:
    """Let a thread claim a GPU; the event says that it has one."""
    claimed = threading.Event()

    def claim() -> None:
        with claim_device("cuda"):
            claimed.set()

    thread = threading.Thread(target=claim)
    thread.start()
    return thread, claimed


def test_each_process_gets_a_gpu_of_its_own_and_the_next_waits() -> None:
    context = multiprocessing.get_context("fork")  # keeps the made-up list
    claimed: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=_hold, args=(claimed,), daemon=True) for _ in range(3)]
    for process in processes[:2]:
        process.start()
    assert {claimed.get(timeout=10), claimed.get(timeout=10)} == {0, 1}
    processes[2].start()
    time.sleep(0.2)
    assert claimed.empty()
    processes[0].kill()  # a GPU is free again however its process ends
    assert claimed.get(timeout=10) in (0, 1)
    for process in processes:
        process.kill()
        process.join()


def test_a_gpu_is_free_again_after_an_exception() -> None:
    for _ in range(3):
        with contextlib.suppress(ZeroDivisionError), claim_device("auto") as device:
            assert device == torch.device("cuda", 0)
            raise ZeroDivisionError


def test_the_same_gpu_under_another_number_is_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES numbers GPUs differently in each process."""
    with claim_device("cuda"):
        monkeypatch.setattr(devices, "visible_gpus", lambda: ["uuid-b", "uuid-a"])
        with claim_device("cuda") as device:
            assert device.index == 0  # uuid-b
            thread, claimed = start_claiming()
            assert not claimed.wait(0.1)
        assert claimed.wait(10)
        thread.join()


def test_several_at_once_or_none() -> None:
    with claim_devices("auto", 2) as both:
        assert both == [torch.device("cuda", 0), torch.device("cuda", 1)]
        thread, claimed = start_claiming()
        assert not claimed.wait(0.1)
    assert claimed.wait(10)
    thread.join()
    too_few = (
        "device: must be cpu for 3 processes, as only 2 of them can have a GPU, but got 'auto'"
    )
    with pytest.raises(InputError) as caught, claim_devices("auto", 3):
        pass
    assert str(caught.value) == too_few
    with claim_devices("cpu", 3) as any_number:
        assert any_number == [torch.device("cpu")] * 3


def test_the_cpu_needs_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    with claim_device("cpu") as device:
        assert device == torch.device("cpu")
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    with claim_device("auto") as device:
        assert device == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "tpu"])
def test_a_device_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: [])
    with pytest.raises(InputError, match=r"^device: "):
        check_device(name)


def test_threads_are_those_asked_for_and_set_back() -> None:
    before = torch.get_num_threads()
    with contextlib.suppress(ZeroDivisionError), claim_device("cpu", threads=before + 1):
        assert torch.get_num_threads() == before + 1
        _ = 1 / 0
    assert torch.get_num_threads() == before
    with claim_device("cpu"):
        assert torch.get_num_threads() == before


def test_more_threads_than_a_system_gives_are_refused() -> None:
    most = 16 * usable_cores()
    check_threads(None)
    check_threads(most)
    message = f"^threads: must be at most {most} here, 16 for each processor, but got {most + 1}$"
    with pytest.raises(InputError, match=message):
        check_threads(most + 1)
    with pytest.raises(InputError, match=message), claim_device("cpu", threads=most + 1):
        pass
