"""What must hold of the code as a whole, whoever writes it. Import order between rooms is lint-imports' to hold."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("data", "grounding", "copilot", "rl", "apps")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 400
MAX_WEIGHTS = 45_000_000  # bytes
# Formats that run code when they are read, or that hide what they hold.
PICKLED = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".onnx", ".gguf"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> set[str]:
    """Names of all modules imported anywhere in a file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def calls(tree: ast.AST, *names: str):
    """Calls of functions spelt as one of `names` ("torch.load")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in FILES}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}


def test_there_is_code_to_look_at():
    assert len(FILES) > 40
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ROOMS)


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in FILES if path.name == "__init__.py"}
    assert sorted(listed) == sorted("slidekick." + name_of(folder).replace("/", ".") for folder in folders)


@pytest.mark.parametrize(("lock", "extra"), [("run", "chat"), ("dev", "dev")])
def test_what_is_installed_is_pinned_by_version_and_hash(lock, extra):
    """`make lock` writes requirements/; it must follow pyproject.toml and name no place that files come from."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted, extras = [Requirement(line) for line in project["dependencies"]], [extra]
    while extras:
        for line in map(Requirement, project["optional-dependencies"][extras.pop()]):
            if line.name == "slidekick":
                extras += line.extras
            else:
                wanted.append(line)
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = [entry.split() for entry in text.replace("\\\n", " ").splitlines() if entry[0] != "#"]
    assert "://" not in text
    assert all(any(part.startswith("--hash=sha256:") for part in entry) for entry in entries)
    versions = {Requirement(entry[0]).name: entry[0].partition("==")[2] for entry in entries}
    missing = [str(one) for one in wanted if not one.specifier.contains(versions.get(one.name, "none"))]
    assert missing == [], "run make lock"


def test_no_code_of_strangers_is_trusted():
    assert [name for name, text in SOURCES.items() if "trust_remote_code" in text] == []


def test_nothing_is_unpickled():
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for name, tree in TREES.items():
        assert not {module.partition(".")[0] for module in imported(tree)} & forbidden, name
        for call in calls(tree, "torch.load"):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert options.get("weights_only") == "True", f"{name}: {ast.unparse(call)}"
        for call in calls(tree, "np.load", "numpy.load"):
            assert "allow_pickle" not in ast.unparse(call), name


def test_no_text_is_run_as_code_or_by_a_shell():
    for name, tree in TREES.items():
        assert not list(calls(tree, "eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen")), name
        for call in ast.walk(tree):
            if isinstance(call, ast.Call):
                shells = [k for k in call.keywords if k.arg == "shell" and ast.unparse(k.value) != "False"]
                assert not shells, f"{name}:{call.lineno}"


def test_files_say_what_they_are_for_and_stay_short():
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []
    texts = SOURCES | {name_of(path): path.read_text(encoding="utf-8") for path in TESTS}
    assert {name: n for name, text in texts.items() if (n := len(text.splitlines())) >= MAX_LINES} == {}


def test_user_input_is_not_checked_with_assert():
    found = [(name, node.lineno) for name, tree in TREES.items() for node in ast.walk(tree) if type(node) is ast.Assert]
    assert found == []


def test_nothing_is_left_undone():
    undone = re.compile(r"\b(TODO|FIXME|XXX|NotImplemented(Error)?)\b")
    assert [name for name, text in SOURCES.items() if undone.search(text)] == []


def test_public_functions_and_classes_are_documented():
    bare = [
        f"{name}: {node.name}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_imports_nothing_heavy(room):
    import subprocess
    import sys

    code = (
        f"import sys, slidekick.{room}; print(sorted({{'torch', 'numpy', 'transformers', 'PIL'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_are_safetensors_of_a_size_that_git_can_carry():
    folders = [ROOT / room / "weights" for room in ROOMS if (ROOT / room / "weights").is_dir()]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert [name_of(path) for path in files if path.suffix in PICKLED] == []
    assert [name_of(path) for path in files if path.stat().st_size >= MAX_WEIGHTS] == []
    for path in files:
        if path.suffix == ".safetensors":
            import safetensors

            with safetensors.safe_open(path, "np") as opened:
                assert opened.keys()


def test_no_file_of_a_weights_folder_tells_where_it_was_made():
    absolute = re.compile(rb"""(?:^|["'\s(:])/\w+/|[A-Z]:\\\\|\.cache/""", re.MULTILINE)
    assert absolute.search(b'{"base": "/home/me/base"}')
    for room in ROOMS:
        for path in (ROOT / room).glob("weights/**/*"):
            if path.is_file() and path.suffix != ".safetensors":
                found = absolute.search(path.read_bytes().replace(b"://", b""))
                assert not found, f"{name_of(path)}: {found}"


@pytest.mark.parametrize("room", [room for room in ROOMS if "exports(" in SOURCES[f"{room}/__init__.py"]])
def test_every_public_name_is_where_its_room_says(room):
    module = importlib.import_module(f"slidekick.{room}")
    for name in module.__all__:
        assert getattr(module, name) is not None, name


# ---- the picture in docs/architecture.md

# Boxes of the picture that stand for a room's own modules.
OWN = {"apps.cli": "apps", "rl.training": "rl", "copilot.asking": "copilot", "grounding.all": "grounding"}
OWN["data.slides"] = "data"


def drawn() -> set[tuple[str, str]]:
    """(importing, imported) packages as the picture's arrows say."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.partition("```mermaid")[2].partition("```")[0]
    arrows = set()
    for a, arrow, b in re.findall(r"^\s*([\w.]+)(?:\[.*?\])? (<?-->) ([\w.]+)", picture, re.MULTILINE):
        a, b = OWN.get(a, a), OWN.get(b, b)
        arrows |= {(a, b)} | ({(b, a)} if arrow == "<-->" else set())
    return arrows


def imports() -> set[tuple[str, str]]:
    """(importing, imported) packages as the code has them."""
    import grimp

    graph = grimp.build_graph(*(f"slidekick.{room}" for room in ROOMS))
    folders = [name_of(path.parent).replace("/", ".") for path in FILES if path.name == "__init__.py"]

    def package(module: str) -> str:
        inner = module.removeprefix("slidekick.") + "."
        return max((folder for folder in folders if inner.startswith(folder + ".")), key=len)

    pairs = {(package(a), package(b)) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)}
    return {(a, b) for a, b in pairs if a != b}


def reached(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs that are joined along arrows."""
    joined = set(arrows)
    while more := {(a, d) for a, b in joined for c, d in arrows if b == c and a != d} - joined:
        joined |= more
    return joined


def test_the_picture_shows_the_imports():
    arrows, pairs = drawn(), imports()
    assert len(arrows) > 10
    assert arrows - pairs == set(), "drawn, but nothing is imported so"
    assert pairs - reached(arrows) == set(), "imported, but no way along arrows"
