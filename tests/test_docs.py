"""README and docs/: examples run, sentences are short, and every link, file, name and command exists."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import params as parameters
from tests.pipeline.pictures.made import grey

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
HISTORY = ROOT / "docs/lab-notebook.md"  # kept as it was written
TODAY = [page for page in PAGES if page != HISTORY]
WORDS, CHARACTERS, LINES = 30, 400, 130  # at most: of a sentence, of a paragraph, of README
PACKAGES = ("cfpn", "pipeline", "tune", "bench")
MADE = ("dvc.lock", "data/", "runs/", "results/", "report/", "sweeps/results/", "wandb/", ".venv")  # not in git
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

page = pytest.mark.parametrize("path", TODAY, ids=lambda path: path.name)
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def examples() -> list[tuple[str, str]]:
    """Heading and code of every Python block, those before the first heading too."""
    found = []
    for path in TODAY:
        text = f"## {path.stem}\n{path.read_text()}"
        for block in re.finditer(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
            found += [(f"{path.stem}: {block[1]}", code) for kind, code in FENCE.findall(block[2]) if kind == "python"]
    return found


def prose(path: Path) -> list[str]:
    """Paragraphs and list items of a page, without code, tables, headings, pictures and marks."""
    text = re.sub(r"<!-- table.*?<!-- end -->", "", FENCE.sub("", path.read_text()), flags=re.DOTALL)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if not re.match(r"\||#|!\[", line)]
        found += re.split(r"\n(?=- |\d\. )", "\n".join(lines)) if lines else []
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", one) for one in found]


def shell(path: Path) -> list[str]:
    """Lines of shell blocks and everything in back quotes, continued lines joined, comments cut."""
    text = path.read_text()
    blocks = "\n".join(code for kind, code in FENCE.findall(text) if not kind).replace("\\\n", " ")
    quoted = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return [re.sub(r"\s+#.*", "", line).strip() for line in [*blocks.splitlines(), *quoted]]


def quoted(path: Path) -> list[str]:
    """Everything in back quotes outside code blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", path.read_text()))


def modules(line: str) -> list[str]:
    """Modules and scripts of ours that a command line starts, as paths."""
    found = [
        f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m ((?:cfpn|pipeline|tune|bench)[\w.]+)", line)
    ]
    return found + re.findall(r"python ((?:tune|bench|pipeline)/\w+\.py)", line)


def test_there_are_examples() -> None:
    assert len(examples()) >= 5


@pytest.mark.parametrize("code", [code for _, code in examples()], ids=[name for name, _ in examples()])
def test_an_example_runs_as_it_stands(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    grey().save(tmp_path / "photo.jpg")
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))


def test_a_method_in_yaml_is_one() -> None:
    (block,) = (code for kind, code in FENCE.findall((ROOT / "docs/extend.md").read_text()) if kind == "yaml")
    files = parameters.read_files(ROOT / "params.yaml")
    entry = YAML(typ="safe").load(block)
    params = parameters.resolve(files._replace(methods=files.methods | entry))
    assert set(entry) <= set(params.methods)


def test_own_modules_train_in_about_twenty_lines() -> None:
    code = next(code for name, code in examples() if "own modules" in name)
    lines = [line for line in code.splitlines() if line and not re.match(r"import|from", line)]
    assert len(lines) <= 20


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LINES


@page
def test_sentences_and_paragraphs_are_short(path: Path) -> None:
    paragraphs = prose(path)
    sentences = [one for paragraph in paragraphs for one in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*(\"])", paragraph)]
    assert [one for one in sentences if len(one.split()) > WORDS] == []
    assert [one for one in paragraphs if len(one) > CHARACTERS] == []


@every_page
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text())):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            file = path.parent / name if name else path
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def anchors(path: Path) -> set[str]:
    """What headings are called in links, as git hosts make it."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@page
def test_every_file_named_exists(path: Path) -> None:
    files = [one for one in quoted(path) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", one) and looks_like_a_file(one)]
    assert [one for one in files if not (ROOT / one).exists()] == []


def looks_like_a_file(text: str) -> bool:
    """Whether a quoted text names a file or folder of the repository."""
    top = text.split("/")[0]
    in_tree = (ROOT / top).is_dir() and "/" in text
    return not text.startswith(MADE) and (in_tree or bool(re.fullmatch(r"\w+\.(yaml|toml|lock|md|cff)", text)))


@page
def test_every_python_name_exists(path: Path) -> None:
    for name in quoted(path):
        if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", name) and not name.endswith(".py"):
            assert resolved(name), name


def resolved(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if part not in fields and not hasattr(found, part):
                return False
            found = getattr(found, part, None)
        return True
    return False


@page
def test_every_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for line in shell(path) for name in re.findall(r"(?:^|\s)make ([a-z-]+)(?=\s|$)", line)}
    assert named <= targets


def with_shared(file: Path) -> set[str]:
    """Texts of a command's module, and of the benches from which it takes options."""
    names = re.findall(r"^from bench\.(\w+) import", file.read_text(), re.MULTILINE)
    return literals(file).union(*map(literals, filter(Path.is_file, (ROOT / f"bench/{name}.py" for name in names))))


@page
def test_every_command_of_ours_exists_and_knows_its_options(path: Path) -> None:
    for line in shell(path):
        for module in modules(line):
            file = ROOT / module
            texts = with_shared(file if file.exists() else file.with_suffix("") / "__main__.py")
            options = re.findall(r"(?<=\s)--([a-z0-9-]+)", line[line.index("python") :])
            assert set(options) <= texts, line


def literals(path: Path) -> set[str]:
    """Every text in a module that may name an option."""
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text.removeprefix("--") for text in texts if text.startswith("--")}


@page
def test_every_parameter_that_a_command_sets_exists(path: Path) -> None:
    for line in shell(path):
        overrides = {}
        for name, value in re.findall(r"-S '?([\w./:-]+)=(\[[^\]]*\]|[^\s']+)", line):
            overrides |= override(name, YAML(typ="safe").load(value))
        if overrides:
            parameters.load(ROOT / "params.yaml", overrides)


def override(name: str, value: object) -> dict[str, object]:
    """What `dvc exp run -S` means to the schema: FILE:NAME=VALUE, params.yaml where there is no file."""
    file, colon, inside = name.rpartition(":")
    if not colon:
        return {name: value}
    if file == "methods.yaml":
        return {f"methods.{inside}": value}
    assert (ROOT / file).parent.name == "profiles"
    return {"profile": Path(file).stem, inside: value}


def test_the_workflow_page_names_every_stage() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    table = (ROOT / "docs/workflow.md").read_text().partition("## Stages")[2].partition("## Exp")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(stages)


def test_every_page_of_docs_can_be_reached_from_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [one.name for one in PAGES[1:] if f"({one.relative_to(ROOT)})" not in text] == []


def test_no_page_quotes_the_papers_training_accuracy_as_a_score() -> None:
    assert [path.name for path in PAGES if "0.9946" in path.read_text() or "99.46" in path.read_text()] == []


def test_the_citation_names_version_and_licence_of_the_package() -> None:
    cited = YAML(typ="safe").load(ROOT / "CITATION.cff")
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{cited["version"]}"' in project
    assert f'license = "{cited["license"]}"' in project
    assert str(cited["version"]) in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit with tiny profiles and one method, and drawn faces where a user would put FER2013."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    bash(folder.parent, f"git clone --quiet {ROOT} clone")
    shrink(folder / "params.yaml", {"sample": {"rows": 400}, "bench": {"rounds": 2}, "run": {"methods": ["nbp"]}})
    for name in ("sample", "fer2013-cpu"):
        small = {"model": {"width": 16}, "train": {"epochs": 1, "batch": 32}}
        shrink(folder / f"profiles/{name}.yaml", small)
    real = folder / "profiles/fer2013-cpu.yaml"
    real.write_text(real.read_text().replace("photographs: true", "photographs: false"))
    user = "git -c user.name=reader -c user.email=reader@example.org"
    bash(folder, f"{user} commit --quiet --all --message tiny")
    return folder


def shrink(path: Path, changes: dict[str, dict[str, object]]) -> None:
    """Change values of a parameter file in place."""
    yaml = YAML()
    content = yaml.load(path)
    for group, values in changes.items():
        content[group].update(values)
    yaml.dump(content, path)


def bash(folder: Path, command: str) -> str:
    """What a command prints; fails where it ends badly, warns or prints a traceback."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": places, "WANDB_MODE": "disabled", "DVC_NO_ANALYTICS": "1"}
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | own, capture_output=True, text=True, timeout=1800
    )
    text = ended.stdout + ended.stderr
    assert ended.returncode == 0, f"{command}\n{text}"
    assert not re.search(r"Traceback|WARNING|Warning", text), f"{command}\n{text}"
    return text


def readme_commands() -> list[str]:
    """The `dvc` commands of README, in order; `make repro` is the first, without the environment that is there."""
    found = [line for line in shell(ROOT / "README.md") if line.startswith("dvc exp run -S")]
    return ["dvc repro", *dict.fromkeys(found), f"make --silent VENV={Path(sys.executable).parents[1]} runs"]


@pytest.mark.slow
def test_the_commands_of_readme_run_in_order_on_a_fresh_clone(clone: Path) -> None:
    (restore,) = (line for line in shell(ROOT / "README.md") if line.startswith("git restore"))
    for command in readme_commands():
        if "data/raw/fer2013.csv" in command:
            (clone / "data/raw").mkdir(exist_ok=True)
            shutil.copy(clone / "data/sample.csv", clone / "data/raw/fer2013.csv")
        bash(clone, command)
        bash(clone, restore)
    assert (clone / "report/index.html").exists()
