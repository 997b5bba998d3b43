"""The files beside the code: they parse, they agree with each other and with the package."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import spikediff
from goldens import IS_SDIST
from spikediff.hub import describe as papers

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PAPERS = {v.name: v for v in vars(papers).values() if isinstance(v, papers.Paper)}


def steps(workflow):
    """The steps of a workflow's jobs."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_citation_has_the_paper(paper, citation):
    (entry,) = [e for e in citation["references"] if e["notes"] == paper.name]
    names = [a.get("name") or f"{a['family-names']}, {a['given-names']}" for a in entry["authors"]]
    assert " and ".join(names) == paper.authors
    assert (entry["title"], entry["year"], entry["journal"]) == (
        paper.title,
        paper.year,
        paper.venue,
    )
    assert entry["url"] == f"https://arxiv.org/abs/{paper.arxiv}"
    assert entry["identifiers"][0]["value"] == f"arXiv:{paper.arxiv}"


def test_citation_has_the_papers_of_every_system(citation):
    """Those of README's table; the first row is our own system, without a paper."""
    table = re.search(r"\| system \|.*?(?=\n\n)", (ROOT / "README.md").read_text(), re.S)[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:] if "ours" not in row]
    named = {name.strip(" *") for cell in cells for name in cell.split(",")} - {""}
    assert {entry["notes"] for entry in citation["references"]} == named == set(PAPERS)
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert [a["name"] for a in citation["authors"]] == [
        a["name"] for a in PYPROJECT["project"]["authors"]
    ]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_actions_and_call_targets_that_exist(workflow):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):.*##", makefile, re.M))
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step
        called = re.findall(r"\bmake ([\w-]+)", step.get("run", ""))
        assert set(called) <= targets, step


def test_workflows_cover_what_is_promised():
    every = {path.stem: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
    pythons = every["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = PYPROJECT["project"]["classifiers"]
    assert pythons == re.findall(r"Python :: (3\.\d+)\n", "\n".join([*classifiers, ""]))
    assert PYPROJECT["project"]["requires-python"] == f">={pythons[0]}"
    machines = every["wheels"]["jobs"]["wheels"]["strategy"]["matrix"]["machine"]
    assert {name.split("-")[0] for name in machines} == {"ubuntu", "macos", "windows"}
    runs = [s.get("run", "") for path in WORKFLOWS for s in steps(path)]
    assert {"make lint", "make test", "make dist"} <= {" ".join(r.split()[:2]) for r in runs}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_issue_forms_ask_something(form):
    content = yaml.safe_load(form.read_text())
    if form.stem == "config":
        assert content.keys() == {"blank_issues_enabled"}
        return
    assert content["name"]
    assert content["description"]
    fields = [part for part in content["body"] if part["type"] != "markdown"]
    assert fields
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)


def test_the_version_stands_once():
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "src/spikediff/__init__.py"
    source = (ROOT / "src/spikediff/__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.*)"$', source, re.M) == [spikediff.__version__]
    for name in ("pyproject.toml", "CITATION.cff", "Dockerfile", "README.md"):
        assert spikediff.__version__ not in (ROOT / name).read_text(), name


def test_the_image_has_what_the_build_reads():
    """The Dockerfile copies everything; .dockerignore lets these through."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    assert ignore[0] == "*"
    assert all((ROOT / name).exists() for name in let_through)
    hatch = PYPROJECT["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]
    read = {"pyproject.toml", "README.md", *PYPROJECT["project"]["license-files"]}
    read |= {wheel["hooks"]["custom"]["path"], hatch["metadata"]["hooks"]["custom"]["path"]}
    read |= {name.split("/")[0] for name in (*wheel["packages"], *wheel["force-include"])}
    docker = (ROOT / "Dockerfile").read_text()
    read |= set(re.findall(r"^COPY (\w\S*\.txt)", docker, re.M))
    assert read == let_through
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', docker, re.M)
    assert entry in PYPROJECT["project"]["scripts"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_relative_links_lead_somewhere(name):
    text = (ROOT / name).read_text()
    links = re.findall(r'(?:\]\(|src=")(?!#|[a-z]+:)([^)#"]+)', text)
    assert links or name == "CONTRIBUTING.md"
    assert [link for link in links if not (ROOT / link).exists()] == []


def metadata():
    return ProjectMetadata(str(ROOT), PluginManager()).core


@pytest.mark.skipif(IS_SDIST, reason="the metadata of an sdist is in PKG-INFO")
def test_metadata_has_absolute_links_where_the_repository_is_known(monkeypatch):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://host.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    monkeypatch.setenv("GITHUB_SHA", "abc")
    known, address = metadata(), "https://host.example/owner/name"
    assert known.urls["Repository"] == address
    assert known.urls["Issues"] == f"{address}/issues"
    for path in known.urls.values():
        file = path.removeprefix(address).partition("/HEAD/")[2]
        assert (ROOT / file).exists()
    links = re.findall(r'(?:\]\(|src=")([^)"]+)', known.readme)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    images = [link for link in links if link.endswith((".png", ".gif", ".svg"))]
    assert images
    assert all(link.startswith(f"{address}/raw/abc/docs/images/") for link in images)
    assert f"{address}/blob/abc/docs/results.md#mnist" in links


@pytest.mark.skipif(IS_SDIST, reason="the metadata of an sdist is in PKG-INFO")
def test_metadata_invents_no_address(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    unknown = metadata()
    assert unknown.urls == {}
    assert unknown.readme == (ROOT / "README.md").read_text()
    assert unknown.version == spikediff.__version__


def test_the_sdist_has_the_models_and_is_small():
    files = SdistBuilder(str(ROOT)).recurse_included_files()
    sizes = {file.relative_path: Path(file.path).stat().st_size for file in files}
    models = ROOT.glob("src/spikediff/pretrained/**/*.safetensors")
    assert {str(path.relative_to(ROOT)) for path in models} <= set(sizes)
    assert {"tests/test_project.py", "Makefile", ".github/workflows/ci.yml"} <= set(sizes)
    assert sum(sizes.values()) < 20e6, sorted(sizes, key=sizes.get)[-10:]


def test_the_wheel_has_the_templates():
    files = WheelBuilder(str(ROOT)).recurse_selected_project_files()
    templates = {str(path.relative_to(ROOT / "src")) for path in ROOT.glob("src/**/*.jinja")}
    assert len(templates) >= 2
    assert templates <= {file.distribution_path for file in files}
