# SPDX-License-Identifier: MIT
"""What a publisher states besides the adapter: that it was trained on another base, and which
digest its weights have."""
import hashlib
import http.client
import shutil
import ssl

import pytest

from api import Api, form
from conftest import Server, write_adapter

ADAPTERS = "/v1/adapters"
CHUNK = 262128  # bytes of content that lie together in the store
OTHER = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def api(server):
    return Api(server)


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Adapter directories by seed and base, made once."""
    parent, made = tmp_path_factory.mktemp("adapters"), {}

    def make(seed, base=None):
        if (seed, base) not in made:
            config = {"lorica_base_digest": base} if base else {}
            made[seed, base] = write_adapter(parent / str(len(made)), seed, **config)
        return made[seed, base]
    return make


def last(api, name):
    return api.get(f"{ADAPTERS}/{name}/history?order=desc&limit=1").json["data"][0]


def test_another_base_needs_the_statement_which_is_kept(api, dirs):
    refused = api.publish("other", dirs(1, OTHER))
    assert refused.status == 409 and refused.error["code"] == "other_base"
    assert OTHER in refused.error["message"] and "trained_on_other_base" in refused.error["message"]
    assert api.get(f"{ADAPTERS}/other").status == 404
    made = api.publish_new("other", dirs(1, OTHER), trained_on_other_base="true", channel="stable")
    assert (made["trained_on_other_base"], made["trained_base_digest"]) == (True, OTHER)
    assert made["base_stated"] is False and made["base_digest"] != OTHER
    assert api.get(f"{ADAPTERS}/other/versions/1").json == made
    record = api.get(f"{ADAPTERS}/other/history?kind=publish").json["data"][0]
    assert record["detail"] == {"trained_on_other_base": True, "base": OTHER}
    assert api.complete("other").headers["lorica-adapter"] == "other@1"


def test_a_config_without_a_base_is_recorded_as_stated(api, dirs):
    made = api.publish_new("stated", dirs(2))
    assert (made["base_stated"], made["trained_on_other_base"]) == (True, False)
    assert made["trained_base_digest"] is None and "detail" not in last(api, "stated")
    made = api.publish_new("stated", dirs(3), trained_on_other_base="true")
    assert (made["base_stated"], made["trained_on_other_base"]) == (True, True)
    assert made["trained_base_digest"] is None
    assert last(api, "stated")["detail"] == {"trained_on_other_base": True, "base": None}


def test_a_statement_is_not_lost_on_content_that_is_there(api, dirs):
    made = api.publish_new("twice", dirs(11))
    before = api.get(f"{ADAPTERS}/twice/history?kind=publish").json
    for directory in (dirs(11), dirs(11, OTHER)):
        refused = api.publish("twice", directory, trained_on_other_base="true")
        assert refused.status == 409, refused.body
        assert "twice@1 holds this very content" in refused.error["message"]
    again = api.publish("twice", dirs(11), manifest='{"loss":1}')
    assert again.status == 200 and again.json == made
    assert again.json["manifest_digest"] is None  # the first stays, and it is seen that it does
    assert api.get(f"{ADAPTERS}/twice/history?kind=publish").json == before
    for _ in range(2):  # said again it is the same
        assert api.publish("said", dirs(11, OTHER), trained_on_other_base="true").status in (200, 201)
    assert api("DELETE", f"{ADAPTERS}/twice/versions/1").status == 200
    made = api.publish_new("twice", dirs(11, OTHER), trained_on_other_base="true", manifest='{"a":1}')
    assert made["version"] == 2 and made["trained_base_digest"] == OTHER
    assert made["manifest_digest"] == "sha256:" + hashlib.sha256(b'{"a":1}').hexdigest()


def test_a_config_with_this_base_is_bound_to_it(api, dirs):
    ours = api.publish_new("bound", dirs(4))["base_digest"]
    made = api.publish_new("bound", dirs(5, ours), trained_on_other_base="false")
    assert (made["base_stated"], made["trained_on_other_base"]) == (False, False)
    refused = api.publish("bound", dirs(6, ours), trained_on_other_base="true")
    assert refused.status == 400 and refused.error["param"] == "trained_on_other_base"
    refused = api.publish("bound", dirs(6, ours), trained_on_other_base="yes")
    assert refused.status == 400 and "true or false" in refused.error["message"]


def test_the_command_line_states_and_shows_it(server, dirs):
    lorica = server.lorica
    directory = dirs(7, OTHER)
    refused = lorica("adapter", "publish", "cli", directory, code=1)
    assert "--trained-on-other-base" in refused.stderr
    lorica("adapter", "publish", "cli", directory, "--trained-on-other-base")
    shown = lorica("adapter", "show", "cli@1").stdout
    assert any(line.split() == ["trained_on", OTHER] for line in shown.splitlines())
    lorica("adapter", "publish", "cli", dirs(8), "--trained-on-other-base")
    assert "another base, which was not named" in lorica("adapter", "show", "cli@2").stdout
    lorica("adapter", "publish", "cli", dirs(9))
    assert "trained_on" not in lorica("adapter", "show", "cli@3").stdout


def digest_of(directory):
    weights = (directory / "adapter_model.safetensors").read_bytes()
    return "sha256:" + hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("first", [True, False])
def test_a_digest_that_is_stated_is_compared(api, dirs, first):
    """Whether it comes before the weights or after them."""
    directory = dirs(20 + first)
    files = {"config": (directory / "adapter_config.json").read_bytes(),
             "weights": (directory / "adapter_model.safetensors").read_bytes()}

    def publish(digest):
        stated = {"weights_digest": digest}
        fields = {**stated, **files} if first else {**files, **stated}
        return api("POST", f"{ADAPTERS}/digest/versions", form(fields),
                   content_type="multipart/form-data; boundary=XX")

    wrong = publish("sha256:" + "0" * 64)
    assert wrong.status == 400 and wrong.error["code"] == "digest_mismatch"
    assert wrong.error["param"] == "weights_digest" and digest_of(directory) in \
        wrong.error["message"]
    for nonsense in ("", "frob", digest_of(directory).upper(), digest_of(directory)[7:]):
        answer = publish(nonsense)
        assert answer.status == 400 and answer.error["param"] == "weights_digest"
    assert publish(digest_of(directory) + "00").status in (400, 413)
    made = publish(digest_of(directory))
    assert made.status == 201 and made.json["weights_digest"] == digest_of(directory)


def test_weights_that_were_damaged_on_their_way_are_refused(api, dirs):
    directory = dirs(30)
    weights = bytearray((directory / "adapter_model.safetensors").read_bytes())
    weights[-3] ^= 1  # in the middle of a number: still a sound file
    answer = api.publish("damaged", directory, weights=bytes(weights),
                         weights_digest=digest_of(directory))
    assert answer.status == 400 and answer.error["code"] == "digest_mismatch"
    assert api.get(f"{ADAPTERS}/damaged").status == 404


def test_the_command_line_sends_the_digest(server, dirs, tmp_path):
    directory = tmp_path / "made"
    shutil.copytree(dirs(31), directory)
    server.lorica("adapter", "publish", "sent", directory)
    made = server.lorica.json("adapter", "show", "sent@1")
    assert made["weights_digest"] == digest_of(directory)


@pytest.mark.parametrize("harm", [0, 0.5, 1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("rank", [4, 2000], ids=["one piece", "many pieces"])
def test_weights_that_were_damaged_in_the_store_are_never_sent_whole(own_server, tmp_path, rank,
                                                                     harm):
    """A byte of stored weights that changed: nobody gets what could be taken for all of them."""
    api, lorica = Api(own_server), own_server.lorica
    directory = write_adapter(tmp_path / "adapter", 1, rank=rank)
    weights = (directory / "adapter_model.safetensors").read_bytes()
    path = f"{ADAPTERS}/ward/versions/1/adapter_model.safetensors"
    api.publish_new("ward", directory, channel="stable")
    assert api.get(path).body == weights
    own_server.stop()
    flip(lorica.data / "registry/data.mdb", weights, int(harm * (len(weights) - 1)))
    again = Server(lorica)
    try:
        api = Api(again)
        connection = api.connect()
        connection.request("GET", path, headers=api.headers())
        answer = connection.getresponse()
        assert int(answer.headers["content-length"]) == len(weights)
        with pytest.raises((http.client.IncompleteRead, ssl.SSLEOFError)):
            answer.read()
        failed = lorica("adapter", "export", "ward@1", tmp_path / "export", code=1)
        assert failed.stderr
        assert not (tmp_path / "export/adapter_model.safetensors").exists()
        refused = api.complete("ward")
        assert refused.status == 500 and "ward@1 could not be loaded" in refused.error["message"]
    finally:
        again.stop()


def flip(store, content, at):
    """Changes one byte of content that lies in a store's file."""
    start = at - at % CHUNK
    piece = content[start:start + CHUNK]
    with open(store, "r+b") as file:
        where = file.read().index(piece) + at - start
        file.seek(where)
        file.write(bytes([content[at] ^ 1]))
