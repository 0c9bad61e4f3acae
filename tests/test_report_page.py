"""The report in a real browser: it opens without complaint, zooms, sorts, fits the screen."""

import os
import shutil
import time

import numpy as np
import pytest
from reports import COUNTS, HOSTILE, PLAIN, Page, write_crossval, write_dataset, write_run
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.report.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OKABE_ITO = {
    "found": "rgb(86, 180, 233)",
    "false": "rgb(240, 228, 66)",
    "missed": "rgb(230, 159, 0)",
}
WINDOW = (1200, 900)


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window, or a skip that says how to get one."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (browser and driver):
        message = "needs Chromium and its driver: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    options = ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options, Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_report(write_crossval(tmp_path_factory.mktemp("page")))


@pytest.fixture
def browser(chromium, path):
    """The report, opened anew; in the end nothing may have been complained about."""
    chromium.set_window_size(*WINDOW)
    chromium.get(path.as_uri())
    yield chromium
    assert chromium.get_log("browser") == []


def element(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def elements(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def views(article):
    """The part of the image that each pane shows: x, y, width, height."""
    panes = article.find_elements(By.CSS_SELECTOR, ".pane")
    return [tuple(map(float, pane.get_dom_attribute("viewBox").split())) for pane in panes]


def first_picture(browser):
    article = element(browser, "article.picture")
    browser.execute_script("arguments[0].scrollIntoView()", article)
    WebDriverWait(browser, 10).until(lambda _: article.find_elements(By.CSS_SELECTOR, ".outline"))
    return article


def shown(browser):
    """Names of the images that are shown, in their order."""
    articles = elements(browser, "article.picture")
    return [x.get_attribute("data-name") for x in articles if not x.get_attribute("hidden")]


def counts(article):
    marks = article.find_elements(By.CSS_SELECTOR, ".marks b[data-kind]")
    return {x.get_attribute("data-kind"): int(x.text) for x in marks if x.is_displayed()}


WHOLE = (0, 0, 60, 40)


# Opening


def test_nothing_is_asked_of_a_network(browser):
    entries = browser.execute_script("return performance.getEntriesByType('resource')")
    assert not [entry["name"] for entry in entries if not entry["name"].startswith("data:")]
    assert browser.title == "Cross-validation runs"
    assert not elements(browser, "img")  # of the hostile name


def test_outlines_have_the_colours_of_okabe_and_ito(browser):
    article = first_picture(browser)
    for kind, colour in OKABE_ITO.items():
        path = article.find_element(By.CSS_SELECTOR, f".outline.{kind}")
        assert path.value_of_css_property("stroke") == colour
        assert path.value_of_css_property("stroke") == colour
        swatch = element(browser, f".legend .swatch.{kind}")
        assert swatch.value_of_css_property("background-color").replace(", 1)", ")") in (
            colour,
            colour.replace("rgb", "rgba"),
        )


def test_outlines_stand_on_their_sides(browser):
    article = first_picture(browser)
    drawn = {
        side: {
            kind: path.get_attribute("d")
            for kind in OKABE_ITO
            for path in pane.find_elements(By.CSS_SELECTOR, f".outline.{kind}")
        }
        for side in ("truth", "prediction")
        for pane in article.find_elements(By.CSS_SELECTOR, f'[data-side="{side}"]')
    }
    assert drawn == {
        "truth": {"found": "M3 8h6v-6h-6z", "missed": "M3 18h6v-6h-6zM3 28h6v-6h-6z"},
        "prediction": {
            "found": "M3 8h6v-6h-6z",
            "false": "M5 18h6v-6h-6zM40 36h6v-6h-6zM50 8h6v-6h-6z",
        },
    }


def test_images_are_drawn_when_they_are_near(chromium, tmp_path):
    names = [f"image{k:02}" for k in range(20)]
    labels = np.zeros((300, 200), np.uint8)
    labels[5:20, 5:20] = 1
    dataset = write_dataset(tmp_path / "data", dict.fromkeys(names, labels))
    write_run(tmp_path / "run", dataset, dict.fromkeys(names, labels))
    chromium.get(write_report(tmp_path / "run", dataset=tmp_path / "data").as_uri())
    first_picture(chromium)
    drawn = (
        "return [...document.querySelectorAll('.picture')].map(x => !!x.querySelector('.outline'))"
    )
    assert not all(chromium.execute_script(drawn))
    last = elements(chromium, ".picture")[-1]
    chromium.execute_script("arguments[0].scrollIntoView()", last)
    WebDriverWait(chromium, 10).until(lambda _: chromium.execute_script(drawn)[-1])
    chromium.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(chromium.execute_script(drawn))
    assert chromium.get_log("browser") == []


# Zoom


def test_buttons_zoom_both_panes_of_one_image(browser):
    article = first_picture(browser)
    other = elements(browser, "article.picture")[1]
    inside, outside, everything = article.find_elements(By.CSS_SELECTOR, "[data-zoom]")
    inside.click()
    assert views(article) == [(15, 10, 30, 20)] * 2 and views(other) == [WHOLE] * 2
    assert article.find_element(By.TAG_NAME, "output").text == "2×"
    inside.click()
    outside.click()
    assert views(article) == [(15, 10, 30, 20)] * 2
    everything.click()
    assert views(article) == [WHOLE] * 2
    outside.click()
    assert views(article) == [WHOLE] * 2


def test_the_wheel_zooms_around_the_pointer_once_an_image_is_clicked(browser):
    article = first_picture(browser)
    pane = article.find_elements(By.CSS_SELECTOR, ".pane")[1]
    size = pane.size
    # A quarter from the left and the top: at (15, 10) of the image.
    at = -round(size["width"] / 4), -round(size["height"] / 4)
    wheel = ScrollOrigin(pane, *at)
    ActionChains(browser, 0).scroll_from_origin(wheel, 0, 10).perform()
    assert views(article) == [WHOLE] * 2  # who scrolls the page is not caught
    first_picture(browser)
    ActionChains(browser, 0).move_to_element_with_offset(pane, *at).click().perform()
    ActionChains(browser, 0).scroll_from_origin(wheel, 0, -400).perform()
    WebDriverWait(browser, 10).until(lambda _: views(article)[0] != WHOLE)
    (view, same) = views(article)
    factor = np.exp(0.8)
    assert view == same
    assert view[2:] == pytest.approx((60 / factor, 40 / factor), abs=0.01)
    assert view[:2] == pytest.approx((15 - 15 / factor, 10 - 10 / factor), abs=0.2)
    ActionChains(browser, 0).scroll_from_origin(wheel, 0, 4000).perform()
    WebDriverWait(browser, 10).until(lambda _: views(article) == [WHOLE] * 2)


def test_drag_moves_what_is_shown(browser):
    article = first_picture(browser)
    article.find_element(By.CSS_SELECTOR, "[data-zoom]").click()
    pane = article.find_elements(By.CSS_SELECTOR, ".pane")[0]
    scale = 30 / pane.size["width"]
    ActionChains(browser, 0).drag_and_drop_by_offset(pane, 50, -30).perform()
    (view, same) = views(article)
    assert view == same == pytest.approx((15 - 50 * scale, 10 + 30 * scale, 30, 20), abs=0.1)
    ActionChains(browser, 0).drag_and_drop_by_offset(pane, 500, 0).perform()
    assert views(article)[1][0] == 0  # no further than the edge


def test_two_fingers_zoom(browser):
    article = first_picture(browser)
    pane = article.find_elements(By.CSS_SELECTOR, ".pane")[0]
    box = browser.execute_script("return arguments[0].getBoundingClientRect()", pane)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind, apart=None):
        points = [] if apart is None else [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}]
        for k, point in enumerate(points):
            point["id"] = k
        event = {"type": kind, "touchPoints": points}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    touch("touchStart", 20)
    for apart in (40, 60):
        touch("touchMove", apart)
    touch("touchEnd")
    (view, same) = views(article)
    assert view == same == pytest.approx((20, 40 / 3, 20, 40 / 3), abs=0.05)


def test_keys_zoom_and_move(browser):
    article = first_picture(browser)
    pane = article.find_elements(By.CSS_SELECTOR, ".pane")[0]
    browser.execute_script("arguments[0].focus()", pane)
    ActionChains(browser, 0).send_keys("+", Keys.ARROW_RIGHT, Keys.ARROW_UP).perform()
    assert views(article) == [(18.75, 6.25, 30, 20)] * 2
    ActionChains(browser, 0).send_keys("-", "+", "0").perform()
    assert views(article) == [WHOLE] * 2


def test_the_pointer_is_shown_in_the_other_pane(browser):
    article = first_picture(browser)
    truth, prediction = article.find_elements(By.CSS_SELECTOR, ".pane")
    ActionChains(browser, 0).move_to_element(truth).perform()
    ring = prediction.find_element(By.CSS_SELECTOR, ".cursor")
    place = [float(ring.get_attribute(name)) for name in ("cx", "cy")]
    assert place == pytest.approx([30, 20], abs=0.2)
    assert not truth.find_elements(By.CSS_SELECTOR, ".cursor")


# Order and choice


def test_columns_sort(browser):
    def column(index):
        cells = elements(browser, f".sortable tbody tr > :nth-child({index})")
        return [cell.text for cell in cells]

    heads = [head.text for head in elements(browser, ".sortable th button")]
    aji = heads.index("AJI") + 1
    assert column(aji) == sorted(column(aji))
    element(browser, f".sortable th:nth-child({aji}) button").click()
    assert column(aji) == sorted(column(aji), reverse=True)
    assert element(browser, ".sortable [aria-sort=descending]").text.startswith("AJI")
    element(browser, ".sortable th:first-child button").click()
    assert column(1) == [HOSTILE, HOSTILE, PLAIN, PLAIN]
    assert len(elements(browser, ".sortable [aria-sort]")) == 1


def test_images_are_ordered_and_counted_for_the_chosen_prediction(browser):
    assert shown(browser) == [HOSTILE, PLAIN]
    assert counts(first_picture(browser)) == COUNTS[HOSTILE, "mrcnn"]
    Select(element(browser, "#order")).select_by_value("best")
    assert shown(browser) == [PLAIN, HOSTILE]
    Select(element(browser, "#order")).select_by_value("worst")
    Select(element(browser, "#prediction")).select_by_visible_text("U-Net, mean of two folds")
    article = first_picture(browser)
    name = article.get_attribute("data-name")
    assert counts(article) == COUNTS[name, "unet"]
    wrong = article.find_element(By.CSS_SELECTOR, '[data-side="prediction"] .outline.false')
    assert not wrong.get_attribute("d")


def test_a_row_of_the_scores_leads_to_its_prediction(browser):
    link = f'a[data-prediction="1"][href="#{element_id(browser, PLAIN)}"]'
    element(browser, link).click()
    assert Select(element(browser, "#prediction")).first_selected_option.text.startswith("U-Net")
    article = element(browser, f"#{element_id(browser, PLAIN)}")
    assert counts(article) == COUNTS[PLAIN, "unet"]


def element_id(browser, name):
    (found,) = (
        article.get_attribute("id")
        for article in elements(browser, "article.picture")
        if article.get_attribute("data-name") == name
    )
    return found


def test_kinds_of_outlines_can_be_hidden(browser):
    article = first_picture(browser)
    for kind in OKABE_ITO:
        outlines = article.find_elements(By.CSS_SELECTOR, f".outline.of-{kind}")
        box = element(browser, f'.legend input[data-kind="{kind}"]')
        assert {path.value_of_css_property("display") for path in outlines} == {"inline"}
        box.click()
        assert {path.value_of_css_property("display") for path in outlines} == {"none"}


# Screens


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_dark_as_its_reader_wants_it(browser, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    body = element(browser, "body")
    paper, ink = (
        np.mean([int(x) for x in body.value_of_css_property(name)[5:-1].split(",")[:3]])
        for name in ("background-color", "color")
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 60 and ink > 200)


def test_a_phone_shows_one_pane_below_the_other_and_nothing_beside(browser):
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        article = first_picture(browser)
        truth, prediction = article.find_elements(By.CSS_SELECTOR, ".pane")
        assert truth.location["x"] == prediction.location["x"]
        assert prediction.location["y"] > truth.location["y"] + truth.size["height"]
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# Size


@pytest.mark.slow
def test_thirty_real_images_open_in_seconds(chromium, monuseg, tmp_path):
    dataset = NucleusDataset().load(monuseg)
    predicted = {
        name: np.roll(dataset.load_labels(i)[0], 3, axis=1).astype(np.uint16)
        for i, name in enumerate(dataset.names)
    }
    write_run(tmp_path / "run", dataset, predicted)
    path = write_report(tmp_path / "run", dataset=monuseg)
    assert len(Page(path).find("article")) == 30
    assert path.stat().st_size < 20e6
    start = time.monotonic()
    chromium.get(path.as_uri())
    first_picture(chromium)
    assert time.monotonic() - start < 60  # 1.3 s where nothing else runs
    assert chromium.get_log("browser") == []
