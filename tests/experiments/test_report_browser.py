"""The page of a report in a real browser: what a click, a word and a narrow window do. Skipped where no Chromium is on the PATH."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.made_sweep import made_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH; on Debian: apt-get install chromium"),
]
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--virtual-time-budget=5000", "--dump-dom"),
)
# The page is looked at in a frame of the wanted width, as a window cannot be made as narrow everywhere.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body><iframe style="width: {width}px; height: 900px; border: 0"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument, window = frame.contentWindow;
  const $ = selector => page.querySelector(selector), $$ = selector => [...page.querySelectorAll(selector)];
  let seen;
  try {{ seen = (() => {{ {script} }})(); }} catch (error) {{ seen = String(error); }}
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  frame.replaceWith(out);
}};
frame.srcdoc = {page};
</script>"""
CLICKS = """
const first = $("table.grid"), rows = () => [...first.tBodies[0].rows];
const column = number => rows().filter(row => !row.hidden).map(row => row.cells[number].textContent.trim());
const heads = [...first.tHead.rows[0].cells], place = title => heads.findIndex(head => head.textContent === title);
const click = title => heads[place(title)].querySelector("button").click();
const found = {titles: heads.map(head => head.textContent), names: column(0)};
click("parameters"); found.falling = column(place("parameters")); found.sort = heads[place("parameters")].ariaSort;
click("parameters"); found.rising = column(place("parameters"));
click("variant"); found.byName = column(0); found.sorts = heads.map(head => head.ariaSort);
const filter = $("#filter");
const type = text => { filter.value = text; filter.dispatchEvent(new window.Event("input")); };
type("RANDOM s2"); found.filtered = column(0); found.count = $("output").textContent;
found.elsewhere = $$("table.grid").map(table => [...table.tBodies[0].rows].filter(row => !row.hidden).length);
type("no such thing"); found.none = column(0);
type(""); found.all = column(0).length; found.noCount = $("output").textContent;
const details = $("details"); details.querySelector("summary").click(); found.open = details.open;
return found;
"""
NARROW = """
const reach = element => element.tabIndex >= 0;
const visible = element => element.getClientRects().length > 0;
$$("details").forEach(details => details.open = true);
const boxes = $$(".scroll"), outside = $$("body *").filter(visible).filter(element => !element.closest(".scroll, pre, svg"));
return {
  width: window.innerWidth,
  page: page.documentElement.scrollWidth,
  cut: outside.filter(element => element.getBoundingClientRect().right > window.innerWidth + 1)
    .map(element => element.outerHTML.slice(0, 80)),
  loose: $$("table, figure svg").filter(element => !element.closest(".scroll")).length,
  scrolls: boxes.filter(box => box.scrollWidth > box.clientWidth).length,
  hidden: boxes.filter(box => box.scrollWidth > box.clientWidth && window.getComputedStyle(box).overflowX !== "auto").length,
  unreachable: [...boxes, ...$$("th button, input, summary")].filter(element => !reach(element)).length,
  unnamed: boxes.filter(box => !box.ariaLabel).length,
  buttons: $$("th button").length,
};
"""


def seen(page: str, folder: Path, *, width: int, script: str) -> Any:
    """Return what a script sees in a page at a width of the window."""
    # A closing tag within the string would end the script that it stands in.
    text = json.dumps(page).replace("</", "<\\/").replace("<!--", "<\\!--")
    (folder / "frame.html").write_text(FRAME.format(width=width, script=script, page=text), encoding="utf-8")
    ran = subprocess.run(
        [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found is not None, ran.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def value(cell: str) -> float:
    return float(cell.removesuffix(" M").replace(",", ""))


def test_clicking_sorts_and_typing_filters(tmp_path: Path) -> None:
    found = seen(made_page(tmp_path, 120), tmp_path, width=1200, script=CLICKS)
    assert isinstance(found, dict), found
    names = found["names"]
    assert found["titles"][0] == "variant" and len(names) == 120 and names[0] == "full-s1"
    falling = list(map(value, found["falling"]))
    assert falling == sorted(falling, reverse=True) and len(set(falling)) == 12 and found["sort"] == "descending"
    assert list(map(value, found["rising"])) == falling[::-1]
    # Numbers within names count as numbers: 8 comes before 16.
    ordered = sorted(names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
    assert found["byName"] == ordered
    assert [one for one in found["sorts"] if one] == ["ascending"] and found["sorts"][0] == "ascending"
    wanted = [name for name in ordered if "random" in name and "s2" in name]
    assert sorted(found["filtered"]) == sorted(wanted) and len(wanted) == 8
    assert found["count"] == "8 of 120" and set(found["elsewhere"]) == {8, 8 * 6, 8 * 4}
    assert (found["none"], found["all"], found["noCount"]) == ([], 120, "")
    assert found["open"] is True


@pytest.mark.parametrize("width", [420, 1200])
def test_nothing_is_cut_off_and_all_is_reached_by_keyboard(tmp_path: Path, width: int) -> None:
    found = seen(made_page(tmp_path, 12), tmp_path, width=width, script=NARROW)
    assert isinstance(found, dict), found
    assert found["width"] == width and found["page"] <= width and found["cut"] == []
    assert (found["loose"], found["hidden"], found["unreachable"], found["unnamed"]) == (0, 0, 0, 0)
    assert found["buttons"] > 20
    assert found["scrolls"] >= (8 if width == 420 else 0)
