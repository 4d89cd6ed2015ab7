"""A submission over SSH, cut at every step of the way: there is never more than one job, and it can be finished."""

from __future__ import annotations

import sys

import pytest

from tests.services.slurm_project import SlurmProject, login_node
from tests.services.sshd import CuttingProxy
from tests.waiting import eventually

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

CUTS = [number / 6 for number in range(1, 6)]  # after which part of all bytes
LATE_CUTS = [150, 300, 450, 600]  # bytes before the end: the job is being submitted, or there already
LATER = "resources: {{gpus: 0, extra: {{begin: now+1hour}}}}"  # it stays in the queue
JOB = "name: {name}\nbackend: slurm\n" + LATER + "\ntrain: {{env.backend: debug}}\nsecrets: [MY_SECRET]\n"
SSH_CONFIG = "Host cluster\n HostName 127.0.0.1\n Port {port}\n User {user}\n IdentityFile {key}\n"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory, cluster):
    sshd = login_node(tmp_path_factory.mktemp("login") / "sshd", cluster)
    yield sshd
    sshd.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory, cluster, sshd):
    project = SlurmProject(
        tmp_path_factory.mktemp("laptop"),
        {"HOME": str(sshd.folder / "home"), "MY_SECRET": "hunter2", "PATH": "/nowhere"},
    )
    profile = f"default: {{host: cluster, shared: {cluster.folder}/shared, python: {sys.executable}}}\n"
    (project.folder / "profiles.yaml").write_text(profile.replace(str(cluster.folder), f"{cluster.folder}"))
    (cluster.folder / "shared").mkdir()
    return project


def through(sshd, port):
    """Have the name `cluster` mean a port of this machine."""
    (sshd.dot_ssh / "config").write_text(SSH_CONFIG.format(port=port, user=sshd.user, key=sshd.key))
    (sshd.dot_ssh / "known_hosts").write_text(sshd.known_as(port))


def jobs(cluster, name):
    """Ids of the jobs of a run, by the name of its job file."""
    listed = cluster.run("squeue", "-h", "--states=all", "-o", "%i %j").splitlines()
    return [line.split()[0] for line in listed if line.split()[1].startswith(f"{name}-")]


def write(project, name):
    (project.folder / f"{name}.yaml").write_text(JOB.format(name=name))
    return f"{name}.yaml"


def test_wherever_the_connection_is_cut_there_is_one_job_at_most_and_submitting_again_finishes_it(
    project, cluster, sshd
):
    with CuttingProxy(sshd.port) as proxy:
        through(sshd, proxy.port)
        project.run("submit", write(project, "zero"))  # has the code shipped, once for all of them
        whole = proxy.passed
        project.run("submit", write(project, "uncut"))
        whole = proxy.passed - whole
    assert len(jobs(cluster, "uncut")) == 1
    cut_after_the_job_was_there = 0
    budgets = [int(whole * part) for part in CUTS] + [whole - left for left in LATE_CUTS]
    for number, budget in enumerate(budgets):
        name = f"cut{number}"
        job = write(project, name)
        with CuttingProxy(sshd.port, budget=budget) as proxy:
            through(sshd, proxy.port)
            cut = project.run("submit", job, check=None)
            assert cut.returncode == 3 or budget > whole - 500, cut.stderr  # the last bytes say good-bye
            assert len(cut.stderr.strip().splitlines()) <= 1
        there = jobs(cluster, name)
        assert len(there) <= 1
        assert there or cut.returncode == 3
        cut_after_the_job_was_there += len(there)
        through(sshd, sshd.port)
        [run_id] = project.run("submit", job).stdout.split()
        [only] = jobs(cluster, name)
        assert [only] == there or not there
        assert (cluster.folder / "shared" / "submissions" / f"{run_id}.1" / "id").read_text().strip() == only
        assert project.run("submit", job).stdout.split() == [run_id]
        assert jobs(cluster, name) == [only]
    assert 0 < cut_after_the_job_was_there < len(budgets)  # before it and after it, both were tried


def test_an_answer_of_sbatch_that_was_lost_is_looked_for_in_the_queue(project, cluster, sshd):
    """sbatch may give up waiting for slurmctld, which has the job all the same."""
    through(sshd, sshd.port)
    slow = cluster.folder / "slow sbatch"
    slow.write_text(
        '#!/bin/sh\nsbatch "$@" >/dev/null\necho "sbatch: error: Socket timed out on send/recv" >&2\nexit 1\n'
    )
    slow.chmod(0o755)
    profile = project.folder / "profiles.yaml"
    text = profile.read_text()
    profile.write_text(text.replace("{host", f'{{commands: {{sbatch: ["{slow}"]}}, host'))
    project.run("submit", write(project, "answered"))
    assert len(jobs(cluster, "answered")) == 1
    slow.write_text(slow.read_text().replace("sbatch ", "# sbatch "))
    done = project.run("submit", write(project, "unanswered"), check=3)
    assert "may have been submitted or not" in done.stderr
    again = project.run("submit", write(project, "unanswered"), check=3)
    assert again.stderr == done.stderr
    assert jobs(cluster, "unanswered") == []
    profile.write_text(text)


def test_what_may_have_been_submitted_is_not_cancelled_before_that_is_known(project, cluster, sshd):
    """The connection is cut when the job is there already, and whoever cancels cannot reach the host at first."""
    through(sshd, sshd.port)
    project.run("submit", write(project, "before"))  # has the code shipped
    with CuttingProxy(sshd.port) as proxy:
        through(sshd, proxy.port)
        project.run("submit", write(project, "counted"))
        whole = proxy.passed
    with CuttingProxy(sshd.port, budget=whole - 300) as proxy:
        through(sshd, proxy.port)
        project.run("submit", write(project, "severed"), check=3)
        cut = project.run("cancel", "severed", check=3)
    assert "may have been started or not, and is not cancelled" in cut.stderr
    eventually(lambda: len(jobs(cluster, "severed")) == 1)
    through(sshd, sshd.port)
    assert project.run("cancel", "severed").stdout.split()[1] == "cancelled"
    [job] = jobs(cluster, "severed")
    assert "JobState=CANCELLED" in cluster.run("scontrol", "show", "job", job)
