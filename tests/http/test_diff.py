# SPDX-License-Identifier: MIT
"""lorica adapter diff, against products that numpy makes in full."""
import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import write_adapter

FAILED, USAGE = 1, 2
PREFIX = "base_model.model."


def scale_of(config, module):
    """PEFT's scale of a module whose patterns are plain suffixes."""
    def pick(pattern, fallback):
        return next((v for k, v in config.get(pattern, {}).items() if module.endswith(k)), fallback)
    rank = pick("rank_pattern", config["r"])
    alpha = pick("alpha_pattern", config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def products(path):
    """scale * B * A of each module, in doubles."""
    config = json.loads((path / "adapter_config.json").read_text())
    tensors = load_file(path / "adapter_model.safetensors")
    modules = {name[len(PREFIX):-len(".lora_A.weight")] for name in tensors if "lora_A" in name}
    return {m: scale_of(config, m) *
            (tensors[f"{PREFIX}{m}.lora_B.weight"].astype("float64") @
             tensors[f"{PREFIX}{m}.lora_A.weight"].astype("float64")) for m in modules}


def check_norms(found, left, right, rel=1e-9):
    """Each figure is that of the products themselves."""
    lefts, rights = products(left), products(right)
    assert {m["module"] for m in found["modules"]} == set(lefts) | set(rights)
    squares = np.zeros(3)
    for m in found["modules"]:
        one, other = lefts.get(m["module"]), rights.get(m["module"])
        assert (m["in_left"], m["in_right"]) == (one is not None, other is not None)
        one = np.zeros_like(other) if one is None else one
        other = np.zeros_like(one) if other is None else other
        expected = [np.linalg.norm(x) for x in (one, other, other - one)]
        assert [m["left_norm"], m["right_norm"], m["change"]] == pytest.approx(expected, rel=rel)
        if expected[0]:
            assert m["relative"] == pytest.approx(expected[2] / expected[0], rel=rel)
        else:
            assert m["relative"] is None
        squares += np.square(expected)
    whole = found["all"]
    assert [whole["left_norm"], whole["right_norm"], whole["change"]] == \
        pytest.approx(np.sqrt(squares), rel=rel)


@pytest.mark.parametrize("left, right", [
    ({}, {}),
    ({"rank": 4}, {"rank": 9}),
    ({"rank": 16, "use_rslora": True}, {"rank": 2}),
    ({"alpha_pattern": {"q_proj": 3.5}}, {"lora_alpha": 1}),
    ({"modules": {"q_proj": (64, 64)}}, {"modules": {"v_proj": (32, 64), "q_proj": (64, 64)}}),
])
def test_norms_are_those_of_the_products(lorica, adapter, left, right):
    one, other = adapter(1, **left), adapter(2, **right)
    check_norms(lorica.json("adapter", "diff", one, other), one, other)
    check_norms(lorica.json("adapter", "diff", other, one), other, one)


def change_weights(path, change):
    file = path / "adapter_model.safetensors"
    save_file({name: change(name, t) for name, t in load_file(file).items()}, file)
    return path


def test_modules_only_in_one_have_no_partner(lorica, adapter):
    one = adapter(1, modules={"q_proj": (64, 64)})
    other = adapter(2, modules={"v_proj": (32, 64)})
    found = lorica.json("adapter", "diff", one, other)
    assert sorted((m["in_left"], m["in_right"]) for m in found["modules"]) == \
        2 * [(False, True)] + 2 * [(True, False)]
    check_norms(found, one, other)


def test_equal_adapters_differ_by_nothing(lorica, adapter, tmp_path):
    one, other = adapter(1), write_adapter(tmp_path / "again", 1)
    found = lorica.json("adapter", "diff", one, other)
    assert found["config"] == [] and found["manifest"] == []
    assert found["all"]["change"] == 0 and all(m["change"] == 0 for m in found["modules"])


def test_small_changes_are_not_lost_in_large_norms(lorica, adapter, tmp_path):
    one = adapter(1)
    rng = np.random.default_rng(7)
    other = change_weights(write_adapter(tmp_path / "near", 1), lambda name, t:
                           (t * (1 + 1e-6 * rng.normal(size=t.shape))).astype("float32"))
    found = lorica.json("adapter", "diff", one, other)
    assert 0 < found["all"]["relative"] < 1e-5
    check_norms(found, one, other, rel=1e-6)


def test_half_precision_is_read(lorica, adapter):
    one = change_weights(adapter(1), lambda name, t: t.astype("float16"))
    other = adapter(2)
    check_norms(lorica.json("adapter", "diff", one, other), one, other)


def test_config_is_compared_key_by_key(lorica, adapter):
    one = adapter(1, lora_alpha=8, alpha_pattern={"q_proj": 4})
    other = adapter(1 + 1, lora_alpha=16, rank_pattern={})
    found = lorica.json("adapter", "diff", one, other)
    assert {d["key"]: (d["left"], d["right"]) for d in found["config"]} == {
        "lora_alpha": (8, 16), "alpha_pattern.q_proj": (4, None)}
    table = lorica("adapter", "diff", one, other).stdout
    assert "alpha_pattern.q_proj" in table and "target_modules" not in table
    assert "self_attn.q_proj" in table and "%" in table


@pytest.fixture
def published(own_server, adapter):
    """A server with two versions, of which the second alone has a manifest."""
    dirs = adapter(1), adapter(2)
    (dirs[1] / "manifest.json").write_text(json.dumps({"loss": {"after": 1.25}, "steps": 10}))
    for path in dirs:
        own_server.lorica("adapter", "publish", "heart", path, "--channel", "stable")
    return own_server.lorica, dirs


def test_versions_and_directories_are_alike(published):
    lorica, (one, other) = published
    found = lorica.json("adapter", "diff", "heart@1", "heart")
    check_norms(found, one, other)
    assert (found["left"], found["right"]) == ("heart@1", "heart")
    assert {d["key"]: (d["left"], d["right"]) for d in found["manifest"]} == {
        "loss.after": (None, 1.25), "steps": (None, 10)}
    assert {**lorica.json("adapter", "diff", one, other), "left": "", "right": ""} == \
        {**found, "left": "", "right": ""}
    lorica("adapter", "promote", "heart@1")
    assert lorica.json("adapter", "diff", "heart@2", other)["all"]["change"] == 0
    assert "loss.after" in lorica("adapter", "diff", "heart@1", "heart@2").stdout


def test_what_is_no_adapter_is_refused(published, tmp_path):
    lorica, (one, _) = published
    assert "9" in lorica("adapter", "diff", "heart@1", "heart@9", code=FAILED).stderr
    lorica("adapter", "delete", "heart@1")
    assert "was deleted" in lorica("adapter", "diff", "heart@1", one, code=FAILED).stderr
    (tmp_path / "empty").mkdir()
    assert "adapter_config.json" in lorica("adapter", "diff", one, tmp_path / "empty",
                                           code=FAILED).stderr
    odd = change_weights(write_adapter(tmp_path / "odd", 1),
                         lambda name, t: t[:2] if "lora_A" in name else t)
    assert "rank" in lorica("adapter", "diff", one, odd, code=FAILED).stderr
    wide = write_adapter(tmp_path / "wide", 1, modules={"q_proj": (64, 96), "v_proj": (32, 64)})
    assert "different bases" in lorica("adapter", "diff", one, wide, code=FAILED).stderr
    assert lorica("adapter", "diff", one, code=USAGE).stderr
