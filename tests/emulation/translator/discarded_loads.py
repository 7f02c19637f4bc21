"""Which loads' values may be dropped unread.

nvcc reads shared memory ahead of a condition where it may: the value of a thread that does not need it is dropped, and
so is whatever race that read has. A load whose value is used on every way from it is certain; any other is not.
"""
import re

from .operands import elements

REGISTER = re.compile(r"%[\w$]+")
NO_TARGET = ("st", "red", "bra", "bar", "barrier", "ret", "exit", "trap", "membar", "fence", "call")
ENDS = ("ret", "exit", "trap")
PASSES_ON = ("mov", "selp")  # may drop what they read


def _targets(statement):
    """Registers that an instruction writes."""
    if statement.opcode[0] in NO_TARGET:
        return set()
    return set(REGISTER.findall(statement.operands[0])) if statement.operands else set()


def _uses(statement):
    """Registers that an instruction really needs."""
    guard = set(REGISTER.findall(statement.guard))
    if statement.opcode[0] in PASSES_ON:
        return guard
    read = statement.operands if statement.opcode[0] in NO_TARGET else statement.operands[1:]
    return guard.union(*(REGISTER.findall(operand) for operand in read))


def _successors(statements, labels, i):
    statement = statements[i]
    if statement.kind != "instruction":
        return [i + 1]
    after = [] if not statement.guard and statement.opcode[0] in ("bra", *ENDS) else [i + 1]
    if statement.opcode[0] == "bra":
        after.append(labels[statement.operands[0]])
    return after


def _is_certain(statements, labels, load, name):
    """Whether every way from the load uses the register before it writes it again or ends."""
    waiting, seen = [load + 1], set()
    while waiting:
        i = waiting.pop()
        if i in seen:
            continue
        seen.add(i)
        if i >= len(statements):
            return False
        statement = statements[i]
        if statement.kind == "instruction":
            if name in _uses(statement):
                continue
            ends = statement.opcode[0] in ENDS
            if not statement.guard and (ends or name in _targets(statement)):
                return False
            if statement.guard and ends:
                return False
        waiting += _successors(statements, labels, i)
    return True


def uncertain_loads(statements):
    """Lines of the loads whose value may be dropped."""
    labels = {s.text: i for i, s in enumerate(statements) if s.kind == "label"}
    lines = set()
    for i, statement in enumerate(statements):
        if statement.kind != "instruction" or statement.opcode[0] not in ("ld", "ldu"):
            continue
        names = [x for x in elements(statement.operands[0]) if x != "_"]
        if not any(_is_certain(statements, labels, i, name) for name in names):
            lines.add(statement.line)
    return lines
