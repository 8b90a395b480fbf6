"""Open pages in a real browser, and check that every text on them can be read.

    python -m experiments.pages runs/x/report.html --pictures build/pictures

Each page is opened at the width of a desktop and of a phone, in light and in dark mode, without a network.
Every text must be visible, in full, not overlap another one, and have enough contrast (WCAG 2, level AA). No
page may be wider than the screen, load anything but itself, or cause an error in the browser's console.
Folded parts are unfolded for the check; the pictures show them folded. The exit code is 1 if there are
findings.
"""

import argparse
import itertools
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from seed_jax.errors import UserError, command

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS, HEIGHT = (1280, 360), 800  # CSS pixels
SCHEMES = ("light", "dark")
CHECK = Path(__file__).with_name("check.js")


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.pages", description=__doc__.split("\n")[0])
    parser.add_argument("page", nargs="+", type=Path, help="an HTML file")
    parser.add_argument("--pictures", type=Path, help="folder for PAGE-WIDTH.png (default: that of the page)")
    options = parser.parse_args(arguments)
    findings = check(options.page, options.pictures)
    print("\n".join(findings) or f"{len(options.page)} pages, nothing found.")
    return 1 if findings else 0


def check(pages: list[Path], pictures: Path | None = None) -> list[str]:
    """What is wrong with the pages, one sentence each; writes pictures of them.

    Args:
      pages: HTML files.
      pictures: folder for the pictures; None for the folder of each page.

    Raises:
      UserError: playwright, the browser or a page is missing, or two pictures would have one name.
    """
    executable = browser()
    for page in pages:
        if not page.is_file():
            raise UserError(f"{page} does not exist: name the HTML files to check.")
    targets = [(pictures or page.parent) / page.stem for page in pages]
    for target, count in Counter(targets).items():
        if count > 1:
            raise UserError(
                f"{count} pages would have the pictures {target}-*.png: check them one at a time."
            )
    from playwright.sync_api import sync_playwright

    findings = []
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to start as root; the page is ours, and the network is off.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for (page, target), width, scheme in itertools.product(
            zip(pages, targets, strict=True), WIDTHS, SCHEMES
        ):
            context = chromium.new_context(
                viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, offline=True
            )
            picture = target.with_name(f"{target.name}-{width}{'-dark' if scheme == 'dark' else ''}.png")
            found = _open(context, page.resolve().as_uri(), picture)
            findings += [f"{page}, {width} px, {scheme}: {sentence}." for sentence in found]
            context.close()
        chromium.close()
    return findings


def browser() -> str:
    """The path of the browser.

    Raises:
      UserError: it is not installed, or playwright is not.
    """
    if find_spec("playwright") is None:
        raise UserError(
            "The package playwright, which drives the browser, is missing: run `pip install playwright`."
        )
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise UserError(
        "No browser is installed: run `apt-get install chromium`, or put google-chrome on the PATH."
    )


def _open(context, address: str, picture: Path) -> list[str]:
    page, findings = context.new_page(), []

    def route(request):
        if request.request.url == address:
            request.continue_()
        else:
            request.abort()

    def requested(request):
        if request.url != address and not request.url.startswith("data:"):
            findings.append(f"it loads {request.url}")

    def logged(message):
        if message.type == "error":
            findings.append(f"the console says {message.text!r}")

    page.route("**/*", route)
    page.on("request", requested)
    page.on("console", logged)
    page.on("pageerror", lambda error: findings.append(f"a script fails: {error}"))
    page.goto(address)
    picture.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=picture, full_page=True)
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    return findings + page.evaluate(CHECK.read_text())


if __name__ == "__main__":
    sys.exit(main())
