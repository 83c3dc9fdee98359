# SPDX-License-Identifier: MIT
"""lorica serve --mlflow-url against a real tracking server: what is published and promoted is there,
whatever was down meanwhile, once, and no request waits for it."""
import json
import time

import pytest

from api import Api
from conftest import Server
from tracking import PASSWORD, USER, Proxy, Tracking

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    server = Tracking(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


class Mirrored:
    """A lorica server that mirrors to a proxy before the tracking server, and may be restarted."""

    def __init__(self, lorica, tracking):
        self.lorica, self.tracking, self.front = lorica, tracking, Proxy(tracking)
        lorica.env.update(tracking.env)
        self.server = None
        self.start()

    def start(self):
        self.server = Server(self.lorica, "--mlflow-url", self.front.url)
        self.api = Api(self.server)

    def stop(self):
        if self.server:
            assert self.server.stop() == 0
        self.server = None

    def restart(self):
        self.stop()
        self.start()

    def wait(self, seconds=90):
        """Waits until MLflow has everything."""
        last = self.api.get("/v1/audit?limit=1000").json["data"][-1]["seq"]
        self.api.wait_metric("lorica_mlflow_seq", last, seconds)
        self.api.wait_metric("lorica_mlflow_failing", 0, seconds)

    def log(self):
        self.server.log.seek(0)
        return self.server.log.read().decode()

    def versions(self, name):
        """The model versions of a name by lorica's number: lists of (number at MLflow, tags)."""
        found = {}
        listed = self.tracking.get("model-versions/search", filter=f"name = '{name}'")
        for one in listed.get("model_versions", []):
            tags = {tag["key"]: tag["value"] for tag in one["tags"]}
            found.setdefault(int(tags["lorica.version"]), []).append((one["version"], tags, one))
        return found

    def alias(self, name, alias):
        """Which of lorica's versions an alias points to."""
        one = self.tracking.get("registered-models/alias", name=name, alias=alias)["model_version"]
        return int(next(t["value"] for t in one["tags"] if t["key"] == "lorica.version"))


@pytest.fixture
def mirrored(data_dir, tracking):
    made = Mirrored(data_dir, tracking)
    yield made
    made.stop()
    made.front.stop()


def test_version_downloaded_from_mlflow_is_what_was_published(mirrored, tracking, adapter,
                                                             tmp_path, monkeypatch):
    mirrored.api.publish_new("heart", adapter(1), manifest='{"loss":1.5}', message="the first",
                             channel="stable")
    version = mirrored.api.get("/v1/adapters/heart/versions/1").json
    mirrored.wait()
    (number, tags, one), = mirrored.versions("heart")[1]
    assert tags["lorica.adapter"] == "heart@1" and tags["lorica.digest"] == version["digest"]
    assert tags["lorica.base_digest"] == version["base_digest"]
    assert tags["lorica.weights_digest"] == version["weights_digest"]
    assert one["description"] == "the first" and one["status"] == "READY"
    assert mirrored.alias("heart", "stable") == 1
    import mlflow
    for name, value in tracking.env.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(tracking.url)
    for uri in (f"models:/heart/{number}", "models:/heart@stable"):
        got = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / uri[-6:]))
        for name in FILES:
            assert open(f"{got}/{name}", "rb").read() == (adapter_dir(tmp_path, 1) / name).read_bytes()
        assert json.load(open(f"{got}/manifest.json", "rb")) == {"loss": 1.5}
    assert PASSWORD not in mirrored.log() and USER + ":" not in mirrored.log()


def adapter_dir(tmp_path, seed):
    return tmp_path / f"adapter-{seed}"


def test_channels_are_aliases_and_follow_promotes_and_rollbacks(mirrored, adapter):
    api = mirrored.api
    for seed in (1, 2):
        api.publish_new("lung", adapter(seed), channel="stable")
    api.publish_new("lung", adapter(3), channel="canary.x")  # no alias may have a dot
    mirrored.wait()
    assert mirrored.alias("lung", "stable") == 2
    assert api.post("/v1/adapters/lung/channels/stable/rollback", {"reason": "x"}).status == 200
    mirrored.wait()
    assert mirrored.alias("lung", "stable") == 1
    assert sorted(mirrored.versions("lung")) == [1, 2, 3]
    api("DELETE", "/v1/adapters/lung/versions/2")
    mirrored.wait()
    assert mirrored.versions("lung")[2][0][1]["lorica.deleted"] == "true"


def test_nothing_waits_for_a_server_that_is_away_and_it_gets_all_later(mirrored, adapter):
    mirrored.front.fault = lambda method, path: "stall"
    api = mirrored.api
    for seed in (1, 2, 3):
        began = time.monotonic()
        api.publish_new("liver", adapter(seed), channel="stable")
        assert time.monotonic() - began < 20  # far below what one request to MLflow may take
    assert mirrored.server.stop() == 0  # nor does the end
    mirrored.front.released.set()
    mirrored.front.fault = lambda method, path: "refuse"
    mirrored.start()
    end = time.monotonic() + 60
    while mirrored.api.metric("lorica_mlflow_failing") != 1:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "event=mlflow_failed" in mirrored.log() and "answered 503" in mirrored.log()
    assert mirrored.api.metric("lorica_mlflow_failures_total") >= 1
    mirrored.front.fault = lambda method, path: None
    mirrored.wait()
    assert sorted(mirrored.versions("liver")) == [1, 2, 3]
    assert mirrored.alias("liver", "stable") == 3


@pytest.mark.parametrize("call", ["registered-models/create", "runs/create",
                                  "model-versions/create"])
def test_answer_that_gets_lost_makes_nothing_twice(mirrored, adapter, call):
    name = call.replace("/", "-")
    lost = []

    def lose_once(method, path):
        if call in path and not lost:
            lost.append(path)
            return "lose"
        return None
    mirrored.front.fault = lose_once
    mirrored.api.publish_new(name, adapter(1), channel="stable")
    mirrored.wait()
    assert lost
    assert [len(found) for found in mirrored.versions(name).values()] == [1]
    runs = [run for run in mirrored.tracking.runs("lorica-versions")
            if run["info"]["run_name"] == f"{name}@1"]
    assert len(runs) == 1 and runs[0]["info"]["status"] == "FINISHED"


def test_lost_state_is_found_by_tags(mirrored, adapter):
    mirrored.api.publish_new("spleen", adapter(1), channel="stable")
    mirrored.wait()
    state = mirrored.lorica.data / "mlflow.json"
    assert json.loads(state.read_text())["url"] == mirrored.front.url
    mirrored.stop()
    state.unlink()
    mirrored.start()
    mirrored.wait()
    assert [len(found) for found in mirrored.versions("spleen").values()] == [1]
    assert mirrored.api.metric("lorica_mlflow_published_total") == 0
    mirrored.restart()  # and with it nothing is asked again
    del mirrored.front.seen[:]
    mirrored.wait()
    assert mirrored.front.seen == []


def test_what_is_published_without_mlflow_is_there_after(data_dir, tracking, adapter):
    server = Server(data_dir)
    Api(server).publish_new("kidney", adapter(1), channel="stable")
    assert "lorica_mlflow" not in Api(server).get("/metrics").body.decode()
    assert server.stop() == 0
    (data_dir.data / "lorica.conf").write_text(f"mlflow-url = {tracking.url}\n")
    data_dir.env.update(tracking.env)
    server = Server(data_dir)
    try:
        api = Api(server)
        last = api.get("/v1/audit?limit=1000").json["data"][-1]["seq"]
        api.wait_metric("lorica_mlflow_seq", last, 90)
    finally:
        server.stop()
    found = tracking.get("model-versions/search", filter="name = 'kidney'")["model_versions"]
    assert len(found) == 1


@pytest.mark.parametrize("url, says", [
    ("nonsense", "mlflow-url"), ("http://mlflow.example", "without encryption")])
def test_bad_address_ends_the_start(data_dir, tracking, url, says):
    done = data_dir("serve", "--listen", "127.0.0.1:0", "--mlflow-url", url, code=1, **tracking.env)
    assert says in done.stderr
