# SPDX-License-Identifier: MIT
"""Each rule of lint.py finds what it is for, in a tree made to break it."""
import pathlib
import subprocess
import sys
import tempfile

LINT = pathlib.Path(__file__).with_name("lint.py")
HEAD = "/* SPDX-License-Identifier: MIT */\n"
GUARD = "#ifndef LORICA_PROTO_{0}_H\n#define LORICA_PROTO_{0}_H\n{1}\n#endif\n"
SAMPLE = HEAD + 'const char lorica_config_sample[] = "#listen = 1\\n";\n'
SETTING = HEAD + 'int a[] = {{"%s", LORICA_SETTING_TEXT}};\n'
SERVE = HEAD + 'const char *help = "--listen A\\twhere";\n'
LONG = HEAD + "int f(void) {\n" + "    (void)0;\n" * 120 + "}\n"

# rule, file, content that breaks it, words of the complaint, content that keeps it
CASES = [
    ("layers", "proto/a.c", '#include "gateway/cmd.h"\n', "must not include", '#include "proto/b.h"\n'),
    ("layers", "runtime/a.c", '#include "registry/registry.h"\n', "must not include", ""),
    ("layers", "registry/a.c", "#include <lmdb.h>\n", "store_lmdb", "#include <stdio.h>\n"),
    ("layers", "gateway/a.c", "#  include <cjson/cJSON.h>\n", "json", "#include <uv.h>\n"),
    ("layers", "gateway/a.c", "#include <openssl/evp.h>\n", "tls", "#include <curl/curl.h>\n"),
    ("banned", "proto/a.c", "void f(char *a) { strcpy(a, a); }\n", "a.c:1: strcpy",
     'void f(void) { g("strcpy(a)"); /* strcat(b) */ my_strcpy(a); }\n'),
    ("unfinished", "proto/a.c", "/* TO" "DO later */\n", "a.c:1", "/* done */\n"),
    ("sizes", "proto/a.c", LONG, "a.c:2: a function of 122 lines", LONG.replace("    (void)0;\n" * 90, "")),
    ("sizes", "proto/a.c", HEAD * 1100, "more than 1000", HEAD),
    ("licence", "proto/a.c", "int a;\n", "no SPDX", HEAD),
    ("headers", "proto/a.h", HEAD + GUARD.format("A", "size_t f(void);"), "does not compile alone",
     HEAD + GUARD.format("A", "int f(void);")),
    ("headers", "proto/a.h", HEAD + GUARD.format("B", ""), "the guard", HEAD + GUARD.format("A", "")),
    ("layout", "proto/a.c", "int  a ;\n", "a.c", "int a;\n"),
    ("options", "gateway/cmd/cmd_a.c", 'o[] = {{.name = "mute", .flag = &a}}; h = "--muted\\tx";',
     "--mute", 'o[] = {{.name = "mute", .flag = &a}}; h = "--mute\\tx";'),
    ("options", "gateway/config.c", SETTING % "silent", "silent is missing", SETTING % "listen"),
]


def run(rule, tree):
    done = subprocess.run([sys.executable, LINT, rule, tree, tree / "build"], check=False,
                          capture_output=True, encoding="utf-8")
    return done.returncode, done.stdout + done.stderr


def symbols(tree):
    """The rule over a library that is compiled here."""
    for name, expected in (("stray", 1), ("lorica_fine", 0)):
        (tree / "a.c").write_text(f"int {name}(void); int {name}(void) {{ return 0; }}\n")
        folder = tree / "build/proto"
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-c", tree / "a.c", "-o", tree / "a.o"], check=True)
        (folder / "libproto.a").unlink(missing_ok=True)
        subprocess.run(["ar", "rcs", folder / "libproto.a", tree / "a.o"], check=True)
        code, text = run("symbols", tree)
        assert code == expected and (name in text) == bool(expected), (name, code, text)


def manual(tree):
    """The rule over a program that is a script."""
    program = tree / "build/gateway/lorica"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho '.TH A 1'\n")
    program.chmod(0o755)
    (tree / "deploy/man").mkdir(parents=True)
    for page, expected in ((".TH B 1\n", 1), (".TH A 1\n", 0)):
        (tree / "deploy/man/lorica.1").write_text(page)
        code, text = run("manual", tree)
        assert code == expected, (page, code, text)


def main():
    for rule, name, wrong, complaint, right in CASES:
        for content, expected in ((wrong, 1), (right, 0)):
            with tempfile.TemporaryDirectory() as directory:
                tree = pathlib.Path(directory)
                for folder in (tree / name).parent, tree / "build", tree / "gateway/cmd":
                    folder.mkdir(parents=True, exist_ok=True)
                (tree / "build/compile_commands.json").write_text("[]")
                (tree / "gateway/cmd/config_sample.c").write_text(SAMPLE)
                (tree / "gateway/cmd/cmd_serve.c").write_text(SERVE)
                (tree / ".clang-format").write_text("BasedOnStyle: LLVM\n")
                (tree / name).write_text(content)
                code, text = run(rule, tree)
                if code == 77:
                    print(text, end="")
                    continue
                assert code == expected, (rule, name, content[:200], code, text)
                assert expected == 0 or complaint in text, (rule, complaint, text)
    for case in (symbols, manual):
        with tempfile.TemporaryDirectory() as directory:
            case(pathlib.Path(directory))


if __name__ == "__main__":
    main()
