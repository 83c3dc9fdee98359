# SPDX-License-Identifier: MIT
"""The control plane: publish, promote, roll back, history, downloads, keys, roles."""
import hashlib
import json
import ssl
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from api import Api, form
from conftest import write_adapter

ADAPTERS = "/v1/adapters"


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Adapter directories by seed, made once."""
    parent, made = tmp_path_factory.mktemp("adapters"), {}

    def make(seed, **options):
        key = (seed, json.dumps(options, sort_keys=True))
        if key not in made:
            made[key] = write_adapter(parent / str(len(made)), seed, **options)
        return made[key]
    return make


def test_publish_counts_versions_and_knows_what_it_has(api, dirs):
    first = api.publish_new("count", dirs(1), message="first")
    assert (first["name"], first["version"], first["message"]) == ("count", 1, "first")
    second = api.publish_new("count", dirs(2))
    assert second["version"] == 2 and second["digest"] != first["digest"]
    again = api.publish("count", dirs(1))
    assert again.status == 200
    assert (again.json["version"], again.json["digest"]) == (1, first["digest"])
    assert api.publish_new("count-other", dirs(1))["digest"] == first["digest"]
    listed = api.get(f"{ADAPTERS}/count/versions").json
    assert [v["version"] for v in listed["data"]] == [1, 2] and listed["has_more"] is False
    assert api.get(f"{ADAPTERS}/count/versions/2").json == second


def test_publishing_moves_no_channel_that_was_not_named(api, dirs):
    api.publish_new("unmoved", dirs(1))
    answer = api.complete("unmoved")
    assert answer.status == 404 and answer.error["code"] == "model_not_found"
    assert "stable" in answer.error["message"]
    api.publish_new("unmoved", dirs(2), channel="canary")
    assert api.complete("unmoved").status == 404
    assert api.complete("unmoved:canary").json["model"] == "unmoved@2"
    assert api.complete("unmoved@1").json["model"] == "unmoved@1"


def test_downloads_give_the_published_bytes(api, dirs):
    version = api.publish_new("bytes", dirs(1))
    for part, digest in (("adapter_config.json", "config_digest"),
                         ("adapter_model.safetensors", "weights_digest")):
        answer = api.get(f"{ADAPTERS}/bytes/versions/1/{part}")
        assert answer.body == (dirs(1) / part).read_bytes()
        assert "sha256:" + hashlib.sha256(answer.body).hexdigest() == version[digest]
        head = api("HEAD", f"{ADAPTERS}/bytes/versions/1/{part}")
        assert head.body == b"" and int(head.headers["content-length"]) == len(answer.body)


def test_promote_needs_the_present_epoch(api, dirs):
    path = f"{ADAPTERS}/promote/channels/stable"
    api.publish_new("promote", dirs(1))
    api.publish_new("promote", dirs(2))
    before = api.get(path)
    assert before.headers["etag"] == '"0"' and before.json["version"] == 0
    missing = api("PUT", path, {"version": 1})
    assert missing.status == 428
    made = api("PUT", path, {"version": 1, "message": "go"}, if_match='"0"')
    assert made.status == 200 and made.json["version"] == 1
    assert made.headers["etag"] == f'"{made.json["epoch"]}"'
    stale = api("PUT", path, {"version": 2}, if_match='"0"')
    assert stale.status == 412
    assert api.get(path).json["version"] == 1
    for bad in ("*", '"0", "1"', 'W/"1"', "1"):
        assert api("PUT", path, {"version": 2}, if_match=bad).status == 412
    unknown = api("PUT", path, {"version": 9}, if_match=made.headers["etag"])
    assert unknown.status == 404
    for body in ({}, {"version": "1"}, {"version": 0}, {"version": 1.5}, {"version": 1, "x": 1}):
        assert api("PUT", path, body, if_match=made.headers["etag"]).status == 400


def test_rollback_goes_back_and_further_and_then_no_more(api, dirs):
    path = f"{ADAPTERS}/back/channels/stable"
    for seed in (1, 2, 3):
        api.publish_new("back", dirs(seed), channel="stable")
    texts = {v: api.text(f"back@{v}") for v in (1, 2, 3)}
    assert len(set(texts.values())) == 3
    assert api.text("back") == texts[3]
    answer = api.post(path + "/rollback", {"reason": "worse"})
    assert answer.status == 200 and answer.json["version"] == 2
    assert api.text("back") == texts[2]
    assert api.post(path + "/rollback", {}).json["version"] == 1
    assert api.text("back") == texts[1]
    assert api.post(path + "/rollback").status == 409
    history = api.get(f"{ADAPTERS}/back/history").json["data"]
    assert [h["kind"] for h in history][-3:] == ["rollback", "rollback", "refused"]
    assert history[-3]["message"] == "worse" and history[-3]["actor"] == "admin"
    assert (history[-3]["previous"], history[-3]["version"]) == (3, 2)


def test_history_and_audit_are_paged(api, dirs):
    for seed in (1, 2, 3):
        api.publish_new("paged", dirs(seed))
    whole = api.get(f"{ADAPTERS}/paged/history").json["data"]
    first = api.get(f"{ADAPTERS}/paged/history?limit=2").json
    assert first["data"] == whole[:2] and first["has_more"] is True
    rest = api.get(f"{ADAPTERS}/paged/history?limit=2&after={whole[1]['seq']}").json
    assert rest["data"] == whole[2:] and rest["has_more"] is False
    audit = api.get("/v1/audit").json["data"]
    assert [a["seq"] for a in audit] == list(range(1, len(audit) + 1))
    assert api.get("/v1/audit?limit=0").status == 400
    assert api.get("/v1/audit?after=x").status == 400


def test_adapters_are_listed_in_pages(api, dirs):
    for name in ("list-a", "list-b", "list-c"):
        api.publish_new(name, dirs(1), channel="stable")
    names = [a["name"] for a in api.get(ADAPTERS).json["data"]]
    assert names == sorted(names) and {"list-a", "list-b", "list-c"} <= set(names)
    page = api.get(f"{ADAPTERS}?after=list-a&limit=1").json
    assert [a["name"] for a in page["data"]] == ["list-b"] and page["has_more"] is True
    assert page["data"][0]["channels"][0]["channel"] == "stable"
    assert api.get(f"{ADAPTERS}/list-a").json["latest"] == 1
    assert api.get(f"{ADAPTERS}/list-z").status == 404
    models = {m["id"]: m for m in api.get("/v1/models").json["data"]}
    assert models["list-a"]["parent"] == "tiny" and models["list-a"]["root"] == "list-a@1"


@pytest.mark.parametrize("model", [
    "nobody", "nobody:stable", "nobody@1", "rule@9", "rule@0", "rule@", "rule:", "rule:nope", "rule@1x",
    "rule@01", "rule@-1", "Rule", "rule ", " rule", "rule@1@1", "rule:stable@1", "tiny@1", "base@1",
    "base:stable", "Base", "TINY", "../rule", "rule/", "a" * 400, "rule\u00e9", "@1", ":stable"])
def test_an_unknown_model_is_never_the_base_in_disguise(api, dirs, model):
    if api.get(f"{ADAPTERS}/rule").status == 404:
        api.publish_new("rule", dirs(1), channel="stable")
    for stream in (False, True):
        answer = api.complete(model, stream=stream)
        assert answer.status == 404, (model, answer.body)
        assert answer.error["code"] == "model_not_found" and answer.error["param"] == "model"
        assert "lorica-adapter" not in answer.headers


def test_each_way_to_name_a_model_answers_as_it_should(api, dirs):
    for seed in (1, 2):
        api.publish_new("ways", dirs(seed), channel="stable" if seed == 1 else "canary")
    base = api.text("base")
    assert api.text("tiny") == base
    one, two = api.text("ways@1"), api.text("ways@2")
    assert len({base, one, two}) == 3
    assert api.text("ways") == api.text("ways:stable") == one
    assert api.text("ways:canary") == two
    answer = api.complete("ways:canary")
    version = api.get(f"{ADAPTERS}/ways/versions/2").json
    assert answer.headers["lorica-adapter"] == answer.json["model"] == "ways@2"
    assert answer.headers["lorica-adapter-digest"] == version["digest"]
    assert answer.headers["lorica-base-digest"] == version["base_digest"]


# Bad adapters.

def altered(directory, parent, tensors=None, **config):
    """A copy of an adapter with changed tensors or settings."""
    settings = {**json.loads((directory / "adapter_config.json").read_text()), **config}
    made = load_file(directory / "adapter_model.safetensors")
    if tensors:
        tensors(made)
    parent.mkdir()
    save_file(made, parent / "adapter_model.safetensors", metadata={"format": "pt"})
    (parent / "adapter_config.json").write_text(json.dumps(settings))
    return parent


STEM = "base_model.model.model.layers.0.self_attn.q_proj"


def set_nan(t):
    t[STEM + ".lora_A.weight"][0, 0] = np.nan


def cut_shape(t):
    t[STEM + ".lora_A.weight"] = np.ascontiguousarray(t[STEM + ".lora_A.weight"][:, :-1])


def drop_b(t):
    del t[STEM + ".lora_B.weight"]


def drop_pair(t):
    del t[STEM + ".lora_A.weight"], t[STEM + ".lora_B.weight"]


def zero_b(t):
    for name in t:
        if "lora_B" in name:
            t[name][:] = 0


def zero_where_they_meet(t):
    """A holds values in its first row only, B in all columns but the first."""
    for name in t:
        if "lora_B" in name:
            t[name][:, 0] = -0.0
        else:
            t[name][1:] = 0


def add_unknown(t):
    t["base_model.model.frob.weight"] = np.zeros((2, 2), np.float32)


def add_layer(t):
    t[STEM.replace("layers.0", "layers.7") + ".lora_A.weight"] = t[STEM + ".lora_A.weight"].copy()


@pytest.mark.parametrize("tensors,config,status,says", [
    (zero_b, {}, 400, "no effect"), (zero_where_they_meet, {}, 400, "no effect"),
    (set_nan, {}, 400, "q_proj"), (cut_shape, {}, 400, "q_proj"), (drop_b, {}, 400, "q_proj"),
    (drop_pair, {}, 400, "q_proj"), (add_unknown, {}, 400, "frob"), (add_layer, {}, 400, "layers.7"),
    (None, {"use_dora": True}, 400, "use_dora"), (None, {"bias": "all"}, 400, "bias"),
    (None, {"modules_to_save": ["lm_head"]}, 400, "modules_to_save"),
    (None, {"frobnicate": 1}, 400, "frobnicate"), (None, {"r": 8}, 400, ""), (None, {"r": 0}, 400, "r"),
    (None, {"peft_type": "IA3"}, 400, "peft_type"),
    (None, {"target_modules": ["q_proj", "v_proj", "o_proj"]}, 400, "o_proj"),
    (None, {"lorica_base_digest": "sha256:" + "0" * 64}, 409, "base"),
    (None, {"lorica_base_digest": "frob"}, 400, "lorica_base_digest")])
def test_an_adapter_that_does_not_fit_is_refused_whole(api, dirs, tmp_path, tensors, config, status,
                                                       says):
    bad = altered(dirs(1), tmp_path / "bad", tensors, **config)
    answer = api.publish("misfit", bad, channel="stable")
    assert answer.status == status, answer.body
    assert says in answer.error["message"]
    assert api.get(f"{ADAPTERS}/misfit").status == 404


@pytest.mark.parametrize("parts,says", [
    ({"config": None}, "config"), ({"weights": None}, "weights"), ({"weights": b""}, "weights"),
    ({"weights": b"\0" * 7}, ""), ({"weights": b"\xff" * 64}, ""), ({"config": b"{"}, ""),
    ({"config": b"{\"r\":\0}"}, "config"), ({"frob": b"x"}, "frob"), ({"manifest": b"[]"}, "manifest"),
    ({"channel": "Bad Name"}, "channel"), ({"channel": "x" * 65}, "channel"),
    ({"message": "x" * 1001}, "message")])
def test_a_bad_form_is_refused_by_what_is_wrong(api, dirs, parts, says):
    answer = api.publish("badform", dirs(1), **parts)
    assert answer.status in (400, 413), answer.body
    assert says in answer.error["message"]
    assert api.get(f"{ADAPTERS}/badform").status == 404


def test_forms_cut_short_or_of_another_kind_are_refused(api, dirs):
    body = form({"config": (dirs(1) / "adapter_config.json").read_bytes(), "weights": b"abc"})
    kind = "multipart/form-data; boundary=XX"
    assert api.post(f"{ADAPTERS}/cut/versions", body[:-4], content_type=kind).status == 400
    assert api.post(f"{ADAPTERS}/cut/versions", b"", content_type=kind).status == 400
    assert api.post(f"{ADAPTERS}/cut/versions", body, content_type="text/plain").status == 415
    assert api.post(f"{ADAPTERS}/cut/versions", body).status == 415
    assert api.post(f"{ADAPTERS}/cut/versions", body, content_type="multipart/form-data").status == 400


@pytest.mark.parametrize("name", ["base", "Upper", ".dot", "a..b", "a b", "x" * 129, "tiny", "-a"])
def test_names_that_no_adapter_may_have(api, dirs, name):
    answer = api.publish(name.replace(" ", "%20"), dirs(1))
    assert answer.status in (400, 409), answer.body


def test_a_large_upload_leaves_nothing_behind_when_it_is_refused(server, api):
    spool = server.lorica.data / "spool"
    answer = api.publish("large", write_large(server.lorica.data.parent / "large"))
    assert answer.status == 400, answer.body
    end = time.monotonic() + 30  # the file goes after the answer
    while list(spool.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert list(spool.iterdir()) == []


def write_large(directory):
    """Weights of 8 MiB that fit nothing."""
    directory.mkdir()
    save_file({"base_model.model.frob.weight": np.zeros((2048, 1024), np.float32)},
              directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}))
    return directory


# Keys.

ROUTES = [("GET", "/v1/models", None, "infer"),
          ("POST", "/v1/completions", {"model": "base", "prompt": "a", "max_tokens": 1}, "infer"),
          ("GET", "/metrics", None, "infer"),
          ("GET", ADAPTERS, None, "publish"),
          ("GET", f"{ADAPTERS}/roles", None, "publish"),
          ("GET", f"{ADAPTERS}/roles/versions/1/adapter_config.json", None, "publish"),
          ("GET", f"{ADAPTERS}/roles/history", None, "publish"),
          ("PUT", f"{ADAPTERS}/roles/channels/beta", {"version": 1}, "ops"),
          ("POST", f"{ADAPTERS}/roles/channels/beta/rollback", {}, "ops"),
          ("GET", "/v1/audit", None, "ops"),
          ("GET", "/v1/keys", None, "admin"),
          ("POST", "/v1/keys", {"name": "", "role": "infer"}, "admin"),
          ("DELETE", "/v1/keys/nobody", None, "admin")]
ROLES = ["infer", "publish", "ops", "admin"]


def test_each_role_may_do_its_part_and_no_more(api, dirs):
    api.publish_new("roles", dirs(1))
    for role in ROLES:
        user = api.make_key(f"role-{role}", role)
        for method, path, body, needed in ROUTES:
            status = user(method, path, body).status
            if ROLES.index(role) >= ROLES.index(needed):
                assert status not in (401, 403), (role, method, path, status)
            else:
                assert status == 403, (role, method, path, status)


def test_without_a_valid_key_nothing_but_health_answers(api):
    api.make_key("gone", "admin")
    assert api("DELETE", "/v1/keys/gone").status == 200
    revoked = api.with_key(api.post("/v1/keys", {"name": "gone2", "role": "admin"}).json["key"])
    assert revoked.get("/v1/keys").status == 200
    assert api("DELETE", "/v1/keys/gone2").json["revoked"] is not None
    for key in ("", "lk_" + "x" * 43, "lk_", "x" * 5000, revoked.key):
        user = api.with_key(key)
        for method, path, body, _ in ROUTES:
            answer = user(method, path, body)
            assert answer.status == 401, (key[:10], path)
            assert answer.error["type"] == "authentication_error"
        assert user.get("/livez").status == user.get("/readyz").status == 200


def test_publishing_to_stable_takes_ops(api, dirs):
    user = api.make_key("publisher", "publish")
    assert user.publish("gate", dirs(1), channel="stable").status == 403
    assert api.get(f"{ADAPTERS}/gate").status == 404
    assert user.publish("gate", dirs(1), channel="canary").status == 201
    assert user.publish("gate", dirs(2)).status == 201


def test_globs_hold_a_key_to_its_adapters(api, dirs):
    api.publish_new("card-a", dirs(1), channel="stable")
    api.publish_new("paed-a", dirs(2), channel="stable")
    user = api.make_key("card", "ops", ["card-*"])
    assert user.complete("card-a").status == 200
    for model in ("paed-a", "paed-a@1", "paed-a:stable", "base", "tiny", "nobody"):
        answer = user.complete(model)
        assert answer.status == 403, model
        assert answer.error["type"] == "permission_error"
    assert [m["id"] for m in user.get("/v1/models").json["data"]] == ["card-a"]
    assert [a["name"] for a in user.get(ADAPTERS).json["data"]] == ["card-a"]
    for path in ("", "/versions", "/versions/1", "/versions/1/adapter_model.safetensors", "/channels",
                 "/channels/stable", "/history"):
        assert user.get(f"{ADAPTERS}/paed-a{path}").status == 403
        assert user.get(f"{ADAPTERS}/card-a{path}").status == 200
    assert user.publish("paed-a", dirs(3)).status == 403
    assert user("PUT", f"{ADAPTERS}/paed-a/channels/x", {"version": 1}, if_match='"0"').status == 403
    seen = {a["name"] for a in user.get("/v1/audit").json["data"]}
    assert seen == {"card-a"}
    held = api.make_key("held-admin", "admin", ["card-*"])
    assert held.post("/v1/keys", {"name": "free", "role": "admin"}).status == 403


def test_keys_are_shown_without_their_text(api):
    made = api.post("/v1/keys", {"name": "shown", "role": "infer", "adapters": ["a*", "base"]})
    assert made.status == 201 and made.json["key"].startswith("lk_")
    listed = {k["name"]: k for k in api.get("/v1/keys").json["data"]}
    assert listed["shown"]["role"] == "infer" and listed["shown"]["adapters"] == ["a*", "base"]
    assert "key" not in listed["shown"]
    assert api.post("/v1/keys", {"name": "shown", "role": "infer"}).status == 409
    for body in ({"name": "x"}, {"name": "x", "role": "king"}, {"role": "infer"},
                 {"name": "x", "role": "infer", "adapters": "a"},
                 {"name": "x", "role": "infer", "adapters": ["a"] * 17},
                 {"name": "x", "role": "infer", "frob": 1}):
        assert api.post("/v1/keys", body).status == 400, body


def test_log_holds_no_key_prompt_or_answer(server, api):
    prompt = "a most particular prompt"
    answer = api.complete("base", prompt).json["choices"][0]["text"]
    assert answer
    log = (server.lorica.data.parent / "server.log").read_text()
    assert prompt not in log and server.key not in log and "lk_" not in log
    assert "route=/v1/completions status=200" in log and "key=admin adapter=base" in log


def test_other_protocols_of_the_handshake_are_refused(api):
    context = ssl.create_default_context(cafile=str(api.server.ca))
    context.set_alpn_protocols(["h2"])
    api2 = api.with_key(api.key)
    api2.context = context
    with pytest.raises(ssl.SSLError):
        api2.get("/livez")
