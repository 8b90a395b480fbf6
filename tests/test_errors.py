import pytest

from seed_jax.errors import UserError, command, unknown


@pytest.mark.parametrize(
    ("raised", "code", "printed"),
    [(UserError("fix it"), 1, "fix it\n"), (KeyboardInterrupt(), 130, "\nStopped.\n"), (None, 7, "")],
)
def test_a_command_prints_the_error_and_returns_a_code(raised, code, printed, capsys):
    @command
    def main(arguments):
        if raised:
            raise raised
        return 7

    assert main([]) == code
    assert capsys.readouterr().err == printed


def test_other_errors_are_raised():
    @command
    def main(arguments):
        raise KeyError("x")

    with pytest.raises(KeyError):
        main([])


def test_unknown_suggests_the_nearest_name_or_lists_all():
    assert str(unknown("fruit", "aple", ["pear", "apple"])) == "Unknown fruit 'aple': did you mean 'apple'?"
    assert str(unknown("fruit", "xyz", ["pear", "apple"])) == "Unknown fruit 'xyz': it is one of apple, pear."
