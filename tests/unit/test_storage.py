import json
import os
import struct
import threading

import numpy as np
import pytest
import safetensors.numpy
from trait_core.locks import locked
from trait_core.storage import HeaderError, read_header, signature


def with_header(text, rest=b""):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data + rest


def test_a_held_lock_is_refused_without_waiting(tmp_path):
    path = tmp_path / ".lock"
    with locked(path), pytest.raises(BlockingIOError), locked(path, wait=False):
        pytest.fail("the lock was granted twice")
    with locked(path, wait=False):
        assert path.exists()


def test_waiting_threads_hold_the_lock_one_at_a_time(tmp_path):
    count = tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(50):
            with locked(tmp_path / ".lock"):
                before = int(count.read_text())
                os.sched_yield()
                count.write_text(str(before + 1))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "400"


def test_a_lock_is_released_when_its_block_fails(tmp_path):
    def fail():
        with locked(tmp_path / ".lock"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with locked(tmp_path / ".lock", wait=False):
        pass


def test_a_lock_file_is_created_with_the_given_mode(tmp_path):
    with locked(tmp_path / "private", mode=0o600):
        assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_the_signature_changes_with_content_time_and_replacement(tmp_path):
    path = tmp_path / "file"
    assert signature(path) is None
    path.write_text("one")
    first = signature(path)
    assert first == signature(path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_text("longer")
    os.utime(path, ns=times)
    longer = signature(path)
    assert longer != first
    os.utime(path, ns=(times[0], times[1] + 1))
    later = signature(path)
    assert later != longer
    other = tmp_path / "other"
    other.write_text("differ")
    os.utime(other, ns=(times[0], times[1] + 1))
    other.replace(path)
    assert signature(path) != later


def test_the_header_of_a_safetensors_file_is_read_from_its_beginning():
    data = safetensors.numpy.save({"layer.1": np.ones(3, np.float32)}, metadata={"trait": "x"})
    header = read_header(data)
    assert header["__metadata__"] == {"trait": "x"}
    assert header["layer.1"]["shape"] == [3]
    assert read_header(data[:-12]) == header  # without the tensor's bytes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"1234567", "7 bytes are too few"),
        (struct.pack("<Q", 3) + b"{}", "of 3 bytes does not fit"),
        (struct.pack("<Q", 2**63) + b"{}", "does not fit"),
        (with_header("nonsense"), "is not JSON"),
        (with_header("[1]"), "is not a JSON object"),
        (with_header(b"\xff"), "is not JSON"),
        (with_header("[" * 100_000), "is not JSON"),
        (with_header('{"a": 1, "a": 2}'), "one name twice"),
        (with_header('{"a": {"b": 1, "b": 1}}'), "one name twice"),
    ],
)
def test_a_malformed_header_is_refused_with_the_reason(data, message):
    with pytest.raises(HeaderError, match=message):
        read_header(data)


def test_a_header_longer_than_the_limit_is_refused():
    data = with_header(json.dumps({"a": "x" * 100}))
    assert read_header(data, limit=200)
    with pytest.raises(HeaderError, match="at most 50"):
        read_header(data, limit=50)
