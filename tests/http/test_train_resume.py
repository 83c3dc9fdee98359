# SPDX-License-Identifier: MIT
"""Runs of lorica train that are killed, stopped, or out of room, and taken up again: they end in
the bytes of a run that was left alone."""
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

FAILED = 1
CHECKPOINT = "checkpoint.safetensors"
STEPS = 24
RECIPE = ["--steps", STEPS, "--batch", 2, "--accumulate", 2, "--dropout", "0.1", "--rank", 4,
          "--weight-decay", "0.01", "--threads", 2, "--eval-split", "0.2", "--eval-every", 3]


@pytest.fixture
def examples(tmp_path):
    path = tmp_path / "examples.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i in range(17):
            file.write(json.dumps({"prompt": f"Where is room {i}?" + " Please." * (i % 5),
                                   "completion": f"Room {i} is on floor {i % 4}."}) + "\n")
    return path


def start(lorica, examples, out, *words):
    return subprocess.Popen(
        [lorica.binary, "train", "rooms", examples, "--out", out, *map(str, [*RECIPE, *words])],
        env=lorica.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def result(out):
    assert not (out / CHECKPOINT).exists()
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "loss.svg", "manifest.json"]
    # The plot, too, is that of the whole run: a checkpoint keeps what it has drawn so far.
    return [(out / name).read_bytes() for name in ("adapter_model.safetensors", "loss.svg")]


def undisturbed(lorica, examples, tmp_path, *words):
    lorica("train", "rooms", examples, "--out", tmp_path / "whole", *RECIPE, *words)
    return result(tmp_path / "whole")



def test_two_runs_into_one_directory_are_kept_apart(data_dir, examples, tmp_path):
    lorica, out = data_dir, tmp_path / "out"
    whole = undisturbed(lorica, examples, tmp_path)
    first = start(lorica, examples, out, "--checkpoint-steps", 1)
    wait_for_checkpoint(first, out)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        for words in ([], ["--resume"]):
            second = start(lorica, examples, out, *words)
            _, told = second.communicate(timeout=60)
            assert second.returncode == FAILED
            assert f"{out}: another lorica train is writing there" in told
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.communicate(timeout=300)
    assert first.returncode == 0 and result(out) == whole


def wait_for_checkpoint(process, out):
    end = time.monotonic() + 60
    while not (out / CHECKPOINT).exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
def test_run_killed_at_random_steps_ends_in_the_same_adapter(data_dir, examples, tmp_path,
                                                             optimizer):
    want = undisturbed(data_dir, examples, tmp_path, "--optimizer", optimizer)
    rng = random.Random(optimizer)
    kills = 0
    while kills < (200 if os.environ.get("LORICA_LONG") else 10):
        out = tmp_path / f"out-{kills}"
        # A slow run, so that there is something to kill: a checkpoint behind every update.
        while True:
            process = start(data_dir, examples, out, "--optimizer", optimizer,
                            "--checkpoint-steps", 1, "--resume")
            try:
                assert process.wait(rng.uniform(0.03, 0.35)) == 0, process.stderr.read()
                process.communicate()
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
        assert result(out) == want


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_behind_a_checkpoint(data_dir, examples, tmp_path, number):
    want = undisturbed(data_dir, examples, tmp_path)
    out = tmp_path / "out"
    process = start(data_dir, examples, out, "--checkpoint-steps", 1)
    wait_for_checkpoint(process, out)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == FAILED and "--resume" in stderr and "stopped after update" in stderr
    refused = data_dir("train", "rooms", examples, "--out", out, *RECIPE, code=FAILED)
    assert "--resume" in refused.stderr and CHECKPOINT in refused.stderr
    done = data_dir("train", "rooms", examples, "--out", out, *RECIPE, "--resume")
    assert "resumed after update" in done.stdout
    assert result(out) == want


def test_run_that_does_not_begin_leaves_the_log_of_the_one_before(data_dir, examples, tmp_path):
    """Forgetting --resume costs a message, not the figures of hours."""
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    process = start(data_dir, examples, out, "--checkpoint-steps", 1, "--log", log)
    wait_for_checkpoint(process, out)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    before = log.read_bytes()
    assert before.count(b"\n") >= 1
    refused = data_dir("train", "rooms", examples, "--out", out, *RECIPE, "--log", log, code=FAILED)
    assert "--resume" in refused.stderr and log.read_bytes() == before
    data_dir("train", "rooms", examples, "--out", out, *RECIPE, "--log", log, "--resume")
    steps = [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert steps == list(range(1, STEPS + 1))


@pytest.fixture
def stopped(data_dir, examples, tmp_path):
    """A directory with the checkpoint of a run that was stopped."""
    out = tmp_path / "stopped"
    process = start(data_dir, examples, out, "--checkpoint-steps", 1)
    wait_for_checkpoint(process, out)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    return out


@pytest.mark.parametrize("words, says", [
    (["--lr", "0.002"], "--lr was 0.001"),
    (["--seed", "3"], "--seed was 0"),
    (["--rank", "8"], "--rank was 4"),
    (["--targets", "q,v"], "--targets was"),
    (["--batch", "3"], "--batch was 2"),
    (["--dropout", "0"], "--dropout was"),
    (["--eval-split", "0.4"], "was sha256:"),
    (["--eval-every", "5"], "--eval-every was 3"),
    (["--pack"], "--pack was 0"),
    (["--optimizer", "adamw-8bit"], "--optimizer was adamw"),
    (["--compute", "exact"], "--compute was fast"),
])
def test_other_options_than_before_are_named(data_dir, examples, stopped, words, says):
    before = (stopped / CHECKPOINT).read_bytes()
    recipe = [str(w) for w in RECIPE]
    for i in range(0, len(words), 2):
        if words[i] in recipe and len(words) > 1:
            del recipe[recipe.index(words[i]):recipe.index(words[i]) + 2]
    done = data_dir("train", "rooms", examples, "--out", stopped, *recipe, *words, "--resume",
                    code=FAILED)
    assert says in done.stderr and CHECKPOINT in done.stderr
    assert (stopped / CHECKPOINT).read_bytes() == before


def test_other_data_and_base_than_before_are_named(data_dir, examples, stopped):
    text = examples.read_text(encoding="utf-8")
    examples.write_text(text.replace("floor 1", "floor 7", 1), encoding="utf-8")
    done = data_dir("train", "rooms", examples, "--out", stopped, *RECIPE, "--resume", code=FAILED)
    assert "data was sha256:" in done.stderr or "held apart was sha256:" in done.stderr
    examples.write_text(text, encoding="utf-8")
    done = data_dir("train", "rooms", examples, "--out", stopped, *RECIPE, "--resume", "--base",
                    pathlib.Path(__file__).parents[1] / "golden/tiny-odd", code=FAILED)
    assert "base was sha256:" in done.stderr


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text", "order"])
def test_damaged_checkpoint_is_refused_and_stays(data_dir, examples, stopped, harm):
    path = stopped / CHECKPOINT
    whole = path.read_bytes()
    if harm == "order":
        tensors = load_file(path)
        tensors["order"][0] = 1 << 40
        save_file(tensors, path, metadata=read_metadata(whole))
    else:
        middle = len(whole) // 2
        path.write_bytes({"cut": whole[:middle], "empty": b"", "text": b"no checkpoint at all",
                          "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:],
                          }[harm])
    harmed = path.read_bytes()
    done = data_dir("train", "rooms", examples, "--out", stopped, *RECIPE, "--resume", code=FAILED)
    assert str(path) in done.stderr
    assert path.read_bytes() == harmed


def read_metadata(whole):
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8:8 + length])["__metadata__"]


def test_resume_without_a_checkpoint_begins(data_dir, examples, tmp_path):
    want = undisturbed(data_dir, examples, tmp_path)
    done = data_dir("train", "rooms", examples, "--out", tmp_path / "out", *RECIPE, "--resume")
    assert "no checkpoint" in done.stdout
    assert result(tmp_path / "out") == want


def test_loss_that_is_no_number_keeps_the_last_checkpoint(data_dir, examples, tmp_path):
    out = tmp_path / "out"
    done = data_dir("train", "rooms", examples, "--out", out, "--steps", 200, "--batch", 2, "--lr",
                    "100", "--weight-decay", 1, "--checkpoint-steps", 1, "--schedule", "constant",
                    "--warmup", 0, code=FAILED)
    assert "finite" in done.stderr and "--lr" in done.stderr
    tensors = load_file(out / CHECKPOINT)
    assert np.isfinite(tensors["weights"]).all() and tensors["state"][0] >= 1


def test_whole_model_goes_on_to_the_same_bits(data_dir, examples, tmp_path):
    words = ["train", "rooms", examples, "--full", "--steps", 60, "--batch", 2, "--accumulate", 2,
             "--threads", 2, "--eval-split", "0.2", "--eval-every", 3, "--lr", "0.003"]
    data_dir(*words, "--out", tmp_path / "whole")
    out = tmp_path / "out"
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(
            [data_dir.binary, *map(str, words), "--out", out, "--checkpoint-steps", "1", "--resume"],
            env=data_dir.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        wait_for_checkpoint(process, out)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert process.returncode == FAILED and "stopped after update" in stderr
        else:
            assert process.returncode == -number, stderr
    assert "resumed after update" in data_dir(*words, "--out", out, "--resume").stdout
    assert sorted(p.name for p in out.iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir())
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_checkpoint_of_an_adapter_is_none_of_a_whole_model(data_dir, examples, stopped):
    refused = data_dir("train", "rooms", examples, "--out", stopped, "--full", "--resume",
                       code=FAILED)
    assert "--full was unknown when the checkpoint was written" in refused.stderr
    assert (stopped / CHECKPOINT).exists()


def test_full_disk_keeps_the_last_checkpoint(data_dir, examples, tmp_path):
    """A file size limit stands in for the disk: it fails the write of the second checkpoint."""
    out = tmp_path / "out"
    process = start(data_dir, examples, out, "--checkpoint-steps", 1)
    wait_for_checkpoint(process, out)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    before = (out / CHECKPOINT).read_bytes()
    limit = len(before) // 2048  # blocks of 1024 bytes: half of a checkpoint
    words = " ".join(f"'{w}'" for w in map(str, [
        data_dir.binary, "train", "rooms", examples, "--out", out, *RECIPE, "--checkpoint-steps", 1,
        "--resume"]))
    done = subprocess.run(["bash", "-c", f"trap '' XFSZ; ulimit -f {limit}; exec {words}"],
                          env=data_dir.env, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == FAILED
    assert str(out) in done.stderr
    assert (out / CHECKPOINT).read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == [CHECKPOINT]
