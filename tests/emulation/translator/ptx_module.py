"""PTX text taken apart: variables, entries and their statements, each with its line.

Grammar: PTX ISA 9.0, as far as nvcc's output goes. What is not understood is collected by name and line
(Refusals), never skipped.
"""
import re
from dataclasses import dataclass, field

from .ptx_types import TYPES


class Refusals(Exception):
    """What the translator does not know: text -> first line."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def add(self, text, line):
        self.found.setdefault(text, line)


class Unknown(Exception):
    """One thing that the translator does not know."""


@dataclass
class Variable:
    space: str  # global, const, shared, local
    align: int
    type: str
    name: str
    count: int  # elements; 0: dynamic shared memory
    values: list = None  # initializer, or None

    @property
    def size_bytes(self):
        return self.count * TYPES[self.type].size


@dataclass
class Parameter:
    name: str
    offset: int  # among an entry's parameters
    size_bytes: int
    place: str = ""  # C++ pointer to its bytes


@dataclass
class Statement:
    line: int
    kind: str  # label, instruction, open, close, registers, parameter
    text: str = ""
    guard: str = ""  # "%p1" or "!%p1"
    opcode: list = field(default_factory=list)
    operands: list = field(default_factory=list)
    names: list = field(default_factory=list)  # of registers
    type: str = ""
    parameter: Parameter = None  # of a call


@dataclass
class Function:
    """A .func. Its parameters and results are passed as pointers."""
    name: str
    line: int
    results: list
    parameters: list
    variables: list = field(default_factory=list)
    statements: list = field(default_factory=list)


@dataclass
class Entry:
    name: str
    line: int
    parameters: list
    parameter_bytes: int
    variables: list
    statements: list
    max_threads: int  # of .maxntid and .reqntid; 0: not bounded


@dataclass
class Module:
    target: str
    variables: list
    entries: list
    functions: list


VARIABLE = re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.(global|const|shared|local)\s*"
                      r"(?:\.align\s+(\d+)\s*)?\.(\w+)\s+([\w$%]+)((?:\s*\[\s*\d*\s*\])*)\s*(?:=\s*(.*))?$", re.S)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
                       r"(?:\.ptr\s+(?:\.(?:global|const|local|shared)\s+)?(?:\.align\s+\d+\s+)?)?"
                       r"([\w$]+)\s*(?:\[(\d+)\])?")
ENTRY = re.compile(r"(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\b")
IGNORED_LINE = re.compile(r"\.(version|target|address_size|file|loc|section)\b")


def without_comments(text):
    """Same lines, no comments."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def split_operands(text):
    """Splits at commas outside brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "[{(") - (char in "]})")
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    if current.strip():
        parts.append(current.strip())
    return parts


def parse_variable(text):
    """A Variable, or Unknown."""
    match = VARIABLE.match(text)
    if not match:
        raise Unknown(f"declaration '{text[:60]}'")
    space, align, kind, name, dimensions, initializer = match.groups()
    if kind not in TYPES:
        raise Unknown(f"type .{kind} of {name}")
    count = 1
    for dimension in re.findall(r"\[\s*(\d*)\s*\]", dimensions):
        count *= int(dimension or 0)
    values = None
    if initializer is not None:
        values = [v for v in re.split(r"[\s,{}]+", initializer) if v]
        if any(not re.match(r"-?\d|0[xXfFdD]", v) for v in values):
            raise Unknown(f"initializer of {name}: only numbers are known")
    return Variable(space, int(align or TYPES[kind].size), kind, name, count, values)


def matching_brace(text, at):
    """Index of the brace that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i
    raise Unknown("a brace that nothing closes")


def parse_parameters(head):
    """(parameters, bytes of all) of an entry's head."""
    parameters, offset = [], 0
    listed = head[head.rindex("(") + 1:head.rindex(")")] if "(" in head else ""
    for text in filter(None, (part.strip() for part in listed.split(","))):
        match = PARAMETER.fullmatch(text)
        if match is None:
            raise Unknown(f"parameter '{text}'")
        align, kind, name, count = match.groups()
        if kind not in TYPES:
            raise Unknown(f"type .{kind} of parameter {name}")
        align = int(align or TYPES[kind].size)
        offset = -(-offset // align) * align
        size = TYPES[kind].size * int(count or 1)
        parameters.append(Parameter(name, offset, size, f"parameters + {offset}"))
        offset += size
    return parameters, offset


def parse_registers(text, line):
    match = re.match(r"\.reg\s*\.(\w+)\s+(.*)", text, re.S)
    if match is None or match[1] not in TYPES:
        raise Unknown(f"registers '{text[:40]}'")
    kind, names = match.groups()
    result = []
    for name in names.split(","):
        many = re.match(r"\s*([%\w$]+)<(\d+)>", name)
        result += [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name.strip()]
    return Statement(line, "registers", names=result, type=kind)


def parse_call_parameter(text, line):
    """.param inside a body: room for an argument or a result of a call."""
    parameters, _ = parse_parameters(f"({text})")
    parameter = parameters[0]
    parameter.place = f"c_{parameter.name}"
    return Statement(line, "parameter", parameter=parameter)


def parse_instruction(text, line):
    guard = ""
    guarded = re.match(r"@(!?[%\w$]+)\s+", text)
    if guarded:
        guard, text = guarded[1], text[guarded.end():]
    match = re.match(r"([a-z][\w.:]*)\s*(.*)$", text, re.S)
    if not match:
        raise Unknown(f"statement '{text[:40]}'")
    return Statement(line, "instruction", text, guard, match[1].split("."), split_operands(match[2]))


def parse_body(text, first_line, variables, refusals):
    """Statements between an entry's braces; its variables are appended to `variables`."""
    statements, at, line = [], 0, first_line
    while at < len(text):
        char = text[at]
        if char == "\n":
            line += 1
        if char.isspace() or char == ";":
            at += 1
            continue
        if char in "{}":
            statements.append(Statement(line, "open" if char == "{" else "close"))
            at += 1
            continue
        label = re.match(r"([\w$%]+):(?!:)", text[at:])
        if label:
            statements.append(Statement(line, "label", label[1]))
            at += label.end()
            continue
        if IGNORED_LINE.match(text, at):
            at = text.find("\n", at) if "\n" in text[at:] else len(text)
            continue
        end = text.find(";", at)
        if end < 0:
            raise Unknown(f"statement '{text[at:at + 40]}'")
        statement, begin = text[at:end].strip(), line
        line += text.count("\n", at, end)
        at = end + 1
        try:
            if statement.startswith(".reg"):
                statements.append(parse_registers(statement, begin))
            elif statement.startswith(".pragma"):
                continue
            elif statement.startswith(".param"):
                statements.append(parse_call_parameter(statement, begin))
            elif statement.startswith("."):
                variables.append(parse_variable(statement))
            else:
                statements.append(parse_instruction(statement, begin))
        except Unknown as unknown:
            refusals.add(str(unknown), begin)
    return statements


def parse_entry(text, match, at, refusals):
    """(Entry, index behind it). `match` is of ENTRY."""
    line = text.count("\n", 0, at) + 1
    name = re.match(r"\s*([\w$]+)", text[at + match.end():])[1]
    open_brace = text.index("{", at)
    close_brace = matching_brace(text, open_brace)
    head = text[at:open_brace]
    parameters, size = parse_parameters(head)
    bounds = [1]
    for limits in re.findall(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)", head):
        bounds = [int(x) for x in re.findall(r"\d+", limits)]
    max_threads = 0
    if re.search(r"\.(maxntid|reqntid)", head):
        max_threads = 1
        for bound in bounds:
            max_threads *= bound
    variables = []
    first_line = text.count("\n", 0, open_brace) + 1
    statements = parse_body(text[open_brace + 1:close_brace], first_line, variables, refusals)
    entry = Entry(name, line, parameters, size, variables, statements, max_threads)
    return entry, close_brace + 1


FUNCTION = re.compile(r"(?:\.(?:visible|weak|extern)\s+)*\.func\s*(?:\.noinline\s*)?"
                      r"(\([^)]*\))?\s*([\w$]+)\s*(\([^)]*\))?")


def parse_function(text, at, refusals):
    """(Function, or None where it is only declared; index behind it)."""
    line = text.count("\n", 0, at) + 1
    match = FUNCTION.match(text, at)
    end = min(x for x in (text.find(";", at), text.find("{", at)) if x >= 0)
    if match is None:
        raise Unknown("function " + " ".join(text[at:end].split())[:70])
    if text[end] == ";":
        return None, end + 1
    function = Function(match[2], line, *(parse_parameters(group or "()")[0] for group in (match[1], match[3])))
    for k, result in enumerate(function.results):
        result.place = f"result{k}"
    for k, parameter in enumerate(function.parameters):
        parameter.place = f"argument{k}"
    close_brace = matching_brace(text, end)
    first_line = text.count("\n", 0, end) + 1
    function.statements = parse_body(text[end + 1:close_brace], first_line, function.variables, refusals)
    return function, close_brace + 1


def parse_module(text, refusals):
    """Module of PTX text. What is not known goes to `refusals`."""
    text = without_comments(text)
    target = re.search(r"^\s*\.target\s+(\S+)", text, re.M)
    module = Module(target[1].rstrip(",") if target else "", [], [], [])
    at = 0
    while at < len(text):
        if text[at].isspace() or text[at] == ";":
            at += 1
            continue
        line = text.count("\n", 0, at) + 1
        match = ENTRY.match(text[at:])
        if match and match[1] == "entry":
            entry, at = parse_entry(text, match, at, refusals)
            module.entries.append(entry)
            continue
        if match:
            function, at = parse_function(text, at, refusals)
            if function is not None:
                module.functions.append(function)
            continue
        if IGNORED_LINE.match(text, at):
            at = text.index("\n", at)
            continue
        end = text.find(";", at)
        if end < 0:
            refusals.add(f"text '{text[at:at + 40]}'", line)
            break
        try:
            module.variables.append(parse_variable(text[at:end].strip()))
        except Unknown as unknown:
            refusals.add(str(unknown), line)
        at = end + 1
    return module
