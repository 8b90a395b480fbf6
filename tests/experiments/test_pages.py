import made_up
import pytest

from experiments.pages import __main__ as pages
from seed_jax.compare import page
from seed_jax.errors import UserError

BROKEN = """<!DOCTYPE html><html><head><meta name="viewport" content="width=device-width"></head><body>
<p style="visibility: hidden">a secret</p> <p style="display: none">gone</p> <p style="font-size: 0">empty</p>
<p style="color: #fff">white on white</p> <p style="font-size: 5px">tiny</p>
<div style="width: 3rem; height: 1rem; overflow: hidden; white-space: nowrap">this is cut off here</div>
<div style="position: absolute; left: 10px; top: 500px">one text</div>
<div style="position: absolute; left: 12px; top: 502px">another text</div>
<div style="width: 700px">wide</div> <img src="http://example.invalid/picture.png">
<svg width="40" height="20"><text x="0" y="15">outside of its picture</text></svg>
<script>console.error("it broke"); throw new Error("thrown");</script></body></html>"""


@pytest.fixture
def browser():
    try:
        return pages.browser()
    except UserError as error:
        pytest.skip(str(error))


def test_pages_of_comparisons_can_be_read(tmp_path, browser, capsys):
    whole = page.write(made_up.result(tmp_path / "a"), tmp_path / "whole")
    failed = page.write(made_up.result(tmp_path / "b", rows=3, failed=(0,)), tmp_path / "failed")
    assert pages.main([str(whole), str(failed)]) == 0, capsys.readouterr().out
    names = {f"report-{width}{dark}.png" for width in (1280, 360) for dark in ("", "-dark")}
    assert {path.name for path in whole.parent.glob("*.png")} == names


def test_what_is_wrong_is_found(tmp_path, browser, capsys):
    (tmp_path / "broken.html").write_text(BROKEN)
    assert pages.main([str(tmp_path / "broken.html"), "--pictures", str(tmp_path / "pictures")]) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if "360 px, light" in line]
    for words in (
        '"a secret" is hidden',
        '"gone" is hidden',
        '"empty" has no size',
        '"white on white" has a contrast of 1.0',
        '"tiny" is 5.0 px high',
        '"this is cut off here" is cut off by its <div>',
        '"one text" overlaps "another text"',
        "the page is 708 px wide: <div> overflows",
        "it loads http://example.invalid/picture.png",
        '"outside of its picture" is cut off by its <svg>',
        "the console says 'it broke'",
        "a script fails: thrown",
    ):
        assert any(words in line for line in said), (words, said)
    assert (tmp_path / "pictures" / "broken-360-dark.png").exists()


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    assert pages.main([str(tmp_path / "page.html")]) == 1
    assert "pip install playwright" in capsys.readouterr().err
    monkeypatch.setattr(pages, "find_spec", lambda name: name)
    monkeypatch.setattr(pages.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install chromium"):
        pages.browser()
    monkeypatch.setattr(pages.shutil, "which", lambda name: name)
    with pytest.raises(UserError, match="page.html does not exist"):
        pages.check([tmp_path / "page.html"])
