"""Commands and files on this machine."""

from pathlib import Path

import pytest

from orchestrator.errors import BackendError
from orchestrator.hosts import LocalHost


def test_a_command_gives_its_output_and_exit_code():
    done = LocalHost().run(["bash", "-c", 'echo "$A"; echo no >&2; exit 3'], environment={"A": "x y", "PATH": "/bin"})
    assert (done.exit_code, done.stdout, done.stderr) == (3, "x y\n", "no\n")


def test_a_command_reads_nothing_of_what_the_user_types():
    assert LocalHost().run(["cat"]).stdout == ""


def test_arguments_are_no_shell_text():
    assert LocalHost().run(["echo", "$(id) ; *"]).stdout == "$(id) ; *\n"


def test_a_program_that_is_missing_is_named():
    with pytest.raises(BackendError, match="no-such-program: No such file"):
        LocalHost().run(["no-such-program"])


def test_a_command_that_does_not_answer_is_given_up():
    with pytest.raises(BackendError, match=r"no answer within 0\.1 s"):
        LocalHost().run(["sleep", "30"], timeout=0.1)


def test_files_and_folders_are_copied_with_their_modes(tmp_path: Path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    script = source / "deep" / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    LocalHost().put(source, tmp_path / "new" / "copy")
    LocalHost().get(tmp_path / "new" / "copy" / "deep" / "run.sh", tmp_path / "other" / "run.sh")
    assert (tmp_path / "other" / "run.sh").read_text() == "#!/bin/sh\n"
    assert (tmp_path / "other" / "run.sh").stat().st_mode & 0o777 == 0o755


def test_what_is_written_has_its_mode_and_no_leftovers(tmp_path: Path):
    LocalHost().write(tmp_path / "new" / "secret", "text\n", mode=0o600)
    assert (tmp_path / "new" / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret"]


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(BackendError, match="nothing cannot be copied to "):
        LocalHost().get(tmp_path / "nothing", tmp_path / "here")
