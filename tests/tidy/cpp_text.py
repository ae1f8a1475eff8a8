"""As much C++ as the tidy test needs: text without comments and literals, and where functions begin and end.

A heuristic over formatted sources, not a parser: braces are counted, and what stands before an opening one tells a function
from a namespace, a type or a block.
"""

import re

_LITERAL = re.compile(
    r'//[^\n]*'
    r'|/\*.*?\*/'
    r'|(?<!\w)(?:u8|[uUL])?R"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'",
    re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
_NOT_A_FUNCTION = re.compile(r"\b(namespace|class|struct|union|enum|concept)\b")
_NAME = re.compile(r"(~?[\w:]*[\w\])])\s*\(")


def _blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def code_only(text):
    """The text with comments and literals blanked out; every line stays where it is."""
    return _LITERAL.sub(_blank, text)


def _name_of(header):
    """"absl::Status Group::Stop(bool failover) const" -> "Group::Stop"; of a TEST the names in the parentheses."""
    test = re.search(r"\b(?:TEST|TEST_F|TEST_P)\s*\(\s*(\w+)\s*,\s*(\w+)", header)
    if test:
        return f"{test.group(1)}.{test.group(2)}"
    found = _NAME.search(re.sub(r"\b(ABSL_\w+|requires|noexcept|decltype|__attribute__)\s*\([^)]*\)", "", header))
    return found.group(1) if found else "?"


def _opens_function(header):
    outside = re.sub(r"\btemplate\s*<[^{}]*?>\s*(?=\w)", "", header)
    if "(" not in outside or _NOT_A_FUNCTION.match(outside.strip()):
        return False
    return re.search(r"[\w\]>)]\s*=\s*$", outside) is None  # an initializer list


def functions(text):
    """(name, first line, number of lines) of every function that is not inside another one."""
    code = _DIRECTIVE.sub(_blank, code_only(text))
    open_braces = []  # (is it a function, its name, line where it begins)
    header_start = 0
    for match in re.finditer(r"[;{}]", code):
        symbol, at = match.group(), match.start()
        if symbol == "{":
            inside = any(function for function, _, _ in open_braces)
            header = code[header_start:at]
            begin = header_start + len(header) - len(header.lstrip())
            is_function = not inside and _opens_function(header)
            open_braces.append((is_function, _name_of(header) if is_function else "", code.count("\n", 0, begin) + 1))
        elif symbol == "}" and open_braces:
            is_function, name, line = open_braces.pop()
            if is_function:
                yield name, line, code.count("\n", 0, at) + 1 - line + 1
        if symbol != ";" or "(" not in code[header_start:at] or code[header_start:at].count("(") == code[header_start:at].count(")"):
            header_start = at + 1
