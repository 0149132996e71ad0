"""The rules of the source tree that a compiler does not check: who includes whom, where third-party headers
may appear, the size of files and functions, headers that compile on their own, and what must not be left in
a source file. One message per breach, with file and line."""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRODUCT = ("engine", "formats", "xml", "cli")
LONGEST_FILE_LINES = 400
LONGEST_FUNCTION_LINES = 60

BELOW_JOBS = {"engine/copy", "engine/block", "engine/storage", "engine/base"}
MAY_INCLUDE = {
    "engine/base": set(),
    "engine/storage": {"engine/base"},
    "engine/block": {"engine/storage", "engine/base"},
    "engine/copy": {"engine/block", "engine/storage", "engine/base"},
    "engine/jobs": BELOW_JOBS,
    "engine/nbd": BELOW_JOBS,
    "engine/ram": BELOW_JOBS,
    "engine/control": BELOW_JOBS | {"engine/jobs", "engine/nbd", "engine/ram"},
    # A format sees the image interface; xml sees what a disk is, not how it works.
    "formats": {"engine/base", "engine/storage", "engine/block/image.hpp", "engine/block/format_table.hpp",
                "engine/block/check.hpp", "engine/block/pin_ledger.hpp", "engine/block/snapshot_store.hpp",
                "engine/block/bitmap_store.hpp"},
    "xml": {"engine/base", "engine/block/model.hpp", "engine/block/network_protocol.hpp"},
    "cli": {"engine", "formats", "xml"},
}

# Third-party headers by beginning of name, and the folders or files they stay in.
THIRD_PARTY = {
    "pugixml": ("xml/",),
    "libqcow": ("formats/qcow1/",),
    "libnbd": ("engine/storage/",),
    "liburing": ("engine/storage/",),
    "curl/": ("engine/storage/",),
    "openssl/": ("engine/nbd/",),
    # Backing names of the form json:{…} are parsed where backing names are.
    "boost/json": ("engine/control/", "cli/", "engine/block/backing_json.", "engine/block/json_dotted."),
    "boost/program_options": ("cli/",),
    "zstd.": ("formats/codec.",),
    "zlib.": ("formats/codec.",),
    "isa-l": ("engine/base/",),
    "boost/asio": ("",),
    "boost/system": ("",),
}
POSIX = re.compile(r"(sys|linux|netinet|arpa)/|(fcntl|netdb|poll|sched|signal|spawn|termios|unistd)\.h$")
STANDARD = re.compile(r"[a-z_0-9]+$")
# Inputs of the fuzzer: bytes, not text.
CORPUS = pathlib.PurePath("tests/fuzz/corpus")
# What runs inside a test's guest names the guest's own paths.
GUEST_FILES = pathlib.PurePath("tests/support/guest_files")

INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.M)
LEFTOVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|farm|root)/|\b(deb|registry|archive|security|ftp|mirror)\.[a-z]+\.(org|com)\b")
# One space after the slashes: examples in design notes are indented further.
COMMENTED_OUT = re.compile(r"^\s*// ?(return\b.*|[\w:.>\-\[\]]+(\(.*\)| = .*));$")


def sources(*folders, suffixes=(".cpp", ".hpp")):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT)


def text_of(path):
    return (ROOT / path).read_text(encoding="utf-8")


def all_lines():
    """Every line of everything written by hand: path, number, text."""
    for path in sources(*PRODUCT, "tests", "scripts", suffixes=(".cpp", ".hpp", ".py", ".sh", ".txt", "")):
        if (ROOT / path).is_file() and CORPUS not in path.parents:
            for number, line in enumerate(text_of(path).splitlines(), 1):
                yield path, number, line.strip()


def includes_of(path):
    """Line number and spelling, brackets or quotes kept, of each #include."""
    text = text_of(path)
    return [(text.count("\n", 0, found.start(1)) + 1, found.group(1)) for found in INCLUDE.finditer(text)]


def folder_of(path):
    """The folder as MAY_INCLUDE knows it."""
    parts = pathlib.PurePosixPath(path).parts
    return "/".join(parts[:2]) if parts[0] == "engine" else parts[0]


def is_below(name, folder):
    return name == folder or name.startswith(folder + "/")


def blank_out(text):
    """The text with comments, literals and preprocessor lines replaced by blanks; lines stay where they are."""
    pattern = re.compile(r"//[^\n]*|/\*.*?\*/|R\"(?P<tag>[^(\s]*)\(.*?\)(?P=tag)\"|\"(?:\\.|[^\"\\\n])*\""
                         r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.S | re.M)
    return pattern.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def functions_of(text):
    """First and last line of every function body at namespace or class scope, its head included."""
    code = blank_out(text)
    scopes, found, head_at = [], [], 0
    for index, character in enumerate(code):
        if character == "{":
            head = code[head_at:index]
            outer = not any(kind == "function" for kind, _ in scopes)
            if re.search(r"\b(namespace|extern)\b[^()]*$", head) or re.match(r"\s*(class|struct|union|enum)\b", head.split(">")[-1]):
                kind = "scope"
            else:
                kind = "function" if outer and "(" in head else "other"
            start = head_at + len(head) - len(head.lstrip())
            scopes.append((kind, start))
            head_at = index + 1
        elif character == "}" and scopes:
            kind, start = scopes.pop()
            if kind == "function":
                found.append((code.count("\n", 0, start) + 1, code.count("\n", 0, index) + 1))
            head_at = index + 1
        elif character == ";":
            head_at = index + 1
    return found


class layout_test(unittest.TestCase):
    def expect_none(self, breaches):
        self.assertFalse(breaches, "\n" + "\n".join(breaches))

    def test_folders_include_only_what_is_below_them(self):
        breaches = []
        for path in sources(*PRODUCT):
            own = folder_of(path)
            self.assertIn(own, MAY_INCLUDE, f"{path}: say in MAY_INCLUDE what this folder may include")
            for line, name in includes_of(path):
                name = name[1:-1] if name[0] == '"' else None
                allowed = MAY_INCLUDE[own] | {own}
                if name and not any(is_below(name, folder) for folder in allowed):
                    breaches.append(f"{path}:{line}: {own} must not include {name}")
        self.expect_none(breaches)

    def test_quoted_includes_are_named_from_the_root(self):
        self.expect_none([f"{path}:{line}: {name} is no file of the tree"
                          for path in sources(*PRODUCT, "tests") for line, name in includes_of(path)
                          if name[0] == '"' and not (ROOT / name[1:-1]).is_file()])

    def test_third_party_headers_stay_in_their_folders(self):
        breaches = []
        for path in sources(*PRODUCT):
            for line, name in includes_of(path):
                if name[0] == '"' or STANDARD.match(name[1:-1]) or POSIX.match(name[1:-1]):
                    continue
                name = name[1:-1]
                homes = [home for prefix, home in THIRD_PARTY.items() if name.startswith(prefix)]
                if not homes:
                    breaches.append(f"{path}:{line}: {name}: say in THIRD_PARTY where it may be included")
                elif not str(path).startswith(homes[0]):
                    breaches.append(f"{path}:{line}: {name} stays in {' '.join(homes[0])}")
        self.expect_none(breaches)

    def test_files_are_small(self):
        self.expect_none([f"{path}: {len(text_of(path).splitlines())} lines, at most {LONGEST_FILE_LINES}"
                          for path in sources(*PRODUCT)
                          if len(text_of(path).splitlines()) > LONGEST_FILE_LINES])

    def test_functions_are_small(self):
        breaches = []
        for path in sources(*PRODUCT):
            for first, last in functions_of(text_of(path)):
                if last - first + 1 > LONGEST_FUNCTION_LINES:
                    breaches.append(f"{path}:{first}: a function of {last - first + 1} lines, at most "
                                    f"{LONGEST_FUNCTION_LINES}")
        self.expect_none(breaches)

    def test_the_function_scanner_sees_what_it_should(self):
        text = ('namespace a {\nclass b : public c<int> {\n  b() : d_{1}, e_(2) {\n    f();\n  }\n  void g() const '
                'noexcept {\n    if (x) {\n      "}";  // }\n    }\n  }\n};\ntemplate <class T>\nT h(T t)\n{\n  auto '
                'l = [&] { return t; };\n  return l();\n}\nstd::array i{1, 2};\n}\n')
        self.assertEqual([lines for lines in functions_of(text) if lines[1] > lines[0]],
                         [(3, 5), (6, 10), (12, 17)])

    def test_nothing_is_left_for_later(self):
        self.expect_none([f"{path}:{number}: {line}" for path, number, line in all_lines() if LEFTOVER.search(line)])

    def test_no_code_is_commented_out(self):
        self.expect_none([f"{path}:{number}: {line.strip()}" for path in sources(*PRODUCT, "tests")
                          for number, line in enumerate(text_of(path).splitlines(), 1)
                          if COMMENTED_OUT.match(line)])

    def test_no_path_of_a_machine_and_no_registry_is_named(self):
        self.expect_none([f"{path}:{number}: {line}" for path, number, line in all_lines()
                          if MACHINE_PATH.search(line) and GUEST_FILES not in path.parents])

    def test_headers_compile_on_their_own(self):
        """A source file that includes its own header first proves it in a build without precompiled header (the
        debug preset); the rest are compiled here."""
        breaches, lonely = [], []
        for path in sources(*PRODUCT, suffixes=(".hpp",)):
            source = path.with_suffix(".cpp")
            if not (ROOT / source).is_file():
                lonely.append(path)
            elif includes_of(source)[0][1] != f'"{path}"':
                breaches.append(f"{source}: must include {path} first")
        with tempfile.TemporaryDirectory() as folder:
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                breaches += [words for words in pool.map(lambda path: self.compile_alone(path, folder), lonely) if words]
        self.expect_none(breaches)

    @staticmethod
    def compile_alone(path, folder):
        """Through ccache where there is one, so that only what changed is compiled again."""
        source = pathlib.Path(folder) / (str(path).replace("/", "_") + ".cpp")
        source.write_text(f'#include "{path}"\n', encoding="utf-8")
        command = os.environ["WEIR_COMPILE"].split() + ["-std=c++2b", "-DBOOST_ASIO_NO_DEPRECATED", "-O0", "-w", "-I",
                                                        str(ROOT), "-c", source.name, "-o", source.name + ".o"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        return f"{path} does not compile alone:\n{done.stderr[:1500]}" if done.returncode else None


if __name__ == "__main__":
    unittest.main()
