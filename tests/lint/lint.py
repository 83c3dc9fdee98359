# SPDX-License-Identifier: MIT
"""Rules of the house that a compiler does not check.

    lint.py RULE SOURCE_DIR BUILD_DIR      exit code 0 kept, 1 broken (each place named), 77 skipped
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Rules that hold for tests and deploy/ walk all folders.
FOLDERS = ("proto", "kernels", "registry", "runtime", "gateway", "tests", "deploy")
MAY_INCLUDE = {
    "proto": {"proto"},
    "kernels": {"proto", "kernels"},
    "registry": {"proto", "registry"},
    "runtime": {"proto", "kernels", "runtime"},
    "gateway": {"proto", "kernels", "registry", "runtime", "gateway"},
}
# Headers of libraries, and the only places that may include them.
LIBRARIES = {
    r"cjson/|cJSON\.h": r"proto/json\.c",
    r"lmdb\.h": r"registry/store_lmdb\.c",
    r"openssl/": r"registry/(digest|openssl|signkey)\.c|gateway/server/(tls|certificate)\.c",
    r"uv\.h|llhttp\.h|curl/": r"gateway/.*",
    r"pcre2\.h|utf8proc\.h": r"runtime/.*",
}
BANNED = ("strcpy strcat stpcpy sprintf vsprintf gets atoi atol atoll atof strtok alloca system "
          "popen tmpnam mktemp rand srand asctime ctime gmtime localtime").split()
UNFINISHED = ("TO" "DO", "FIX" "ME", "X" "XX")
FILE_LINES, FUNCTION_LINES = 1000, 100
SKIPPED = 77


def files(source, *suffixes, folders=FOLDERS):
    """Paths below the folders, with these endings (all without any), in order."""
    for folder in folders:
        for path in sorted((source / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and \
                    (not suffixes or path.suffix in suffixes):
                yield path


def code(path):
    """Text of a C file with comments and the inside of strings blanked; lines stay where they are."""
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''

    def blank(match):
        text = match.group(0)
        return text[0] + text[0] if text[0] in "\"'" else "\n" * text.count("\n")

    return re.sub(pattern, blank, path.read_text(encoding="utf-8"), flags=re.S)


def places(text, pattern):
    """Line numbers and matches of a pattern."""
    for match in re.finditer(pattern, text):
        yield text.count("\n", 0, match.start()) + 1, match


def layers(source, _build):
    """Includes follow the arrows, and each library is included where it belongs only."""
    for path in files(source, ".c", ".h", folders=MAY_INCLUDE):
        name = path.relative_to(source).as_posix()
        folder = name.split("/")[0]
        text = path.read_text(encoding="utf-8")
        for line, match in places(text, r'(?m)^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)'):
            own, library = match.groups()
            if own and "/" in own and own.split("/")[0] not in MAY_INCLUDE[folder]:
                yield f"{name}:{line}: {folder}/ must not include {own}"
            if own and "/" not in own:
                yield f"{name}:{line}: {own} is to be included by its folder: {folder}/{own}"
            for headers, allowed in LIBRARIES.items():
                if library and re.match(headers, library) and not re.fullmatch(allowed, name):
                    yield f"{name}:{line}: <{library}> may be included by {allowed} only"


def banned(source, _build):
    """Functions that write without a bound, hide errors, or start a shell."""
    pattern = r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\("
    for path in files(source, ".c", ".h"):
        for line, match in places(code(path), pattern):
            yield f"{path.relative_to(source)}:{line}: {match.group(1)} is banned"


def unfinished(source, _build):
    """Nothing is left for later."""
    pattern = r"\b(" + "|".join(UNFINISHED) + r")\b"
    for path in files(source, ".c", ".h", ".py", ".sh", ".build", ".md"):
        for line, match in places(path.read_text(encoding="utf-8"), pattern):
            yield f"{path.relative_to(source)}:{line}: {match.group(1)}"


def sizes(source, _build):
    """Files and functions that one can still read."""
    for path in files(source, ".c", ".h"):
        name = path.relative_to(source)
        lines = code(path).split("\n")
        if len(lines) > FILE_LINES:
            yield f"{name}: {len(lines)} lines, more than {FILE_LINES}"
        start = None
        for number, line in enumerate(lines, 1):
            if line and line[0] not in " \t#}/" and not line.startswith("static const") \
                    and start is None and "=" not in line:
                start = number
            if line.startswith("}") or (start and line.endswith(";") and line[0] not in " \t"):
                if start and line == "}" and number - start + 1 > FUNCTION_LINES:
                    yield f"{name}:{start}: a function of {number - start + 1} lines, " \
                          f"more than {FUNCTION_LINES}"
                start = None


def licence(source, _build):
    """The first two lines name the licence."""
    for path in files(source, ".c", ".h", ".py", ".sh"):
        with open(path, encoding="utf-8") as file:
            if "SPDX-License-Identifier: MIT" not in file.readline() + file.readline():
                yield f"{path.relative_to(source)}: no SPDX line at its top"


def compile_flags(build, folder):
    """The compiler, and the include paths that a folder's files are compiled with."""
    compiler, flags = "cc", [f"-I{build}/layers/{folder}", "-D_GNU_SOURCE"]
    with open(build / "compile_commands.json", encoding="utf-8") as file:
        for entry in json.load(file):
            if f"/{folder}/" in entry["file"] and "/tests/" not in entry["file"]:
                words = entry["command"].split()
                return words[0], flags + [w for w in words if w.startswith(("-I", "-isystem"))]
    return compiler, flags


def headers(source, build):
    """Each header compiles alone, and its guard is its path."""
    for folder in MAY_INCLUDE:
        compiler, flags = compile_flags(build, folder)
        for path in files(source, ".h", folders=[folder]):
            name = path.relative_to(source).as_posix()
            text = path.read_text(encoding="utf-8")
            guard = "LORICA_" + re.sub(r"[/.]", "_", name).upper()
            if f"#ifndef {guard}\n#define {guard}\n" not in text:
                yield f"{name}: the guard is not {guard}"
            isa = ["-mavx2", "-mfma", "-mf16c"] if "/x86/" in name else []
            isa += ["-mavx512f"] if "avx512" in name else []
            done = subprocess.run(
                [compiler, "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror",
                 "-Wno-unused-function", *isa, *flags, "-include", str(path), "-x", "c", "/dev/null"],
                cwd=build, capture_output=True, encoding="utf-8", check=False)
            if done.returncode != 0:
                yield f"{name} does not compile alone:\n{done.stderr}"


ARM64 = "aarch64-linux-gnu-gcc"


def needed_for_arm64(rule):
    if not shutil.which(ARM64):
        print(f"skipped: {rule}: {ARM64} is not installed")
        sys.exit(SKIPPED)


def arm64(source, build):
    """Every source of the program compiles for 64-bit ARM. Headers of libraries are this machine's:
    none of those that are used differs."""
    needed_for_arm64("arm64")
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    seen = 0
    for entry in commands:
        path = (build / entry["file"]).resolve()
        name = path.relative_to(source).as_posix() if path.is_relative_to(source) else ""
        if name.split("/")[0] not in MAY_INCLUDE or "/x86/" in name:
            continue
        seen += 1
        words = [w.strip("'") for w in entry["command"].split()]
        keep = [w for w in words if w.startswith(("-I", "-isystem", "-D", "-W", "-std"))]
        done = subprocess.run(
            [ARM64, *keep, "-O1", "-fsyntax-only", "-idirafter", "/usr/include", "-idirafter",
             "/usr/include/x86_64-linux-gnu", str(path)],
            cwd=build, capture_output=True, encoding="utf-8", check=False)
        if done.returncode != 0:
            yield f"{name} does not compile for arm64:\n{done.stderr}"
    if seen < 50:
        yield f"only {seen} sources were found in {build}/compile_commands.json"


def arm64_kernels(source, build):
    """The kernels' checks pass on 64-bit ARM, run by qemu."""
    needed_for_arm64("arm64_kernels")
    if not shutil.which("qemu-aarch64"):
        print("skipped: arm64_kernels: qemu-aarch64 is not installed")
        sys.exit(SKIPPED)
    sources = [*(source / "kernels").glob("*.c"), *(source / "tests/kernels").glob("*.c"),
               source / "proto/err.c"]
    neon = sorted((source / "kernels/arm").glob("*.c"))
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/checkkern"
        flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", f"-I{source}"]
        subprocess.run([ARM64, *flags, "-march=armv8.2-a+dotprod", "-c", *map(str, neon)],
                       check=True, cwd=directory)
        sources += pathlib.Path(directory).glob("*.o")
        subprocess.run([ARM64, *flags, "-static", "-o", program, *map(str, sources), "-lm",
                        "-lpthread"], check=True, cwd=build)
        done = subprocess.run(["qemu-aarch64", program], capture_output=True, encoding="utf-8",
                              check=False)
        if done.returncode != 0:
            yield f"checkkern on arm64 ended with {done.returncode}:\n{done.stdout[-2000:]}"
        elif "skipped:" in done.stdout or "neon" not in done.stdout:
            yield f"checkkern on arm64 left NEON out:\n{done.stdout[-2000:]}"


def layout(source, _build):
    """clang-format has nothing to change."""
    if not shutil.which("clang-format"):
        print("skipped: layout: clang-format is not installed")
        sys.exit(SKIPPED)
    for path in files(source, ".c", ".h"):
        done = subprocess.run(["clang-format", "--dry-run", "-Werror", str(path)],
                              capture_output=True, encoding="utf-8", check=False, cwd=source)
        if done.returncode != 0:
            yield f"{path.relative_to(source)}: {done.stderr.splitlines()[0]}"


def symbols(_source, build):
    """Whatever the libraries export begins with lorica_."""
    if not shutil.which("nm"):
        print("skipped: symbols: nm is not installed")
        sys.exit(SKIPPED)
    archives = [p for f in MAY_INCLUDE for p in sorted((build / f).rglob("lib*.a"))
                if "llhttp" not in p.name]
    if not archives:
        yield f"{build}: no library was built"
    for archive in archives:
        done = subprocess.run(["nm", "-g", "--defined-only", "-P", str(archive)],
                              capture_output=True, encoding="utf-8", check=True)
        for line in done.stdout.splitlines():
            name = line.split()[0] if line.split() else ""
            foreign = name.startswith(("__asan", "__odr_asan", "__tsan", "__ubsan", "llhttp_"))
            if len(line.split()) > 2 and not name.startswith("lorica_") and not foreign:
                yield f"{archive.relative_to(build)}: {name} is exported without the prefix"


def strings(text):
    """All string literals of a C text, joined."""
    return "".join(re.findall(r'"((?:\\.|[^"\\\n])*)"', text))


def options(source, _build):
    """Each option that a command takes stands in its help; each setting in lorica.conf too."""
    gateway = source / "gateway"
    sample = (gateway / "cmd/config_sample.c").read_text(encoding="utf-8")
    for path in sorted(gateway.glob("cmd/cmd_*.c")):
        text = path.read_text(encoding="utf-8")
        names = re.findall(r'\{\s*(?:\.name\s*=\s*)?"([a-z0-9-]+)",\s*(?:\.(?:value|flag|list)|&|NULL)',
                           text)
        for name in names:
            if not re.search(rf"--{name}(?![a-z0-9-])[^\\]*\\t", strings(text)):
                yield f"{path.relative_to(source)}: --{name} is not in the help"
    config = gateway / "config.c"
    if config.is_file():
        settings = re.findall(r'\{"([a-z0-9-]+)",\s*LORICA_SETTING', config.read_text("utf-8"))
        if not settings:
            yield "gateway/config.c: no setting was found"
        serve = strings((gateway / "cmd/cmd_serve.c").read_text(encoding="utf-8"))
        for name in settings:
            if not re.search(rf'"#{name} = ', sample):
                yield f"gateway/cmd/config_sample.c: {name} is missing"
            if not re.search(rf"--{name}(?![a-z0-9-])", serve):
                yield f"gateway/cmd/cmd_serve.c: --{name} is not in the help"


def manual(source, build):
    """The committed page is what the program writes."""
    page = source / "deploy/man/lorica.1"
    done = subprocess.run([build / "gateway/lorica", "help", "--man"], capture_output=True,
                          encoding="utf-8", check=True)
    if not page.is_file() or page.read_text(encoding="utf-8") != done.stdout:
        yield f"{page.relative_to(source)} is not what the program writes: " \
              "lorica help --man >deploy/man/lorica.1"
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", "-rHY=0"], input=done.stdout,
                              capture_output=True, encoding="utf-8", check=False)
        if done.stderr:
            yield f"groff complains about {page.relative_to(source)}: {done.stderr}"


RULES = {f.__name__: f for f in (layers, banned, unfinished, sizes, licence, headers, arm64,
                                 arm64_kernels, layout, symbols, options, manual)}


def main(argv):
    if len(argv) != 4 or argv[1] not in RULES:
        print(f"usage: lint.py {'|'.join(RULES)} SOURCE_DIR BUILD_DIR", file=sys.stderr)
        return 2
    broken = list(RULES[argv[1]](pathlib.Path(argv[2]), pathlib.Path(argv[3])))
    for place in broken:
        print(place)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
