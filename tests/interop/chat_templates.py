"""Compares the program's chat templates with transformers, byte for byte, on published templates.

Usage: python chat_templates.py TEMPLATE_TOOL [--packages FOLDER]...
The templates are read from installed Python packages that carry some (trl, axolotl, unsloth, guidance …: files
*.jinja, and texts in their sources), from the packages of this Python and from FOLDER; none is part of the project.
Every one renders every conversation below, with tools and without, with the generation prompt and without.
"""
import argparse
import ast
import collections
import copy
import datetime
import json
import pathlib
import subprocess
import sys
import time
import warnings

from transformers.utils import chat_template_utils as reference

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a <place> & \"more\"",
    "parameters": {"type": "object", "required": ["place"], "properties": {
        "place": {"type": "string", "description": "City", "enum": ["Rome", "K\u00f6ln"]},
        "days": {"type": "integer", "default": 1}, "exact": {"type": ["boolean", "null"]},
        "where": {"type": "object", "properties": {"lat": {"type": "number"}}},
        "tags": {"type": "array", "items": {"type": "string"}}}},
    "return": {"type": "string"}}}
OTHER = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Rome", "days": 2, "exact": None, "f": 0.5, "ok": True}}}
user = lambda text: {"role": "user", "content": text}
assistant = lambda text, **more: {"role": "assistant", "content": text, **more}
system = lambda text: {"role": "system", "content": text}
CONVERSATIONS = {
    "question": [user("What is 2+2?")],
    "answer": [user("What is 2+2?"), assistant("4")],
    "system": [system("Be brief.\n"), user("  Hi  "), assistant("\n Hello! \n")],
    "two turns": [system("S"), user("a"), assistant("b"), user("c\n\n"), assistant("d \u00e4\U0001f600 \"q\" 'x' <&>")],
    "three turns": [user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f"), user("g")],
    "thinking": [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("<think>\nso\n</think>\n\nd")],
    "reasoning": [user("a"), assistant("b", reasoning_content="because"), user("c"), assistant("d", reasoning_content="since\nthen")],
    "tool call": [system("S"), user("Weather?"), assistant("", tool_calls=[CALL]), {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"t\": 20.5}"}, assistant("It is 20.5.")],
    "tool call without content": [user("Weather?"), {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "sunny"}],
    "two calls": [user("W?"), assistant("Let me see", reasoning_content="which?", tool_calls=[CALL, dict(CALL, id="call00002")]), {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "1"}, {"role": "tool", "name": "get_weather", "tool_call_id": "call00002", "content": "2"}, assistant("x"), user("y"), assistant("z")],
    "text arguments": [user("W?"), assistant("", tool_calls=[{"id": "call00003", "type": "function", "function": {"name": "now", "arguments": "{\"a\": 1}"}}]), {"role": "tool", "name": "now", "tool_call_id": "call00003", "content": [{"type": "text", "text": "part"}]}],
    "parts": [user([{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]), assistant([{"type": "text", "text": "three"}])],
    "image": [user([{"type": "image"}, {"type": "text", "text": "what?"}]), assistant("a cat")],
    "ends with system": [user("a"), assistant("b"), system("late")],
    "starts with assistant": [assistant("a"), user("b"), assistant("c")],
    "two users": [user("a"), user("b"), assistant("c"), assistant("d")],
    "developer": [{"role": "developer", "content": "D"}, user("a"), assistant("b")],
    "empty": [user(""), assistant("")],
    "ipython": [user("a"), assistant("b"), {"role": "ipython", "content": {"out": 1}}, {"role": "observation", "content": "o"}],
}
VARIANTS = [{}, {"add_generation_prompt": True}, {"tools": [TOOL]}, {"tools": [TOOL, OTHER], "add_generation_prompt": True},
            {"add_generation_prompt": True, "enable_thinking": False}, {"enable_thinking": True, "thinking": True, "documents": [{"title": "t", "text": "x"}]},
            {"tools": [], "date_string": "26 Jul 2024", "reasoning_effort": "high", "add_generation_prompt": True}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
NOW = 1_700_000_000


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW)


def published(folders):
    """Name and text of every template in the packages, each text once."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.jinja*")):
            if path.is_file():
                found.setdefault(path.read_text(encoding="utf-8"), str(path.relative_to(folder)))
        for path in sorted(folder.rglob("*.py")):
            if path.stat().st_size > 4_000_000 or "{%" not in (source := path.read_text(encoding="utf-8", errors="ignore")):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    tree = ast.parse(source)
            except (SyntaxError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "{%" in node.value and "message" in node.value:
                    found.setdefault(node.value, f"{path.relative_to(folder)}:{node.lineno}")
    return {name: text for text, name in found.items()}


def prepared(conversation):
    """What apply_chat_template does to a conversation before it renders it."""
    chat = [{k: v for k, v in message.items() if v is not None} for message in copy.deepcopy(conversation)]
    return reference._alias_reasoning_fields(reference._plain_template_data(chat))


def expected(source, variables):
    try:
        template = reference._compile_jinja_template(source)
        given = dict(variables)
        first = [given.pop(k) for k in ("messages", "tools", "documents", "add_generation_prompt")]
        text, spans = reference._render_with_assistant_indices(template, *first, **given)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        return {"text": text, "generations": [[len(text[:a].encode()), len(text[:b].encode())] for a, b in spans]}
    except UnicodeEncodeError:
        return {"error": "no Unicode"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("--packages", action="append", default=[], type=pathlib.Path)
    arguments = parser.parse_args()
    reference.datetime = FixedTime
    own = pathlib.Path(reference.__file__).parents[2]
    templates = published(arguments.packages + [own / name for name in ("transformers", "peft")])
    program = subprocess.Popen([arguments.tool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    counts, failed, per_template = collections.Counter(), 0, {}
    for name, source in templates.items():
        seen = collections.Counter()
        for title, conversation in CONVERSATIONS.items():
            for variant in VARIANTS:
                variables = {**TOKENS, "messages": prepared(conversation), "tools": None, "documents": None,
                             "add_generation_prompt": False, **variant}
                program.stdin.write(json.dumps({"template": source, "variables": variables, "now": NOW}) + "\n")
                program.stdin.flush()
                got = json.loads(program.stdout.readline())
                want = expected(source, variables)
                is_equal = ("error" in got) == ("error" in want) and got.get("text") == want.get("text") and (
                    "error" in got or not got["generations_known"] or got["generations"] == want["generations"])
                seen["equal" if is_equal else "different", "error" in want] += 1
                if not is_equal:
                    failed += 1
                    if failed <= 20:
                        print(f"DIFFERENT {name} / {title} / {sorted(variant)}\n  got  {str(got)[:600]}\n  want {str(want)[:600]}")
        rendered = seen["equal", False] + seen["different", False]
        per_template[name] = rendered
        counts.update(seen)
    program.stdin.close()
    program.wait()
    rendering = sum(1 for n in per_template.values() if n)
    print(f"chat_templates: {len(templates)} templates, {rendering} of them render; {counts['equal', False]} equal texts, "
          f"{counts['equal', True]} refused by both, {failed} different")
    return 1 if failed or rendering < 1 else 0


if __name__ == "__main__":
    start = time.time()
    sys.exit(main())
