# SPDX-License-Identifier: MIT
"""Versions out of service: delete, undelete, retention and sweep, over HTTP and the command line."""
import json
import threading
import time

import pytest

from api import Api
from conftest import Server, write_adapter

ADAPTERS = "/v1/adapters"


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Adapter directories by seed, made once."""
    parent, made = tmp_path_factory.mktemp("adapters"), {}

    def make(seed):
        if seed not in made:
            made[seed] = write_adapter(parent / str(seed), seed)
        return made[seed]
    return make


def version(name, number):
    return f"{ADAPTERS}/{name}/versions/{number}"


def delete(api, name, number, body=None):
    return api("DELETE", version(name, number), body)


def undelete(api, name, number, body=None):
    return api.post(version(name, number) + "/undelete", body)


def kinds(api, name):
    return [r["kind"] for r in api.get(f"{ADAPTERS}/{name}/history").json["data"]]


def test_what_is_deleted_answers_no_more_and_says_so(api, dirs):
    for seed in (1, 2):
        api.publish_new("gone", dirs(seed), channel="stable")
    before = api.get(version("gone", 1)).json
    assert (before["deleted"], before["deleted_by"], before["swept"]) == (None, None, False)
    began = int(time.time())
    deleted = delete(api, "gone", 1, {"reason": "wrong ward"})
    assert deleted.status == 200, deleted.body
    assert began <= deleted.json["deleted"] <= time.time()
    assert deleted.json == {**before, "deleted": deleted.json["deleted"], "deleted_by": "admin"}
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(deleted.json["deleted"]))
    refused = api.complete("gone@1")
    assert refused.status == 404 and refused.error["code"] == "model_not_found"
    assert f"gone@1 was deleted on {when} by admin" in refused.error["message"]
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        answer = api.get(f"{version('gone', 1)}/{file}")
        assert answer.status == 404 and "was deleted on" in answer.error["message"]
    assert api.get(version("gone", 1)).json == deleted.json
    listed = api.get(f"{ADAPTERS}/gone/versions").json["data"]
    assert [(v["version"], v["deleted"]) for v in listed] == [(1, deleted.json["deleted"]), (2, None)]
    record = api.get(f"{ADAPTERS}/gone/history").json["data"][-1]
    assert (record["kind"], record["version"], record["message"]) == ("delete", 1, "wrong ward")
    again = delete(api, "gone", 1)
    assert again.status == 404 and "was deleted on" in again.error["message"]
    assert api.complete("gone").headers["lorica-adapter"] == "gone@2"


def test_a_promote_refuses_and_a_rollback_passes_what_is_deleted(api, dirs):
    for seed in (1, 2, 3):
        api.publish_new("past", dirs(seed), channel="stable")
    assert delete(api, "past", 2).status == 200
    stable = f"{ADAPTERS}/past/channels/stable"
    assert api("PUT", stable, {"version": 2}, if_match='"3"').status == 404
    assert api.post(stable + "/rollback").json["version"] == 1
    assert api.complete("past").headers["lorica-adapter"] == "past@1"


def test_a_delete_is_refused_while_a_channel_points_there(api, dirs):
    api.publish_new("held", dirs(1), channel="stable")
    api.publish_new("held", dirs(2), channel="trial")
    before = kinds(api, "held")
    for number, channel in ((1, "stable"), (2, "trial")):
        refused = delete(api, "held", number)
        assert refused.status == 409
        assert f"channel {channel} points to it" in refused.error["message"]
    assert kinds(api, "held") == before + ["refused", "refused"]
    assert api.complete("held").headers["lorica-adapter"] == "held@1"


def test_a_delete_is_refused_while_a_split_sends_requests_there(api, dirs):
    api.publish_new("canary", dirs(1), channel="stable")
    api.publish_new("canary", dirs(2))
    split = f"{ADAPTERS}/canary/split"
    assert api("PUT", split, {"version": 2, "percent": 50}, if_match='"0"').status == 200
    refused = delete(api, "canary", 2)
    assert refused.status == 409 and "a split sends requests to it" in refused.error["message"]
    assert api("DELETE", split, if_match='"1"').status == 200
    assert delete(api, "canary", 2).status == 200


def test_an_undelete_takes_it_back_with_the_same_answers(api, dirs):
    api.publish_new("back", dirs(1))
    text = api.text("back@1")
    assert text != api.text("base")
    assert delete(api, "back", 1).status == 200
    back = undelete(api, "back", 1, {"reason": "needed after all"})
    assert back.status == 200 and back.json["deleted"] is None and back.json["deleted_by"] is None
    assert api.text("back@1") == text
    assert kinds(api, "back")[-2:] == ["delete", "undelete"]
    refused = undelete(api, "back", 1)
    assert refused.status == 409 and "is not deleted" in refused.error["message"]


def test_content_published_again_is_a_new_number(api, dirs):
    api.publish_new("again", dirs(1))
    assert delete(api, "again", 1).status == 200
    assert api.publish_new("again", dirs(1))["version"] == 2
    refused = undelete(api, "again", 1)
    assert refused.status == 409 and "as version 2" in refused.error["message"]


@pytest.mark.parametrize("change", [delete, undelete])
@pytest.mark.parametrize("name,number,body,status", [
    ("nobody", 1, None, 404), ("odd", 9, None, 404), ("odd", 0, None, 404), ("odd", "x", None, 404),
    ("odd", "01", None, 404), ("No!", 1, None, 404), ("odd", 1, {"reason": 5}, 400),
    ("odd", 1, {"reason": "x" * 1001}, 400), ("odd", 1, {"frobnicate": 1}, 400)])
def test_what_makes_no_sense_is_refused(api, dirs, change, name, number, body, status):
    if api.get(f"{ADAPTERS}/odd").status == 404:
        api.publish_new("odd", dirs(1))
    before = kinds(api, "odd")
    assert change(api, name, number, body).status == status
    assert kinds(api, "odd") == before


@pytest.mark.parametrize("days", [-1, 36501, 1.5, "7", None])
def test_a_retention_that_makes_no_sense_is_refused(api, dirs, days):
    if api.get(f"{ADAPTERS}/keeps").status == 404:
        api.publish_new("keeps", dirs(1))
    path = f"{ADAPTERS}/keeps/retention"
    assert api("PUT", path, {"days": days}).status == 400
    assert api.get(path).json == {"object": "adapter.retention", "name": "keeps", "days": 7,
                                  "default": True}


def test_roles(api, dirs):
    api.publish_new("roles", dirs(1))
    low, ops = api.make_key("retire-publish", "publish"), api.make_key("retire-ops", "ops")
    path = f"{ADAPTERS}/roles/retention"
    assert delete(low, "roles", 1).status == 403
    assert delete(ops, "roles", 1).status == 200
    assert undelete(low, "roles", 1).status == 403
    assert undelete(ops, "roles", 1).status == 200
    assert low.get(path).status == 200
    assert low("PUT", path, {"days": 1}).status == 403
    assert ops("PUT", path, {"days": 1}).json["days"] == 1
    assert ops("PUT", f"{ADAPTERS}/nobody/retention", {"days": 1}).status == 404
    assert ops.get(f"{ADAPTERS}/nobody/retention").status == 404


def sweep(api):
    """Steps until nothing is left; the sums."""
    sums = {"versions": 0, "contents": 0, "bytes": 0}
    more = True
    while more:
        answer = api.post("/v1/sweep")
        assert answer.status == 200, answer.body
        sums = {key: sums[key] + answer.json[key] for key in sums}
        more = answer.json["has_more"]
    return sums


def test_a_sweep_takes_the_content_and_leaves_the_record(api, dirs):
    made = api.publish_new("swept", dirs(21))
    api.publish_new("swept", dirs(22), channel="stable")
    assert delete(api, "swept", 1).status == 200
    shown = api.get(f"{ADAPTERS}/swept").json
    assert (shown["deleted"], shown["retention_days"]) == ([1], 7)
    assert sweep(api)["versions"] == 0  # seven days are not over
    assert api("PUT", f"{ADAPTERS}/swept/retention", {"days": 0}).status == 200
    done = sweep(api)
    assert done["versions"] == 1 and done["bytes"] >= made["weights_bytes"]
    record = api.get(version("swept", 1)).json
    assert record["swept"] is True and record["digest"] == made["digest"]
    shown = api.get(f"{ADAPTERS}/swept").json
    assert (shown["deleted"], shown["retention_days"]) == ([], 0)
    refused = undelete(api, "swept", 1)
    assert refused.status == 409 and "has been swept" in refused.error["message"]
    again = api.publish_new("swept", dirs(21))
    assert (again["version"], again["digest"]) == (3, made["digest"])
    assert api.complete("swept@3").status == 200 and api.complete("swept").status == 200
    assert kinds(api, "swept").count("sweep") == 1


def test_a_sweep_takes_an_admin_of_all_adapters(api, dirs):
    ops = api.make_key("sweep-ops", "ops")
    some = api.make_key("sweep-some", "admin", adapters=["some*"])
    assert ops.post("/v1/sweep").status == 403 and some.post("/v1/sweep").status == 403
    assert api.post("/v1/sweep", {}).status == 413


def start_stream(api, model):
    """A stream under way: its connection and response, with the first event read."""
    connection = api.connect()
    connection.request("POST", "/v1/completions", json.dumps(
        {"model": model, "prompt": "The heart", "max_tokens": 12000, "stream": True,
         "ignore_eos": True}), api.headers(content_type="application/json"))
    response = connection.getresponse()
    assert response.status == 200 and response.readline().startswith(b"data: ")
    return connection, response


def test_a_delete_is_refused_while_a_request_is_answered_with_it(api, dirs):
    api.publish_new("running", dirs(1), channel="stable")
    connection, response = start_stream(api, "running")
    api.publish_new("running", dirs(2), channel="stable")
    before = kinds(api, "running")
    refused = delete(api, "running", 1)
    assert refused.status == 409 and "1 request under way" in refused.error["message"]
    assert kinds(api, "running") == before + ["refused"]
    assert response.readline() == b"\n" and response.readline().startswith(b"data: ")
    response.close()
    connection.close()
    end = time.monotonic() + 30
    while (answer := delete(api, "running", 1)).status == 409:
        assert time.monotonic() < end, answer.body
        time.sleep(0.05)
    assert answer.status == 200
    assert api.complete("running@1").status == 404
    assert api.complete("running").json["model"] == "running@2"


def test_requests_beside_deletes_are_answered_or_told(api, dirs):
    """Whoever was admitted is answered as ever; the others hear that it was deleted."""
    api.publish_new("raced", dirs(1))
    api.publish_new("raced", dirs(2))
    text = api.text("raced@2", max_tokens=4)
    wrong, seen, stop = [], set(), threading.Event()

    def ask():
        while not stop.is_set():
            answer = api.complete("raced@2", max_tokens=4, ignore_eos=True)
            seen.add(answer.status)
            fine = {200: lambda: answer.json["choices"][0]["text"] == text,
                    404: lambda: "was deleted" in answer.error["message"]}
            if answer.status not in fine or not fine[answer.status]():
                wrong.append(answer.body)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    deleted, refused, end = 0, 0, time.monotonic() + 60
    while (deleted < 20 or not refused or seen != {200, 404}) and time.monotonic() < end:
        answer = delete(api, "raced", 2)
        assert answer.status in (200, 409), answer.body
        refused += answer.status == 409
        if answer.status == 200:
            deleted += 1
            time.sleep(0.02)
            assert undelete(api, "raced", 2).status == 200
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    assert deleted >= 20 and refused and seen == {200, 404}


def test_the_command_line_and_the_sweep_at_the_start(own_server, adapter):
    lorica = own_server.lorica
    for seed in (1, 2, 3):
        lorica("adapter", "publish", "cli", adapter(seed))
    lorica("adapter", "promote", "cli@3")
    assert "channel stable points to it" in lorica("adapter", "delete", "cli@3", code=1).stderr
    said = lorica("adapter", "delete", "cli@1", "--reason", "old").stdout
    assert "cli@1 is deleted" in said
    assert lorica.json("adapter", "delete", "cli@2")["deleted_by"] == "admin"
    assert "cli@2 is back" in lorica("adapter", "undelete", "cli@2").stdout
    rows = [line.split() for line in lorica("adapter", "show", "cli").stdout.splitlines()]
    states = {row[0]: ("deleted" in row) for row in rows if row[0] in ("1", "2", "3")}
    assert states == {"1": True, "2": False, "3": False}
    assert "deleted_by" in lorica("adapter", "show", "cli@1").stdout
    assert "was deleted on" in lorica("adapter", "export", "cli@1", lorica.data.parent / "x",
                                      code=1).stderr
    assert "stays for 7 days (the default)" in lorica("adapter", "retention", "cli").stdout
    set_days = lorica("adapter", "retention", "cli", "--days", 0, "--reason", "space").stdout
    assert "stays for 0 days\n" in set_days
    lorica("adapter", "delete", "cli@2")
    assert lorica.json("adapter", "show", "cli")["deleted"] == [1, 2]
    assert lorica.json("adapter", "list")["data"][0]["deleted"] == [1, 2]
    lorica("adapter", "undelete", "cli@2")
    lorica("adapter", "publish", "other", adapter(9))
    lorica("adapter", "delete", "other@1")
    lorica("adapter", "retention", "other", "--days", 36500)
    lorica("adapter", "retention", "cli", "--days", 1)
    assert lorica("adapter", "sweep").stdout.startswith("0 versions are swept")
    lorica("adapter", "retention", "other", "--days", 0)
    assert lorica.json("adapter", "sweep")["versions"] == 1
    lorica("adapter", "retention", "cli", "--days", 0)
    for bad in (["delete", "cli"], ["delete", "cli@x"], ["undelete", "cli"],
                ["retention", "cli", "--days", -1], ["retention", "cli", "--days", 36501],
                ["retention", "cli", "--reason", "x"], ["retention", "No!"], ["sweep", "cli"]):
        lorica("adapter", *bad, code=2)
    assert own_server.stop() == 0
    server = Server(lorica)
    try:
        api, end = Api(server), time.monotonic() + 20
        while not (swept := api.get(version("cli", 1)).json)["swept"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert swept["deleted_by"] == "admin"
        record = api.get(f"{ADAPTERS}/cli/history").json["data"][-1]
        assert (record["kind"], record["actor"]) == ("sweep", "server")
        refused = lorica("adapter", "undelete", "cli@1", code=1).stderr
        assert "its content has been swept" in refused
        assert "swept" in lorica("adapter", "show", "cli").stdout
        assert api.complete("cli").headers["lorica-adapter"] == "cli@3"
        assert api.complete("cli@2").status == 200
    finally:
        assert server.stop() == 0
    assert "is clean" in lorica("verify").stdout
