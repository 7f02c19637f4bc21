#!/usr/bin/env python3
"""Tests of the Python scripts of scripts/: counting test results, making the quickstart's data, choosing files to lint."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

JUNIT = """<testsuite tests="4" failures="1" skipped="1">
<testcase name="io/A.Passes" status="run"/>
<testcase name="io/A.Fails" status="fail"><failure message=""/></testcase>
<testcase name="io/A.NeedsGpu" status="notrun"><skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/></testcase>
<testcase name="io/A.AlsoPasses" status="run"/>
</testsuite>"""


def run(script, *arguments):
    return subprocess.run([sys.executable, ROOT / "scripts" / script, *map(str, arguments)],
                          capture_output=True, text=True)


class Summary(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        self.skips = self.root / "skips.txt"
        self.skips.write_text("# comment\nno-gpu io/A.Needs*  # needs a GPU\n")

    def tearDown(self):
        self.folder.cleanup()

    def close(self, *conditions):
        result = run("test_summary.py", "close", self.root, self.skips, *conditions)
        return result.returncode, result.stdout.splitlines()

    def test_counts_every_outcome(self):
        (self.root / "unit.xml").write_text(JUNIT)
        (self.root / "format.check").write_text("pass\n")
        self.assertEqual(self.close("no-gpu"), (1, ["3 passed, 1 failed, 1 skipped"]))

    def test_clean_run_succeeds(self):
        (self.root / "unit.xml").write_text(JUNIT.replace('status="fail"><failure message=""/>', 'status="run">'))
        self.assertEqual(self.close("no-gpu"), (0, ["3 passed, 0 failed, 1 skipped"]))

    def test_unlisted_skip_is_a_failure(self):
        (self.root / "unit.xml").write_text(JUNIT.replace('status="fail"><failure message=""/>', 'status="run">'))
        status, lines = self.close()  # this machine has a GPU: nothing excuses the skip
        self.assertEqual((status, lines[-1]), (1, "3 passed, 1 failed, 0 skipped"))
        self.assertIn("io/A.NeedsGpu", lines[0])

    def test_failed_check_is_a_failure(self):
        (self.root / "format.check").write_text("fail\n")
        self.assertEqual(self.close("no-gpu")[0], 1)

    def test_nothing_ran_is_a_failure(self):
        self.assertEqual(self.close("no-gpu")[0], 1)

    def test_malformed_list_is_refused(self):
        self.skips.write_text("no-gpu io/A.Needs*\n")  # no reason
        self.assertEqual(run("test_summary.py", "close", self.root, self.skips, "no-gpu").returncode, 1)

    def test_stage_names_the_failures(self):
        (self.root / "unit.xml").write_text(JUNIT)
        result = run("test_summary.py", "stage", self.root / "unit.xml")
        self.assertEqual(result.returncode, 1)
        self.assertIn("failed: io/A.Fails", result.stdout)

    def test_once_finds_tests_that_no_stage_ran(self):
        (self.root / "unit.xml").write_text(JUNIT)
        listing = self.root / "list.json"

        def once(*names):
            tests = [{"name": name, "properties": [{"name": "LABELS", "value": ["unit"]}]} for name in names]
            tests.append({"name": "peers", "properties": [{"name": "LABELS", "value": ["interop"]}]})
            listing.write_text(json.dumps({"tests": tests}))
            return run("test_summary.py", "once", self.root, listing)

        names = ["io/A.Passes", "io/A.Fails", "io/A.NeedsGpu", "io/A.AlsoPasses"]
        self.assertEqual(once(*names).returncode, 0)
        missed = once(*names, "io/B.Forgotten")
        self.assertEqual(missed.returncode, 1)
        self.assertIn("ran 0 times: io/B.Forgotten", missed.stdout)
        (self.root / "again.xml").write_text(JUNIT)
        self.assertIn("ran 2 times: io/A.Passes", once(*names).stdout)


class WordnetDataset(unittest.TestCase):
    """On a hand-made WordNet of a few lines in the real format."""

    INDEX = ("  1 licence text\n"
             "bank n 2 2 @ ~ 2 2 00000010 00000020\n"
             "stone n 1 0 1 1 00000030\n"
             "pebble n 1 1 @ 1 1 00000040\n"
             "obscure n 1 1 @ 1 0 00000010\n"
             "new_york n 1 1 @ 1 1 00000010\n"
             "curse n 1 1 @ 1 1 00000050\n")
    DATA = ("  1 licence text\n"
            '00000010 17 n 01 bank 0 000 | sloping land beside a body of water; "we sat there"; "x"\n'
            "00000020 14 n 01 bank 0 000 | a financial institution that accepts deposits\n"
            "00000030 17 n 01 stone 0 000 | a lump of mineral matter; heavy\n"
            "00000040 17 n 01 pebble 0 000 | a small smooth rounded rock\n"
            "00000050 17 n 01 curse 0 000 | an offensive word or phrase\n")

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        for part in ("noun", "verb", "adj"):
            (self.root / f"index.{part}").write_text(self.INDEX if part == "noun" else "")
            (self.root / f"data.{part}").write_text(self.DATA if part == "noun" else "")

    def tearDown(self):
        self.folder.cleanup()

    def make(self, train, heldout, seed=1):
        out = self.root / "out"
        result = run("make_wordnet_dataset.py", out, "--train", train, "--heldout", heldout, "--seed", seed,
                     "--wordnet", self.root)
        if result.returncode != 0:
            return result.stderr
        return [[json.loads(line) for line in (out / name).read_text().splitlines()]
                for name in ("train.jsonl", "heldout.jsonl")]

    def test_rows_are_the_first_sense_without_examples(self):
        train, heldout = self.make(2, 1)
        rows = {row["instruction"]: row["output"] for row in train + heldout}
        self.assertEqual(rows, {'Define the noun "bank".': "sloping land beside a body of water",
                                'Define the noun "stone".': "a lump of mineral matter; heavy",
                                'Define the noun "pebble".': "a small smooth rounded rock"})

    def test_same_seed_same_rows(self):
        self.assertEqual(self.make(2, 1), self.make(2, 1))
        self.assertGreater(len({json.dumps(self.make(2, 1, seed)) for seed in range(10)}), 1)

    def test_too_few_words_is_one_line(self):
        self.assertEqual(self.make(3, 1), "[wordnet] 3 usable words, 4 wanted; ask for fewer rows\n")

    def test_missing_wordnet_names_the_package(self):
        (self.root / "data.noun").unlink()
        self.assertIn("install the Debian package wordnet-base", self.make(1, 1))


class Tidy(unittest.TestCase):
    """In a project of two files, with programs in the places of ninja and clang-tidy."""

    NINJA = """#!/bin/sh
printf 'core/a.cpp.o: #deps 2, deps mtime 1 (VALID)\\n    ../core/a.cpp\\n    ../core/a.h\\n\\n'
printf 'core/b.cpp.o: #deps 1, deps mtime 1 (VALID)\\n    ../core/b.cpp\\n\\n'
"""
    CLANG_TIDY = """#!/bin/sh
for file; do :; done
if grep -q finding "$file"; then echo "$file:1: warning: a finding"; exit 1; fi
"""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name).resolve()
        for name, text in {".venv/bin/ninja": self.NINJA, ".venv/bin/clang-tidy": self.CLANG_TIDY, ".clang-tidy": "", "tests/.clang-tidy": "",
                           "scripts/requirements.txt": "", "scripts/requirements-tidy.txt": "",
                           "core/a.cpp": "a", "core/a.h": "a", "core/b.cpp": "b", "bench/c.cpp": "not linted",
                           "scripts/tidy.py": (ROOT / "scripts/tidy.py").read_text(encoding="utf-8")}.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        self.commands = [{"file": str(self.root / f"{name}.cpp"), "output": f"{name}.cpp.o", "command": "c++"}
                         for name in ("core/a", "core/b", "bench/c")]
        (self.root / "build").mkdir()

    def tearDown(self):
        self.folder.cleanup()

    def tidy(self, *extra):
        (self.root / "build/compile_commands.json").write_text(json.dumps(self.commands))
        done = subprocess.run([sys.executable, self.root / "scripts/tidy.py", self.root / "build", "2", *extra],
                              capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines() + done.stderr.splitlines()

    def test_a_file_is_linted_again_where_what_it_depends_on_has_changed(self):
        none, first, both = ("   2 files, 0 of them passed as they stand", "   2 files, 1 of them passed as they stand",
                             "   2 files, 2 of them passed as they stand")
        self.assertEqual(self.tidy(), (0, [none]))
        self.assertEqual(self.tidy(), (0, [both]))
        (self.root / "core/a.h").write_text("changed")
        self.assertEqual(self.tidy(), (0, [first]))
        self.commands[1]["command"] = "c++ -O3"
        self.assertEqual(self.tidy(), (0, [first]))
        self.assertEqual(self.tidy(), (0, [both]))
        for settings in (".clang-tidy", "tests/.clang-tidy"):
            (self.root / settings).write_text("Checks: more")
            self.assertEqual(self.tidy(), (0, [none]))
        self.assertEqual(self.tidy("-Wno-error"), (0, [none]))
        self.assertEqual(self.tidy("-Wno-error"), (0, [both]))

    def test_findings_fail_until_they_are_gone(self):
        (self.root / "core/b.cpp").write_text("finding")
        for passed in (0, 1):
            status, lines = self.tidy()
            self.assertEqual((status, lines[0]), (1, f"   2 files, {passed} of them passed as they stand"))
            self.assertEqual(lines[1:], [f"{self.root}/core/b.cpp:1: warning: a finding", ""])
        (self.root / "core/b.cpp").write_text("b")
        self.assertEqual(self.tidy()[0], 0)

    def test_a_file_that_was_not_built_is_one_line(self):
        self.commands.append({"file": str(self.root / "core/new.cpp"), "output": "core/new.cpp.o", "command": "c++"})
        self.assertEqual(self.tidy(), (1, ["[tidy] core/new.cpp.o has not been built, so what it includes is not known; "
                                           "run scripts/build.sh"]))


if __name__ == "__main__":
    unittest.main()
