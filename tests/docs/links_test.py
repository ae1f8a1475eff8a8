#!/usr/bin/env python3
"""Links, anchors and file names in README.md and docs/*.md lead somewhere.

  links_test.py [--root DIR]

One problem per line, exit status 1. Before that it plants one of each kind in a directory of its own and sees it found.
"""

import argparse
import glob
import os
import re
import sys
import tempfile

LINK = re.compile(r"(?<!\\)\]\(([^()\s]+)\)|(?:href|src)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$")
FENCE = re.compile(r"^ {0,3}(```|~~~)")
CODE = re.compile(r"`([^`]+)`")
PATH = re.compile(r"^(?:\.ci|storage|server|client|proto|deploy|tests|docs)/[\w./*{},-]*$")


def lines_outside_code(text):
    """(number, line) of what is prose: neither a fenced nor an indented block."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield number, line


def slug(heading):
    """The anchor GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"[^\w\- ]", "", text.strip().lower())
    return text.replace(" ", "-")


def anchors(path):
    found = {}
    with open(path, encoding="utf-8") as file:
        for _, line in lines_outside_code(file.read()):
            heading = HEADING.match(line)
            if heading:
                name = slug(heading.group(1))
                count = found.get(name, 0)
                found[name] = count + 1
                if count:
                    found[f"{name}-{count}"] = 1
    return set(found)


def braces(path):
    """a.{h,cc} -> a.h, a.cc"""
    group = re.search(r"\{([^{}]*)\}", path)
    if not group:
        return [path]
    return [path[: group.start()] + part + path[group.end():] for part in group.group(1).split(",")]


def check_link(document, target):
    """What is wrong with a link of this document; None: nothing."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    full = os.path.normpath(os.path.join(os.path.dirname(document), path)) if path else document
    if not os.path.exists(full):
        return f"link to {target}: there is no such file"
    if anchor and full.endswith(".md") and anchor not in anchors(full):
        return f"link to {target}: there is no such heading"
    return None


def check_document(root, document):
    with open(document, encoding="utf-8") as file:
        text = file.read()
    for number, line in lines_outside_code(text):
        without_code = CODE.sub("", line)
        problems = [check_link(document, a or b) for a, b in LINK.findall(without_code)]
        for code in CODE.findall(line):
            if not PATH.match(code):
                continue
            for path in braces(code):
                if not glob.glob(os.path.join(root, path)):
                    problems.append(f"names {path}, which does not exist")
        for problem in filter(None, problems):
            yield f"{os.path.relpath(document, root)}:{number}: {problem}"


def check(root):
    documents = sorted(glob.glob(os.path.join(root, "docs", "*.md")))
    readme = os.path.join(root, "README.md")
    if os.path.exists(readme):
        documents.insert(0, readme)
    return [problem for document in documents for problem in check_document(root, document)]


SAMPLE = """# One heading, `code` and more
[good](other.md#two) [good](#one-heading-code-and-more) [good](https://example.org/x#y) `docs/other.md` `docs/{a,other}.md`
[bad](missing.md) [bad](other.md#three) [bad](#nowhere) `docs/absent.cc`
```
[not read](missing.md)
```
"""


def self_test():
    with tempfile.TemporaryDirectory() as root:
        os.mkdir(os.path.join(root, "docs"))
        for name, text in (("a.md", SAMPLE), ("other.md", "# Two\n")):
            with open(os.path.join(root, "docs", name), "w", encoding="utf-8") as file:
                file.write(text)
        found = check(root)
    expected = ["missing.md", "other.md#three", "#nowhere", "docs/absent.cc"]
    if len(found) == len(expected) and all(want in got for want, got in zip(expected, found)):
        return
    sys.exit("the self test failed:\n" + "\n".join(found))


def main():
    parser = argparse.ArgumentParser()
    here = os.path.dirname(os.path.realpath(__file__))
    parser.add_argument("--root", default=os.path.join(here, "..", ".."))
    root = os.path.realpath(parser.parse_args().root)
    self_test()
    problems = check(root)
    print("\n".join(problems) or "every link, anchor and file name leads somewhere")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
