# SPDX-License-Identifier: MIT
"""What the tests of fine-tuning jobs share: the openai package unchanged, and how to wait for a job."""
import contextlib
import json
import ssl
import time

import openai
import pytest

from api import Api

JOBS = "/v1/fine_tuning/jobs"
END_SECONDS = 400
OVER = ("succeeded", "failed", "cancelled")
# A job that lasts: what interrupts it must come before it has ended.
LONG = {"n_epochs": 600, "batch_size": 4}


def lines(count=17, word="room"):
    return "".join(json.dumps({"prompt": f"Where is {word} {i}?" + " Please." * (i % 5),
                               "completion": f"It is on floor {i % 4}."}) + "\n"
                   for i in range(count)).encode()


@contextlib.contextmanager
def connected(server, key=None):
    context = ssl.create_default_context(cafile=str(server.ca))
    transport = openai.DefaultHttpxClient(verify=context)
    with openai.OpenAI(base_url=server.url + "/v1", api_key=key or server.key, max_retries=0,
                       http_client=transport) as made:
        yield made


def upload(client, content=None, name="rooms.jsonl"):
    return client.files.create(file=(name, content or lines()), purpose="fine-tune").id


def create(client, name="rooms", content=None, hyperparameters=None, **more):
    options = {"model": "tiny", "training_file": upload(client, content), "suffix": name,
               "seed": 3, **more}
    method = {"type": "supervised",
              "supervised": {"hyperparameters": hyperparameters or {"n_epochs": 2}}}
    return client.fine_tuning.jobs.create(method=method, **options)


def wait(client, job, *states, seconds=END_SECONDS):
    states = states or OVER
    end = time.monotonic() + seconds
    while (found := client.fine_tuning.jobs.retrieve(job.id)).status not in states:
        assert time.monotonic() < end, found
        assert found.status not in OVER, found
        time.sleep(0.05)
    return found


def succeed(client, job):
    done = wait(client, job)
    assert done.status == "succeeded", done.error
    return done


def wait_for_step(client, job, step=1):
    """Until there is an event of that update."""
    end = time.monotonic() + END_SECONDS
    while not any((e.data or {}).get("step", 0) >= step
                  for e in client.fine_tuning.jobs.list_events(job.id, limit=5).data):
        assert client.fine_tuning.jobs.retrieve(job.id).status not in OVER
        assert time.monotonic() < end
        time.sleep(0.05)


def events(client, job):
    """All of them, page by page; the oldest first."""
    return list(client.fine_tuning.jobs.list_events(job.id, limit=1000))[::-1]


def digest(server, model):
    name, version = model.split("@")
    return Api(server)("GET", f"/v1/adapters/{name}/versions/{version}").json["digest"]


def directory(server, job):
    return server.lorica.data / "train/jobs" / job.id


def make_key(server, name, *globs, role="publish"):
    answer = Api(server)("POST", "/v1/keys", {"name": name, "role": role, "adapters": list(globs)})
    assert answer.status == 201, answer.body
    return answer.json["key"]


def refusal(kind, call, *words, **options):
    with pytest.raises(kind) as caught:
        call(*words, **options)
    return caught.value
