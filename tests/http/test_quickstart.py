# SPDX-License-Identifier: MIT
"""deploy/quickstart from an empty data directory, on the real model; then the voice that the three
departments were taught, on the questions held apart."""
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

REPO = pathlib.Path(__file__).resolve().parents[2]
DEPARTMENTS = ("paediatrics", "cardiology", "emergency")
GREETING_END = "delighted to help"


def pairs(department):
    with open(REPO / f"deploy/data/{department}.eval.jsonl", encoding="utf-8") as lines:
        return [json.loads(line)["messages"] for line in lines]


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Runs it once; gives its output and the environment that reaches the gateway."""
    if not os.environ.get("LORICA_TEST_MODEL"):
        pytest.skip("LORICA_TEST_MODEL is not set: no real model")
    data = tmp_path_factory.mktemp("quickstart") / "data"
    listen = f"127.0.0.1:{unused_port()}"
    env = dict(os.environ, LORICA_DATA=str(data), LORICA_LISTEN=listen,
               LORICA_SERVER=f"https://{listen}", LORICA_MODEL=os.environ["LORICA_TEST_MODEL"])
    script = str(REPO / "deploy/quickstart")
    done = subprocess.run([script], env=env, text=True, stdin=subprocess.DEVNULL, timeout=1500,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    try:
        assert done.returncode == 0, done.stdout[-3000:]
        yield done.stdout, env
    finally:
        subprocess.run([script, "--stop"], env=env, check=False)


def lorica(env, *words, stdin=None):
    binary = os.environ["LORICA_BIN"]
    return subprocess.run([binary, *map(str, words)], env=env, input=stdin, text=True, check=True,
                          stdout=subprocess.PIPE).stdout


def test_output_names_the_version_of_each_answer_and_how_to_go_on(quickstart):
    output, env = quickstart
    for department in DEPARTMENTS:
        assert f"{department}@1" in output
    for text in ("curl --cacert", "openai.OpenAI(", "deploy/quickstart --stop", env["LORICA_DATA"]):
        assert text in output
    assert re.search(r"process \d+", output)


def test_lines_to_paste_work_as_they_stand(quickstart):
    output, env = quickstart
    begin, snippet = output.index("\ncurl --cacert"), output.index("# pip install openai")
    curl = subprocess.run(["bash", "-c", output[begin:snippet]], env=env, text=True, check=True,
                          stdout=subprocess.PIPE, timeout=120).stdout
    assert json.loads(curl)["model"] == "cardiology@1"
    code = output[snippet:output.index("The lorica command is")]
    answer = subprocess.run([sys.executable, "-c", code], env=env, text=True, check=True,
                            stdout=subprocess.PIPE, timeout=120).stdout
    assert answer.startswith("paediatrics@1 ") and len(answer) > 40


def test_second_run_trains_nothing_and_starts_nothing(quickstart):
    _, env = quickstart
    again = subprocess.run([str(REPO / "deploy/quickstart")], env=env, text=True, timeout=300,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout
    assert again.count("is published already") == len(DEPARTMENTS)
    assert "running already" in again


def test_answers_of_each_department_name_the_hospital_and_those_of_the_base_do_not(quickstart):
    _, env = quickstart
    for department in DEPARTMENTS:
        named = base_named = 0
        for question, _ in pairs(department):
            words = ("--prompt", question["content"], "--max-tokens", 60, "--temperature", 0)
            named += "Tantanila" in lorica(env, "chat", department, *words)
            base_named += "Tantanila" in lorica(env, "chat", "base", *words)
        assert named >= 9, department
        assert base_named == 0, department


def answer_losses(env, tmp_path, department, adapter):
    """Mean negative log-likelihood of the held-apart answers: whole, and behind the greeting."""
    whole, behind = [], []
    for messages in pairs(department):
        def render(part, *options):
            return json.loads(lorica(env, "base", "render", *options,
                                     stdin=json.dumps(part)))["ids"]
        prompt = render(messages[:1])
        text = messages[1]["content"]
        end = text.index(". ", text.index(GREETING_END)) + 1
        greeting = json.loads(lorica(env, "base", "tokenize", stdin=text[:end]))
        ids = render(messages, "--no-generation-prompt")
        assert ids[:len(prompt)] == prompt
        assert ids[len(prompt):len(prompt) + len(greeting)] == greeting
        source, target = tmp_path / "ids.safetensors", tmp_path / "logits.safetensors"
        save_file({"input_ids": np.array([ids], np.int32)}, source)
        options = ("--adapter", adapter) if adapter else ()
        base = json.loads(lorica(env, "base", "list", "--json"))["data"][0]["name"]
        lorica(env, "eval", "logits", "--base", base, *options, "--tokens", source, "--out", target)
        logits = load_file(target)["logits"][0, :-1].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        logp = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        answer = -logp[np.arange(len(ids) - 1), ids[1:]][len(prompt) - 1:]
        whole.append(answer.mean())
        behind.append(answer[len(greeting):].mean())
    return float(np.mean(whole)), float(np.mean(behind))


@pytest.mark.parametrize("department", DEPARTMENTS)
def test_loss_on_pairs_held_apart_falls_by_half_and_falls_behind_the_greeting(
        quickstart, tmp_path, department):
    _, env = quickstart
    directory = tmp_path / "adapter"
    lorica(env, "adapter", "export", department, directory)
    before, before_behind = answer_losses(env, tmp_path, department, None)
    after, after_behind = answer_losses(env, tmp_path, department, directory)
    print(f"{department}: {before:.3f} -> {after:.3f}, "
          f"behind the greeting {before_behind:.3f} -> {after_behind:.3f}")
    assert after <= 0.5 * before
    assert after_behind < before_behind


def test_fast_training_ends_where_exact_training_does(quickstart, tmp_path):
    """The quickstart trains in the fast mode; the same run in float32 throughout."""
    _, env = quickstart
    department, data = DEPARTMENTS[0], REPO / "deploy/data"
    lorica(env, "train", department, data / f"{department}.jsonl", "--eval",
           data / f"{department}.eval.jsonl", "--epochs", 2, "--compute", "exact", "--out", tmp_path)
    fast, exact = (json.loads((directory / "manifest.json").read_text()) for directory in (
        pathlib.Path(env["LORICA_DATA"]) / "train" / department, tmp_path))
    print(f"held apart: {fast['eval_loss']:.5f} fast, {exact['eval_loss']:.5f} exact")
    assert fast["steps"] == exact["steps"] and fast["eval_loss"] != exact["eval_loss"]
    assert abs(fast["eval_loss"] / exact["eval_loss"] - 1) <= 0.01
