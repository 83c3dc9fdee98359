# SPDX-License-Identifier: MIT
"""Counts tests: what meson and pytest wrote, as one line per suite, and the closing line of all.

    count.py meson NAME testlog.json     one line "passed failed skipped name"
    count.py junit NAME pytest.xml       likewise
    count.py total FILE                  reads those lines; fails on a failure and on no test
"""
import json
import sys
import xml.etree.ElementTree


def meson(path):
    passed = failed = skipped = 0
    with open(path, encoding="utf-8") as log:
        for line in log:
            result = json.loads(line)["result"]
            if result in ("OK", "EXPECTEDFAIL"):
                passed += 1
            elif result == "SKIP":
                skipped += 1
            else:
                failed += 1
    return passed, failed, skipped


def junit(path):
    suite = next(xml.etree.ElementTree.parse(path).getroot().iter("testsuite"))
    count = {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    return count["tests"] - failed - count["skipped"], failed, count["skipped"]


def total(path):
    totals = [0, 0, 0]
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            passed, failed, skipped, name = line.rstrip("\n").split(" ", 3)
            counts = [int(passed), int(failed), int(skipped)]
            totals = [a + b for a, b in zip(totals, counts)]
            print(f"{counts[0]:5} passed {counts[1]:4} failed {counts[2]:4} skipped  {name}")
            if counts[0] == 0:
                print(f"no test of this suite passed: {name}")
                totals[1] += 1
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 0 if totals[0] > 0 and totals[1] == 0 else 1


def main(argv):
    if argv[1] == "total":
        return total(argv[2])
    counts = {"meson": meson, "junit": junit}[argv[1]](argv[3])
    print(*counts, argv[2])
    return 0


sys.exit(main(sys.argv))
