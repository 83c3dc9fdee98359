# SPDX-License-Identifier: MIT
"""Refused attempts at changes: each is a record in the audit chain, and no key can fill the disk
with them."""
import json

import pytest

from api import Api, form, read_all
from conftest import Server, write_adapter

ADAPTERS = "/v1/adapters"


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Adapter directories by seed, made once."""
    parent, made = tmp_path_factory.mktemp("adapters"), {}

    def make(seed, **config):
        if seed not in made:
            made[seed] = write_adapter(parent / str(seed), seed, **config)
        return made[seed]
    return make


def audit(api):
    """The whole chain."""
    records, after = [], 0
    while True:
        page = api.get(f"/v1/audit?after={after}").json
        records += page["data"]
        if not page["has_more"]:
            return records
        after = records[-1]["seq"]


def refused(api):
    return [r for r in audit(api) if r["kind"] == "refused"]


def attempt(api, answer, status):
    """The record that one refused request left; it is the last of the chain."""
    assert answer.status == status, answer.body
    record = audit(api)[-1]
    assert record["kind"] == "refused"
    assert record["message"] == answer.error["message"]
    assert record["detail"]["status"] == status
    assert record["detail"]["code"] == answer.error["code"]
    return record


def test_each_kind_of_refusal_is_one_record(api, dirs):
    api.publish_new("ward", dirs(1), channel="stable")
    api.publish_new("ward", dirs(2))
    low, ops = api.make_key("low", "infer"), api.make_key("refused-ops", "ops")
    held = api.make_key("held", "admin", ["clinic"])
    stable = f"{ADAPTERS}/ward/channels/stable"

    record = attempt(api, low("PUT", stable, {"version": 2}, if_match='"1"'), 403)
    assert (record["actor"], record["name"], record["detail"]["attempt"]) == \
        ("low", "ward", "promote")
    record = attempt(api, held.post(f"{stable}/rollback"), 403)
    assert record["detail"]["code"] == "adapter_not_allowed" and record["actor"] == "held"
    record = attempt(api, ops("PUT", stable, {"version": 2}, if_match='"9"'), 412)
    assert (record["channel"], record["version"], record["actor"]) == ("stable", 2, "refused-ops")
    record = attempt(api, api.post(f"{stable}/rollback"), 409)
    assert record["detail"]["attempt"] == "rollback"
    record = attempt(api, api("DELETE", f"{ADAPTERS}/ward/versions/1"), 409)
    assert (record["version"], record["detail"]["attempt"]) == (1, "delete")
    record = attempt(api, ops("PUT", f"{stable}/policy", {}, if_match='"0"'), 403)
    assert record["detail"]["attempt"] == "policy"
    record = attempt(api, ops.post("/v1/keys", {"name": "mine", "role": "admin"}), 403)
    assert (record["name"], record["detail"]["attempt"]) == ("", "key-create")
    record = attempt(api, low("DELETE", "/v1/keys/admin"), 403)
    assert (record["name"], record["detail"]["subject"]) == ("", "admin")
    assert api("PUT", f"{stable}/policy", {"max_rank": 2}, if_match='"0"').status == 200
    record = attempt(api, api("PUT", stable, {"version": 2}, if_match='"1"'), 409)
    assert record["detail"]["code"] == "policy_not_met" and "rank" in record["message"]
    record = attempt(api, api.publish("ward", dirs(3), channel="stable"), 409)
    assert (record["channel"], record["detail"]["attempt"]) == ("stable", "publish")
    other = {"lorica_base_digest": "sha256:" + "ab" * 32}
    record = attempt(api, api.publish("other", dirs(4, **other)), 409)
    assert (record["name"], record["detail"]["code"]) == ("other", "other_base")
    record = attempt(api, api.publish("ward", dirs(5, modules={"q_proj": (8, 8)})), 400)
    assert record["detail"]["code"] == "invalid_adapter"
    other = "sha256:" + "0" * 64
    record = attempt(api, api.publish("ward", dirs(4), weights_digest=other), 400)
    assert record["detail"]["code"] == "digest_mismatch"
    history = api.get(f"{ADAPTERS}/ward/history").json["data"]
    assert [r for r in history if r["kind"] == "refused"] == \
        [r for r in refused(api) if r["name"] == "ward"]


def test_what_is_malformed_or_names_nothing_is_no_refusal(api, dirs):
    api.publish_new("plain", dirs(11), channel="stable")
    path, before = f"{ADAPTERS}/plain/channels/stable", audit(api)
    assert api("PUT", path, {"version": 1}).status == 428
    assert api("PUT", path, {"version": 99}, if_match='"1"').status == 404
    assert api("PUT", path, {"frobnicate": 1}, if_match='"1"').status == 400
    assert api("PUT", path, "{", content_type="application/json", if_match='"1"').status == 400
    assert api("PUT", path, {"version": 1}, if_match="1").status == 412  # and this one is
    assert api.get(f"{ADAPTERS}/nobody").status == 404
    low = api.make_key("reader", "infer")
    assert low.get(f"{ADAPTERS}/plain").status == 403  # a question changes nothing
    assert [r["kind"] for r in audit(api)[len(before):]] == ["refused", "key-create"]


def test_without_a_valid_key_nothing_is_recorded_but_counted(api):
    before, counted = len(audit(api)), api.metric("lorica_changes_unauthenticated_total")
    for key in ("", "lk_" + "x" * 43):
        for _ in range(20):
            answer = api.with_key(key)("PUT", f"{ADAPTERS}/ward/channels/stable", {"version": 1})
            assert answer.status == 401
    assert len(audit(api)) == before
    assert api.metric("lorica_changes_unauthenticated_total") == counted + 40


def test_many_refusals_are_bounded_and_summed_up(own_server, adapter):
    api, lorica = Api(own_server), own_server.lorica
    api.publish_new("ward", adapter(1), channel="stable")
    low = api.make_key("flood", "infer")
    for _ in range(250):
        assert low("DELETE", f"{ADAPTERS}/ward/versions/1").status == 403
    other = api.make_key("other", "infer")  # whose own bucket is full
    assert other("DELETE", f"{ADAPTERS}/ward/versions/1").status == 403
    mine = [r for r in refused(api) if r["actor"] == "flood"]
    assert 100 <= len(mine) <= 102
    assert [r["actor"] for r in refused(api)].count("other") == 1
    assert api.metric("lorica_changes_refused_total") == 251
    assert own_server.stop() == 0
    assert lorica.json("verify")["clean"]
    again = Server(lorica)
    try:
        records = [r for r in refused(Api(again)) if r["actor"] == "flood"]
        told = sum(r["detail"].get("refused", 1) for r in records)
        assert told == 250
        assert records[-1]["detail"]["refused"] > 0
        assert records[-1]["detail"]["from"] <= records[-1]["detail"]["to"]
    finally:
        again.stop()


def test_a_refused_attempt_is_recorded_though_its_client_went_away(own_server, adapter):
    api = Api(own_server)
    api.publish_new("ward", adapter(1), channel="stable")
    low = api.make_key("gone", "infer")
    for _ in range(5):
        connection = low.raw()
        connection.sendall(f"DELETE {ADAPTERS}/ward/versions/1 HTTP/1.1\r\nhost: x\r\n"
                           f"authorization: Bearer {low.key}\r\n\r\n".encode())
        connection.close()
    api.wait_metric("lorica_requests_in_flight", 1)
    count = len([r for r in refused(api) if r["actor"] == "gone"])
    assert count == api.metric("lorica_changes_refused_total")


def test_an_upload_that_is_refused_at_its_head_is_answered(api, dirs):
    """While the record is written the client goes on sending."""
    low = api.make_key("uploader", "infer")
    for _ in range(3):
        answer = low.publish("ward", dirs(1), manifest=json.dumps({"x": "y" * 900000}))
        record = attempt(api, answer, 403)
        assert (record["actor"], record["detail"]["attempt"]) == ("uploader", "publish")


def test_a_key_that_is_revoked_under_way_changes_nothing(api, dirs):
    """An upload begins with a key in force, and ends when it is not any more."""
    user = api.make_key("leaver", "ops")
    directory = dirs(21)
    body = form({"config": (directory / "adapter_config.json").read_bytes(), "channel": "stable",
                 "weights": (directory / "adapter_model.safetensors").read_bytes()})
    connection = user.raw()
    connection.sendall(f"POST {ADAPTERS}/late/versions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                       f"authorization: Bearer {user.key}\r\ncontent-length: {len(body)}\r\n"
                       "content-type: multipart/form-data; boundary=XX\r\n\r\n".encode()
                       + body[:3000])
    api.wait_metric("lorica_requests_in_flight", 2)
    assert api("DELETE", "/v1/keys/leaver").status == 200
    connection.sendall(body[3000:])
    data, closed = read_all(connection)
    assert closed and data.startswith(b"HTTP/1.1 401 ") and b"was revoked while" in data
    assert api.get(f"{ADAPTERS}/late").status == 404
    record = audit(api)[-1]
    assert (record["kind"], record["actor"], record["name"]) == ("refused", "leaver", "late")
    assert record["detail"] == {"attempt": "publish", "status": 401, "code": "invalid_api_key"}
