# SPDX-License-Identifier: MIT
"""lorica train and the base and eval verbs on the tiny base: what they make, and what they say of
bad input."""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import REPO, TINY

USAGE, FAILED = 2, 1


def chat_line(question, answer):
    return json.dumps({"messages": [{"role": "user", "content": question},
                                    {"role": "assistant", "content": answer}]})


@pytest.fixture
def examples(tmp_path):
    """A few examples; examples(extra lines) gives the file."""
    def write(*more):
        path = tmp_path / "examples.jsonl"
        lines = [chat_line(f"Where is room {i}?", f"Room {i} is on floor {i}.") for i in range(6)]
        lines.append(json.dumps({"prompt": "Say yes.", "completion": "Yes."}))
        path.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")
        return path
    return write


def weights(directory):
    return load_file(directory / "adapter_model.safetensors")


# Training.


def test_training_learns_and_leaves_what_peft_reads(data_dir, examples, tmp_path):
    out = tmp_path / "out"
    done = data_dir("train", "rooms", examples(), "--eval", examples(), "--out", out, "--epochs", 8,
                    "--lr", "0.01", "--rank", 4, "--targets", "q,v,down")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["eval_loss"] < 0.8 * manifest["eval_loss_base"]
    assert manifest["eval_set"] == examples().stem
    assert manifest["dataset_digests"] == [
        "sha256:" + hashlib.sha256(examples().read_bytes()).hexdigest()]
    assert "7 examples" in done.stdout and str(out) in done.stdout
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 4 and config["lora_alpha"] == 8
    assert set(config["target_modules"]) == {"q_proj", "v_proj", "down_proj"}
    tensors = weights(out)
    assert len(tensors) == 2 * 3 * 2
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_"
    assert tensors[name + "A.weight"].shape == (4, 128)
    assert tensors[name + "B.weight"].shape == (64, 4)
    assert all(np.isfinite(t).all() and t.any() for t in tensors.values())


def test_same_seed_gives_the_same_bytes_and_another_does_not(data_dir, examples, tmp_path):
    made = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        data_dir("train", "rooms", examples(), "--out", tmp_path / name, "--steps", 4, "--seed",
                 seed, "--threads", 2)
        made.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


def test_trained_adapter_is_published_and_answers(own_server, examples):
    lorica = own_server.lorica
    done = lorica("train", "rooms", examples(), "--epochs", 1, "--publish", "--channel", "stable",
                  "--message", "first")
    assert "published rooms@1, now live on channel stable" in done.stdout
    history = lorica.json("adapter", "history", "rooms")["data"]
    assert any("first" in json.dumps(entry) for entry in history)
    assert "rooms@1" in lorica("chat", "rooms", "--prompt", "Hello", "--max-tokens", 4).stderr


def test_adapter_that_cannot_be_published_is_kept(data_dir, examples, tmp_path):
    done = data_dir("train", "rooms", examples(), "--steps", 1, "--out", tmp_path / "out",
                    "--publish", code=FAILED, LORICA_SERVER="https://127.0.0.1:9")
    assert f"the adapter is in {tmp_path / 'out'}, but was not published" in done.stderr
    assert weights(tmp_path / "out")


@pytest.mark.parametrize("line, says", [
    ("{", "line 8"),
    ('{"messages":[]}', "line 8"),
    ('{"messages":[{"role":"user","content":"x"}]}', "line 8"),
    ('{"messages":[{"role":"wizard","content":"x"},{"role":"assistant","content":"y"}]}', "wizard"),
    ('{"prompt":"x"}', "line 8"),
    ('{"prompt":"x","completion":7}', "line 8"),
    ('{"question":"x","answer":"y"}', "line 8"),
    ('["x"]', "line 8"),
    ('{"prompt":"x","completion":"\\ud800"}', "line 8"),
    ('\n{"prompt":"x","completion":"y"}', "line 8"),
    (chat_line("x" * 10_000_000, "y"), "line 8"),
])
def test_bad_line_is_named_and_nothing_is_trained(data_dir, examples, tmp_path, line, says):
    path = examples(line)
    done = data_dir("train", "rooms", path, "--out", tmp_path / "out", code=FAILED)
    assert says in done.stderr and str(path) in done.stderr and "--skip-bad" in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_bad_lines_are_listed_and_left_out_when_asked(data_dir, examples, tmp_path):
    path = examples("{", "", chat_line("x", " "), chat_line("When?", "At noon."))
    done = data_dir("train", "rooms", path, "--steps", 1, "--out", tmp_path / "out", "--skip-bad")
    assert "8 examples" in done.stdout and "3 bad lines were left out" in done.stdout
    for line in (8, 9, 10):
        assert f"{path}: line {line}: " in done.stderr
    only_bad = tmp_path / "bad.jsonl"
    only_bad.write_text("{}\n")
    done = data_dir("train", "rooms", only_bad, "--skip-bad", code=FAILED)
    assert "no usable example" in done.stderr


def test_examples_held_apart_that_are_learnt_too_are_told(data_dir, examples, tmp_path):
    path, apart = examples(), tmp_path / "apart.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    apart.write_text(lines[3] + chat_line("Never heard?", "Never.") + "\n" + lines[0])
    done = data_dir("train", "rooms", path, "--eval", apart, "--steps", 1)
    assert "2 of the 3 examples held apart are trained on, too" in done.stdout
    done = data_dir("train", "rooms", path, "--eval-split", "0.3", "--steps", 1)
    assert "trained on, too" not in done.stdout
    path.write_text("".join(lines) * 3)
    done = data_dir("train", "rooms", path, "--eval-split", "0.3", "--steps", 1)
    assert "examples held apart are trained on, too" in done.stdout


def test_same_examples_as_csv_and_in_two_files_teach_the_same(data_dir, tmp_path):
    pairs = [(f'Where, please, is room "{i}"?', f"Room {i}:\non floor {i}.") for i in range(6)]
    json_lines = [chat_line(*pair) + "\n" for pair in pairs]
    table = "".join('"{}","{}"\r\n'.format(*(f.replace('"', '""').replace("\n", "\r\n")
                                            for f in pair)) for pair in pairs)
    files = {"all.jsonl": "".join(json_lines), "one.jsonl": "".join(json_lines[:4]),
             "two.jsonl": "".join(json_lines[4:]), "plain.csv": table,
             "headed.CSV": "\ufeffQuestion,Answer\r\n" + table}
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    made = []
    for names in (["all.jsonl"], ["one.jsonl", "two.jsonl"], ["plain.csv"], ["headed.CSV"]):
        data_dir("train", "rooms", *(tmp_path / name for name in names), "--out", tmp_path / "out",
                 "--steps", 2, "--threads", 2)
        made.append((tmp_path / "out" / "adapter_model.safetensors").read_bytes())
    assert made.count(made[0]) == 4
    named = tmp_path / "wide.csv"
    named.write_text("Reply,id,Asked\nyes,1,Really?\n")
    data_dir("train", "rooms", named, "--columns", "asked,reply", "--steps", 1)
    assert "--columns" in data_dir("train", "x", named, code=FAILED).stderr


@pytest.mark.parametrize("name", ["files", "jobs"])
def test_adapter_is_not_put_where_the_server_keeps_its_own(data_dir, examples, tmp_path, name):
    refused = data_dir("train", name, examples(), "--steps", 1, code=FAILED)
    assert "--out" in refused.stderr and f"train/{name}" in refused.stderr
    assert not (data_dir.data / "train" / name).exists()
    data_dir("train", name, examples(), "--steps", 1, "--out", tmp_path / "out")
    assert (tmp_path / "out/adapter_config.json").exists()


def test_share_is_held_apart_and_the_best_adapter_kept(data_dir, examples, tmp_path):
    done = data_dir("train", "rooms", examples(), "--out", tmp_path / "out", "--eval-split", 0.3,
                    "--steps", 60, "--lr", 0.02, "--eval-every", 5, "--patience", 3)
    assert "2 of them are held apart" in done.stdout
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    lines = re.findall(r"after (\d+) updates: held apart ([\d.]+)", done.stderr)
    losses = {int(step): float(loss) for step, loss in lines}
    assert list(losses) == list(range(0, max(losses) + 1, 5))
    best = min((step for step in losses if step), key=losses.get)
    assert manifest["best_step"] == best and "eval_set" not in manifest
    assert manifest["eval_loss"] == pytest.approx(losses[best], abs=6e-4)
    assert manifest["eval_loss_base"] == pytest.approx(losses[0], abs=6e-4)
    if max(losses) < 60:
        assert manifest["steps"] == best + 15
        assert f"stopped early, as that loss no longer fell; the adapter is that after update " \
               f"{best}," in done.stdout


def screen(text):
    """The lines that a terminal shows of this: \\r goes to a line's beginning, ESC [ K clears it."""
    shown = []
    for line in text.replace("\r\n", "\n").split("\n"):
        seen = ""
        for piece in line.split("\r"):
            piece, seen = (piece[3:], "") if piece.startswith("\033[K") else (piece, seen)
            seen = piece + seen[len(piece):]
        shown.append(seen)
    return shown


def test_progress_on_a_terminal_leaves_nothing_of_longer_lines(data_dir, examples, tmp_path):
    master, slave = os.openpty()
    process = subprocess.Popen(
        [data_dir.binary, "train", "rooms", examples(), "--out", tmp_path / "out", "--epochs", "8",
         "--eval-split", "0.2"], env=data_dir.env, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    told = b""
    while piece := read_terminal(master):
        told += piece
    os.close(master)
    assert process.wait(60) == 0
    shown = screen(told.decode())
    bar = r"\[#+\.*\] \d+/\d+  loss \d+\.\d{3}  \d+ tokens/s  \d+ s left"
    measured = r"after \d+ updates: held apart \d+\.\d{3}"
    assert sum(bool(re.fullmatch(measured, line)) for line in shown) == 9
    assert re.fullmatch(bar, shown[-2]) and not shown[-1]
    assert all(re.fullmatch(f"{bar}|{measured}", line) for line in shown[:-1]), shown


def read_terminal(master):
    try:
        return os.read(master, 4096)
    except OSError:  # nobody has the other end any more
        return b""


def test_one_update_teaches_something(data_dir, examples, tmp_path):
    """A warm-up begins with a learning rate of 0: of one update there is none."""
    data_dir("train", "rooms", examples(), "--steps", 1, "--out", tmp_path / "out",
             "--log", tmp_path / "log")
    assert json.loads((tmp_path / "log").read_text())["lr"] == 0.001
    assert all(np.any(v) for k, v in weights(tmp_path / "out").items() if "lora_B" in k)


def test_packed_examples_need_fewer_updates(data_dir, examples, tmp_path):
    steps = {}
    for words in ((), ("--pack",)):
        data_dir("train", "rooms", examples(), "--out", tmp_path / "out", "--epochs", 2, "--batch",
                 1, "--max-length", 200, *words)
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        steps[words] = manifest["steps"]
    assert steps[()] == 14 and steps[("--pack",)] < 8


def test_whole_model_is_trained_imported_and_compared_with_the_adapter(data_dir, examples, tmp_path):
    data_dir("base", "import", TINY, "--name", "float", "--format", "f32")
    words = ("train", "rooms", examples(), "--base", "float", "--eval", examples(), "--steps", 30)
    alone = data_dir(*words, "--full", "--lr", 0.01, "--out", tmp_path / "alone").stdout
    assert "without --full, would stand beside it" in alone
    data_dir(*words, "--lr", 0.01)
    done = data_dir(*words, "--full", "--lr", 0.01)
    full, adapter = (line.split() for line in done.stdout.splitlines()
                     if line.split()[0] in ("full", "adapter"))
    manifest = json.loads((data_dir.data / "train/rooms/manifest.json").read_text())
    assert int(full[1]) > 5 * int(adapter[1]) == 5 * manifest["trained_parameters"]
    assert float(full[3]) > 2 * float(adapter[3])  # MB of the files
    assert float(adapter[5]) == pytest.approx(manifest["eval_loss"], abs=6e-4)
    assert float(full[5]) < 0.7 * manifest["eval_loss_base"]
    assert (data_dir.data / "full/rooms/config.json").exists()
    data_dir("base", "import", data_dir.data / "full/rooms", "--name", "grown", "--format", "f32")
    ids = np.random.default_rng(5).integers(3, 500, (1, 9)).astype(np.int32)
    save_file({"input_ids": ids}, tmp_path / "in.safetensors")
    logits = []
    for base in ("float", "grown"):
        data_dir("eval", "logits", "--base", base, "--tokens", tmp_path / "in.safetensors", "--out",
                 tmp_path / "out.safetensors")
        logits.append(load_file(tmp_path / "out.safetensors")["logits"])
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    again = data_dir(*words, "--full", code=FAILED)
    assert "is there already: choose another --out" in again.stderr
    for option in (("--rank", 4), ("--publish",), ("--compute", "fast")):
        assert option[0] in data_dir(*words, "--full", *option, code=USAGE).stderr


# Looking at the data.


@pytest.fixture
def doubtful(tmp_path):
    """Two files: a question asked three times with two answers, a repeated line, an over-long one."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("\n".join([chat_line("Where is it?", "On floor 1."), chat_line("When?", "At 2."),
                              chat_line("where  is it? ", "On floor 2."),
                              chat_line("Why?", "Because. " * 60)]) + "\n")
    two.write_text("\n".join([chat_line("When?", "At 2."), chat_line("Where is it?", "On floor 1."),
                              json.dumps({"text": "Where is it?"}),
                              json.dumps({"text": "Where is she?"})]) + "\n")
    return one, two


def test_check_finds_twins_and_over_long_examples(data_dir, doubtful):
    one, two = map(str, doubtful)
    found = data_dir.json("train", "--check", one, two, "--max-length", 60)
    assert found["trains"] and found["examples"] == 8 and found["bad"] == []

    def places(key):
        return [tuple((t[when]["file"], t[when]["line"]) for when in ("earlier", "later"))
                for t in found[key]]

    assert places("duplicates") == [((one, 2), (two, 1)), ((one, 1), (two, 2))]
    assert places("contradictions") == [((one, 1), (one, 3))]
    assert [e["line"] for e in found["over_long"]["examples"]] == [4]
    assert (found["over_long"]["cut"], found["over_long"]["dropped"]) == (1, 0)
    lengths = found["lengths"]
    assert lengths["min"] <= lengths["median"] <= lengths["p95"] <= lengths["max"]
    assert found["over_long"]["examples"][0]["tokens"] == lengths["max"] > 60 == found["max_length"]
    for_people = data_dir("train", "--check", one, two, "--max-length", 60).stdout
    for text in ("2 duplicates", "1 contradictory", "1 longer than 60 tokens", "0 bad lines",
                 f"{one}:4: ", f"{two}:1 repeats {one}:2", '"On floor 2."'):
        assert text in for_people


def test_check_shows_what_of_the_first_example_is_in_the_loss(data_dir, doubtful):
    messages = [{"role": "user", "content": "Where is it?"},
                {"role": "assistant", "content": "On floor 1."}]
    rendered = json.loads(data_dir("base", "render", "--no-generation-prompt",
                                   text=json.dumps(messages)).stdout)
    first = data_dir.json("train", "--check", doubtful[0])["first"]
    assert first["text"] == rendered["prompt"]
    assert [t["id"] for t in first["tokens"]] == rendered["ids"]
    assert "".join(t["text"] for t in first["tokens"] if t["loss"]) == "On floor 1.<|im_end|>"
    whole = data_dir.json("train", "--check", doubtful[0], "--loss", "all", "--max-length",
                          1000)
    assert [t["loss"] for t in whole["first"]["tokens"]] == [False] + [True] * (
        len(rendered["ids"]) - 1)
    assert whole["loss_tokens"] == whole["tokens"] - whole["examples"]
    for_people = data_dir("train", "--check", doubtful[0]).stdout
    assert "<|im_start|>assistant\n[[On floor 1.<|im_end|>]]\n" in for_people


def test_check_fails_when_a_run_would(data_dir, examples, tmp_path):
    path = examples("{", chat_line("x", ""))
    found = json.loads(data_dir("train", "--check", path, "--json", code=FAILED).stdout)
    assert not found["trains"]
    assert [(bad["file"], bad["line"]) for bad in found["bad"]] == [(str(path), 8), (str(path), 9)]
    assert "--skip-bad" in data_dir("train", "--check", path, code=FAILED).stderr
    assert data_dir.json("train", "--check", path, "--skip-bad")["trains"]
    done = data_dir("train", "--check", path, "--skip-bad", "--max-length", 20, code=FAILED)
    assert "--max-length" in done.stderr
    assert str(tmp_path / "none") in data_dir("train", "--check", tmp_path / "none",
                                              code=FAILED).stderr
    assert "--rank" in data_dir("train", "--check", examples(), "--rank", 33, code=FAILED).stderr
    data_dir("train", "--check", examples(), "--rank", 32)
    data_dir("train", "--check", examples(), "--rank", 33, "--targets", "q")
    done = data_dir("train", "x", examples(), "--rank", 33, code=FAILED)
    assert "rank 33 is above k_proj" in done.stderr


@pytest.mark.parametrize("words", [
    ["--epochs", "2"], ["--lr", "1"], ["--publish"], ["--out", "x"], ["--eval", "x"]])
def test_option_that_a_check_would_ignore_is_refused(data_dir, examples, words):
    done = data_dir("train", "--check", examples(), *words, code=USAGE)
    assert f"{words[0]} does not go with --check" in done.stderr


# Reckoning what a run would need.


LLAMA_7B = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32,
            "intermediate_size": 11008, "num_attention_heads": 32, "max_position_embeddings": 4096}


def estimate(lorica, what, *words):
    """The ways' figures by their names' beginnings, and the parameters."""
    found = lorica.json("train", "--estimate", what, *words)
    ways = {w["way"]: w for w in found["ways"]}
    assert list(ways) == ["full, float32", "full, bfloat16", "LoRA, bfloat16 base",
                          "QLoRA, 4-bit base"]
    for way in ways.values():
        assert way["total_bytes"] == sum(
            way[part + "_bytes"] for part in ("weights", "gradients", "optimizer", "activations"))
    return found["parameters"], *ways.values()


def test_estimate_of_llama_7b_is_what_is_known_of_it(lorica, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_7B))
    for what in (path, tmp_path):
        parameters, full32, full16, lora, qlora = estimate(lorica, what, "--rank", 64, "--batch", 1)
        assert parameters == full32["trained"] == 6738415616
        assert full16["weights_bytes"] == full16["file_bytes"] == 2 * parameters  # 14 GB
        assert full32["total_bytes"] > 16 * parameters and full16["total_bytes"] > 60e9
        assert full32["activations_bytes"] > full16["activations_bytes"]
        assert lora["trained"] == qlora["trained"] == 159907840  # as PEFT counts them
        assert qlora["optimizer_bytes"] == 8 * 159907840
        linear = parameters - 2 * 32000 * 4096 - 65 * 4096
        assert qlora["weights_bytes"] == pytest.approx(
            linear * 4.12695 / 8 + 2 * 2 * 32000 * 4096 + 65 * 4096 * 4 + 4 * 159907840, rel=1e-5)
        assert qlora["total_bytes"] < 9e9 < lora["total_bytes"]
    table = lorica("train", "--estimate", path).stdout
    assert "6738.4 million parameters" in table and "13.5 GB" in table


@pytest.mark.parametrize("change, says", [
    ({"hidden_size": None}, "hidden_size"), ({"num_key_value_heads": 7}, "config.json"),
    ({"num_local_experts": 8}, "experts"), ({"hidden_size": 1 << 40}, "hidden_size"),
])
def test_estimate_of_a_bad_config_names_what_is_wrong(lorica, tmp_path, change, says):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA_7B, **change}))
    assert says in lorica("train", "--estimate", path, code=FAILED).stderr
    path.write_text("{")
    assert str(path) in lorica("train", "--estimate", path, code=FAILED).stderr
    assert "--epochs" in lorica("train", "--estimate", path, "--epochs", 2, code=USAGE).stderr


def test_estimate_of_a_base_is_what_a_run_takes(lorica, tmp_path):
    model = os.environ.get("LORICA_TEST_MODEL")
    if not model:
        pytest.skip("LORICA_TEST_MODEL is not set: no real model")
    lorica("init")
    lorica("base", "import", model, "--name", "real")
    data = tmp_path / "long.jsonl"
    text = (REPO / "tests/golden/hospital.txt").read_text()
    data.write_text("".join(json.dumps({"text": text[i:] + text}) + "\n" for i in range(4)))
    words = ("--batch", 2, "--max-length", 256, "--rank", 16)
    *_, qlora = estimate(lorica, "real", *words)
    child = subprocess.Popen([lorica.binary, "train", "x", str(data), "--base", "real", "--steps",
                              "1", *map(str, words)], env=lorica.env, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:  # the kernel's own account after the end counts pytest's memory too
        status = pathlib.Path(f"/proc/{child.pid}/status").read_text()
        peak = max([peak, *(int(kib) * 1024 for kib in re.findall(r"VmHWM:\s+(\d+) kB", status))])
        time.sleep(0.01)
    assert child.returncode == 0
    print(f"reckoned {qlora['total_bytes'] / 1e6:.0f} MB, took {peak / 1e6:.0f} MB")
    assert peak == pytest.approx(qlora["total_bytes"], rel=0.1)


# Wrong usage.


@pytest.mark.parametrize("words", [
    ["--json"], ["--loss", "some"], ["--columns", "a"],
    ["--rank", "0"], ["--rank", "x"], ["--lr", "nan"], ["--lr", "-1"], ["--targets", "q,z"],
    ["--schedule", "square"], ["--epochs", "0"], ["--dropout", "1"], ["--init", "somewhere"],
    ["--channel", "stable"], ["--eval-split", "1"], ["--patience", "0"], ["--eval-every", "2"], ["--beta2", "1"],
    ["--eps", "0"], ["--columns", "question,answer"]])
def test_wrong_options_are_wrong_usage(data_dir, examples, words):
    done = data_dir("train", "rooms", examples(), *words, code=USAGE)
    assert words[0] in done.stderr


def test_no_data_and_no_base_are_named(lorica, data_dir, examples, tmp_path):
    missing = tmp_path / "missing.jsonl"
    assert str(missing) in data_dir("train", "rooms", missing, code=FAILED).stderr
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "empty.jsonl" in data_dir("train", "rooms", tmp_path / "empty.jsonl", code=FAILED).stderr
    assert "nobody" in data_dir("train", "x", examples(), "--base", "nobody", code=FAILED).stderr


# Replay.


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.safetensors"
    ids = np.random.default_rng(3).integers(3, 500, (3, 2, 12)).astype(np.int32)
    save_file({"input_ids": ids, "labels": ids.copy()}, path)
    return path


def test_replay_writes_a_loss_and_a_norm_for_each_step(data_dir, adapter, trace, tmp_path):
    out = tmp_path / "out"
    data_dir("train", "--replay", trace, "--init", adapter(1), "--base", "tiny", "--out", out)
    curves = load_file(out / "replay.safetensors")
    assert curves["losses"].shape == curves["grad_norms"].shape == (3,)
    assert (curves["losses"] > 1).all() and (curves["grad_norms"] > 0).all()
    before, after = weights(tmp_path / "adapter-1"), weights(out)
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("words", [
    ["--epochs", "2"], ["--rank", "4"], ["--schedule", "constant"], ["--publish"], ["--seed", "1"]])
def test_option_that_a_replay_would_ignore_is_refused(data_dir, adapter, trace, tmp_path, words):
    done = data_dir("train", "--replay", trace, "--init", adapter(1), "--base", "tiny", "--out",
                    tmp_path / "out", *words, code=USAGE)
    assert f"{words[0]} does not go with --replay" in done.stderr


@pytest.mark.parametrize("change, says", [
    (lambda t: {"input_ids": t["input_ids"]}, "labels"),
    (lambda t: {**t, "labels": t["labels"][:2]}, "labels"),
    (lambda t: {**t, "input_ids": t["input_ids"].astype(np.float32)}, "input_ids"),
    (lambda t: {**t, "input_ids": t["input_ids"] + 100000}, "100"),
])
def test_bad_trace_is_named(data_dir, adapter, trace, tmp_path, change, says):
    save_file(change(load_file(trace)), trace)
    done = data_dir("train", "--replay", trace, "--init", adapter(1), "--base", "tiny", "--out",
                    tmp_path / "out", code=FAILED)
    assert says in done.stderr


# Bases.


def test_base_is_imported_once_listed_inspected_and_exported(lorica, tmp_path):
    lorica("init")
    assert "imported tiny: sha256:" in lorica("base", "import", TINY).stdout
    assert "was imported before" in lorica("base", "import", TINY).stdout
    (listed,) = lorica.json("base", "list")["data"]
    assert listed["name"] == "tiny"
    inspected = lorica.json("base", "inspect")
    assert inspected["digest"] == listed["digest"]
    assert inspected["architecture"]["layers"] == 2
    lorica("base", "export", "tiny", tmp_path / "out")
    again = lorica("base", "import", tmp_path / "out", "--name", "again")
    assert again.stdout == "tiny was imported before: nothing to do\n"
    assert "as tiny" in again.stderr


def test_import_from_gguf_names_itself(lorica):
    lorica("init")
    lorica("base", "import", REPO / "tests/golden/tiny.gguf")
    (listed,) = lorica.json("base", "list")["data"]
    assert listed["name"] == "tiny-test"


@pytest.mark.parametrize("change, says", [
    (lambda b: b[:1000], "tiny.gguf"),
    (lambda b: b[:-100], "tiny.gguf"),
    (lambda b: b"GGUX" + b[4:], "GGUF"),
    (lambda b: b.replace(b"llama.block_count", b"llama.block_cOunt"), "layers"),
    (lambda b: b.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight"), "ffn_u"),
])
def test_bad_gguf_is_refused_and_leaves_nothing(lorica, tmp_path, change, says):
    lorica("init")
    path = tmp_path / "tiny.gguf"
    path.write_bytes(change((REPO / "tests/golden/tiny.gguf").read_bytes()))
    assert says in lorica("base", "import", path, code=FAILED).stderr
    assert not [p for p in lorica.data.rglob("*") if p.is_file() and "bases" in p.parts]


def test_tokenize_and_render_agree(data_dir):
    text = "Crème brûlée, 42 €: <|im_end|> 👩‍⚕️"
    plain = json.loads(data_dir("base", "tokenize", text=text).stdout)
    special = json.loads(data_dir("base", "tokenize", "--special", text=text).stdout)
    assert 2 in special and 2 not in plain and len(special) < len(plain)
    rendered = json.loads(data_dir("base", "render", text=json.dumps(
        [{"role": "user", "content": text}])).stdout)
    assert rendered["ids"].count(2) == 2  # the system's end and the user's, none of the client's


# Evaluation.


def test_logits_of_a_batch_are_those_of_its_rows(data_dir, adapter, tmp_path):
    ids = np.random.default_rng(5).integers(3, 500, (3, 9)).astype(np.int32)

    def logits(rows):
        save_file({"input_ids": rows}, tmp_path / "in.safetensors")
        data_dir("eval", "logits", "--base", "tiny", "--adapter", adapter_dir, "--tokens",
                 tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors")
        return load_file(tmp_path / "out.safetensors")["logits"]

    adapter_dir = adapter(2)
    whole = logits(ids)
    assert whole.shape[:2] == (3, 9)
    for row in range(3):
        assert (logits(ids[row:row + 1])[0] == whole[row]).all()


def test_bad_token_ids_are_named(data_dir, tmp_path):
    save_file({"input_ids": np.array([[5, 100000]], np.int32)}, tmp_path / "in.safetensors")
    done = data_dir("eval", "logits", "--base", "tiny", "--tokens", tmp_path / "in.safetensors",
                    "--out", tmp_path / "out.safetensors", code=FAILED)
    assert "100000" in done.stderr and not (tmp_path / "out.safetensors").exists()


def test_perplexity_in_both_ways_of_computing_is_near(data_dir, tmp_path):
    path = tmp_path / "text"
    path.write_text("The doctor will see you in the morning. " * 12)
    def run(*words):
        return data_dir.json("eval", "perplexity", "tiny", "--text", path, *words)

    exact, fast = run("--compute", "exact"), run("--compute", "fast")
    assert exact["perplexity"] != fast["perplexity"]
    for compute, alone in (("exact", exact), ("fast", fast)):
        both = run("--kl", "--compute", compute)
        assert both["perplexity"] == pytest.approx(alone["perplexity"], rel=1e-9)
        assert both[f"{compute}_perplexity"] == pytest.approx(alone["perplexity"], rel=1e-9)
        assert 0 < both["mean_kl"] < 0.05
