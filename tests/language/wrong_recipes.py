"""Wrong recipes as people write them, and what their errors must say."""

from __future__ import annotations

from dataclasses import dataclass

HERE = "# <-"  # marks the line that the error must name


@dataclass(frozen=True)
class Wrong:
    """A wrong recipe, and words that its error has: where (a path in the recipe), wanted, got, what to do."""

    name: str
    where: str
    wanted: str
    got: str
    remedy: str
    text: str

    @property
    def line(self) -> int:
        return next(i for i, line in enumerate(self.text.splitlines(), 1) if HERE in line)


def turn(line: str) -> str:
    """A recipe of two turns, the second one wrong."""
    return f"""
messages:
  - {{role: user, content: "${{task}}", stream: low_level}}
  - {line} {HERE}
"""


def binding(expression: str) -> str:
    """A recipe with a wrong binding."""
    return f"""
bindings:
  before: nth_prev(style=memory)
  wrong: {expression} {HERE}
messages:
  - {{role: user, content: "${{task}}", stream: low_level}}
"""


def component(lines: str) -> str:
    """A blend whose second component is wrong."""
    return f"""
blend:
  good:
    weight: 1.0
    messages:
      - {{role: user, content: hello, stream: low_level}}
  wrong:
{lines}
"""


SAY = '    messages: [{role: user, content: "${task}", stream: low_level}]'
TOP = '\nmessages: [{role: user, content: "${task}", stream: low_level}]'
WEIGHT = "    weight: 1.0\n"

TURNS = [
    Wrong("no role", "messages[1].role", "role", "none", "who speaks", turn("{content: hi, stream: low_level}")),
    Wrong(
        "a role that nobody has",
        "messages[1].role",
        "'user', 'assistant', 'system' or 'tool'",
        "robot",
        "one of these",
        turn("{role: robot, content: hi, stream: low_level}"),
    ),
    Wrong(
        "no stream", "messages[1].stream", "stream", "none", "high_level: language", turn("{role: user, content: hi}")
    ),
    Wrong(
        "a stream that is none",
        "messages[1].stream",
        "'high_level' or 'low_level'",
        "mid",
        "one of these",
        turn("{role: user, content: hi, stream: mid}"),
    ),
    Wrong(
        "a key with a typing error",
        "messages[1].contents",
        "key of role, content, stream",
        "contents",
        "did you mean content?",
        turn("{role: user, contents: hi, stream: low_level}"),
    ),
    Wrong(
        "a number for a text",
        "messages[1].content",
        "text or a list",
        "5",
        "in quotes",
        turn("{role: user, content: 5, stream: low_level}"),
    ),
    Wrong(
        "nothing to say",
        "messages[1].content",
        "content, or tool_calls_from",
        "neither",
        "write what",
        turn("{role: user, stream: low_level}"),
    ),
    Wrong(
        "blank content",
        "messages[1].content",
        "says something",
        "'  '",
        "leave the turn out",
        turn("{role: user, content: '  ', stream: low_level}"),
    ),
    Wrong(
        "no blocks",
        "messages[1].content",
        "says something",
        "[]",
        "leave the turn out",
        turn("{role: user, content: [], stream: low_level}"),
    ),
    Wrong(
        "a block without type",
        "messages[1].content[1]",
        "blocks like",
        "'text': 'b'",
        "give the block a type",
        turn("{role: user, content: [{type: text, text: a}, {text: b}], stream: low_level}"),
    ),
    Wrong(
        "a block with a key that is no text",
        "messages[1].content[0]",
        "keys of a block as text",
        "1",
        "in quotes",
        turn("{role: user, content: [{type: text, text: a, 1: b}], stream: low_level}"),
    ),
    Wrong(
        "a block guarded by a list",
        "messages[1].content[0].if_present",
        "one name",
        "['subtask']",
        "name a binding",
        turn("{role: user, content: [{type: text, text: a, if_present: [subtask]}], stream: low_level}"),
    ),
    Wrong(
        "a block guarded by a name that does not exist",
        "messages[1].content[0].if_present",
        "a name of canonical_task",
        "'subtusk'",
        "did you mean subtask?",
        turn("{role: user, content: [{type: text, text: a, if_present: subtusk}], stream: low_level}"),
    ),
    Wrong(
        "a picture to be learned",
        "messages[1].content",
        "words to learn",
        "no text block",
        "add {type: text",
        turn("{role: user, content: [{type: image, feature: x}], stream: low_level, target: true}"),
    ),
    Wrong(
        "target in words",
        "messages[1].target",
        "target as true or false",
        "maybe",
        "without quotes",
        turn("{role: user, content: a, stream: low_level, target: maybe}"),
    ),
    Wrong(
        "a name with a typing error",
        "messages[1].content",
        "name of canonical_task, interjection, memory",
        "memori",
        "did you mean memory?",
        turn('{role: user, content: "Known: ${memori}", stream: low_level}'),
    ),
    Wrong(
        "a name that nobody declared, deep in a block",
        "messages[1].content[0].crop.of[1]",
        "a name of",
        "zzz",
        "declare it under bindings",
        turn("{role: user, content: [{type: image, crop: {of: [a, '${zzz}']}}], stream: low_level}"),
    ),
    Wrong(
        "a placeholder that is not closed",
        "messages[1].content",
        "placeholders like ${name}",
        "${task",
        "$${ for a plain ${",
        turn('{role: user, content: "Do ${task", stream: low_level}'),
    ),
    Wrong(
        "a placeholder with a blank in it",
        "messages[1].content",
        "placeholders like ${name}",
        "${ task }",
        "for a plain ${",
        turn('{role: user, content: "Do ${ task }", stream: low_level}'),
    ),
    Wrong(
        "an empty placeholder",
        "messages[1].content[0].text",
        "placeholders like ${name}",
        "${}",
        "$${",
        turn('{role: user, content: [{type: text, text: "${}"}], stream: low_level}'),
    ),
    Wrong(
        "if_present of nothing",
        "messages[1].if_present",
        "a name of canonical_task",
        "'speach'",
        "did you mean speech?",
        turn("{role: user, content: a, stream: low_level, if_present: speach}"),
    ),
    Wrong(
        "if_absent of nothing",
        "messages[1].if_absent",
        "a name of canonical_task",
        "'interjections'",
        "did you mean interjection?",
        turn("{role: user, content: a, stream: low_level, if_absent: interjections}"),
    ),
    Wrong(
        "tool calls of nothing",
        "messages[1].tool_calls_from",
        "a name of interjection",
        "'say'",
        "declare it under bindings",
        turn("{role: assistant, stream: low_level, tool_calls_from: say}"),
    ),
    Wrong(
        "tool calls of the task, which is only words",
        "messages[1].tool_calls_from",
        "a name of interjection",
        "'task'",
        "subtask",
        turn("{role: assistant, stream: low_level, tool_calls_from: task}"),
    ),
    Wrong(
        "${camera} without cameras",
        "messages[1].content[0].feature",
        "cameras: beside ${camera}",
        "none",
        "cameras: all",
        turn("{role: user, content: [{type: image, feature: '${camera}'}], stream: low_level}"),
    ),
    Wrong(
        "a turn that is a text",
        "messages[1]",
        "messages[1] as a mapping",
        "'hello'",
        "its keys below it",
        turn("hello"),
    ),
]

BINDINGS = [
    Wrong(
        "no call", "bindings.wrong", "like resolver(", "'subtask'", "active_at(t, style=subtask)", binding("subtask")
    ),
    Wrong(
        "a resolver with a typing error",
        "bindings.wrong",
        "resolver of active_at, emitted_at",
        "'activ_at'",
        "did you mean active_at?",
        binding("activ_at(t, style=subtask)"),
    ),
    Wrong(
        "an argument that nobody knows",
        "bindings.wrong",
        "argument of style, role",
        "'styl'",
        "did you mean style?",
        binding("active_at(t, styl=subtask)"),
    ),
    Wrong(
        "an argument twice",
        "bindings.wrong",
        "each argument once",
        "style twice",
        "leave one out",
        binding("active_at(t, style=subtask, style=plan)"),
    ),
    Wrong(
        "an argument without value",
        "bindings.wrong",
        "value for role",
        'role=""',
        "accept any value",
        binding('active_at(t, style=subtask, role="")'),
    ),
    Wrong(
        "an argument without name",
        "bindings.wrong",
        "key=value",
        "'subtask'",
        "active_at(t, style=subtask)",
        binding("active_at(t, subtask)"),
    ),
    Wrong("offset 0", "bindings.wrong", "offset", "'0'", "active_at", binding("nth_prev(style=memory, offset=0)")),
    Wrong(
        "offset in words",
        "bindings.wrong",
        "offset",
        "'one'",
        "active_at",
        binding("nth_next(style=memory, offset=one)"),
    ),
    Wrong(
        "an offset beyond all",
        "bindings.wrong",
        "1 to 9999",
        "'99999'",
        "active_at",
        binding(f"nth_next(style=memory, offset={'9' * 5000})"),
    ),
    Wrong(
        "offset where nothing is counted",
        "bindings.wrong",
        "no offset in active_at",
        "'offset=1'",
        "nth_prev or nth_next",
        binding("active_at(t, style=memory, offset=1)"),
    ),
    Wrong(
        "a state of an event",
        "bindings.wrong",
        "stays in force in active_at",
        "interjection",
        "emitted_at(t, style=interjection)",
        binding("active_at(t, style=interjection)"),
    ),
    Wrong(
        "a state without style",
        "bindings.wrong",
        "a style in nth_prev",
        "none",
        "nth_prev(style=subtask)",
        binding("nth_prev(role=assistant)"),
    ),
    Wrong(
        "a style that nobody registered",
        "bindings.wrong",
        "a style of subtask, plan",
        "'subtsk'",
        "did you mean subtask?",
        binding("emitted_at(t, style=subtsk)"),
    ),
    Wrong(
        "a role that nobody has",
        "bindings.wrong",
        "a role of assistant",
        "'asistant'",
        "did you mean assistant?",
        binding("active_at(t, style=subtask, role=asistant)"),
    ),
    Wrong(
        "a camera where none is seen",
        "bindings.wrong",
        "no camera with style subtask",
        "front",
        "rows have no camera",
        binding("active_at(t, style=subtask, camera=front)"),
    ),
    Wrong(
        "the camera without cameras",
        "bindings.wrong",
        "cameras: beside ${camera}",
        "camera=${camera}",
        "cameras: all",
        binding("emitted_at(t, style=vqa, camera=${camera})"),
    ),
    Wrong(
        "half of a camera's name",
        "bindings.wrong",
        "camera in plain words",
        "images.${camera}",
        "camera=${camera} alone",
        binding("emitted_at(t, style=vqa, camera=images.${camera})"),
    ),
    Wrong(
        "a binding that is a mapping",
        "bindings.wrong",
        "wrong as text",
        "{'style': 'subtask'}",
        "in quotes",
        binding("{style: subtask}"),
    ),
    Wrong(
        "a comma that YAML takes for its own",
        "bindings.style=plan)",
        "as text",
        "None",
        "in quotes",
        f"bindings: {{wrong: active_at(t, style=plan)}} {HERE}{TOP}",
    ),
    Wrong(
        "a name that is taken",
        "bindings.camera",
        "a free name",
        "'camera'",
        "another word",
        f"bindings:\n  camera: active_at(t, style=subtask) {HERE}{TOP}",
    ),
    Wrong(
        "a name that is no word",
        "bindings.my plan",
        "a free name",
        "'my plan'",
        "another word",
        f"bindings:\n  my plan: active_at(t, style=plan) {HERE}{TOP}",
    ),
    Wrong(
        "a name that is a number",
        "bindings.1",
        "names as text",
        "1",
        "in quotes",
        f"bindings:\n  1: active_at(t, style=plan) {HERE}{TOP}",
    ),
]

BLENDS = [
    Wrong(
        "no weight", "blend.wrong", "a weight", "none", "add weight", component(SAY).replace("wrong:", f"wrong: {HERE}")
    ),
    Wrong("weight 0", "blend.wrong.weight", "weight > 0", "0.0", "leave", component(f"    weight: 0 {HERE}\n{SAY}")),
    Wrong(
        "weight nan", "blend.wrong.weight", "weight > 0", "nan", "leave", component(f"    weight: .nan {HERE}\n{SAY}")
    ),
    Wrong(
        "weight inf", "blend.wrong.weight", "weight > 0", "inf", "leave", component(f"    weight: .inf {HERE}\n{SAY}")
    ),
    Wrong(
        "weight in words",
        "blend.wrong.weight",
        "weight as a number",
        "'half'",
        "like 0.25",
        component(f"    weight: half {HERE}\n{SAY}"),
    ),
    Wrong(
        "weight yes",
        "blend.wrong.weight",
        "weight as a number",
        "True",
        "like 0.25",
        component(f"    weight: yes {HERE}\n{SAY}"),
    ),
    Wrong(
        "a blend in a blend",
        "blend.wrong.blend",
        "messages in a component",
        "another blend",
        "do not nest",
        component(f"{WEIGHT}    blend: {HERE}\n      inner:\n    {WEIGHT}    {SAY}"),
    ),
    Wrong(
        "a blend of half a recipe",
        "blend.wrong",
        "either messages or blend",
        "neither",
        "one of the two",
        component(WEIGHT).replace("wrong:", f"wrong: {HERE}"),
    ),
    Wrong(
        "a component that is empty",
        "blend.wrong",
        "wrong as a mapping",
        "None",
        "its keys below it",
        component("").replace("wrong:", f"wrong: {HERE}"),
    ),
    Wrong(
        "a route that leads nowhere",
        "blend.wrong.route",
        "route",
        "'voice'",
        "one of these",
        component(f"{WEIGHT}    route: voice {HERE}\n{SAY}"),
    ),
    Wrong(
        "a turn of a component",
        "blend.wrong.messages[0].stream",
        "'high_level' or 'low_level'",
        "'none'",
        "one of these",
        component(f"{WEIGHT}    messages:\n      - {{role: user, content: a, stream: none}} {HERE}"),
    ),
    Wrong("a list of components", "blend", "blend as a mapping", "[", "its keys below it", f"blend: {HERE}\n  - a\n"),
    Wrong("no component", "blend", "at least one component", "none", "with messages and weight", f"blend: {{}} {HERE}"),
    *(
        Wrong(
            f"{key} beside blend",
            key,
            f"no {key} beside blend",
            got,
            "on a component",
            component(WEIGHT + SAY) + f"{line} {HERE}",
        )
        for key, got, line in (
            ("route", "'vqa'", "route: vqa"),
            ("weight", "0.5", "weight: 0.5"),
            ("cameras", "'all'", "cameras: all"),
            ("bindings", "'a'", "bindings: {a: active_at(style=plan)}"),
        )
    ),
]

WHOLE = [
    Wrong(
        "messages and blend",
        "the top",
        "either messages or blend",
        "both",
        "one of the two",
        f"messages: [] {HERE}\n" + component(WEIGHT + SAY),
    ),
    Wrong("neither", "the top", "either messages or blend", "neither", "one of the two", f"bindings: {{}} {HERE}"),
    Wrong("no turns", "messages", "at least one turn", "none", "a user and an assistant turn", f"messages: [] {HERE}"),
    Wrong(
        "turns that are no list",
        "messages",
        "messages as a list",
        "'role': 'user'",
        "with a dash",
        f"messages: {HERE}\n  role: user\n  content: a\n",
    ),
    Wrong(
        "nothing to learn",
        "messages",
        "teaches something",
        "no target and no low_level turn",
        "target: true",
        f"messages: {HERE}\n  - {{role: user, content: a, stream: high_level}}\n",
    ),
    Wrong(
        "a key with a typing error",
        "mesages",
        "key of messages, bindings",
        "'mesages'",
        "did you mean messages?",
        f"# turns\nmesages: {HERE}\n  - {{role: user, content: a, stream: low_level}}\n",
    ),
    Wrong(
        "one camera as a text", "cameras", "cameras: all, or a list", "'front'", "[front", f"cameras: front {HERE}{TOP}"
    ),
    Wrong("no camera", "cameras", "cameras: all, or a list", "[]", "[front", f"cameras: [] {HERE}{TOP}"),
    Wrong("a camera twice", "cameras", "each camera once", "'a', 'a'", "leave", f"cameras: [a, a] {HERE}{TOP}"),
    Wrong("weight of a recipe alone", "weight", "weight > 0", "-1.0", "leave", f"weight: -1 {HERE}{TOP}"),
    Wrong("a key twice", "messages", "each key once", "messages a second time", "rename", f"blend: {TOP}{TOP} {HERE}"),
    Wrong(
        "a key twice, deep down",
        "messages[0].stream",
        "each key once",
        "stream a second time",
        "rename",
        f"messages:\n  - role: user\n    stream: low_level\n    content: a\n    stream: high_level {HERE}\n",
    ),
    Wrong("a list", "the top", "a mapping", "list", "messages: or blend:", f"- a {HERE}"),
    Wrong("a text", "the top", "a mapping", "str", "messages: or blend:", f"hello {HERE}"),
]

ALL = [*TURNS, *BINDINGS, *BLENDS, *WHOLE]
