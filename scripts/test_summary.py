#!/usr/bin/env python3
"""Counts test results, and compares the skipped ones with tests/expected_skips.txt.

    test_summary.py stage JUNIT.xml            one line about a stage; exit 1 where a test failed
    test_summary.py once RESULTS_DIR CTEST.json
                                               exit 1 where a test of ctest's list, those labelled
                                               interop apart, ran not at all or twice
    test_summary.py close RESULTS_DIR SKIPS CONDITION...
                                               all stages: unexpected skips, then 'N passed, N failed, N skipped'

RESULTS_DIR holds *.xml (JUnit, from ctest) and *.check files (one line: pass, fail or skip) of
stages that are one check each. A skipped test that is listed under none of the given conditions counts as
failed, so that no test disappears unseen.
"""
import collections
import fnmatch
import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def read_junit(path):
    """Yields (test name, 'pass' | 'fail' | 'skip')."""
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.get("status") == "fail":
            outcome = "fail"
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            outcome = "skip"
        else:
            outcome = "pass"
        yield case.get("name"), outcome


def read_expected(path, conditions):
    """Patterns of the tests that these conditions skip."""
    patterns = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        if len(fields) != 2 or "#" not in line:
            sys.exit(f"{path}:{number}: expected 'CONDITION NAME # reason'")
        if fields[0] == "always" or fields[0] in conditions:
            patterns.append(fields[1])
    return patterns


def count(outcomes):
    return tuple(outcomes.count(kind) for kind in ("pass", "fail", "skip"))


def stage(path):
    results = list(read_junit(path))
    passed, failed, skipped = count([outcome for _, outcome in results])
    print(f"   {passed} passed, {failed} failed, {skipped} skipped")
    for name, outcome in results:
        if outcome == "fail":
            print(f"   failed: {name}")
    return 1 if failed else 0


def once(results_dir, listing):
    wanted = set()
    for test in json.loads(listing.read_text(encoding="utf-8"))["tests"]:
        labels = next((p["value"] for p in test.get("properties", []) if p["name"] == "LABELS"), [])
        if "interop" not in labels:
            wanted.add(test["name"])
    runs = collections.Counter(name for path in results_dir.glob("*.xml") for name, _ in read_junit(path))
    for name in sorted(wanted | set(runs)):
        if runs[name] != 1:
            print(f"   ran {runs[name]} times: {name}")
    print(f"   {len(wanted)} tests")
    return 0 if all(runs[name] == 1 for name in wanted | set(runs)) else 1


def close(results_dir, skips_file, conditions):
    outcomes, skipped_tests = [], []
    for path in sorted(results_dir.glob("*.xml")):
        for name, outcome in read_junit(path):
            outcomes.append(outcome)
            if outcome == "skip":
                skipped_tests.append(name)
    for path in sorted(results_dir.glob("*.check")):
        outcomes.append(path.read_text(encoding="utf-8").strip())
        if outcomes[-1] == "skip":
            skipped_tests.append(path.stem)
    patterns = read_expected(skips_file, conditions)
    used = set()
    for name in skipped_tests:
        matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]
        used.update(matching)
        if not matching:
            print(f"   skipped, but not listed in {skips_file.name} for this machine: {name}")
            outcomes.append("fail")
            outcomes.remove("skip")
    for pattern in patterns:
        if pattern not in used:
            print(f"   note: {skips_file.name} lists {pattern}, and nothing by that name was skipped")
    passed, failed, skipped = count(outcomes)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["stage"] and len(sys.argv) == 3:
        sys.exit(stage(pathlib.Path(sys.argv[2])))
    if sys.argv[1:2] == ["once"] and len(sys.argv) == 4:
        sys.exit(once(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])))
    if sys.argv[1:2] == ["close"] and len(sys.argv) >= 4:
        sys.exit(close(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), set(sys.argv[4:])))
    sys.exit(__doc__)
