"""Shell templates: a value stands as a whole shell word or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from orchestrator.assets import templates_folder
from orchestrator.script import shell_environment

VALUE, BLOCK = "\1", "\2"  # stand for {{ … }} and {% … %} in the text around them
TEMPLATES = sorted(path for path in templates_folder().rglob("*.j2") if ".html" not in path.name)


def misplaced(source: str) -> list[str]:
    """Lines of a template with a value that is no whole shell word, each with the reason."""
    return [f"line {line}: {reason}" for line, reason in _misplaced(_marked(source))]


def _marked(source: str) -> str:
    text, depth = "", 0
    for _, token, value in shell_environment().lex(source):
        if token == "data" and depth == 0:
            text += value
        elif token.endswith("_begin"):
            depth += 1
            text += VALUE if token == "variable_begin" else BLOCK
        elif token.endswith("_end"):
            depth -= 1
            text += "\n" * value.count("\n")  # trim_blocks took the end of the line with the block
    return text


def _misplaced(text: str) -> Iterator[tuple[int, str]]:
    state, heredoc, in_array, index = "", "", False, 0
    while index < len(text):
        line_start = text.rfind("\n", 0, index) + 1
        char, line = text[index], text.count("\n", 0, index) + 1
        if char == VALUE:
            before, after = text[index - 1 : index] or "\n", text[index + 1 : index + 2] or "\n"
            if state:
                yield line, f"inside {state}"
            elif before not in " \n=(" or after not in " \n)":
                yield line, f"between {before!r} and {after!r}, so only a part of a word"
            elif before == "=" and not re.search(r"(^|[ (])(--)?[A-Za-z_][\w-]*=$", text[line_start:index]):
                yield line, "after a = that is no assignment"
            elif not in_array and re.search(rf"(^|[`;&|(])[ {BLOCK}]*$", text[line_start:index]):
                yield line, "where a command stands"
            elif re.search(r"\b(eval|source|exec|bash -c|sh -c)\b", text[line_start:index]):
                yield line, "where it is read as a script"
        elif state == "a heredoc":
            end = text.find(f"\n{heredoc}\n", index - 1)
            body = text[index : end if end >= 0 else len(text)]
            if VALUE in body:
                yield line + body[: body.index(VALUE)].count("\n"), "inside a heredoc"
            index, state = (end + len(heredoc) if end >= 0 else len(text)), ""
        elif state == "a comment":
            state = "" if char == "\n" else state
        elif state == "single quotes":
            state = "" if char == "'" else state
        elif char == "\\":
            index += 1
        elif state == "double quotes":
            state = "" if char == '"' else state
        elif char == '"':
            state = "double quotes"
        elif char == "'":
            state = "single quotes"
        elif char == "#" and text[index - 1 : index] in ("", " ", "\n"):
            state = "a comment"
        elif char == "(" and re.search(r"[\w]\+?=$", text[line_start:index]):
            in_array = True
        elif char == ")":
            in_array = False
        elif (match := re.compile(r"<<-?\s*(['\"]?)(\w+)\1[^\n]*\n").match(text, index)) and text[index + 2] != "<":
            if VALUE in match[0]:
                yield line, "on the line of a heredoc"
            heredoc, state = match[2], "a heredoc"
            index = match.end() - 1
        index += 1


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_values_stand_only_as_whole_shell_words(path):
    assert misplaced(path.read_text()) == []


def test_there_are_templates_to_look_at():
    assert len(TEMPLATES) >= 4
    assert sum(_marked(path.read_text()).count(VALUE) for path in TEMPLATES) >= 10


@pytest.mark.parametrize(
    "source",
    [
        "export {{ variable }}",
        "home={{ home }}",
        "PYTHON=({{ python }})",
        "words=(\n{% for word in words %}\n  {{ word }}\n{% endfor %}\n)",
        "pip install --find-links={{ wheels }} -- {{ packages }}",
        'say "hello" {{ name }} # a comment',
        "cat <<'END'\ntext\nEND\necho {{ name }}",
        'read -r x <<<"$y"\necho {{ name }}',
    ],
)
def test_a_whole_word_is_accepted(source):
    assert misplaced(source) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('echo "{{ name }}"', "double quotes"),
        ('echo "hello\n{{ name }}"', "double quotes"),
        ("echo '{{ name }}'", "single quotes"),
        ("# run {{ name }}", "a comment"),
        ("#SBATCH --job-name={{ name }}", "a comment"),
        ("cat <<END\n{{ name }}\nEND", "heredoc"),
        ("cat <<'END'\nx\n{{ name }}\nEND", "heredoc"),
        ("cat <<-END\n{{ name }}\nEND", "heredoc"),
        ("path=/runs/{{ name }}", "part of a word"),
        ("path={{ home }}/runs", "part of a word"),
        ("path={{ home }}{{ name }}", "part of a word"),
        ("x={{ a }}{% if b %}y{% endif %}", "part of a word"),
        ("echo ${{ name }}", "part of a word"),
        ("echo ${x:-{{ name }}}", "part of a word"),
        ("echo $(({{ number }} + 1))", "command stands"),
        ("echo $({{ name }})", "command stands"),
        ("{{ command }} --flag", "command stands"),
        ("true && {{ command }}", "command stands"),
        ("true; {{ command }}", "command stands"),
        ("eval {{ name }}", "read as a script"),
        ("bash -c {{ name }}", "read as a script"),
        ("[[ $x =={{ name }} ]]", "no assignment"),
    ],
)
def test_anything_else_is_refused(source, reason):
    assert any(reason in found for found in misplaced(source))
