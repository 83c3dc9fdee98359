# SPDX-License-Identifier: MIT
"""Many clients at once, clients that go away, and the server's end."""
import concurrent.futures
import json
import pathlib
import signal
import threading
import time

import pytest

from api import Api, read_all
from conftest import Server, make_data, write_adapter

LONG = 12000  # tokens: a while, even for the tiny base


def start_stream(api, model="base", tokens=LONG):
    """Begins a stream and returns its connection with the first event read."""
    connection = api.connect()
    connection.request("POST", "/v1/completions", json.dumps(
        {"model": model, "prompt": "a", "max_tokens": tokens, "stream": True, "ignore_eos": True}),
        api.headers(content_type="application/json"))
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline().startswith(b"data: ")
    return connection, response


def test_sixteen_clients_and_eight_adapters_answer_as_alone(server, tmp_path):
    api = Api(server)
    names = [f"many-{i}" for i in range(8)]
    for i, name in enumerate(names):
        api.publish_new(name, write_adapter(tmp_path / name, 100 + i, rank=(4, 8)[i % 2]),
                        channel="stable")
    work = [(names[i % 8] if i < 14 else "base", f"Question {i // 2}: the") for i in range(16)]
    alone = [api.text(model, prompt, 40) for model, prompt in work]
    assert len(set(alone)) > 12
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda job: api.text(job[0], job[1], 40), work))
        assert together == alone


def test_promote_in_between_changes_only_later_requests(server, tmp_path):
    api = Api(server)
    for seed in (1, 2):
        api.publish_new("pinned", write_adapter(tmp_path / str(seed), 200 + seed))
    path = "/v1/adapters/pinned/channels/stable"
    epoch = api("PUT", path, {"version": 1}, if_match='"0"').headers["etag"]
    connection, response = start_stream(api, "pinned", 300)
    assert api("PUT", path, {"version": 2}, if_match=epoch).status == 200
    assert api.complete("pinned").json["model"] == "pinned@2"
    events = [json.loads(line[6:]) for line in response.read().split(b"\n\n")
              if line.startswith(b"data: {")]
    assert {e["model"] for e in events} == {"pinned@1"}
    assert response.headers["lorica-adapter"] == "pinned@1"
    connection.close()


def test_a_client_that_goes_away_stops_its_generation(server):
    api = Api(server)
    api.wait_metric("lorica_engine_running", 0)
    for leave in ("stream", "whole"):
        cancelled = api.metric("lorica_engine_cancelled_total")
        if leave == "stream":
            connection, response = start_stream(api)
            response.close()
        else:
            connection = api.connect()
            connection.request("POST", "/v1/completions", json.dumps(
                {"model": "base", "prompt": "a", "max_tokens": LONG, "ignore_eos": True}),
                api.headers(content_type="application/json"))
            api.wait_metric("lorica_engine_running", 1)
        connection.close()
        api.wait_metric("lorica_engine_running", 0)
        assert api.metric("lorica_engine_cancelled_total") == cancelled + 1
        tokens = api.metric("lorica_engine_completion_tokens_total")
        time.sleep(0.2)
        assert api.metric("lorica_engine_completion_tokens_total") == tokens


def test_clients_that_leave_at_any_moment_leave_nothing_behind(server):
    api = Api(server)
    for i in range(40):
        connection = api.connect()
        connection.request("POST", "/v1/chat/completions", json.dumps(
            {"model": "base", "messages": [{"role": "user", "content": "a"}], "max_tokens": LONG,
             "stream": bool(i % 2), "n": 1 + i % 3}), api.headers(content_type="application/json"))
        time.sleep(0.001 * i)
        connection.sock.close()
    api.wait_metric("lorica_engine_running", 0)
    api.wait_metric("lorica_engine_waiting", 0)
    api.wait_metric("lorica_requests_in_flight", 1)
    api.wait_metric("lorica_connections", 1)
    assert api.metric("lorica_engine_kv_pages_used") == 0


def test_a_very_long_answer_is_written_without_holding_up_the_others(own_server):
    """Between the end of its last token and the answer others are answered."""
    api = Api(own_server)
    ask = {"model": "base", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1000,
           "n": 8, "logprobs": True, "top_logprobs": 20, "ignore_eos": True}
    before, between = api.metric("lorica_engine_finished_total"), 0
    connection = api.connect()
    connection.request("POST", "/v1/chat/completions", json.dumps(ask),
                       api.headers(content_type="application/json"))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = pool.submit(connection.getresponse)
        while not begun.done():
            between += api.metric("lorica_engine_finished_total") == before + 8
    choices = json.loads(begun.result().read())["choices"]
    assert [len(choice["logprobs"]["content"]) for choice in choices] == [1000] * 8
    assert between > 8


def count_nice(process):
    """How many of a process's threads are nicer than its first one."""
    values = {}
    for task in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
        values[int(task.name)] = int((task / "stat").read_text().rpartition(")")[2].split()[16])
    return sum(value > values[process.pid] for value in values.values())


def test_workers_give_way_to_the_threads_that_answer(own_server):
    before, seen = None, count_nice(own_server.process)
    while seen != before:  # lanes and the like may still be starting
        time.sleep(0.5)
        before, seen = seen, count_nice(own_server.process)
    assert Api(own_server).complete("base").status == 200
    assert count_nice(own_server.process) > before


def test_every_request_of_a_key_beyond_its_share_is_turned_away(lorica_bin, tmp_path):
    server = Server(make_data(lorica_bin, tmp_path), "--max-per-key", "2")
    try:
        api = Api(server)
        user = api.make_key("small", "infer")
        streams = [start_stream(user) for _ in range(2)]
        answer = user.complete("base")
        assert answer.status == 429 and answer.error["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
        assert api.complete("base").status == 200
        for connection, response in streams:
            response.close()
            connection.close()
        api.wait_metric("lorica_engine_running", 0)
        assert user.complete("base").status == 200
    finally:
        assert server.stop() == 0


def test_a_full_queue_answers_503_and_says_when_to_come_again(lorica_bin, tmp_path):
    server = Server(make_data(lorica_bin, tmp_path), "--max-running", "1", "--max-waiting", "1")
    try:
        api = Api(server)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: api.complete("base", max_tokens=400, ignore_eos=True),
                                    range(8)))
        statuses = sorted(a.status for a in answers)
        assert statuses[0] == 200 and statuses[-1] == 503 and set(statuses) == {200, 503}
        refused = next(a for a in answers if a.status == 503)
        assert int(refused.headers["retry-after"]) >= 1 and refused.error["type"] == "server_error"
    finally:
        assert server.stop() == 0


def test_connections_over_the_limit_wait_for_a_place(lorica_bin, tmp_path):
    server = Server(make_data(lorica_bin, tmp_path), "--max-connections", "2")
    try:
        api = Api(server)
        held = [api.raw(), api.raw()]
        late = []
        waiting = threading.Thread(target=lambda: late.append(api.get("/livez").status))
        waiting.start()
        time.sleep(0.3)
        assert late == []
        held[0].close()
        waiting.join(10)
        assert late == [200]
        held[1].close()
    finally:
        assert server.stop() == 0


def test_drain_refuses_the_new_and_finishes_the_old(own_server):
    api = Api(own_server)
    idle = api.raw()
    connection, response = start_stream(api, tokens=400)
    probe = api.connect()
    probe.connect()
    own_server.process.send_signal(signal.SIGTERM)
    assert read_all(idle)[1]
    with pytest.raises(OSError):
        for _ in range(100):
            api.connect().connect()
            time.sleep(0.02)
    data = response.read()
    assert data.endswith(b"data: [DONE]\n\n")
    connection.close()
    assert own_server.process.wait(20) == 0


def test_drain_that_takes_too_long_ends_streams_with_an_error(lorica_bin, tmp_path):
    server = Server(make_data(lorica_bin, tmp_path), "--drain-seconds", "0")
    api = Api(server)
    connection, response = start_stream(api)
    server.process.send_signal(signal.SIGTERM)
    data = b""
    try:
        while piece := response.read1(65536):
            data += piece
    except Exception as error:  # the chunked body is cut off, as it must be
        assert "IncompleteRead" in repr(error)
    assert b'"error"' in data and b"[DONE]" not in data
    connection.close()
    assert server.process.wait(20) == 0


def test_restart_serves_the_same_answers(data_dir, tmp_path):
    first = Server(data_dir)
    api = Api(first)
    api.publish_new("kept", write_adapter(tmp_path / "kept", 7), channel="stable")
    text = api.text("kept")
    assert first.stop() == 0
    second = Server(data_dir)
    try:
        assert Api(second).text("kept") == text
    finally:
        assert second.stop() == 0


def test_two_servers_do_not_share_a_data_directory(own_server):
    answer = own_server.lorica("serve", "--listen", "127.0.0.1:0", code=1)
    assert str(own_server.process.pid) in answer.stderr


@pytest.mark.parametrize("words,says", [
    (("--listen", "frob"), "listen"), (("--threads", "x"), "threads"), (("--frob",), "frob"),
    (("--listen", "127.0.0.1:99999"), "listen")])
def test_wrong_usage_is_named(data_dir, words, says):
    assert says in data_dir("serve", *words, code=2).stderr


def test_wrong_configuration_is_named_with_its_line(data_dir):
    (data_dir.data / "lorica.conf").write_text("# one\nfrob = 1\n")
    assert "lorica.conf, line 2" in data_dir("serve", code=2).stderr


def test_metrics_open_answers_without_a_key(lorica_bin, tmp_path):
    server = Server(make_data(lorica_bin, tmp_path), "--metrics-open")
    try:
        assert Api(server, key="").get("/metrics").status == 200
        assert Api(server, key="").get("/v1/models").status == 401
    finally:
        assert server.stop() == 0
