"""Writes tests/fixtures/templates/cases.json: what transformers renders of the templates in template_cases.py.

Usage: python make_template_fixtures.py      Needs: transformers 5, jinja2 3.1.6 (scripts/setup_peers.sh)
"""
import json
import pathlib

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template, _render_with_assistant_indices

from template_cases import DATA, cases

TARGET = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "templates" / "cases.json"


def render(source, data):
    """The text, and the {% generation %} blocks in bytes; or the kind of the error."""
    try:
        template = _compile_jinja_template(source)
        given = dict(data)
        first = [given.pop(k) for k in ("messages", "tools", "documents", "add_generation_prompt")]
        text, spans = _render_with_assistant_indices(template, *first, **given)
    except Exception as error:  # whatever Python raises, the program has to refuse
        return {"error": type(error).__name__}
    return {"text": text, "generations": [[len(text[:a].encode()), len(text[:b].encode())] for a, b in spans]}


def main():
    out = [{"template": source, **render(source, data)} for source, data in cases()]
    made = f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}"
    lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in out)
    TARGET.write_text('{"made_with": %s,\n"data": %s,\n"cases": [\n%s\n]}\n'
                      % (json.dumps(made), json.dumps(DATA, ensure_ascii=False), lines))
    print(f"{TARGET.name}: {len(out)} cases, {sum('error' in c for c in out)} of them raise")


if __name__ == "__main__":
    main()
