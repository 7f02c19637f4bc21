#!/usr/bin/env python3
"""Tests of the Python scripts of scripts/: counting test results, making the quickstart's data."""
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


if __name__ == "__main__":
    unittest.main()
