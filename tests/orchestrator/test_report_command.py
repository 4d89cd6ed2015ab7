"""The command `report`: the file that it writes, and the page that it serves."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
from urllib.parse import unquote, urlsplit

import pytest

from tests.orchestrator.command_line import Project


@pytest.fixture
def project(tmp_path):
    return Project.make(tmp_path)


@pytest.fixture
def run_id(project):
    [run_id] = project.run("submit", project.job()).stdout.split()
    project.run("wait", run_id)
    return run_id


def test_the_page_of_a_run_lies_in_its_folder(project, run_id):
    printed = project.run("report", "last").stdout
    assert printed == f"{project.home / run_id / 'report.html'}\n"
    assert run_id in (project.home / run_id / "report.html").read_text()


def test_the_page_of_a_sweep_lies_beside_its_runs_and_links_to_their_files(project):
    members = project.run("submit", project.job(more="sweep:\n  seed: [0, 1]\n")).stdout.split()
    project.run("wait", "last")
    [path] = project.run("report", "last").stdout.split()
    sweep = members[0].rpartition("-")[0]
    assert path == str(project.home / f"report-{sweep}.html")
    text = (project.home / f"report-{sweep}.html").read_text()
    links = {unquote(link) for link in re.findall(r'href="([^#"][^"]*)"', text)}
    assert f"{members[1]}/attempts/1/log.txt" in links
    assert all((project.home / link).is_file() for link in links)


def test_output_says_where_the_page_goes_and_links_lead_back(project, run_id):
    project.run("report", run_id, "--output", "pages/my page.html")
    text = (project.folder / "pages" / "my page.html").read_text()
    assert f'href="../runs/{run_id}/job.yaml"' in text


def test_runs_that_do_not_exist_and_a_file_to_serve_are_refused(project, run_id):
    assert "no run is called" in project.run("report", "nothing", check=2).stderr
    assert "--output" in project.run("report", "last", "--live", "-o", "page.html", check=2).stderr


@pytest.fixture
def live(project, run_id):
    """`report --live`, and the address that it prints."""
    server = subprocess.Popen(
        project.command("report", run_id, "--live"),
        cwd=project.folder,
        env=project.variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield server, urlsplit(server.stdout.readline().strip())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def get(address, path, **headers):
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def test_a_live_page_is_served_on_loopback_and_ends_with_ctrl_c(live, run_id):
    server, address = live
    assert address.hostname == "127.0.0.1"
    answer, body = get(address, address.path)
    assert answer.status == 200
    assert run_id in body
    assert "connect-src 'self'" in body
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=20) == 0


def test_what_changes_comes_without_the_library(live, run_id):
    _, address = live
    answer, body = get(address, address.path + "part")
    assert answer.status == 200
    assert run_id in body
    assert len(body) < 100_000


def test_without_the_token_nothing_is_given_out(live):
    _, address = live
    for path in ("/", "/part", "/wrong/", f"{address.path[:-2]}/"):
        assert get(address, path)[0].status == 404


def test_a_name_that_somebody_points_here_is_not_answered(live):
    """Else a page elsewhere could read the answers, once its own name leads to 127.0.0.1."""
    _, address = live
    assert get(address, address.path, Host=f"attacker.example:{address.port}")[0].status == 404
    assert get(address, address.path, Host=f"localhost:{address.port}")[0].status == 200


def test_only_files_that_the_page_links_to_are_served(live, run_id):
    _, address = live
    files = f"{address.path}files/{run_id}"
    answer, body = get(address, f"{files}/job.yaml")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert "name: tiny" in body
    for path in ("attempts/1/role-trainer.json", "../registry.sqlite3", "%2e%2e/registry.sqlite3", "status.json", ""):
        assert get(address, f"{files}/{path}")[0].status == 404
