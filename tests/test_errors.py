import pytest

from seed_jax.errors import UserError, command, unknown


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [(UserError("mend it"), 1, "mend it\n"), (KeyboardInterrupt(), 130, "\nStopped.\n"), (None, 7, "")],
)
def test_a_command_ends_with_a_sentence_and_a_code(raised, code, said, capsys):
    @command
    def main(arguments):
        if raised:
            raise raised
        return 7

    assert main([]) == code
    assert capsys.readouterr().err == said


def test_a_mistake_of_ours_is_no_sentence():
    @command
    def main(arguments):
        raise KeyError("x")

    with pytest.raises(KeyError):
        main([])


def test_the_nearest_name_or_all():
    assert str(unknown("fruit", "aple", ["pear", "apple"])) == "Unknown fruit 'aple': did you mean 'apple'?"
    assert str(unknown("fruit", "xyz", ["pear", "apple"])) == "Unknown fruit 'xyz': it is one of apple, pear."
