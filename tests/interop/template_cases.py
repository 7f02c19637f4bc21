"""Templates written for every construct of data/jinja, and what they are rendered with."""

CHAT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "  What is 2+2?\n"},
    {"role": "assistant", "content": "4", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2.5}}}]},
    {"role": "tool", "name": "add", "content": "{\"sum\": 4}"},
    {"role": "assistant", "content": "It's \"four\" \u2014 \u00fcber!"},
]
TOOLS = [{"type": "function", "function": {
    "name": "add", "description": "Adds <two> numbers & more",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                   "required": ["a", "b"]}}}]
DATA = {
    "messages": CHAT, "tools": TOOLS, "documents": None, "add_generation_prompt": True,
    "bos_token": "<s>", "eos_token": "</s>",
    "n": 7, "m": -3, "x": 2.5, "t": True, "f": False, "nothing": None, "empty": "", "zero": 0,
    "s": "Hello, World", "u": "\u00e4\u00f6\u00fc \u03a3\u0391\u03a3 \U0001f600 \u00df", "sp": " \t a b  c \n",
    "l": [3, 1, 2], "d": {"b": 1, "a": [1, {"c": None}], "C": 2.0}, "e": [], "ed": {},
    "mixed": ["a", "B", "a", "c"], "nested": [[1, 2], [3, 4]], "big": 1e16, "small": 1e-5, "third": 1 / 3,
    "people": [{"name": "Bo", "age": 3, "tags": {"k": "x"}}, {"name": "al", "age": 1}, {"name": "Cy", "age": 2}],
    "lines": "one\n\ntwo\nthree", "q": "it's", "qq": "say \"it's\"", "nl": "a\nb\tc\\d\x07\u200b\u2028",
}

SOURCES = [
    # Output, constants, how values print
    "plain text", "", "\n", "a\n\n", "{{ s }}", "{{ n }} {{ m }} {{ x }} {{ t }} {{ f }} {{ nothing }}|{{ missing }}|",
    "{{ l }} {{ d }} {{ e }} {{ ed }} {{ nested }}", "{{ (1,) }} {{ () }} {{ (1, 2) }} {{ 1, 'a' }}",
    "{{ q }} {{ [q, qq, nl, s] }}", "{{ [u, '\u00e4', '\\x41', '\\u20ac', '\\U0001F600', '\\n', '\\\\', '\\q', '\\101'] }}",
    "{{ 1.0 }} {{ 1e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1e22 }} {{ 123456789012345680.0 }} {{ -0.0 }} {{ big }} {{ small }} {{ third }}",
    "{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 1_0.5_0 }} {{ 00 }}", "{{ 'a' 'b' \"c\" }}", "{{ true }} {{ True }} {{ none }} {{ None }} {{ false }}",
    "{{ [1, 2,] }} {{ {'a': 1, 'b': [2],} }} {{ {1: 'x', 1.5: 'y', none: 0, true: 'one'} }}", "{{ {'a': {'b': {}}} }}",
    "{{ 1e308 * 10 }} {{ -1e308 * 10 }}", "{{ 'tab\\tend' }}", "{{ range(3) }} {{ range(1, 7, 2) }} {{ range(5, 0, -2)|list }}",
    "{{ d.items() }} {{ d.keys() }} {{ d.values() }}", "{{ range(0, 10)[2:8:3] }} {{ range(4)[1] }} {{ range(4)[-1] }}",
    # Arithmetic, comparison, logic
    "{{ n + m }} {{ n - m }} {{ n * m }} {{ n / 2 }} {{ n // 2 }} {{ m // 2 }} {{ m % 5 }} {{ n % m }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }}",
    "{{ x + 1 }} {{ x // 2 }} {{ -x // 2 }} {{ x % 2 }} {{ -x % 2 }} {{ x ** 2 }} {{ 7.0 // 0.5 }} {{ 1 // 0.3 }}", "{{ -n }} {{ +n }} {{ --n }} {{ -2 ** 2 }} {{ - 2|abs }}",
    "{{ t + t }} {{ t * 3 }} {{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 }} {{ 'x' * -1 }}| {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }}",
    "{{ 1 ~ 2 ~ 'x' ~ none ~ true ~ 1.5 ~ missing ~ [1] }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 >= 2 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' < 'b' }} {{ 'B' < 'a' }}",
    "{{ 1 != 2 }} {{ none == none }} {{ none == false }} {{ '' == none }} {{ [1, 2] == [1, 2] }} {{ (1,) == [1] }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ missing == missing2 }} {{ missing == none }}",
    "{{ [1, 2] < [1, 3] }} {{ (1, 'a') < (1, 'b') }} {{ 9007199254740993 == 9007199254740992.0 }} {{ 1 < 1.5 }}",
    "{{ 'a' in 'abc' }} {{ 'd' not in 'abc' }} {{ 1 in l }} {{ 'b' in d }} {{ 1 in d }} {{ '' in 'x' }} {{ 5 in missing }} {{ 2 in range(3) }} {{ [1, 2] in nested }} {{ 'a' in d.keys() }}",
    "{{ t and f }} {{ t or f }} {{ not t }} {{ not not t }} {{ 0 or 'x' }} {{ '' and 1 }}| {{ 1 and 2 }} {{ none or e or 'last' }} {{ not 1 == 2 }}",
    "{{ 'yes' if t else 'no' }} {{ 'yes' if f else 'no' }} {{ 'x' if f }}| {{ 1 if f else 2 if f else 3 }}", "{{ 'a' if t and not f else 'b' ~ 'c' }}",
    # Attributes, items, slices, calls
    "{{ messages[0].role }} {{ messages[0]['content'] }} {{ messages[-1].role }} {{ messages.0.role }} {{ d.a[1].c }} {{ d['C'] }}",
    "{{ messages[0].nope }}| {{ messages[99] }}| {{ s[0] }}{{ s[-1] }} {{ s[99] }}| {{ u[5] }} {{ l['x'] }}|{{ none.x }}| {{ n.nope }}|",
    "{{ l[1:] }} {{ l[:2] }} {{ l[::-1] }} {{ l[-2:] }} {{ l[0:3:2] }} {{ l[5:] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[:-1] }} {{ u[3:6] }} {{ (1,2,3)[1:] }} {{ l[:] }} {{ l[2:0:-1] }} {{ l[-99:99] }} {{ missing[1:] if missing is defined }}",
    "{{ n[1:] }}", "{{ d[1:] }}", "{{ people|map(attribute='tags.k')|list }}", "{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ 'items' in d }} {{ d.items()|list }} {{ d.copy() }}", "{{ {'items': 1}['items'] }} {{ {'items': 1}.keys()|list }}",
    "{{ l.index(1) }} {{ l.count(3) }} {{ (1, 2, 1).count(1) }} {{ l.copy() }}", "{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ dict([('k', 'v')]) }}",
    "{{ range(*[1, 4])|list }} {{ dict(**{'a': 1}) }}",
    # Text methods
    "{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ 'hELLO wORLD'.capitalize() }} {{ u.upper() }} {{ u.lower() }} {{ u.title() }} {{ '\u01c6x'.title() }} {{ '\ufb01n'.capitalize() }} {{ '\u0130'.lower() }}",
    "[{{ sp.strip() }}] [{{ sp.lstrip() }}] [{{ sp.rstrip() }}] [{{ 'xxaxx'.strip('x') }}] [{{ '\u00e4b\u00e4'.lstrip('\u00e4') }}] [{{ 'abc'.rstrip('cb') }}] [{{ '\x1c\u2003a\u00a0'.strip() }}]",
    "{{ sp.split() }} {{ s.split(', ') }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ ' a  b '.split(maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }}",
    "{{ s.startswith('He') }} {{ s.endswith('ld') }} {{ s.startswith(('x', 'H')) }} {{ s.startswith('lo', 3) }} {{ s.endswith('lo', 0, 5) }} {{ s.startswith('') }} {{ ''.startswith('') }}",
    "{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('zz') }} {{ s.find('o', 5) }} {{ u.find('\u00fc') }} {{ s.index('W') }} {{ s.count('l') }} {{ s.count('') }} {{ s.find('') }} {{ s.find('', 99) }}",
    "{{ s.replace('l', 'LL') }} {{ s.replace('l', '', 1) }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ s.replace('o', 'o', 0) }}",
    "{{ ', '.join(['a', 'b']) }} {{ ''.join([]) }} {{ '-'.join('abc') }}", "{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ 'a\\r\\nb\\x0bc'.splitlines() }}", "{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }}",
    "{{ 'foobar'.removeprefix('foo') }} {{ 'foobar'.removesuffix('bar') }} {{ 'x'.removeprefix('y') }}", "[{{ 'ab'.ljust(5) }}] [{{ 'ab'.rjust(5, '*') }}] [{{ 'ab'.center(5, '-') }}] [{{ 'abc'.center(6, '-') }}] [{{ '-5'.zfill(4) }}] [{{ '\u00e4'.ljust(3, '\u00f6') }}]",
    "{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ 'a1'.isdigit() }} {{ '  '.isspace() }} {{ ''.isspace() }}",
    "{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x:>5}|{y:<4}|{z:^5}'.format(x=1, y='b', z='m') }} {{ '{:.2f} {:05d} {:,} {:+d} {:x}'.format(3.14159, 42, 1234567, 5, 255) }} {{ '{{}}'.format() }} {{ '{!r}'.format('q') }} {{ '{0[a]} {0.b}'.format({'a': 1, 'b': 2}) }}",
    "{{ '%s and %d' % ('x', 3) }} {{ '%05.1f|%-5s|%5s|%x|%%' % (2.345, 'a', 'b', 255) }} {{ '%s' % 'one' }} {{ '%(k)s' % {'k': 'v'} }} {{ '%r' % ['a'] }} {{ '%s' % [1, 2] }} {{ '%c' % 'z' }} {{ '%+d % d %#x' % (1, 2, 3) }} {{ '%.2s' % 'abc' }} {{ '%*d' % (4, 2) }}",
    # Filters
    "{{ s|upper }} {{ s|lower }} {{ 'foo bar-baz (qux'|title }} {{ 'fOO bAR'|capitalize }} {{ u|title }} {{ n|string + 'x' }} {{ 5|upper }}",
    "[{{ sp|trim }}] [{{ 'xxaxx'|trim('x') }}] {{ n|trim }}", "{{ l|length }} {{ s|length }} {{ u|length }} {{ d|count }} {{ missing|length }} {{ messages|length }}",
    "{{ l|join }} {{ l|join(', ') }} {{ people|join('; ', attribute='name') }} {{ mixed|join(d='-') }} {{ [1, none, true]|join('/') }} {{ 'abc'|join('.') }} {{ missing|join(',') }}|",
    "{{ missing|default('x') }} {{ ''|default('x') }}| {{ ''|default('x', true) }} {{ none|default('x') }} {{ none|d('y', boolean=true) }} {{ missing|default }}|", "{{ 'abc'|list }} {{ d|list }} {{ range(3)|list }} {{ (1, 2)|list }} {{ missing|list }}",
    "{{ d|items|list }} {{ missing|items|list }}", "{{ d|dictsort }} {{ d|dictsort(true) }} {{ {'a': 2, 'b': 1}|dictsort(by='value') }} {{ d|dictsort(reverse=true)|first }}",
    "{{ l|sort }} {{ l|sort(reverse=true) }} {{ mixed|sort }} {{ mixed|sort(case_sensitive=true) }} {{ people|sort(attribute='age')|map(attribute='name')|list }} {{ people|sort(attribute='name,age')|map(attribute='name')|list }}",
    "{{ l|map('string')|list }} {{ people|map(attribute='name')|list }} {{ people|map(attribute='tags.k', default='none')|list }} {{ mixed|map('upper')|join }} {{ ['a-b']|map('replace', '-', '+')|list }} {{ nested|map(attribute=1)|list }} {{ nested|map('sum')|list }}",
    "{{ l|select('odd')|list }} {{ l|reject('odd')|list }} {{ [0, 1, '', 'a', none]|select|list }} {{ [0, 1, '', 'a', none]|reject|list }} {{ l|select('gt', 1)|list }} {{ l|select('in', [1, 2])|list }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list }} {{ messages|rejectattr('role', 'eq', 'assistant')|list|length }} {{ messages|selectattr('tool_calls')|list|length }} {{ messages|selectattr('tool_calls', 'defined')|list|length }} {{ messages|selectattr('role', '==', 'tool')|first is defined }}",
    "{{ l|first }} {{ l|last }} {{ e|first }}| {{ e|last }}| {{ s|first }} {{ s|last }} {{ d|first }} {{ l|reverse|list }} {{ s|reverse }} {{ l|reverse|first }}",
    "{{ s|replace('o', '0') }} {{ s|replace('l', 'L', 1) }} {{ n|replace(7, 8) }} {{ s|replace(old='H', new='J') }}", "{{ '42'|int }} {{ '42.7'|int }} {{ 'x'|int }} {{ 'x'|int(-1) }} {{ x|int }} {{ '0x1A'|int(base=16) }} {{ ' 5 '|int }} {{ none|int(9) }} {{ '1_000'|int }} {{ '101'|int(0, 2) }} {{ t|int }} {{ '-7'|int }}",
    "{{ '1.5'|float }} {{ 'x'|float }} {{ 'x'|float(2.5) }} {{ 3|float }} {{ 'inf'|float }} {{ '1e3'|float }} {{ none|float }} {{ ' 2 '|float }}", "{{ 2.567|round }} {{ 2.567|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.9|round(method='floor') }} {{ 7|round }} {{ 1234.5|round(-2) }} {{ 2.45|round(1, 'ceil') }}",
    "{{ m|abs }} {{ -2.5|abs }} {{ l|sum }} {{ people|sum(attribute='age') }} {{ l|sum(start=10) }} {{ [0.5, 1]|sum }} {{ nested|sum(start=[]) }} {{ e|sum }}", "{{ l|min }} {{ l|max }} {{ mixed|min }} {{ mixed|max }} {{ e|max }}| {{ (people|max(attribute='age')).name }}",
    "{{ mixed|unique|list }} {{ ['a', 'A', 'b']|unique|list }} {{ ['a', 'A']|unique(true)|list }} {{ [1, 1.0, true, 2]|unique|list }}", "{{ range(7)|batch(3)|list }} {{ range(7)|batch(3, 'x')|list }} {{ range(7)|slice(3)|list }} {{ range(7)|slice(3, 'x')|list }}",
    "{{ lines|indent }}|{{ lines|indent(2, true) }}|{{ lines|indent(1, first=true, blank=true) }}|{{ lines|indent('> ') }}|{{ ''|indent }}|{{ 'a\\n'|indent }}", "{{ 'long text that goes on and on'|truncate(12) }} {{ 'long text that'|truncate(10, true) }} {{ 'short'|truncate(10) }} {{ 'abcdefghijklmnop'|truncate(9, true, '~', 0) }}",
    "[{{ 'ab'|center(6) }}] {{ '%s-%s'|format('a', 1) }} {{ '%(a)s'|format(a=2) }}", "{{ '<b>'|safe }} {{ ('<b>'|safe) + '<i>' }} {{ '<'|e }} {{ '&\"\\''|escape }} {{ ('a'|safe) ~ '<' }} {{ ['x'|safe] }}", "{{ d|attr('keys') is callable }} {{ d|attr('b') }}| {{ d|attr('zz') }}|",
    # tojson
    "{{ messages|tojson }}", "{{ tools|tojson(indent=4) }}", "{{ tools|tojson(indent=2, sort_keys=true) }}", "{{ tools|tojson(separators=(',', ':')) }}", "{{ [u, q, nl]|tojson }} {{ [u, nl]|tojson(ensure_ascii=true) }}", "{{ [1, 1.0, 1e16, 1e-7, true, none, big, third]|tojson }} {{ {1: 2, 1.5: 3, none: 4, true: 5}|tojson }} {{ (1, 2)|tojson }}", "{{ e|tojson }} {{ ed|tojson }} {{ [[], {}]|tojson(indent=2) }} {{ [1, [2]]|tojson(indent='--') }} {{ [1]|tojson(indent=0) }}", "{{ 'a/b<c>&\\''|tojson }} {{ ['x'|safe]|tojson }}", "{{ d|tojson(sort_keys=true) }}", "{{ tools|map('tojson')|join('\\n') }}", "{{ tools|map('tojson', indent=1)|join('\\n') }}",
    # Tests
    "{{ s is string }} {{ n is string }} {{ n is number }} {{ t is number }} {{ n is integer }} {{ t is integer }} {{ x is float }} {{ t is boolean }} {{ n is boolean }} {{ nothing is none }} {{ t is true }} {{ 1 is true }} {{ f is false }}",
    "{{ missing is defined }} {{ s is defined }} {{ missing is undefined }} {{ d is mapping }} {{ l is mapping }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ n is sequence }} {{ l is iterable }} {{ n is iterable }} {{ range(2) is sequence }} {{ d.keys() is sequence }} {{ missing is iterable }} {{ missing is sequence }}",
    "{{ 3 is odd }} {{ 3 is even }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 2 is gt 1 }} {{ 2 is lt 1 }} {{ 2 is ge 2 }} {{ 2 is le 1 }} {{ 2 is greaterthan 1 }} {{ 1 is lessthan 2 }} {{ 1 is in [1] }} {{ 5 is not in [1] }}",
    "{{ s is not none }} {{ not s is none }} {{ n is not string }} {{ none is sameas none }} {{ true is sameas true }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ dict is callable }} {{ n is callable }} {{ ('a'|safe) is escaped }} {{ 'a' is escaped }}",
    "{{ 'x' if s is string and n is number else 'y' }} {{ s is string or f }} {{ messages[0].content is string }} {{ 1 is odd and 2 is even }}", "{{ -1.5 is odd }} {{ 2.0 is even }}",
    # if, for, loop
    "{% if t %}a{% endif %}{% if f %}b{% elif n > 5 %}c{% else %}d{% endif %}{% if f %}x{% elif f %}y{% else %}z{% endif %}{% if f %}{% endif %}",
    "{% for i in l %}{{ i }},{% endfor %}|{% for i in e %}{{ i }}{% else %}none{% endfor %}|{% for k in d %}{{ k }}{% endfor %}|{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for c in 'aä' %}{{ c }}.{% endfor %}|{% for i in missing %}x{% endfor %}",
    "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}|{{ loop.nextitem }}|{{ loop.depth }}{{ loop.depth0 }}{{ loop.cycle('a', 'b') }}{{ loop.changed(i // 2) }} {% endfor %}",
    "{% for i in range(6) if i is odd %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% else %}none{% endfor %}{% for i in l if i > 9 %}{% else %}none{% endfor %}", "{% for a in nested %}{% set outer = loop %}{% for b in a %}{{ outer.index }}.{{ loop.index }}={{ b }} {% endfor %}{% endfor %}",
    "{% for a, b in nested %}{{ a }}-{{ b }} {% endfor %}{% for i, (a, b) in [(0, (1, 2))] %}{{ i }}{{ a }}{{ b }}{% endfor %}{% for k, v in {'x': 1}|items %}{{ k }}{{ v }}{% endfor %}", "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}", "{% for m in messages[1:] %}{% if loop.first and m.role != 'user' %}bad{% endif %}{{ m.role }}{{ loop.last }} {% endfor %}", "{% for m in messages if m.role == 'user' or m.role == 'tool' %}{{ loop.index0 }}{{ m.content|trim }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for i in l|map('string') %}{{ loop.length }}{{ i }}{{ loop.last }} {% endfor %}", "{% for i in [1, 1, 2] %}{% if loop.changed(i) %}{{ i }}{% endif %}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}", "{% for i in l %}{% for j in l %}{{ loop.parent }}{% endfor %}{% endfor %}", "{{ loop }}|{% for i in l %}{% endfor %}{{ i }}|",
    # set, namespace, scope
    "{% set a = 1 %}{{ a }}{% set a = a + 1 %}{{ a }}{% set b, c = 1, 2 %}{{ b }}{{ c }}{% set (x, y) = (3, 4) %}{{ x }}{{ y }}{% set z = 1, 2 %}{{ z }}",
    "{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}", "{% set ns = namespace(a=0, found=false) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.found }}{{ ns.zz }}|{{ ns['a'] }}{% set ns.new = 'x' %}{{ ns.new }}", "{% set ns = namespace({'k': 1}, j=2) %}{{ ns.k }}{{ ns.j }}",
    "{% if t %}{% set a = 'in' %}{% endif %}{{ a }}{% if f %}{% set b = 1 %}{% endif %}{{ b }}|", "{% for i in l %}{{ z }}|{% set z = i %}{{ z }} {% endfor %}", "{% set text %}a {{ n }}\n{% for i in l %}{{ i }}{% endfor %}{% endset %}[{{ text }}]{{ text is string }}", "{% set t2 | upper | replace('A', 'b') %}abc{% endset %}{{ t2 }}", "{% set t3 | indent(2) %}x\ny{% endset %}{{ t3 }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 5 %}{{ a }}{% endwith %}{{ a }}|{% with %}{% set q = 1 %}{{ q }}{% endwith %}", "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}", "{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b')|title %}aaa{% endfilter %}",
    "{% set messages = messages[1:] %}{{ messages|length }}{% if messages[0].role == 'user' %}{% set loop_messages = messages %}{% endif %}{{ loop_messages|length }}", "{% print n %}{% print n, s %}",
    # macros
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c='z') }} {{ m(b=1, a=0) }} {{ m() }}", "{% macro m(a) %}[{{ a }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m(1, 2, 3, k=4) }}{{ m() }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% set g = 'global' %}{% macro m() %}{{ g }}{% set g = 'local' %}{% endmacro %}{{ m() }}{{ g }}", "{% macro m() %}{{ later }}{% endmacro %}{% set later = 'yes' %}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}", "{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}inner {{ n }}{% endcall %}", "{% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(v, i) each(l) %}[{{ i }}:{{ v }}]{% endcall %}",
    "{% macro m() %}  a\n{%- endmacro %}[{{ m() }}]{{ m()|trim|upper }}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% for i in l %}{% macro inner() %}{{ i }}{% endmacro %}{{ inner() }}{% endfor %}", "{% macro m(x) -%}\n  {{ x }}\n{%- endmacro %}{{ [m(1), m(2)] }}", "{% macro p(schema, depth=0) %}{% if schema is mapping %}{{ '{' }}{% for k, v in schema|dictsort %}{{ k }}:{{ p(v, depth + 1) }},{% endfor %}{{ '}' }}{% else %}{{ schema|tojson }}@{{ depth }}{% endif %}{% endmacro %}{{ p(tools[0]) }}",
    # White space
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a {%- if t -%} b {%- endif -%} c", "a\n{{- n -}}\n b", "  {% if t %}x{% endif %}  \n  y", "a  {% if t %}b{% endif %}\n  c", "\n\n  {%- set a = 1 %}\n\nb", "a\n  {%+ if t %}b{% endif %}", "a{% if t +%}\nb{% endif %}", "{# c #}\na {# b #}\n  {# d -#}  \n x {#- y #} z", "  {# lead #}\nx", "{% raw %}{{ x }}{% if %}{% endraw %}\nq", "a {%- raw -%}  {{ r }}  {%- endraw -%} b", "{% raw %}\n x\n  {% endraw %}\n y", "{{ n }}\n{{ n }}\n", "{% for i in l %}\n{{ i }}\n{% endfor %}\n", "\t{%- if t %}\t{% endif -%}\n", "a\r\nb\rc\n{% if t %}\r\nd{% endif %}\r\n", "{% if t %}\n\n\nx{% endif %}\n\n", "{{ '{{' }} {{ '}}' }} {{ '{%' }}", "{ { n } } {n} %} }} #}", "a{{ n -}}   \n  b{{- n }}", "{%- for m in messages %}\n    {{- m.role }}\n    {%- if not loop.last %}\n        {{- ', ' }}\n    {%- endif %}\n{%- endfor %}\n", "x {%- set y = 2 -%} \n\n {{ y }}", "\u00a0\u2003{%- if t %}a{% endif %}", "    {% set a = 1 %}    {% set b = 2 %}\nend", "text   {# comment #}\nmore", "{%-if t-%}a{%-endif-%}", "{{n}}{{-n}}{{ -n }}", "{% if t %}a{% endif %}\n{% if t %}b{% endif %}\n", "end{#", "{##}", "{# {{ n }} {% if %} #}ok", "{%if t%}x{%endif%}",
    "{% set x =\n 1 %}{{\n x\n}}", "{{ {'a': {'b': 1}}['a']['b'] }}{{ {'x':{}} }}",
    # generation
    "{% for m in messages %}{% if m.role == 'assistant' %}<a>{% generation %}{{ m.content }}</s>{% endgeneration %}\n{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}", "{% for m in messages %}{%- if m.role == 'assistant' %}\n    {%- generation %}\n    {{- m.content + eos_token }}{% set q = loop.index %}{{ q }}\n    {%- endgeneration %}\n{%- endif %}{% endfor %}", "{% generation %}\u00e4\u00f6{% endgeneration %}x{% generation %}{% endgeneration %}",
    # What chat templates look like
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}{{- \"# Tools\\n<tools>\" }}{%- for tool in tools %}{{- \"\\n\" }}{{- tool | tojson }}{%- endfor %}{{- \"\\n</tools><|im_end|>\\n\" }}{%- else %}no{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}\n{{- ns.last_query_index }}{%- for message in messages %}{%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- elif message.role == \"assistant\" %}{{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1].lstrip('\\n') }}{%- if message.tool_calls %}{%- for tool_call in message.tool_calls %}{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}{{- '<tool_call>{\"name\": \"' }}{{- tool_call.name }}{{- '\", \"arguments\": ' }}{%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}{{- '}</tool_call>' }}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    "{{ bos_token }}{% for message in messages[1:] %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
    "{% set content = '<' + message.role + '>' if message is defined else 'n' %}{{ content }}",
    # What raises
    "{{ raise_exception('no: ' ~ n) }}", "{{ missing.x }}", "{{ missing + 1 }}", "{{ missing() }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ none + 'a' }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1 < 'a' }}", "{{ none < 1 }}", "{{ missing < 1 }}", "{{ 1 in 5 }}", "{{ 1 in 'abc' }}", "{% for i in 5 %}{% endfor %}", "{% for i in none %}{% endfor %}", "{{ none|length }}", "{{ 5|length }}", "{{ l|map('nope')|list }}", "{% if t %}{{ l|nope }}{% endif %}", "{% if f %}{{ l|nope }}{% endif %}ok", "{% if f %}{{ l is nope }}{% endif %}ok", "{{ l|nope }}", "{{ l is nope }}", "{{ 'a' if t else l|nope }}", "{{ nope(1) }}", "{{ n() }}", "{{ 'abc'.nope() }}", "{{ l.append(4) }}", "{{ d.update({}) }}", "{{ d.pop('a') }}", "{{ l.sort() }}", "{{ s.__class__ }}|", "{{ s.__class__.x }}", "{{ missing|tojson }}", "{{ range(100001) }}", "{{ range(100000)|length }}", "{{ l[::0] }}", "{{ {}[[]] }}|", "{{ {[]: 1} }}", "{% set l.x = 1 %}", "{% set a.b = 1 %}", "{% set a, b = [1] %}", "{% for a, b in [1] %}{% endfor %}", "{% include 'x' %}", "{% do 1 %}", "{% if %}{% endif %}", "{% if t %}", "{% for %}", "{% endfor %}", "{{ 1 + }}", "{{ (1 }}", "{{ 'a }}", "{% set 1 = 2 %}", "{{ a b }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "{% break %}", "{{ '%d' % 'a' }}", "{{ '%s' % (1, 2) }}", "{{ '%s %s' % 1 }}", "{{ '{}'.format() }}", "{{ ','.join([1]) }}", "{{ 'a'.split('') }}", "{{ s.index('zz') }}", "{{ d|dictsort(by='x') }}", "{{ [1, 'a']|sort }}", "{{ missing|int }}", "{{ [1]|join(attribute='x', foo=1) }}", "{{ s|replace('a') }}", "{{ l|first(1) }}", "{{ {'a': 1}|items|length }}", "{% set ns = namespace(_x=1) %}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{{ n is divisibleby }}", "{{ -'a' }}", "{{ 'a'|round }}", "{{ none|abs }}", "{{ 1 is odd is odd }}", "{% raw %}x", "{{ 'a' 1 }}", "{{ * }}", "{{ 1 ** }}", "{{ [1, 2 }}", "{{ } }}", "{% call 5 %}{% endcall %}", "{{ loop.cycle() }}", "{{ d|attr('__class__') }}",
]


def cases():
    for source in SOURCES:
        yield source, DATA
