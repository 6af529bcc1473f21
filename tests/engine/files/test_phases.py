"""Phase results are found when whole, computed again when not, and one result wins where two are computed at once."""

import hashlib
import json
import multiprocessing
import threading

import pytest
import torch

from autoprune.engine.files import PhaseStore, phase_key, phases, with_state
from autoprune.engine.files.phases import PHASE_VERSIONS
from autoprune.errors import WeightsError

torch.set_num_threads(1)


def computing(value, calls):
    def compute():
        calls.append(value)
        return {"x": torch.tensor([1.0, float(value)])}, {"accuracy": value / 10}

    return compute


def test_what_a_method_trained_lies_apart_from_the_weights(tmp_path):
    weights, state = {"x": torch.ones(2), "state.y": torch.zeros(1)}, {"x": torch.full((3,), 5.0)}
    phase = PhaseStore(tmp_path).get("sparsify", "k", lambda: (with_state(weights, state), {}))
    assert {name: tensor.tolist() for name, tensor in phase.weights.items()} == {"x": [1.0, 1.0], "state.y": [0.0]}
    assert {name: tensor.tolist() for name, tensor in phase.state.items()} == {"x": [5.0, 5.0, 5.0]}
    plain = PhaseStore(tmp_path).get("dense", "k", lambda: (weights, {}))
    assert plain.weights.keys() == plain.tensors.keys() == weights.keys()
    assert plain.state == {}


def test_computed_once_and_found_afterwards(tmp_path):
    calls, store = [], PhaseStore(tmp_path / "phases")
    assert store.find("dense", "k") is None
    first = store.get("dense", "k", computing(5, calls))
    second = PhaseStore(tmp_path / "phases").get("dense", "k", computing(6, calls))
    assert calls == [5]
    for phase in (first, second):
        assert phase.tensors["x"].tolist() == [1.0, 5.0]
        assert (phase.key, phase.path) == ("k", tmp_path / "phases" / "dense-k.safetensors")
        assert {name: phase.record[name] for name in ("accuracy", "kind", "key")} == {
            "accuracy": 0.5, "kind": "dense", "key": "k",
        }  # fmt: skip
        data = phase.path.read_bytes()
        assert phase.file == {
            "key": "k", "place": str(phase.path), "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data),
        }  # fmt: skip
    assert store.get("sparsify", "k", computing(7, calls)).tensors["x"].tolist() == [1.0, 7.0]
    assert store.get("dense", "l", computing(8, calls)).tensors["x"].tolist() == [1.0, 8.0]


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "one bit of the weights": flip_a_bit,
    "half the weights": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "empty weights": lambda path: path.write_bytes(b""),
    "no weights": lambda path: path.unlink(),
    "no record": lambda path: path.with_suffix(".json").unlink(),
    "half the record": lambda path: path.with_suffix(".json").write_bytes(path.with_suffix(".json").read_bytes()[:10]),
    "a record without hash": lambda path: path.with_suffix(".json").write_text("{}"),
    "a record that is a list": lambda path: path.with_suffix(".json").write_text("[]"),
    "a record of bytes": lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe\x00"),
    "the record of other weights": lambda path: path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64})),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_what_is_damaged_is_computed_again(tmp_path, damage):
    calls, store = [], PhaseStore(tmp_path)
    DAMAGE[damage](store.get("sparsify", "k", computing(1, calls)).path)
    assert store.find("sparsify", "k") is None
    assert store.get("sparsify", "k", computing(2, calls)).tensors["x"].tolist() == [1.0, 2.0]
    assert store.get("sparsify", "k", computing(3, calls)).tensors["x"].tolist() == [1.0, 2.0]
    assert calls == [1, 2]


def test_a_writer_that_dies_between_the_files_leaves_nothing_to_be_found(tmp_path):
    store = PhaseStore(tmp_path)
    whole = store.get("dense", "other", computing(1, []))
    (tmp_path / "dense-k.safetensors").write_bytes(whole.path.read_bytes())
    assert store.find("dense", "k") is None
    assert store.get("dense", "k", computing(4, [])).tensors["x"].tolist() == [1.0, 4.0]


def test_a_disk_that_loses_results_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "publish", lambda path, tensors, record: "nothing written")
    with pytest.raises(WeightsError, match=r"phase dense-k could not be read back from .*\. Check the disk"):
        PhaseStore(tmp_path).get("dense", "k", computing(1, []))


def test_an_error_while_computing_leaves_nothing_behind(tmp_path):
    def fail():
        raise ZeroDivisionError("in training")

    store = PhaseStore(tmp_path)
    with pytest.raises(ZeroDivisionError, match="in training"):
        store.get("dense", "k", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_different_results_wins_for_both(tmp_path):
    """Two threads compute at once and, as on an accelerator, do not agree to the last bit."""
    store, barrier, got = PhaseStore(tmp_path), threading.Barrier(2), {}

    def work(value):
        def compute():
            barrier.wait()
            return {"x": torch.full((1000,), float(value))}, {}

        got[value] = store.get("dense", "k", compute)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(got[1].tensors["x"], got[2].tensors["x"])
    assert torch.equal(got[1].tensors["x"], store.find("dense", "k").tensors["x"])


def _work(folder, value, barrier, answers):
    def compute():
        barrier.wait(60)
        return {"x": torch.full((1000,), float(value))}, {}

    phase = PhaseStore(folder).get("dense", "k", compute)
    answers.put(float(phase.tensors["x"].mean()))


# Its children use neither the threads of pytest-xdist nor those of Ray that they are told of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.SimpleQueue()
    workers = [context.Process(target=_work, args=(tmp_path, value, barrier, answers)) for value in (1, 2)]
    for worker in workers:
        worker.start()
    got = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert got[0] == got[1] == float(PhaseStore(tmp_path).find("dense", "k").tensors["x"].mean())


# -- keys -----------------------------------------------------------------------------------------------------------


def test_the_key_changes_with_every_input(monkeypatch):
    base = ("dense", {"architecture": "resnet20"}, ["data", "split"], {"epochs": 1.0}, "float32", 0)
    variants = [
        base,
        ("sparsify", *base[1:]),
        ("dense", {"architecture": "resnet56"}, *base[2:]),
        (*base[:2], ["data", "other split"], *base[3:]),
        (*base[:3], {"epochs": 1.5}, *base[4:]),
        (*base[:4], "bfloat16", 0),
        (*base[:5], 1),
        base[:5],
        (*base, None),
    ]
    keys = [phase_key(*variant) for variant in variants]
    assert len(set(keys)) == len(variants)
    assert keys == [phase_key(*variant) for variant in variants]
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)
    monkeypatch.setitem(PHASE_VERSIONS, "dense", PHASE_VERSIONS["dense"] + 1)
    assert phase_key(*base) not in keys
    assert phase_key(*variants[1]) == keys[1]


def test_the_key_is_the_hash_of_what_it_depends_on_in_any_order(monkeypatch):
    monkeypatch.setitem(PHASE_VERSIONS, "dense", 1)
    key = phase_key("dense", {"b": 1, "a": [0.1, None]})
    assert key == phase_key("dense", {"a": [0.1, None], "b": 1})
    text = b'["dense",1,{"a":[0.1,null],"b":1}]'
    assert key == hashlib.sha256(text).hexdigest()[:16]
