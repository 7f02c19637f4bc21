#!/usr/bin/env python3
"""The translator: what it makes of PTX, and that it refuses by name and line what it does not know."""
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from translator.discarded_loads import uncertain_loads
from translator.fatbin import FatbinError, ptx_of_fatbins
from translator.ptx_module import Refusals, parse_module

HEAD = ".version 9.0\n.target sm_80\n.address_size 64\n"


def entry(body):
    return (f"{HEAD}.visible .entry k(\n\t.param .u64 k_param_0,\n\t.param .align 8 .b8 k_param_1[24]\n)\n{{\n"
            f"\t.reg .pred %p<4>;\n\t.reg .b32 %r<9>;\n\t.reg .f32 %f<9>;\n\t.reg .b64 %rd<9>;\n{body}\n\tret;\n}}\n")


FIRST_LINE = 13  # of the body


def translate(ptx):
    """(C++ text, messages)."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = pathlib.Path(folder, "x.ptx"), pathlib.Path(folder, "x.cpp")
        source.write_text(ptx)
        result = subprocess.run([sys.executable, "-m", "translator", source, output], capture_output=True, text=True,
                                cwd=pathlib.Path(__file__).parent)
        return output.read_text() if result.returncode == 0 else None, result.stderr


class Refusing(unittest.TestCase):
    def refused(self, body, *words):
        text, messages = translate(entry(body))
        self.assertIsNone(text)
        self.assertIn(f"x.ptx:{FIRST_LINE + body.count(chr(10))}: not known: ", messages)
        for word in words:
            self.assertIn(word, messages)

    def test_unknown_instructions(self):
        self.refused("\ttex.1d.v4.s32.s32 {%r1, %r2, %r3, %r4}, [t, {%r5}];", "tex.1d")
        self.refused("\tadd.s32 %r1, %r2, %r3;\n\tmul24.lo.s32 %r1, %r2, %r3;", "mul24")
        self.refused("\tcall.uni vprintf, (p);", "function vprintf")

    def test_unknown_modifiers(self):
        self.refused("\tadd.rz.f64 %rd1, %rd2, %rd3;", "add.rz.f64", ".rz")
        self.refused("\tcvt.rz.f32.f64 %f1, %rd1;", "cvt.rz.f32.f64")
        self.refused("\tld.global.weird.f32 %f1, [%rd1];", ".weird")

    def test_approximations_of_other_types(self):
        self.refused("\tex2.approx.f16 %r1, %r2;", "approximation of .f16")

    def test_named_barriers(self):
        self.refused("\tbar.sync 1;", "barrier")
        self.refused("\tbar.sync 0, 64;", "barrier")

    def test_special_registers(self):
        self.refused("\tmov.u32 %r1, %smid;", "%smid")

    def test_a_parameter_is_read_through_an_address_in_a_register(self):
        text, _ = translate(entry("\tmov.b64 %rd1, k_param_1;\n\tadd.s64 %rd2, %rd1, 8;\n\tld.param.u64 %rd1, [%rd2+-8];"))
        self.assertIn("b64(8)", text)  # where parameter 1 begins
        self.assertIn("parameter_at(t, parameters, 32,", text)

    def test_parameters_are_checked(self):
        self.refused("\tld.param.u64 %rd1, [k_param_1+20];", "24")
        self.refused("\tst.param.u64 [k_param_0], %rd1;", "parameter")

    def test_functions(self):
        text, messages = translate(HEAD + ".func f()\n{\n\tset.eq.u32.u32 %r1, %r2, %r3;\n}\n")
        self.assertIsNone(text)
        self.assertIn("x.ptx:6: not known: instruction set.eq", messages)

    def test_arguments_of_calls(self):
        ptx = HEAD + ".func (.param .b32 r) f(.param .b32 p)\n{\n\tret;\n}\n" + entry("\t.param .b32 a;\n\tcall.uni f, (a);")[len(HEAD):]
        text, messages = translate(ptx)
        self.assertIsNone(text)
        self.assertIn("arguments of f", messages)

    def test_addresses_in_initializers(self):
        text, messages = translate(HEAD + ".global .align 8 .u64 p[1] = {other};\n")
        self.assertIsNone(text)
        self.assertIn("initializer of p", messages)

    def test_everything_is_named_at_once(self):
        _, messages = translate(entry("\ttxq.width.b32 %r1, [t];\n\tbar.sync 3;"))
        self.assertEqual(len(messages.splitlines()), 2)


class Translating(unittest.TestCase):
    def test_statements_keep_their_line(self):
        text, messages = translate(entry("\tld.global.f32 %f1, [%rd1+4];"))
        self.assertEqual(messages, "")
        self.assertIn(f"Access::kPerhapsRead, {FIRST_LINE})", text)
        self.assertIn('{"k", k_k, 32, 0, 0, {{0, 8}, {8, 24}}}', text)

    def test_guards_and_predicates(self):
        text, _ = translate(entry("\tsetp.lt.and.f32 %p1|%p2, %f1, %f2, !%p3;\n\t@!%p1 bra L1;\nL1:"))
        self.assertIn("r_p1 = (c_) & !r_p3; r_p2 = (!c_) & !r_p3;", text)
        self.assertIn("if (!r_p1) { goto LL1; }", text)

    def test_shared_variables_lie_behind_each_other(self):
        text, _ = translate(entry("\t.shared .align 4 .b8 a[6];\n\t.shared .align 8 .b8 b[8];\n\tmov.u32 %r1, b;"))
        self.assertIn("set(r_r1, as<b32>(b64(8)))", text)
        self.assertIn("k_k, 32, 16, 0,", text)

    def test_pointers_as_newer_compilers_write_them(self):
        text, _ = translate(entry("\tld.param.u64 %rd1, [k_param_0];").replace(".u64 k_param_0", ".u64 .ptr .align 1 k_param_0"))
        self.assertIn('"k", k_k, 32, 0, 0, {{0, 8}, {8, 24}}', text)

    def test_functions_are_called_with_pointers(self):
        body = ("\t{\n\t.param .b32 a;\n\tst.param.b32 [a+0], %r1;\n\t.param .b32 b;\n\tcall.uni (b),\n\tf,\n\t(\n\ta\n\t);\n"
                "\tld.param.b32 %r2, [b+0];\n\t}")
        function = (".func (.param .b32 r) f(.param .b32 p)\n{\n\t.reg .b32 %r<3>;\n\tld.param.u32 %r1, [p];\n"
                    "\tst.param.b32 [r+0], %r1;\n\tret;\n}\n")
        text, messages = translate(HEAD + function + entry(body)[len(HEAD):])
        self.assertEqual(messages, "")
        self.assertIn("f_f(t, c_b, c_a);", text)
        self.assertIn("set(r_r1, read<b32>(argument0 + 0 + 0));", text)
        self.assertIn("write(result0 + 0 + 0, as<b32>(r_r1));", text)

    def test_local_variables(self):
        text, _ = translate(entry("\t.loc 1 2 3\n\t.local .align 4 .b8 d[28];\n\tmov.b64 %rd1, d;"))
        self.assertIn("char v_d[28];", text)
        self.assertIn("set(r_rd1, as<b64>(address_of(v_d)))", text)

    def test_bounds_of_threads(self):
        text, _ = translate(entry("").replace(")\n{", ")\n.maxntid 64, 2, 1\n{", 1))
        self.assertIn("k_k, 32, 0, 128,", text)


class UncertainLoads(unittest.TestCase):
    def lines(self, body):
        module = parse_module(entry(body), Refusals())
        return {line - FIRST_LINE for line in uncertain_loads(module.entries[0].statements)}

    def test_a_value_used_on_every_way_is_certain(self):
        self.assertEqual(self.lines("\tld.shared.f32 %f1, [%r1];\n\t@%p1 bra A;\n\tst.global.f32 [%rd1], %f1;\n"
                                    "\tbra.uni B;\nA:\n\tadd.f32 %f2, %f1, %f1;\nB:"), set())

    def test_a_value_dropped_on_one_way_is_not(self):
        self.assertEqual(self.lines("\tld.shared.f32 %f1, [%r1];\n\t@%p1 bra A;\n\tst.global.f32 [%rd1], %f1;\nA:"), {0})
        self.assertEqual(self.lines("\tld.shared.f32 %f1, [%r1];\n\t@%p1 ret;\n\tst.global.f32 [%rd1], %f1;"), {0})

    def test_a_selection_may_drop_it(self):
        self.assertEqual(self.lines("\tld.shared.f32 %f1, [%r1];\n\tselp.f32 %f2, %f1, 0f00000000, %p1;\n"
                                    "\tst.global.f32 [%rd1], %f2;"), {0})

    def test_loops_end(self):
        self.assertEqual(self.lines("A:\n\tld.shared.f32 %f1, [%r1];\n\tadd.f32 %f2, %f2, %f1;\n\t@%p1 bra A;"), set())


class Fatbins(unittest.TestCase):
    def binary(self, kind=1, flags=0, text=b"PTX", capability=80, grow=0):
        head = struct.pack("<HHIQIIIIQ", kind, 0x101, 64, len(text), 0, 0, 0, capability, 0)
        head = head[:40] + struct.pack("<Q", flags) + b"\0" * 16
        body = head + text
        return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body) + grow) + body

    def test_ptx_is_found_behind_padding(self):
        self.assertEqual(ptx_of_fatbins(self.binary(text=b"A\0\0\0\0") + b"\0" * 3 + b"\0" * 8), [(80, b"A")])

    def test_machine_code_is_passed_over(self):
        self.assertEqual(ptx_of_fatbins(self.binary(kind=2)), [])

    def test_sizes_are_not_trusted(self):
        with self.assertRaises(FatbinError):
            ptx_of_fatbins(self.binary(grow=1000))

    def test_compressed_ptx_is_refused(self):
        with self.assertRaisesRegex(FatbinError, "compress-mode=none"):
            ptx_of_fatbins(self.binary(flags=0x8000))


if __name__ == "__main__":
    unittest.main()
