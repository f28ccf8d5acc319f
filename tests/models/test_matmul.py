"""The faster matrix products."""

import threading

import pytest
import torch

from genesis.models import matmul

CPU = torch.device("cpu")


@pytest.fixture
def exact(monkeypatch):
    """As on a machine whose products are accurate."""
    monkeypatch.setattr(matmul, "route_is_exact", lambda: True)


def precision():
    return torch.backends.mkldnn.matmul.fp32_precision


def test_products_stay_accurate():
    with matmul.fast_matmul(CPU):
        assert matmul.relative_error(300, 700, 200) <= matmul.LARGEST_ERROR


@pytest.mark.usefixtures("exact")
def test_setting_is_restored():
    before = precision()

    def fail():
        with matmul.fast_matmul(CPU):
            with matmul.fast_matmul(CPU):
                assert precision() == "bf16"
            assert precision() == "bf16"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert precision() == before


@pytest.mark.usefixtures("exact")
def test_setting_outlives_the_first_of_two_threads():
    before, entered, leave = precision(), threading.Event(), threading.Event()

    def other():
        with matmul.fast_matmul(CPU):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with matmul.fast_matmul(CPU):
        thread.start()
        entered.wait(10)
    assert precision() == "bf16"
    leave.set()
    thread.join()
    assert precision() == before


def test_inexact_machines_and_gpus_keep_their_setting(monkeypatch):
    before = precision()
    with matmul.fast_matmul(torch.device("cuda")):
        assert precision() == before
    monkeypatch.setattr(matmul, "route_is_exact", lambda: False)
    with matmul.fast_matmul(CPU):
        assert precision() == before


def test_the_gate_measures(monkeypatch):
    measured = []
    monkeypatch.setattr(
        matmul, "relative_error", lambda *shape: measured.append((shape, precision())) or 1e-3
    )
    assert not matmul.route_is_exact.__wrapped__()
    assert measured[0][1] == "bf16"
