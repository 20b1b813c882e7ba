"""The page of `--out tags.html`, as a browser shows it and a person uses it."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from conftest import PATIENCE_S
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect, sync_playwright
from records import failed, record

from producer.formats import open_sink, target_of
from worker.contract.messages import CERTAIN, Record, Tag, Timing

COUNT = 5001
LABELS = ("猫", "海边", "城市", "</script><b>粗", "狗")


def picture(number: int) -> str:
    """A thumbnail of its own for each: no browser may keep one for all."""
    image = Image.new("RGB", (192, 144), (number % 256, number // 256 % 256, 128))
    ImageDraw.Draw(image).text((20, 60), str(number), fill="white", font_size=40)
    body = BytesIO()
    image.save(body, "JPEG", quality=70)
    return base64.b64encode(body.getvalue()).decode()


def photo(number: int) -> Record:
    if number % 50 == 49:
        return failed(f"/图/坏{number}.jpg")
    first, second = LABELS[number % 5], LABELS[(number + 1) % 5]
    return record(
        f"/图/照片{number}.jpg",
        tags=(Tag(first, 0.9), Tag(second, 0.05)),
        timing=Timing(decode_ms=float(number % 10), infer_ms=30.0),
        thumbnail=picture(number),
    )


@pytest.fixture(scope="module")
def chromium() -> str:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not here")
    return program


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "tags.html"
    with open_sink(target_of(file, None)) as sink:
        for number in range(COUNT - 1):
            sink.write(photo(number))
        sink.write(record("/图/byte\udcff.jpg"))
    return file


@pytest.fixture(scope="module")
def page(chromium: str, page_file: Path) -> Iterator[Page]:
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 900})
        shown.set_default_timeout(PATIENCE_S * 1000)
        expect.set_options(timeout=PATIENCE_S * 1000)
        requests, errors = [], []
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("console", lambda said: errors.append(said.text))
        shown.goto(page_file.as_uri())
        yield shown
        browser.close()
    assert not errors
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def names(page: Page) -> list[str]:
    return page.locator("article .name").all_text_contents()


def test_all_are_counted_and_the_first_are_drawn(page: Page, page_file: Path) -> None:
    assert count(page) == str(COUNT)
    assert names(page)[:2] == ["照片0.jpg", "照片1.jpg"]
    assert 10 <= page.locator("article").count() < COUNT / 2
    assert page.locator("article img").first.evaluate("image => image.naturalWidth") == 192
    pictures = Path(os.environ.get("SCREENSHOTS") or page_file.parent)
    page.screenshot(path=pictures / "page.png")
    with Image.open(pictures / "page.png") as shot:
        assert len(shot.convert("RGB").getcolors(2**20) or ()) > 50


def test_more_are_drawn_as_one_scrolls(page: Page) -> None:
    before = page.locator("article").count()
    page.mouse.wheel(0, 40_000)
    expect(page.locator("article").nth(before)).to_be_attached()


def test_a_click_on_a_label_filters_by_it_and_a_second_one_takes_that_back(page: Page) -> None:
    chip = page.locator("#labels .chip", has_text="海边")
    chip.click()
    assert count(page).endswith(f" / {COUNT}")
    assert all("海边" in text for text in page.locator("article").all_text_contents())
    page.locator("#labels .chip[aria-pressed=true]").click()
    assert count(page) == str(COUNT)


def test_words_and_the_least_score_narrow_it_down(page: Page) -> None:
    page.fill("#words", "照片123 海边")
    expect(page.locator("#count")).to_contain_text("/")
    assert all("照片123" in name for name in names(page))
    page.fill("#words", "")
    page.locator("#labels .chip", has_text="海边").click()
    some = int(count(page).split()[0])
    page.locator("#least").fill("0")
    expect(page.locator("#count")).not_to_have_text(f"{some} / {COUNT}")
    assert int(count(page).split()[0]) > some
    page.locator("#least").fill(str(CERTAIN))
    page.locator("#labels .chip[aria-pressed=true]").click()
    expect(page.locator("#count")).to_have_text(str(COUNT))


def test_guesses_are_shown_only_to_those_who_ask(page: Page) -> None:
    assert page.locator("#least").input_value() == str(CERTAIN)
    first = page.locator("article").first
    assert first.locator(".tag span:first-child").all_text_contents() == ["猫"]
    page.locator("#least").fill("0.95")
    expect(first).to_contain_text("not certain")
    page.select_option("#which", "uncertain")
    expect(page.locator("#count")).to_have_text(f"{COUNT - COUNT // 50} / {COUNT}")
    page.select_option("#which", "ok")
    expect(page.locator("#count")).to_have_text(f"0 / {COUNT}")
    page.select_option("#which", "all")
    page.locator("#least").fill("0.05")
    expect(first.locator(".tag")).to_have_count(2)
    page.locator("#least").fill(str(CERTAIN))
    expect(first.locator(".tag")).to_have_count(1)


def test_failures_are_shown_with_their_reason(page: Page) -> None:
    page.select_option("#which", "failed")
    assert count(page) == f"{(COUNT - 1) // 50} / {COUNT}"
    expect(page.locator("article").first).to_contain_text("not_an_image")
    page.select_option("#which", "all")


def test_the_times_of_the_stages_are_shown_on_demand(page: Page) -> None:
    table = page.locator("#times")
    assert not table.is_visible()
    page.locator("#timesWanted").check()
    assert "decode" in table.inner_text()
    assert "30.0" in table.inner_text()
    page.locator("#timesWanted").uncheck()


def test_a_name_that_is_no_utf_8_is_shown_and_leads_to_its_file(page: Page) -> None:
    page.fill("#words", "byte")
    expect(page.locator("#count")).to_contain_text("/")
    expect(page.locator("article .name")).to_have_text("byte\\udcff.jpg")
    assert page.locator("article a").get_attribute("href") == "file:///%E5%9B%BE/byte%ff.jpg"
    page.fill("#words", "")


def test_a_label_is_text_whatever_it_holds(page: Page) -> None:
    page.fill("#words", "</script>")
    expect(page.locator("#count")).to_contain_text("/")
    assert page.locator("article b").count() == 0
    expect(page.locator("article").first).to_contain_text("</script><b>粗")
    page.fill("#words", "")
    expect(page.locator("#count")).to_have_text(str(COUNT))


def test_five_thousand_stay_usable(page: Page) -> None:
    page.select_option("#which", "ok")
    expect(page.locator("#count")).to_contain_text("/")
    page.locator("article img").first.wait_for()
    page.select_option("#which", "all")
