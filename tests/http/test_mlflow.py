# SPDX-License-Identifier: MIT
"""lorica train --log and --mlflow against a real tracking server: what it gets, what it costs when
it is away, and that a log sent later says everything once."""
import json
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import make_data
from tracking import PASSWORD, TOKEN, USER, Proxy, Tracking

USAGE, FAILED = 2, 1
STEPS = 12


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    server = Tracking(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def lorica(lorica_bin, tmp_path_factory):
    return make_data(lorica_bin, tmp_path_factory.mktemp("data"))


@pytest.fixture
def proxy(tracking):
    proxies = []

    def make(**options):
        proxies.append(Proxy(tracking, **options))
        return proxies[-1]
    yield make
    for one in proxies:
        one.stop()


@pytest.fixture
def examples(tmp_path):
    path = tmp_path / "rooms.jsonl"
    path.write_text("".join(json.dumps({"messages": [
        {"role": "user", "content": f"Where is room {i}?"},
        {"role": "assistant", "content": f"Room {i} is on floor {i}."}]}) + "\n"
        for i in range(8)))
    return path


@pytest.fixture
def train(lorica, tracking, examples, tmp_path):
    """Trains into tmp_path/out; the experiment has the name of the test."""
    def run(url, *words, steps=STEPS, lr="0.01", code=0, **variables):
        return lorica("train", "rooms", examples, "--eval", examples, "--out", tmp_path / "out",
                      "--steps", steps, "--lr", lr, "--rank", 4, "--threads", 1, "--mlflow", url,
                      "--mlflow-experiment", tmp_path.name, *words, code=code,
                      **{**tracking.env, **variables})
    return run


@pytest.fixture
def sync(lorica, tracking, tmp_path):
    def run(*words, code=0, **variables):
        return lorica("train", "--mlflow-sync", tmp_path / "out", *words, code=code,
                      **{**tracking.env, **variables})
    return run


def journals(tmp_path):
    return list((tmp_path / "out").glob("mlflow-*.jsonl"))


def check_metrics(tracking, run, lines):
    """The server has each value of the log once, in order."""
    for metric in ("loss", "lr", "grad_norm", "tokens", "seconds"):
        wanted = [(line["step"], pytest.approx(line[metric])) for line in lines]
        assert tracking.history(run, metric) == wanted
    wanted = [(line["step"], pytest.approx(line["eval_loss"])) for line in lines
              if "eval_loss" in line]
    found = tracking.history(run, "eval_loss")
    assert found[0][0] == 0 and found[1:] == wanted and wanted[-1][0] == lines[-1]["step"]


def check_artifacts(tracking, run, out):
    for name in ("adapter_config.json", "adapter_model.safetensors", "manifest.json"):
        assert tracking.artifact(run, f"adapter/{name}") == (out / name).read_bytes()
    for name in ("loss.svg", "samples.jsonl"):
        assert tracking.artifact(run, name) == (out / name).read_bytes()


def log_of(tracking, run):
    return [json.loads(line) for line in tracking.artifact(run, "metrics.jsonl").splitlines()]


def check_whole(tracking, tmp_path, steps=STEPS):
    """The experiment holds one finished run with everything in it, and no journal is left."""
    run = tracking.run(tmp_path.name)
    lines = log_of(tracking, run)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    check_metrics(tracking, run, lines)
    check_artifacts(tracking, run, tmp_path / "out")
    assert run["info"]["status"] == "FINISHED"
    assert journals(tmp_path) == []
    return run


# What is written, with and without MLflow.


def test_log_has_a_line_for_each_update_and_the_plot_is_there(lorica, examples, tmp_path):
    lorica("train", "rooms", examples, "--eval", examples, "--out", tmp_path / "out", "--steps", 7,
           "--eval-every", 3, "--log", tmp_path / "metrics.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 8))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for line in lines:
        wanted = {"step", "loss", "lr", "grad_norm", "tokens", "seconds", "memory_mb", "time_ms"}
        assert set(line) - {"eval_loss"} == wanted
        assert ("eval_loss" in line) == (line["step"] in (3, 6, 7))
    assert min(line.get("eval_loss", 99) for line in lines) == manifest["eval_loss"]
    assert lines[-1]["tokens"] == manifest["tokens"]
    svg = (tmp_path / "out/loss.svg").read_text()
    assert svg.startswith("<svg ") and "Training of rooms" in svg and "held apart, last" in svg
    assert not re.search(r"href|url\(|<script|<image", svg)
    assert not (tmp_path / "out/samples.jsonl").exists()


def test_log_that_cannot_be_written_ends_the_run_before_it_begins(lorica, examples, tmp_path):
    done = lorica("train", "rooms", examples, "--steps", 1, "--log", tmp_path / "no/where",
                  "--out", tmp_path / "out", code=FAILED)
    assert str(tmp_path / "no/where") in done.stderr
    assert not (tmp_path / "out/adapter_config.json").exists()


def test_log_does_not_replace_the_examples(lorica, examples, tmp_path):
    before = examples.read_bytes()
    link, apart = tmp_path / "link.jsonl", tmp_path / "apart.jsonl"
    link.symlink_to(examples)
    apart.write_bytes(before)
    for log, words in ((examples, []), (link, []), (apart, ["--eval", apart])):
        done = lorica("train", "rooms", examples, "--out", tmp_path / "out", "--steps", STEPS,
                      *words, "--log", log, code=FAILED)
        assert "--log" in done.stderr and str(log) in done.stderr
    assert examples.read_bytes() == apart.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_log_on_a_full_disk_is_told_and_the_adapter_is_kept(lorica, examples, tmp_path):
    done = lorica("train", "rooms", examples, "--steps", 2, "--log", "/dev/full",
                  "--out", tmp_path / "out", code=FAILED)
    assert "/dev/full" in done.stderr
    assert (tmp_path / "out/adapter_model.safetensors").exists()


# A server that is there.


def test_run_is_logged_whole(train, tracking, examples, tmp_path):
    done = train(tracking.url, "--log", tmp_path / "metrics.jsonl")
    run = check_whole(tracking, tmp_path)
    assert f"logged to MLflow: {tracking.url}/#/experiments/" in done.stdout
    assert run["info"]["run_id"] in done.stdout
    assert (tmp_path / "metrics.jsonl").read_bytes() == tracking.artifact(run, "metrics.jsonl")
    params = {p["key"]: p["value"] for p in run["data"]["params"]}
    assert params["rank"] == "4" and params["lr"] == "0.01" and params["steps"] == str(STEPS)
    assert params["optimizer"] == "adamw" and params["checkpoint_activations"] == "false"
    assert params["quantization"] == "nf4" and params["double_quantization"] == "true"
    assert params["quantization_block"] == "64" and params["double_quantization_block"] == "256"
    assert params["base"] == "tiny" and params["base_digest"].startswith("sha256:")
    digest = subprocess.run(["sha256sum", examples], capture_output=True, check=True,
                            encoding="utf-8").stdout.split()[0]
    assert params["dataset"] == f"{examples.name} sha256:{digest}"
    assert tracking.history(run, "memory_mb")[-1][1] > 5
    samples = [json.loads(s) for s in tracking.artifact(run, "samples.jsonl").splitlines()]
    assert len(samples) == 5
    assert samples[0]["expected"] == "Room 0 is on floor 0."
    assert "Where is room 0?" in samples[0]["prompt"] and samples[0]["answer"]


def test_token_and_an_authority_of_ones_own(train, tracking, proxy, lorica, tmp_path):
    tls = lorica.data / "tls"
    front = proxy(token=TOKEN, tls=(tls / "server.pem", tls / "server.key"))
    none = {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}
    train(front.url, "--mlflow-ca", tls / "ca.pem", MLFLOW_TRACKING_TOKEN=TOKEN, **none)
    check_whole(tracking, tmp_path)


def test_password_in_the_address_is_used_and_kept_nowhere(train, tracking, tmp_path):
    url = tracking.url.replace("//", f"//{USER}:{PASSWORD.replace(' ', '%20')}@")
    done = train(url, MLFLOW_TRACKING_USERNAME="nobody", MLFLOW_TRACKING_PASSWORD="wrong")
    run = check_whole(tracking, tmp_path)
    for text in (done.stdout, done.stderr, json.dumps(run)):
        assert "passw0rd" not in text


# A server that is not.


def test_training_goes_on_without_a_server_and_the_log_is_sent_later(train, sync, tracking,
                                                                     tmp_path):
    done = train("http://127.0.0.1:9")
    assert done.stderr.count("cannot be reached") == 1
    assert f"--mlflow-sync {tmp_path / 'out'}" in done.stderr
    assert "written to" in done.stdout and len(journals(tmp_path)) == 1
    assert "cannot be reached" in sync(code=FAILED).stderr
    assert len(journals(tmp_path)) == 1
    assert "logged to MLflow" in sync("--mlflow", tracking.url).stdout
    check_whole(tracking, tmp_path)
    assert "nothing waits" in sync("--mlflow", tracking.url).stdout
    check_whole(tracking, tmp_path)


def test_journal_holds_no_password(train, sync, tracking, tmp_path):
    url = "http://someone:passw0rd@127.0.0.1:9"
    done = train(url)
    assert "passw0rd" not in journals(tmp_path)[0].read_text() + done.stdout + done.stderr


def test_wrong_password_is_said_with_what_to_do(train, sync, tracking, tmp_path):
    done = train(tracking.url, MLFLOW_TRACKING_PASSWORD="not that one")
    assert "answered 401" in done.stderr and "MLFLOW_TRACKING_PASSWORD" in done.stderr
    sync()
    check_whole(tracking, tmp_path)


def test_server_that_is_slow_does_not_stop_training(train, sync, tracking, proxy, tmp_path):
    front = proxy()
    front.fault = lambda method, path: "stall"
    done = train(front.url, MLFLOW_HTTP_REQUEST_TIMEOUT="1")
    assert done.stderr.count("does not answer") == 1
    sync("--mlflow", tracking.url)
    check_whole(tracking, tmp_path)


def test_long_log_goes_in_batches_that_the_server_takes(train, sync, tracking, proxy, tmp_path):
    front = proxy()
    front.fault = lambda method, path: "refuse"
    done = train(front.url, steps=200)
    assert done.stderr.count("answered 503") == 1
    front.fault = lambda method, path: None
    del front.seen[:]
    sync()
    check_whole(tracking, tmp_path, steps=200)
    batches = [path for _, path in front.seen if path.endswith("log-batch")]
    assert len(batches) >= 1 + 200 * 6 / 1000  # one is that of the parameters


@pytest.mark.parametrize("call, fault", [
    ("experiments/create", "lose"), ("runs/create", "lose"), ("runs/log-batch", "lose"),
    ("adapter_config.json", "refuse"), ("runs/update", "lose")])
def test_server_that_dies_at_any_request_gets_the_rest_once(train, sync, tracking, proxy, tmp_path,
                                                            call, fault):
    front = proxy()
    dead = []

    def die(method, path):
        if dead:
            return "refuse"
        if path.endswith(call):
            dead.append(path)
            return fault
        return None
    front.fault = die
    done = train(front.url)
    assert dead and done.stderr.count("Training goes on") == 1
    assert "MLflow does not have all of this run" in done.stdout
    front.fault = lambda method, path: None
    sync()
    check_whole(tracking, tmp_path)


def test_server_that_comes_back_gets_all_without_a_sync(train, tracking, proxy, tmp_path):
    front = proxy()
    failed = []

    def fail_once(method, path):
        if path.endswith("log-batch") and not failed:
            failed.append(path)
            return "lose"
        return None
    front.fault = fail_once
    done = train(front.url)
    assert failed and "logged to MLflow" in done.stdout
    check_whole(tracking, tmp_path)


def test_later_training_into_the_same_directory_keeps_the_earlier_log(train, sync, tracking,
                                                                      tmp_path):
    train("http://127.0.0.1:9")
    train("http://127.0.0.1:9", "--seed", 5)
    assert len(journals(tmp_path)) == 2
    done = sync("--mlflow", tracking.url)
    assert done.stderr.count("is not from this run") == 1
    runs = tracking.runs(tmp_path.name)
    assert len(runs) == 2 and all(run["info"]["status"] == "FINISHED" for run in runs)
    out = tmp_path / "out"
    weights = [tracking.artifact(run, "adapter/adapter_model.safetensors") for run in runs]
    assert sorted(weights, key=bool) == [None, (out / "adapter_model.safetensors").read_bytes()]
    assert all(len(log_of(tracking, run)) == STEPS for run in runs)


def test_server_that_takes_no_artifacts_is_told_of(train, tracking, tmp_path):
    tracking.post("experiments/create", name=tmp_path.name,
                  artifact_location=f"file://{tmp_path}/elsewhere")
    done = train(tracking.url)
    assert "--serve-artifacts" in done.stderr
    run = tracking.run(tmp_path.name)
    assert run["info"]["status"] == "FINISHED" and len(tracking.history(run, "loss")) == STEPS
    assert not (tmp_path / "elsewhere").exists()


# How a run ends.


def test_run_that_fails_ends_failed(train, tracking, tmp_path):
    (tmp_path / "out/adapter_model.safetensors/in the way").mkdir(parents=True)
    train(tracking.url, code=FAILED)
    run = tracking.run(tmp_path.name)
    assert run["info"]["status"] == "FAILED" and log_of(tracking, run)
    assert tracking.artifact(run, "adapter/adapter_config.json") is None
    assert journals(tmp_path) == []


def test_run_that_is_killed_is_ended_by_the_sync(lorica, sync, tracking, examples, tmp_path):
    process = subprocess.Popen(
        [lorica.binary, "train", "rooms", examples, "--out", tmp_path / "out", "--steps", "100000",
         "--mlflow", tracking.url, "--mlflow-experiment", tmp_path.name],
        env={**lorica.env, **tracking.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not journals(tmp_path) or journals(tmp_path)[0].read_text().count("\n") < 50:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        assert "still trains" in sync(code=FAILED).stderr
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "logged to MLflow" in sync().stdout
    run = tracking.run(tmp_path.name)
    assert run["info"]["status"] == "KILLED"
    lines = log_of(tracking, run)
    assert len(lines) >= 49
    assert tracking.history(run, "loss") == [(line["step"], pytest.approx(line["loss"]))
                                             for line in lines]
    assert journals(tmp_path) == []


# Bad input.


@pytest.mark.parametrize("words, says", [
    (["--mlflow", "127.0.0.1:5000"], "http[s]://"),
    (["--mlflow", "ftp://u:secret@host"], "http[s]://"),
    (["--mlflow-experiment", "x"], "go with --mlflow"),
    (["--mlflow-sync", "x"], "no NAME"),
])
def test_wrong_options_are_wrong_usage(lorica, examples, words, says):
    done = lorica("train", "rooms", examples, *words, code=USAGE)
    assert says in done.stderr and "secret" not in done.stderr


@pytest.mark.parametrize("word", ["--rank", "--out", "--lr", "--log"])
def test_sync_takes_nothing_that_it_would_ignore(lorica, tmp_path, word):
    done = lorica("train", "--mlflow-sync", tmp_path, word, "1", code=USAGE)
    assert f"{word} does not go with --mlflow-sync" in done.stderr


def test_credentials_do_not_travel_without_encryption(lorica, tracking, examples, tmp_path):
    done = lorica("train", "rooms", examples, "--out", tmp_path / "out", "--steps", 1, "--mlflow",
                  "http://mlflow.example", code=FAILED, **tracking.env)
    assert "without encryption" in done.stderr
    assert not (tmp_path / "out/adapter_config.json").exists()


@pytest.mark.parametrize("text, says", [
    ("", "no head"), ("{}\n", "no head"), ("not json\n", "journal"),
    ('{"run":"../x","url":"http://127.0.0.1:9","experiment":"x","name":"x","start_ms":1,'
     '"params":{}}\n', "no head")])
def test_journal_that_is_none_is_named(sync, tmp_path, text, says):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mlflow-0123.jsonl").write_text(text)
    done = sync(code=FAILED)
    assert says in done.stderr and str(tmp_path / "out") in done.stderr


# Stopped and taken up again.


def start_and_wait(lorica, tracking, examples, tmp_path, lines, *words):
    """A run of 400 updates that has logged so many."""
    log = tmp_path / "metrics.jsonl"
    process = subprocess.Popen(
        [lorica.binary, "train", "rooms", examples, "--eval", examples, "--eval-every", "5", "--out",
         tmp_path / "out", "--steps", "400", "--threads", "1", "--checkpoint-steps", "10", "--log",
         log, "--mlflow", tracking.url, "--mlflow-experiment", tmp_path.name, *words],
        env={**lorica.env, **tracking.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not log.exists() or log.read_text().count("\n") < lines:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    return process, log


def test_run_that_is_stopped_ends_killed_and_its_log_goes_on(lorica, sync, tracking, examples,
                                                             tmp_path):
    process, log = start_and_wait(lorica, tracking, examples, tmp_path, 15)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == FAILED
    run = tracking.run(tmp_path.name)
    assert run["info"]["status"] == "KILLED" and journals(tmp_path) == []
    before = len(log.read_text().splitlines())
    process, log = start_and_wait(lorica, tracking, examples, tmp_path, before + 15, "--resume")
    process.send_signal(signal.SIGKILL)  # behind its last checkpoint
    process.wait()
    process, log = start_and_wait(lorica, tracking, examples, tmp_path, 400, "--resume")
    assert process.wait(timeout=120) == 0
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 401))
