import pytest

from seed_jax.data import files
from seed_jax.errors import UserError


def test_a_file_appears_in_one_step(tmp_path):
    path = tmp_path / "a.txt"
    with files.whole(path, "w") as file:
        file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.whole(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", None])
def test_a_file_without_a_json_object_is_a_user_error(tmp_path, content):
    path = tmp_path / "config.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(
        UserError, match=f"^{path} cannot be read \\(.*\\): restore it, or use another [^\n]*$"
    ):
        files.read_json(path)
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert files.read_json(tmp_path / "a.json") == {"a": 1}
