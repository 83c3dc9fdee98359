# SPDX-License-Identifier: MIT
"""What a running server promises of its registry: how soon a promote or a publish can be seen, and
what publishing costs those who are being answered. Used by registry.py."""
import json
import mmap
import multiprocessing
import threading
import time
import uuid

import numpy as np

STREAMS, STORM_SECONDS = 4, 20
WARM_BYTES = 8 << 30


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Publisher:
    """Publishes adapters that differ from each other in one number, over one connection."""

    def __init__(self, server, headers, directory):
        self.server, self.headers, self.connection = server, headers, server.connect()
        self.config = (directory / "adapter_config.json").read_bytes()
        self.weights = bytearray((directory / "adapter_model.safetensors").read_bytes())
        self.count = 0

    def body(self):
        """The next adapter's boundary and form."""
        self.count += 1
        self.weights[-4:] = np.float32(1e-3 * self.count).tobytes()
        boundary = uuid.uuid4().hex
        parts = []
        for part, data in (("config", self.config), ("weights", self.weights)):
            parts += [f'--{boundary}\r\ncontent-disposition: form-data; name="{part}"; '
                      f'filename="{part}"\r\n\r\n'.encode(), data, b"\r\n"]
        return boundary, b"".join(parts) + f"--{boundary}--\r\n".encode()

    def publish(self, name, made=None):
        """Publishes what body() made, or makes it; returns the version's number."""
        boundary, body = made or self.body()
        status, answer = self.server.request(
            "POST", f"/v1/adapters/{name}/versions", body,
            self.headers | {"content-type": f"multipart/form-data; boundary={boundary}"},
            self.connection)
        if status != 201:
            raise RuntimeError(answer)
        return json.loads(answer)["version"]


def stream(server, headers, model, prompt, tokens, connection=None):
    """Asks for a stream; gives the model that answered and the time of each event with a token."""
    connection = connection or server.connect()
    connection.request("POST", "/v1/completions", json.dumps({
        "model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True,
        "temperature": 0, "stream": True}), headers | {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(answer.read())
    times = []
    for line in answer:
        if line.startswith(b"data: {"):
            times.append(time.monotonic())
        elif line.startswith(b"data: [DONE]"):
            answer.read()
            break
    return answer.headers["lorica-adapter"], times


def promote_visible(server, headers, publisher, count):
    """Milliseconds from the promote's sending to its answer; the next request must see it."""
    versions = [publisher.publish("seen"), publisher.publish("seen")]
    connection, took, epoch = server.connect(), [], 0
    for i in range(count):
        version = versions[i % 2]
        began = time.monotonic()
        status, answer = server.request(
            "PUT", "/v1/adapters/seen/channels/stable", json.dumps({"version": version}),
            headers | {"content-type": "application/json", "if-match": f'"{epoch}"'}, connection)
        took.append((time.monotonic() - began) * 1e3)
        if status != 200:
            raise RuntimeError(answer)
        epoch = json.loads(answer)["epoch"]
        seen, _ = stream(server, headers, "seen", "Hello", 1, connection)
        if seen != f"seen@{version}":
            raise RuntimeError(f"seen@{version} was promoted, {seen} answered")
    return took


def first_token(server, headers, publisher, count):
    """Milliseconds from the begin of a publish to the new version's first token."""
    took = []
    for _ in range(count):
        made = publisher.body()
        began = time.monotonic()
        version = publisher.publish("fresh", made)
        seen, times = stream(server, headers, f"fresh@{version}", "Hello", 1, publisher.connection)
        took.append((times[0] - began) * 1e3)
        if seen != f"fresh@{version}":
            raise RuntimeError(f"{seen} answered for fresh@{version}")
    return took


def storm(server, headers, stop, result, directory):
    """Publishes one adapter after the other until `stop`; sends how many, and the processor time
    that each cost this process."""
    publisher, count, began = Publisher(server, headers, directory), 0, time.process_time()
    publisher.count = 1 << 20  # not what the server has already
    while time.monotonic() < stop:
        publisher.publish("storm")
        count += 1
    result.send((count, (time.process_time() - began) / max(count, 1)))


def burn(server, headers, stop, result, count, seconds):
    """The same work for the processors without a server: `count` times evenly until `stop`."""
    left = stop - time.monotonic()
    for i in range(count):
        began = time.process_time()
        while time.process_time() - began < seconds:
            pass
        time.sleep(max(0, stop - time.monotonic() - left * (count - 1 - i) / count))
    result.send((count, seconds))


def gaps(server, headers, seconds, background=None, *words):
    """Milliseconds between the tokens of running streams, while `background` runs as a process of
    its own; and what that sends."""
    stop, found = time.monotonic() + seconds, []
    receive, send = multiprocessing.Pipe(False)
    process = background and multiprocessing.get_context("fork").Process(
        target=background, args=(server, headers, stop, send, *words))
    if process:
        process.start()

    def client(number):
        connection = server.connect()
        while time.monotonic() < stop:
            _, times = stream(server, headers, "base", f"Story number {number}:", 128, connection)
            found.extend(b - a for a, b in zip(times, times[1:]))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = receive.recv() if process else None
    if process:
        process.join()
    return [gap * 1e3 for gap in found], sent


def warm_memory():
    """Uses free memory once, and gives it back: the host of a virtual machine hands out a page when
    it is first used, which takes longer than all that is measured here."""
    meminfo = dict(line.split(":") for line in open("/proc/meminfo"))
    size = min(WARM_BYTES, int(meminfo["MemAvailable"].split()[0]) * 1024 // 2)
    with mmap.mmap(-1, size) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def measure(server, headers, directory, quick):
    """Rows of (what, figure, promise)."""
    warm_memory()
    publisher = Publisher(server, headers, directory)
    count, seconds = (10, 5) if quick else (50, STORM_SECONDS)
    visible = promote_visible(server, headers, publisher, count)
    fresh = first_token(server, headers, publisher, count)
    calm, _ = gaps(server, headers, seconds)
    stormy, (published, cost) = gaps(server, headers, seconds, storm, directory)
    # The publishing client, which in life is another machine, shares the processors: what it lifts.
    alone, _ = gaps(server, headers, seconds, burn, published, cost)
    before, between, after = (quantile(found, 0.99) for found in (calm, alone, stormy))
    megabytes = len(publisher.weights) / 1e6
    return [
        ("promote acknowledged, and seen by the next request, p99",
         f"{quantile(visible, 0.99):.1f} ms", "10 ms"),
        (f"publish of {megabytes:.0f} MB (rank 16, all linear) to its first token, median",
         f"{quantile(fresh, 0.5):.0f} ms", "100 ms"),
        ("the same, p99", f"{quantile(fresh, 0.99):.0f} ms", "100 ms"),
        (f"gap between tokens of {STREAMS} streams, p99", f"{before:.1f} ms", ""),
        (f"the same beside a process that works as much as the client below ({cost * 1e3:.0f} ms a "
         "publish) and publishes nothing, p99", f"{between:.1f} ms", ""),
        (f"the same while {published / seconds:.1f} such adapters are published a second, p99",
         f"{after:.1f} ms ({after / before - 1:+.0%}; {after / between - 1:+.0%} to that process)",
         "+10 %"),
    ]
