"""The command line as a whole: quick help with examples, exit codes, words on the right stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import typer

from honeclip import __main__ as launcher
from honeclip.cli import output
from honeclip.cli.app import app
from honeclip.errors import HoneclipError, Interrupted, RunError

COMMANDS = (
    "quickstart",
    "doctor",
    "prepare",
    "check",
    "fit",
    "verify",
    "plan",
    "evaluate",
    "compare",
    "tune",
    "watch",
    "track",
    "predict",
    "embed",
    "search",
    "export",
    "serve",
    "domains",
)


@pytest.fixture
def honeclip(monkeypatch, capsys):
    """Runs `honeclip ARGUMENTS` in this process; returns exit code, standard output, standard error."""
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["honeclip", *arguments])
        with pytest.raises(SystemExit) as done:
            launcher.main()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return run


def python(code: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, **more
    )


def raising(error: BaseException, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`honeclip domains` in a process of its own, in which listing the domains raises."""
    return python(
        f"""
        import sys
        from honeclip import __main__, errors
        from honeclip.domains import domain

        def names():
            raise {error!r}

        domain.names = names
        sys.argv = ["honeclip", "domains", *{arguments!r}]
        __main__.main()
        """.replace("RunError(", "errors.RunError(").replace("HoneclipError(", "errors.HoneclipError(")
    )


def test_help_names_every_command(honeclip):
    code, out, err = honeclip("--help")
    assert (code, err) == (0, "")
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed[: len(COMMANDS)] == list(COMMANDS)
    assert honeclip("-h")[1] == out


@pytest.mark.parametrize("command", [*sorted(typer.main.get_command(app).commands), "domains show"])
def test_every_command_has_help_with_an_example(honeclip, command):
    code, out, _ = honeclip(*command.split(), "--help")
    assert code == 0
    assert f"honeclip {command.split()[0]}" in out.partition("Example")[2]


def test_help_imports_nothing_that_takes_long():
    done = python("""
        import sys
        from honeclip.__main__ import main

        sys.argv = ["honeclip", "--help"]
        try:
            main()
        except SystemExit:
            heavy = {"torch", "open_clip", "transformers", "timm", "numpy", "PIL", "sklearn", "matplotlib", "rdkit",
                     "pyarrow", "pydantic", "rich", "huggingface_hub"}
            print(sorted(heavy & sys.modules.keys()), file=sys.stderr)
    """)
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("Usage: honeclip")


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "honeclip", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "honeclip", "")


@pytest.mark.parametrize("arguments", [["blub"], ["domains", "--jsn"], ["domains", "show"]])
def test_wrong_usage_exits_2_and_says_what(honeclip, arguments):
    code, out, err = honeclip(*arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err


def test_a_typo_in_a_command_shows_the_nearest(honeclip):
    assert "domains" in honeclip("domain")[2]


def test_bad_input_is_one_sentence_and_exit_2(honeclip):
    code, out, err = honeclip("domains", "show", "medcal")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown domain 'medcal'; nearest: medical")


@pytest.mark.parametrize(("error", "code"), [(RunError("in the way"), 2), (HoneclipError("disk full"), 1)])
def test_own_errors_have_their_exit_code_and_no_traceback(error, code):
    done = raising(error)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"error: {error}\n")


def test_an_interrupted_run_exits_as_the_shell_expects():
    assert Interrupted(15, "saved").exit_code == 143
    done = raising(KeyboardInterrupt())
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr


def test_an_unforeseen_error_keeps_its_traceback():
    done = raising(ZeroDivisionError("oops"))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: oops\n")


def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "honeclip", "domains", "show", "medical"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


def test_the_environment_is_set_before_torch_is_there_and_the_users_own_stays():
    done = python(
        """
        import os, sys
        from honeclip.__main__ import ENVIRONMENT, main

        sys.argv = ["honeclip", "--version"]
        try:
            main()
        except SystemExit:
            print("torch" in sys.modules, *(os.environ[name] for name in ENVIRONMENT), file=sys.stderr)
        """,
        env={**{k: v for k, v in os.environ.items() if k not in launcher.ENVIRONMENT}, "MPLBACKEND": "svg"},
    )
    assert done.stderr.split() == ["False", "1", "false", "1", "1", "svg"]
    assert next(iter(launcher.ENVIRONMENT)) == "PYTORCH_ENABLE_MPS_FALLBACK"


def test_json_is_one_valid_object_on_standard_output(capsys):
    output.emit({"loss": float("nan"), "name": "Größe"})
    output.say("on the way")
    output.show("result")
    out, err = capsys.readouterr()
    text, _, rest = out.rpartition("}\n")
    assert json.loads(text + "}", parse_constant=pytest.fail) == {"loss": None, "name": "Größe"}
    assert (rest, err) == ("result\n", "on the way\n")


@pytest.fixture
def one_of_two(monkeypatch):
    """As torchrun says it to the first of two processes."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_under_torchrun_a_command_that_would_do_all_of_its_work_in_each_process_says_so(one_of_two, command):
    code, out, err = command("evaluate", "starter", "--data", "nowhere.csv")
    assert (code, out) == (2, "")
    assert err.startswith(
        "error: honeclip evaluate under torchrun (WORLD_SIZE=2): each process would do all of the work"
    )
    assert command("fit", "--help")[0] == 0
