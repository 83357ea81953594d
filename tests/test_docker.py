"""The container files, as far as they can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_the_linter_has_nothing_to_say() -> None:
    run(BIN / "hadolint", DOCKER / "Dockerfile")


def test_the_compose_file_is_one() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert not any("ports" in service for service in services.values()), "developer endpoints have no key"
    assert services["stepagent"]["depends_on"]["vllm"]["condition"] == "service_healthy"
    assert all("user" in service for service in services.values())
    dockerfile = (services["stepagent"]["build"])["dockerfile"]
    assert (DOCKER / services["stepagent"]["build"]["context"] / dockerfile).resolve().is_file()


@pytest.mark.slow
def test_the_images_commands_work_in_a_venv(tmp_path: Path) -> None:
    """The RUN script on exactly the copied files, without what needs root or the network."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    context = tmp_path / "context"
    context.mkdir()
    for sources, target in re.findall(r"^COPY (.*) (\S+)$", text, re.MULTILINE):
        for name in sources.split():
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, context / target)
            else:
                shutil.copy(ROOT / name, context / target)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    (script,) = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    shims = """
    pip() {
      case "$*" in
        *torch==*) echo "torch: $*";;
        *) command pip install --quiet --no-deps "${@: -1}";;
      esac
    }
    useradd() { echo "user: $*"; }
    install() { echo "folder: $*"; }
    """
    inside = {**os.environ, "PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}", "UID_": "1000"}
    for torch, index in (("cpu", "--index-url https://download.pytorch.org/whl/cpu"), ("cuda", "")):
        variables = {**inside, "TORCH": torch, "TORCH_VERSION": "2.13.0"}
        result = run("bash", "-o", "pipefail", "-c", shims + script, cwd=context, env=variables)
        assert f"torch: install --no-cache-dir {index}".strip() in result.stdout
        assert "torch==2.13.0" in result.stdout
        assert "user: --create-home" in result.stdout
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    assert (site / "stepagent" / "prompts" / "solve.md").is_file()
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', text, re.MULTILINE)
    health = re.findall(r'CMD \["(\w+)", "([\w-]+)"\]$', text, re.MULTILINE)
    assert health
    assert health[0][0] == entry
    assert "step" in run(BIN / entry, "--help").stdout
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    command, *arguments = services["stepagent"]["command"]
    help_text = run(BIN / entry, command, "--help").stdout
    assert all(argument in help_text for argument in arguments if argument.startswith("--"))


@pytest.mark.slow
def test_the_compose_files_server_takes_its_arguments() -> None:
    from vllm_world import vllm_python

    server = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["vllm"]
    arguments = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", part) for part in server["command"]]
    code = (
        "import sys; from vllm.utils.argparse_utils import FlexibleArgumentParser as P; "
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser as m; "
        "a = m(P()).parse_args(sys.argv[1:]); print(a.served_model_name, a.port, a.enable_sleep_mode)"
    )
    result = run(vllm_python(), "-c", code, *arguments)
    assert "['policy'] 8000 True" in result.stdout
    *_, code = server["healthcheck"]["test"]
    compile(code, "healthcheck", "exec")
