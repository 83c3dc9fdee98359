#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes tokenizer.vectors.json: 200 texts and the ids that Hugging Face `tokenizers` gives them.

    pip install tokenizers gguf
    python3 tests/golden/make_tokenizer.py [MODEL.gguf]

"tiny" are ids of tests/golden/tiny/tokenizer.json, plain and with special tokens recognised.
"smollm" are plain ids of MODEL.gguf's vocabulary (SmolLM2); kept as they are without MODEL.
"""

import json
import pathlib
import random
import sys

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

here = pathlib.Path(__file__).resolve().parent

WORDS = [
    "'s", "'LL", "don't", "Hello", "  ", "\n\n", "\r\n", "\t\t", "<|im_end|>", "<|im_start|>",
    "<|endoftext|>", "<note>", " <note> ", "<|im_", "end|>", "< |im_end|>", "123", "3.14", "2026-11-24",
    "https://example.org/a?b=1#c", "Tantanila Hospital", "I'd be delighted to help.", "x_y",
    "👩‍👩‍👧", "🇫🇮", "❤️", "é", "e\u0301", "क्षि", "العربية", "中文字符", "日本語の", "한국어",
    "ſ'ſ", "ﬁ", "½", "Ⅷ", "٣", "²", "\u00a0", "\u3000", "\u200b", "\u180e", "\u2028", "\x85",
    "\x1c", "#include <x.h>", "{ return 0; }", "    if (a) {", "naïve", "ЖИЗНЬ",
    "\U00031350", "\U0001e4f3", "\U00011de3", "\ufffd", "\ue000", "\U0010fffd",
]
FIXED = [
    "", " ", "\n", "   ", " \n ", "a", " a", "a ", "\t\n\r", "  leading", "trailing  ", "a  b   c",
    "Hello! Welcome to Tantanila Hospital. I'd be delighted to help.",
    "<|im_start|>user\nhi<|im_end|>\n", "<<|im_end|>>", "<|im_end|><|im_end|>", "a<note>b",
    "0123456789", "1 2  3", "1,000.50 mg", "\n\n\n   x", "x" * 300, " " * 300, "ab" * 200,
]


def texts():
    rnd = random.Random(7)
    points = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    out = list(FIXED)
    while len(out) < 200:
        parts = []
        for _ in range(rnd.randint(1, 10)):
            if rnd.random() < 0.75:
                parts.append(rnd.choice(WORDS))
            elif rnd.random() < 0.5:
                parts.append("".join(chr(rnd.randint(32, 126)) for _ in range(rnd.randint(1, 9))))
            else:
                parts.append("".join(chr(rnd.choice(points)) for _ in range(rnd.randint(1, 4))))
        out.append("".join(parts))
    return out


def from_gguf(path):
    import gguf
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    tok = tokenizers.Tokenizer(models.BPE(
        {t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False)
                            for t, kind in zip(tokens, types) if kind == 3])
    return tok


def ids(tok, text, special):
    tok.encode_special_tokens = not special
    return tok.encode(text, add_special_tokens=False).ids


def main():
    path = here / "tokenizer.vectors.json"
    tiny = tokenizers.Tokenizer.from_file(str(here / "tiny" / "tokenizer.json"))
    rows = [{"text": t, "tiny": ids(tiny, t, False), "tiny_special": ids(tiny, t, True)}
            for t in texts()]
    if len(sys.argv) > 1:
        smollm = from_gguf(sys.argv[1])
        for row in rows:
            row["smollm"] = ids(smollm, row["text"], False)
    elif path.exists():
        old = {row["text"]: row["smollm"] for row in json.loads(path.read_text())}
        for row in rows:
            row["smollm"] = old[row["text"]]
    path.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


if __name__ == "__main__":
    main()
