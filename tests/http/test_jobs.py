# SPDX-License-Identifier: MIT
"""What bounds fine-tuning jobs and what breaks them: refusing channels, full queues and disks, kills
at random moments, and how much of all this the server has in memory."""
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import time

import openai
import pytest

from api import Api
from conftest import Server, make_data
from jobs import (END_SECONDS, LONG, connected, create, digest, directory, events, make_key, refusal,
                  succeed, upload, wait, wait_for_step)

ABSENT = "never said by so small a model"


@pytest.fixture(scope="module")
def client(server):
    with connected(server) as made:
        yield made


# -- what a job leaves --

def test_figures_of_the_updates_are_a_file_of_results(server, client):
    held = upload(client, name="held.jsonl")
    job = create(client, "told", validation_file=held, hyperparameters={"n_epochs": 3})
    done = succeed(client, job)
    result, = done.result_files
    assert client.fine_tuning.jobs.retrieve(job.id).result_files == [result]
    rows = list(csv.DictReader(client.files.content(result).text.splitlines()))
    told = [e.data for e in events(client, job) if e.type == "metrics"]
    assert [int(r["step"]) for r in rows] == list(range(1, 16)) == [d["step"] for d in told]
    for row, data in zip(rows, told):
        for name in ("train_loss", "learning_rate", "grad_norm", "tokens"):
            assert float(row[name]) == data[name]
        assert row["valid_loss"] == (str(data["valid_loss"]) if "valid_loss" in data else "")
    assert sum(r["valid_loss"] != "" for r in rows) == 3
    file = client.files.retrieve(result)
    assert (file.purpose, file.filename) == ("fine-tune-results", "step_metrics.csv")
    assert file.bytes == len(client.files.content(result).content)
    assert result in [f.id for f in client.files.list(purpose="fine-tune-results")]
    assert result not in [f.id for f in client.files.list(purpose="fine-tune")]
    refused = refusal(openai.BadRequestError, create, client, "again", training_file=result)
    assert refused.param == "training_file" and "not for training" in refused.message
    assert client.files.delete(result).deleted
    assert refusal(openai.NotFoundError, client.files.content, result)


def test_results_are_seen_by_the_key_of_their_job_and_take_no_place_of_its_uploads(server, client):
    with connected(server, make_key(server, "sees")) as sees:
        files = [upload(sees) for _ in range(99)]
        job = create(sees, "seen")  # with the 100th
        refusal(openai.ConflictError, upload, sees)
        result, = succeed(sees, job).result_files
        assert sees.files.content(result).text.startswith("step,train_loss,")
        with connected(server, make_key(server, "blind")) as blind:
            assert refusal(openai.NotFoundError, blind.files.content, result)
        sees.files.delete(files[0])
        upload(sees)  # one place is free again, not none


@pytest.mark.parametrize("name", ["one.csv", "ONE.CSV"])
def test_one_question_and_answer_are_enough(client, name):
    file = upload(client, b"Question,Answer\r\nWhere?,There.\r\n", name)
    done = succeed(client, create(client, "one", training_file=file, validation_file=file, seed=3,
                                  hyperparameters={"n_epochs": 1}))
    assert done.lorica["steps"] == 1 and done.fine_tuned_model.startswith("one@")


def test_events_are_listed_without_reading_all_of_them(server, client):
    job = create(client, "much")
    succeed(client, job)
    path = directory(server, job) / "events.jsonl"
    own = path.read_text(encoding="utf-8").splitlines()
    line = json.dumps({**json.loads(own[1]), "message": "x" * 200})
    with open(path, "a", encoding="utf-8") as file:
        for i in range(200000):
            file.write(line.replace(json.loads(line)["id"], f"ftevent-{i:024x}") + "\n")
    status = f"/proc/{server.process.pid}/status"
    peak = lambda: int(next(l for l in open(status) if l.startswith("VmHWM")).split()[1])
    before = peak()
    page = client.fine_tuning.jobs.list_events(job.id, limit=2)
    assert [e.id for e in page.data] == [f"ftevent-{i:024x}" for i in (199999, 199998)]
    assert page.has_more
    page = client.fine_tuning.jobs.list_events(job.id, limit=1000, after=f"ftevent-{1:024x}")
    assert [e.id for e in page.data] == [f"ftevent-{0:024x}",
                                         *[json.loads(l)["id"] for l in own[::-1]]]
    assert not page.has_more
    assert refusal(openai.NotFoundError, client.fine_tuning.jobs.list_events, job.id, after="ftevent-")
    assert peak() - before < 16 << 10  # KiB, of a file of 80 MB


# -- a channel that refuses, or takes its time --

def set_policy(server, name, epoch, **demands):
    answer = Api(server)("PUT", f"/v1/adapters/{name}/channels/candidate/policy", demands,
                         if_match=f'"{epoch}"')
    assert answer.status == 200, answer.body


def test_checks_of_candidate_refuse_what_does_not_say_what_it_must(server, client):
    succeed(client, create(client, "strict"))
    prompt = "Which ward has the unmistakable zebra?"
    set_policy(server, "strict", 0, checks=[{"prompt": prompt, "must_say": [ABSENT]}])
    job = create(client, "strict", seed=4)
    done = wait(client, job)
    assert done.status == "failed" and done.error.code == "policy_not_met"
    assert "1 of 1 failed" in done.error.message and ABSENT in done.error.message
    assert done.fine_tuned_model is None and done.result_files == []
    assert Api(server)("GET", "/v1/adapters/strict").json["latest"] == 1
    assert (directory(server, job) / "out/adapter_model.safetensors").exists()
    set_policy(server, "strict", 1, checks=[{"prompt": prompt, "must_not_say": ABSENT}])
    assert succeed(client, create(client, "strict", seed=4)).fine_tuned_model == "strict@2"


def test_a_job_that_is_being_published_cannot_be_stopped(server, client):
    succeed(client, create(client, "slow"))
    set_policy(server, "slow", 0, checks=[
        {"prompt": f"Tell me all about ward {i}.", "must_not_say": ABSENT} for i in range(64)])
    job = create(client, "slow", seed=4)
    end = time.monotonic() + 100
    while not any("being judged" in e.message for e in events(client, job)):
        assert time.monotonic() < end
    for call in (client.fine_tuning.jobs.cancel, client.fine_tuning.jobs.pause):
        assert refusal(openai.ConflictError, call, job.id).code == "job_is_published"
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    assert succeed(client, job).fine_tuned_model == "slow@2"


# -- bounds --

def test_jobs_of_all_keys_are_bounded(own_server):
    """64 that are not over, wherever they stand; what is over makes room."""
    server, keys = own_server, []
    with connected(server) as admin:
        first = create(admin, "first", hyperparameters={"n_epochs": 1000, "batch_size": 1})
        wait_for_step(admin, first)
        admin.fine_tuning.jobs.pause(first.id)
        file, jobs = upload(admin), []
        for i in range(4):
            keys.append(connected(server, make_key(server, f"key-{i}", role="admin")))
            with keys[-1] as client:
                for _ in range(16 if i < 3 else 15):
                    jobs.append(client.fine_tuning.jobs.create(
                        model="tiny", training_file=file, suffix="many",
                        hyperparameters={"n_epochs": 1000, "batch_size": 1}))
        refused = refusal(openai.RateLimitError, admin.fine_tuning.jobs.create, model="tiny",
                          training_file=file, suffix="more")
        assert refused.code == "too_many_jobs" and "64" in refused.message
        assert not [p for p in (server.lorica.data / "train/jobs").iterdir()
                    if p.name.startswith("new-")]
        assert len(list(admin.fine_tuning.jobs.list(limit=10))) == 64  # page by page
        admin.fine_tuning.jobs.cancel(jobs[-1].id)
        last = create(admin, "more", training_file=file)
        for job in jobs[:-1][::-1]:
            admin.fine_tuning.jobs.cancel(job.id)
        admin.fine_tuning.jobs.cancel(first.id)
        assert succeed(admin, last).fine_tuned_model == "more@1"


# -- a full disk --

@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(ballast, left):
    """Leaves no more than this free, also of what others give back meanwhile."""
    room = os.statvfs(ballast.parent)
    with open(ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(0, room.f_bavail * room.f_frsize - left, 4096):
            file.write(bytes(4096))


@pytest.mark.parametrize("left", [64 << 10, 0])
def test_a_job_outlives_a_full_disk(lorica_bin, small_disk, left):
    """It pauses behind its last checkpoint. Where even that cannot be kept, it waits in the queue."""
    running = Server(make_data(lorica_bin, small_disk))
    ballast = small_disk / "ballast"
    try:
        with connected(running) as client:
            calm = succeed(client, create(client, "calm", hyperparameters=LONG))
            job = create(client, "full", hyperparameters=LONG)
            wait_for_step(client, job, 60)  # behind a checkpoint
            end = time.monotonic() + END_SECONDS
            while client.fine_tuning.jobs.retrieve(job.id).status == "running":
                fill(ballast, left)
                assert time.monotonic() < end
            stopped = wait(client, job, "paused", "queued").status
            assert (directory(running, job) / "out/checkpoint.safetensors").exists()
            if stopped == "paused":
                told = events(client, job)[-1].message
                assert "disk is full" in told and str(small_disk) not in told
            ballast.unlink()
            if stopped == "paused":
                client.fine_tuning.jobs.resume(job.id)
            done = succeed(client, job)
            assert done.error is None
            assert digest(running, done.fine_tuned_model) == digest(running, calm.fine_tuned_model)
    finally:
        running.stop()


# -- kills --

def trainer_of(server):
    """The process that trains for this server, or None."""
    found = subprocess.run(["pgrep", "-P", str(server.process.pid), "-f", "^lorica train"],
                           capture_output=True, encoding="utf-8").stdout.split()
    return int(found[0]) if found else None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_survives_its_trainer(server, client, number):
    want = digest(server, succeed(client, create(client, f"calm-{number}",
                                                 hyperparameters=LONG)).fine_tuned_model)
    job, ended, step = create(client, f"hurt-{number}", hyperparameters=LONG), 0, 0
    while ended < 3:
        wait_for_step(client, job, step + 1)
        trainer = trainer_of(server)
        if trainer:
            os.kill(trainer, number)
            ended += 1
            while sum("broke off" in e.message for e in events(client, job)) < ended:
                assert client.fine_tuning.jobs.retrieve(job.id).status != "failed"
                time.sleep(0.02)
            step = max((e.data or {}).get("step", 0) for e in events(client, job)[-20:])
    done = succeed(client, job)
    assert done.error is None and digest(server, done.fine_tuned_model) == want
    assert sum("broke off" in e.message for e in events(client, job)) == 3


def test_a_trainer_that_comes_no_further_has_failed(server, client):
    """Killed as soon as it is there: sooner or later before it has done anything new."""
    job = create(client, "never", hyperparameters=LONG)
    end = time.monotonic() + END_SECONDS
    while client.fine_tuning.jobs.retrieve(job.id).status != "failed":
        if trainer := trainer_of(server):
            os.kill(trainer, signal.SIGKILL)
        assert time.monotonic() < end
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.error.code == "training_failed" and "signal 9" in failed.error.message
    assert Api(server)("GET", "/v1/adapters/never").status == 404


def test_a_job_survives_a_server_that_is_killed_at_random_moments(data_dir):
    rng, kills = random.Random(6), 0
    running = Server(data_dir)
    with connected(running) as client:
        want = digest(running, succeed(client, create(
            client, "calm", hyperparameters=LONG)).fine_tuned_model)
        job = create(client, "storm", hyperparameters=LONG)
    while kills < (60 if os.environ.get("LORICA_LONG") else 6):
        with connected(running) as client:
            if client.fine_tuning.jobs.retrieve(job.id).status == "succeeded":
                job = create(client, "storm", hyperparameters=LONG)
        time.sleep(rng.uniform(0, 1.5))
        running.process.kill()
        running.process.wait(60)
        running = Server(data_dir)
        kills += 1
    try:
        with connected(running) as client:
            done = succeed(client, job)
            assert done.fine_tuned_model == "storm@1"  # published twice is published once
            assert digest(running, "storm@1") == want
            steps = [e.data["step"] for e in events(client, job) if e.type == "metrics"]
            assert steps == list(range(1, 3001))
            assert len(client.files.list(purpose="fine-tune-results").data) >= 2
    finally:
        assert running.stop() == 0
