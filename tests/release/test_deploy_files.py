"""What docs/deploy and .github hold fits what there is: paths, commands, options, routes, ports and steps."""

from __future__ import annotations

import plistlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from honeclip.cli.app import app
from honeclip.serving import settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs" / "deploy"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PORT = "8117"


def test_the_port_is_that_of_the_command():
    assert str(accepted(["honeclip", "serve", "starter"])["port"]) == PORT


def accepted(words: list[str]) -> dict[str, object]:
    """What `honeclip` would be called with; fails as the command line would."""
    root = typer.main.get_command(app)
    assert words[0] == "honeclip"
    command = root.commands[words[1]]
    return dict(command.make_context(words[1], list(words[2:]), resilient_parsing=False).params)


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of a container file, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


@pytest.fixture(scope="module")
def container() -> list[tuple[str, str]]:
    return instructions((DEPLOY / "Containerfile").read_text(encoding="utf-8"))


def values(container: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for one, rest in container if one == name]


def test_the_container_file_has_known_instructions_and_begins_with_an_image(container):
    known = {
        "FROM",
        "ARG",
        "RUN",
        "WORKDIR",
        "COPY",
        "USER",
        "ENV",
        "EXPOSE",
        "ENTRYPOINT",
        "CMD",
        "HEALTHCHECK",
        "STOPSIGNAL",
    }
    assert container[0][0] == "FROM"
    assert ":" in container[0][1], "an image without a tag is another one tomorrow"
    assert {name for name, _ in container} <= known
    requires = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert int(re.search(r"python:3\.(\d+)", container[0][1])[1]) >= int(requires)


def test_what_the_container_file_copies_is_there_and_is_all_that_a_build_reads(container):
    copied = [word for rest in values(container, "COPY") for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    read = [re.search(r'readme = "(.*)"', project)[1], re.search(r'license-files = \["(.*)"\]', project)[1]]
    assert {"pyproject.toml", "src", *read} <= set(copied)


def test_the_container_runs_a_command_that_there_is_as_nobody_special(container):
    words = [*yaml.safe_load(values(container, "ENTRYPOINT")[0]), *yaml.safe_load(values(container, "CMD")[0])]
    given = accepted(words)
    assert str(given["port"]) == PORT == values(container, "EXPOSE")[0]
    assert given["api_key_file"], "0.0.0.0 without keys is refused"
    names = [name for name, _ in container]
    assert "root" not in values(container, "USER")[-1]
    assert names.index("USER") < names.index("ENTRYPOINT")
    health = values(container, "HEALTHCHECK")[0]
    assert f"http://127.0.0.1:{PORT}/readyz" in health
    code = yaml.safe_load(health.partition("CMD ")[2])
    assert code[:2] == ["python", "-c"]
    compile(code[2], "HEALTHCHECK", "exec")
    assert [value for _, value in [one.split("=") for one in values(container, "ENV")]] == ["/home/honeclip/kept"]


def test_arguments_of_the_container_file_are_declared_before_they_are_used(container):
    declared: set[str] = set()
    for name, rest in container:
        assert set(re.findall(r"\$\{?([A-Z]\w*)", rest)) <= declared, rest
        if name == "ARG":
            declared.add(rest.split("=")[0])


def test_compose_starts_what_there_is_and_mounts_what_is_there():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    accepted(["honeclip", "serve", *services["honeclip"]["command"]])
    build = services["honeclip"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    for mount in services["prometheus"]["volumes"]:
        assert (DEPLOY / mount.split(":")[0]).is_file()
    assert services["honeclip"]["stop_grace_period"] == "45s"
    assert settings.Settings().drain_s < 45, "the drain must be over before the container is killed"


def test_the_agent_of_a_mac_starts_the_service_and_leaves_it_alone_once_it_was_drained():
    agent = plistlib.loads((DEPLOY / "com.honeclip.serve.plist").read_bytes())
    program, *rest = agent["ProgramArguments"]
    assert str(accepted([Path(program).name, *rest])["port"]) == PORT
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ExitTimeOut"] > settings.Settings().drain_s
    script = (DEPLOY / "replace.sh").read_text(encoding="utf-8")
    assert f"/{agent['Label']}\n" in script


def test_the_unit_of_systemd_starts_the_service():
    unit = (DEPLOY / "honeclip.service").read_text(encoding="utf-8")
    program, *rest = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    assert str(accepted([Path(program).name, *rest])["port"]) == PORT
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > settings.Settings().drain_s


@pytest.mark.parametrize(
    "path", [DEPLOY / "replace.sh", ROOT / ".ci" / "run", ROOT / ".ci" / "bare"], ids=lambda one: one.name
)
def test_scripts_can_be_run_and_parsed(path):
    assert path.stat().st_mode & 0o111, "it is not executable"
    shell = path.read_text(encoding="utf-8").splitlines()[0].split("/")[-1].split()[-1]
    subprocess.run([shell, "-n", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda one: one.name)
def test_a_workflow_calls_what_there_is(path):
    flow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert flow["permissions"] == {"contents": "read"}, "a job that needs more says so itself"
    steps_of_ci = set(re.findall(r"^(\w+)\(\)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE))
    jobs = flow["jobs"]
    for job in jobs.values():
        assert job["timeout-minutes"] <= 60
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= set(jobs)
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            for words in map(str.split, step.get("run", "").splitlines()):
                for script in (word for word in words if word.startswith((".ci/", "docs/"))):
                    assert (ROOT / script).exists(), script
                if words and words[0] == ".ci/run":
                    assert set(words[1:]) <= steps_of_ci, words
            for name in re.findall(r"\btests/\w+", step.get("run", "")):
                assert (ROOT / name).is_dir(), name


def test_a_release_is_published_only_after_everything_else_by_the_workflow_itself():
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    jobs = flow["jobs"]
    assert flow[True]["push"]["tags"] == ["v*"]  # YAML 1.1 reads `on` as true
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert not re.search(r"password|secrets\.", str(jobs)), "trusted publishing needs none"
