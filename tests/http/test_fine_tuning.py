# SPDX-License-Identifier: MIT
"""Fine-tuning jobs: the openai package unchanged, on the tiny base and the real trainer."""
import json
import signal
import time

import openai
import pytest

from api import Api
from conftest import Server
from jobs import (JOBS, LONG, connected, create, digest, directory, events, lines, make_key, refusal,
                  succeed, upload, wait, wait_for_step)


@pytest.fixture(scope="module")
def client(server):
    with connected(server) as made:
        yield made


# -- a job from its making to its adapter --

def test_job_publishes_what_it_learnt_as_candidate(server, client):
    held = upload(client, lines(4, "hall"), "halls.jsonl")
    job = create(client, "whole", validation_file=held, metadata={"team": "a/b"},
                 hyperparameters={"n_epochs": 3, "batch_size": 5, "learning_rate_multiplier": 2.5})
    assert job.object == "fine_tuning.job" and job.status in ("queued", "running")
    assert job.model == "tiny" and job.seed == 3 and job.fine_tuned_model is None
    assert job.finished_at is None and job.error is None and job.result_files == []
    assert job.metadata == {"team": "a/b"} and job.validation_file == held
    asked = job.method.supervised.hyperparameters
    assert (asked.n_epochs, asked.batch_size, asked.learning_rate_multiplier) == (3, 5, 2.5)
    done = succeed(client, job)
    assert done.fine_tuned_model == "whole@1" and done.trained_tokens > 0
    assert done.created_at <= done.finished_at <= time.time() + 1
    api = Api(server)
    assert api("GET", "/v1/adapters/whole/channels/candidate").json["version"] == 1
    assert api("GET", "/v1/adapters/whole/channels/stable").json["version"] == 0
    version = api("GET", "/v1/adapters/whole/versions/1").json
    assert version["created_by"] == "admin" and job.id in version["message"]
    manifest = api("GET", "/v1/adapters/whole/versions/1/manifest.json").json
    assert manifest["fine_tuning_job"] == job.id and manifest["training_file"] == job.training_file
    assert manifest["lr"] == 2.5e-3 and manifest["batch"] == 5 and manifest["seed"] == 3
    assert manifest["epochs"] == 3 and manifest["steps"] == 12 and manifest["rank"] == 8
    assert manifest["eval_set"] == "halls" and manifest["eval_loss"] < manifest["eval_loss_base"]
    assert manifest["train_loss"] > 0 and manifest["tokens"] == done.trained_tokens
    sha = __import__("hashlib").sha256(lines()).hexdigest()
    assert manifest["dataset_digests"] == ["sha256:" + sha]
    answer = client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "Where?"}], max_tokens=2)
    assert answer.model == "whole@1"
    page = client.fine_tuning.jobs.checkpoints.list(job.id)
    kept = page.data
    assert page.first_id == page.last_id == kept[0].id
    assert [c.fine_tuned_model_checkpoint for c in kept] == ["whole@1"]
    assert kept[0].step_number == manifest["best_step"] and kept[0].fine_tuning_job_id == job.id
    assert kept[0].metrics.full_valid_loss == manifest["eval_loss"]
    assert sorted(p.name for p in directory(server, job).iterdir()) == ["events.jsonl", "job.json"]


def test_events_of_a_job_are_listed_newest_first_and_streamed_oldest_first(server, client):
    job = create(client, "told", hyperparameters={"n_epochs": 4, "batch_size": 4})
    path = f"{JOBS}/{job.id}/events"
    raw = Api(server)("GET", path + "?stream=true")  # from its beginning to its end
    assert raw.status == 200 and raw.headers["content-type"].startswith("text/event-stream")
    data = [line[6:] for line in raw.body.decode().splitlines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    streamed = [json.loads(d) for d in data]
    assert wait(client, job).status == "succeeded"
    listed = events(client, job)
    assert [e.id for e in listed] == [e["id"] for e in streamed]
    assert len({e.id for e in listed}) == len(listed)
    steps = [e.data["step"] for e in listed if e.type == "metrics"]
    assert steps == list(range(1, 21))
    first = next(e for e in listed if e.type == "metrics")
    assert first.data["train_loss"] > 0 and first.data["total_steps"] == 20
    assert listed[-1].type == "message" and "told@1" in listed[-1].message
    paged = [e.id for e in client.fine_tuning.jobs.list_events(job.id, limit=3)]  # all pages
    assert paged == [e.id for e in listed][::-1]
    assert Api(server)("GET", path + "?after=ftevent-0").status == 404
    assert Api(server)("GET", path + "?stream=perhaps").status == 400
    for narrowing in ("limit=3", f"after={listed[0].id}"):
        refused = Api(server)("GET", f"{path}?stream=true&{narrowing}")
        assert refused.status == 400 and refused.json["error"]["param"] in narrowing


def test_the_old_form_of_hyperparameters_and_auto_are_taken(client):
    job = client.fine_tuning.jobs.create(
        model="base", training_file=upload(client), suffix="old",
        hyperparameters={"n_epochs": 1, "batch_size": "auto"},
        extra_body={"lorica": {"rank": 4, "alpha": 8, "max_length": 64}})
    assert job.hyperparameters.n_epochs == 1 and job.hyperparameters.batch_size == 4
    assert job.lorica["rank"] == 4 and job.seed >= 0
    assert succeed(client, job).fine_tuned_model == "old@1"


def test_deleting_the_file_changes_nothing_for_its_job(client):
    job = create(client, "kept")
    client.files.delete(job.training_file)
    assert succeed(client, job).fine_tuned_model == "kept@1"


def test_jobs_are_listed_by_age_metadata_and_page(client):
    made = [create(client, "listed", metadata={"n": str(i), "set": "x&y"}) for i in range(3)]
    for job in made:
        wait(client, job)
    found = client.fine_tuning.jobs.list(limit=2, extra_query={"metadata[set]": "x&y"})
    assert [j.id for j in found.data] == [made[2].id, made[1].id] and found.has_more
    assert [j.id for j in client.fine_tuning.jobs.list(
        limit=1, extra_query={"metadata[set]": "x&y"})] == [j.id for j in made[::-1]]
    assert [j.id for j in client.fine_tuning.jobs.list(extra_query={"metadata[n]": "1"})] == [
        made[1].id]
    bare = client.fine_tuning.jobs.list(limit=100, extra_query={"metadata": "null"})
    assert made[0].id not in [j.id for j in bare.data]
    assert refusal(openai.NotFoundError, client.fine_tuning.jobs.list, after="ftjob-x")


# -- interrupting --

@pytest.fixture(scope="module")
def undisturbed(server, client):
    """The digest that a LONG job ends in."""
    return digest(server, succeed(client, create(client, "calm",
                                                 hyperparameters=LONG)).fine_tuned_model)


def test_a_paused_job_goes_on_to_the_same_adapter(server, client, undisturbed):
    job = create(client, "calm", hyperparameters=LONG)
    wait_for_step(client, job)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    refused = refusal(openai.BadRequestError, client.fine_tuning.jobs.pause, job.id)
    assert "paused" in refused.message
    other = create(client, "between")  # runs meanwhile
    succeed(client, other)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    shown = events(client, job)
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    done = succeed(client, job)
    assert digest(server, done.fine_tuned_model) == undisturbed
    assert events(client, job)[:len(shown)] == shown
    steps = [e["data"]["step"] for e in map(json.loads, open(
        directory(server, job) / "events.jsonl", encoding="utf-8")) if e["type"] == "metrics"]
    assert steps == list(range(1, 3001))
    refusal(openai.BadRequestError, client.fine_tuning.jobs.resume, job.id)


def test_a_cancelled_job_publishes_nothing(server, client):
    running = create(client, "never", hyperparameters=LONG)
    queued = create(client, "never")
    wait_for_step(client, running)
    for job in (queued, running):
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        for call in (client.fine_tuning.jobs.cancel, client.fine_tuning.jobs.pause,
                     client.fine_tuning.jobs.resume):
            assert "cancelled" in refusal(openai.BadRequestError, call, job.id).message
    succeed(client, create(client, "after"))  # the trainer is free again
    assert Api(server)("GET", "/v1/adapters/never").status == 404
    for job in (queued, running):
        assert client.fine_tuning.jobs.retrieve(job.id).finished_at
        assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []
        assert sorted(p.name for p in directory(server, job).iterdir()) == ["events.jsonl",
                                                                            "job.json"]


def test_jobs_run_one_at_a_time_in_the_order_of_their_making(client):
    jobs = [create(client, f"row-{i}", hyperparameters={"n_epochs": 40}) for i in range(3)]
    ends = []
    while len(ends) < 3:
        listed = {j.id: j.status for j in client.fine_tuning.jobs.list()}  # all at one moment
        states = [listed[j.id] for j in jobs]
        assert states.count("running") <= 1 and "failed" not in states
        ends += [j for j, s in zip(jobs, states) if s == "succeeded" and j not in ends]
        time.sleep(0.02)
    assert ends == jobs


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_survives_the_server(data_dir, number):
    first = Server(data_dir)
    with connected(first) as client:
        calm = succeed(client, create(client, "calm", hyperparameters=LONG))
        want = digest(first, calm.fine_tuned_model)
        job = create(client, "storm", hyperparameters=LONG)
        waiting = create(client, "waiting")
        wait_for_step(client, job)
        shown = events(client, job)
    first.process.send_signal(number)
    first.process.wait(60)
    again = Server(data_dir)
    try:
        with connected(again) as client:
            done = succeed(client, job)
            assert digest(again, done.fine_tuned_model) == want
            assert done.created_at == job.created_at
            assert events(client, job)[:len(shown)] == shown
            succeed(client, waiting)
            assert client.fine_tuning.jobs.retrieve(calm.id).fine_tuned_model == "calm@1"
    finally:
        again.stop()


def test_what_is_damaged_or_half_made_does_not_stop_the_server(data_dir):
    jobs = data_dir.data / "train/jobs"
    half, damaged = jobs / ("new-ftjob-" + 24 * "0"), jobs / ("ftjob-" + 24 * "1")
    for path in (half, half / "held", damaged):
        path.mkdir(parents=True)
    (half / "held/a").write_text("x")
    (damaged / "job.json").write_text('{"id":')
    running = Server(data_dir)
    try:
        assert not half.exists() and (damaged / "job.json").read_text() == '{"id":'
        with connected(running) as client:
            found = client.fine_tuning.jobs.retrieve(damaged.name)
            assert found.status == "failed" and found.error.code == "damaged"
            succeed(client, create(client))
    finally:
        assert running.stop() == 0


# -- who may, and what may not be published --

def test_a_key_sees_its_own_jobs_alone(server, client):
    with connected(server, make_key(server, "own", "own-*")) as own:
        job = create(own, "own-one")
        succeed(own, job)
        assert [j.id for j in own.fine_tuning.jobs.list()] == [job.id]
        assert refusal(openai.PermissionDeniedError, create, own, "other")
        foreign = create(client, "foreign")
        for call in (own.fine_tuning.jobs.retrieve, own.fine_tuning.jobs.cancel,
                     own.fine_tuning.jobs.pause, own.fine_tuning.jobs.resume,
                     own.fine_tuning.jobs.list_events, own.fine_tuning.jobs.checkpoints.list):
            assert refusal(openai.NotFoundError, call, foreign.id)
        refused = refusal(openai.BadRequestError, own.fine_tuning.jobs.create, model="tiny",
                          suffix="own-two", training_file=foreign.training_file)
        assert refused.param == "training_file"
        succeed(client, foreign)
    assert client.fine_tuning.jobs.retrieve(job.id).organization_id == "own"
    with connected(server, make_key(server, "asks", role="infer")) as asks:
        assert refusal(openai.PermissionDeniedError, asks.fine_tuning.jobs.list)
    assert Api(server, "lk_" + 43 * "x")("GET", JOBS).status == 401


def test_a_key_that_was_revoked_publishes_nothing(server, client):
    with connected(server, make_key(server, "leaver")) as leaver:
        job = create(leaver, "left", hyperparameters=LONG)
        wait_for_step(leaver, job)
    assert Api(server)("DELETE", "/v1/keys/leaver").status == 200
    done = wait(client, job)
    assert done.status == "failed" and done.error.code == "key_not_in_force"
    assert "leaver" in done.error.message
    assert Api(server)("GET", "/v1/adapters/left").status == 404


def test_a_gate_on_candidate_refuses(server, client):
    api = Api(server)
    succeed(client, create(client, "gated"))
    policy = "/v1/adapters/gated/channels/candidate/policy"
    set_to = api("PUT", policy, {"max_rank": 2}, if_match='"0"')
    assert set_to.status == 200, set_to.body
    job = create(client, "gated", seed=4)
    done = wait(client, job)
    assert done.status == "failed" and done.error.code == "policy_not_met"
    assert "rank" in done.error.message
    assert api("GET", "/v1/adapters/gated").json["latest"] == 1
    assert (directory(server, job) / "out/adapter_model.safetensors").exists()
    last = api("GET", "/v1/adapters/gated/history?order=desc&limit=1").json["data"][0]
    assert last["kind"] == "refused" and last["detail"]["attempt"] == "publish"


# -- bad input --

@pytest.mark.parametrize("wrong, param", [
    ({"model": "gpt-4o-mini"}, "model"),
    ({"suffix": None}, "suffix"),
    ({"suffix": "No Name"}, "suffix"),
    ({"suffix": "tiny"}, "suffix"),
    ({"training_file": "file-000000000000000000000000"}, "training_file"),
    ({"training_file": "../../etc/passwd"}, "training_file"),
    ({"validation_file": "file-0"}, "validation_file"),
    ({"seed": -1}, "seed"),
    ({"seed": 0.5}, "seed"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"metadata": {"a" * 65: "x"}}, "metadata"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
    ({"method": {"type": "dpo"}}, "method.type"),
    ({"method": {"type": "reinforcement"}}, "method.type"),
    ({"hyperparameters": {"n_epochs": 0}}, "n_epochs"),
    ({"hyperparameters": {"n_epochs": 1000, "batch_size": 1025}}, "batch_size"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, "learning_rate_multiplier"),
    ({"lorica": {"rank": 4096}}, "lorica.rank"),
    ({"lorica": {"ranks": 4}}, None),
    ({"speed": "fast"}, None),
])
def test_what_is_asked_wrongly_is_refused_by_name(server, client, wrong, param):
    body = {"model": "tiny", "training_file": upload(client), "suffix": "bad", **wrong}
    answer = Api(server)("POST", JOBS, body)
    assert answer.status == (404 if "model" in wrong else 400), answer.body
    assert answer.error["param"] == param and answer.error["message"]
    assert not [p for p in (server.lorica.data / "train/jobs").iterdir()
                if p.name.startswith("new-")]


def test_training_on_top_of_an_adapter_is_refused_by_name(client):
    model = succeed(client, create(client, "below")).fine_tuned_model
    refused = refusal(openai.BadRequestError, create, client, "above", model=model)
    assert "below@1" in refused.message and "not supported" in refused.message


@pytest.mark.parametrize("content, words", [
    (b'{"prompt":"a","completion":"b"}\n{"prompt":\n', ["line 2"]),
    (b'{"prompt":"a","completion":"b"}\n\n{"prompt":"a"}\n', ["line 2", "2 bad lines"]),
    (b'\xff\xfe\n', ["line 1"]),
    (b'{"messages":[{"role":"user","content":"x"}]}\n', ["line 1"]),
])
def test_bad_lines_are_refused_with_file_and_place(client, content, words):
    for name in ("training_file", "validation_file"):
        files = {"training_file": upload(client), name: upload(client, content, "bad.jsonl")}
        refused = refusal(openai.BadRequestError, client.fine_tuning.jobs.create, model="tiny",
                          suffix="bad", **files)
        assert refused.param == name and "bad.jsonl" in refused.message
        assert files[name] in refused.message and "/" not in refused.message
        assert all(word in refused.message for word in words), refused.message


def test_jobs_of_a_key_are_bounded(server, client):
    with connected(server, make_key(server, "many", "many-*")) as many:
        file = upload(many)
        method = {"type": "supervised", "supervised": {"hyperparameters": LONG}}
        jobs = [many.fine_tuning.jobs.create(model="tiny", training_file=file, suffix="many-x",
                                             method=method) for _ in range(16)]
        refused = refusal(openai.RateLimitError, many.fine_tuning.jobs.create, model="tiny",
                          training_file=file, suffix="many-x")
        assert "cancel" in refused.message
        gauge = Api(server)("GET", "/metrics").body.decode()
        assert 'lorica_training_jobs{state="queued"}' in gauge
        for job in jobs[::-1]:
            assert many.fine_tuning.jobs.cancel(job.id).status == "cancelled"


@pytest.mark.parametrize("option", [["--no-training"], ["--training-memory-mb", "1"]])
def test_settings_bound_training(data_dir, option):
    running = Server(data_dir, *option)
    try:
        with connected(running) as client:
            kind = openai.PermissionDeniedError if len(option) == 1 else openai.BadRequestError
            refused = refusal(kind, create, client)
            assert option[0][2:] in refused.message
    finally:
        assert running.stop() == 0
