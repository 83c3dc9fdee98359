# SPDX-License-Identifier: MIT
"""Prompts that begin alike are computed once for each adapter, and never for another one."""
import concurrent.futures
import itertools
import threading
import time

import pytest

from api import Api
from conftest import Server, make_data, write_adapter

SYSTEM = "You are the kind voice of a hospital. Say what you know and who can help. " * 3
NAMES = [f"alike-{i}" for i in range(8)]


def publish_all(api, parent):
    """Eight adapters of two versions; the first is live."""
    for i, name in enumerate(NAMES):
        for version in (1, 2):
            api.publish_new(name, write_adapter(parent / f"{name}-{version}", 500 + 10 * i + version),
                            **({"channel": "stable"} if version == 1 else {}))


def ask(api, model, question="Who?"):
    answer = api.complete(model, SYSTEM + question, 16, ignore_eos=True).json
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 <= cached < usage["prompt_tokens"] and cached % 16 == 0
    return answer["choices"][0]["text"], cached, answer["model"]


def test_hits_answer_as_misses_for_every_adapter_and_version(lorica_bin, tmp_path):
    server = Server(make_data(lorica_bin, tmp_path), "--prefix-cache-mb", "0")
    try:
        cold = Api(server)
        publish_all(cold, tmp_path)
        models = [f"{name}@{version}" for name in NAMES for version in (1, 2)] + ["base"]
        expected = {}
        for model, question in itertools.product(models, ("Who?", "When?")):
            expected[model, question], cached, _ = ask(cold, model, question)
            assert cached == 0
        assert len(set(expected.values())) > len(models)
    finally:
        assert server.stop() == 0
    server = Server(server.lorica)
    try:
        warm = Api(server)
        for model, question in itertools.product(models, ("Who?", "When?")):
            text, cached, _ = ask(warm, model, question)
            assert text == expected[model, question]
            assert (cached > 0) == (question == "When?")  # the same beginning, of the same adapter
        # The same again, eight at once, while every name is promoted to its second version.
        jobs = [(name, question) for question in ("Who?", "When?") for name in NAMES] * 4
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(ask, warm, *job) for job in jobs]
            for name in NAMES:
                path = f"/v1/adapters/{name}/channels/stable"
                epoch = warm.get(path).headers["etag"]
                assert warm("PUT", path, {"version": 2}, if_match=epoch).status == 200
        for (name, question), future in zip(jobs, answers):
            text, cached, model = future.result()
            assert model in (f"{name}@1", f"{name}@2")
            assert text == expected[model, question] and cached > 0
        for name in NAMES:
            assert ask(warm, name)[2] == f"{name}@2"
        assert warm.metric("lorica_engine_cached_tokens_total") > 0
        assert warm.metric("lorica_engine_kv_pages_kept") > 0
    finally:
        assert server.stop() == 0


def test_choices_of_one_request_share_its_prompt(own_server):
    api = Api(own_server)
    answer = api.complete("base", SYSTEM, 8, n=4, temperature=1, seed=5, ignore_eos=True).json
    computed = api.metric("lorica_engine_prompt_tokens_total")
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert computed < 2 * answer["usage"]["prompt_tokens"]
    assert len({choice["text"] for choice in answer["choices"]}) > 1


def test_a_busy_key_does_not_keep_another_one_waiting(lorica_bin, tmp_path):
    server = Server(make_data(lorica_bin, tmp_path), "--max-running", "2", "--priority-high", "er-*")
    try:
        api = Api(server)
        busy, urgent = (api.make_key(name, "infer") for name in ("busy", "er-desk"))
        stop, end = threading.Event(), time.monotonic() + 60

        def keep_asking(prompt):
            answers = []
            while not stop.is_set():
                answers.append(busy.complete("base", prompt, 500, ignore_eos=True))
            return answers

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(keep_asking, f"{i}") for i in range(6)]
            try:
                while api.metric("lorica_engine_preempted_total") == 0:
                    assert time.monotonic() < end
                    assert urgent.complete("base", "Help", 4, ignore_eos=True).status == 200
            finally:
                stop.set()
            answers = [answer for job in jobs for answer in job.result()]
        assert {answer.json["usage"]["completion_tokens"] for answer in answers} == {500}
    finally:
        assert server.stop() == 0


def test_bench_measures_the_engine(data_dir):
    seen = data_dir.json("bench", "prefix", "--tokens", "64", "--sequences", "3")
    assert seen["hit_rate"] == 64 / 80 and seen["first_token_with_ms"] > 0
    seen = data_dir.json("bench", "speculation", "--tokens", "24", "--repeat", "1")
    assert seen["repeating_tokens_s_with"] > 0
    seen = data_dir.json("bench", "arrivals", "--tokens", "200", "--sequences", "2", "--repeat", "2")
    assert 0 < seen["gap_p50_ms"] <= seen["gap_p99_ms"] <= seen["gap_largest_ms"]


@pytest.mark.parametrize("words", [
    ["speculation", "--sequences", "2"], ["decode", "--sequences", "2"], ["prefix", "--repeat", "3"],
    ["train", "--kv", "int8"], ["train", "--adapter", "a"], ["train", "--ca", "a.pem"],
    ["registry", "--rank", "4"], ["registry", "--base", "tiny"], ["machine", "--tokens", "5"],
    ["kernels", "--threads", "2"], ["decode", "--names", "5"], ["batch", "--checkpoint-activations"],
    ["decode", "--compute", "exact"]])
def test_bench_names_an_option_that_the_work_has_no_use_for(data_dir, words):
    done = data_dir("bench", *words, code=2)
    assert f"{words[1]} does not go with {words[0]}" in done.stderr
