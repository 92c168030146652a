"""A headless Chromium, if this machine has one, and its driver."""

import shutil
from contextlib import contextmanager

import pytest

from tests.waiting import wait_until

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Drawn in software, so that no GPU is needed.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--window-size=1280,1100",
)


class Browser:
    """A browser that shows the page of a service.

    Args:
        driver: Its driver.
    """

    def __init__(self, driver):
        self.driver = driver

    def open(self, url):
        self.driver.get_log("browser")
        self.driver.get(url)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        """Return the text of an element, whether it is shown or not."""
        return self.find(selector).get_attribute("textContent").strip()

    def click(self, selector):
        self.wait(lambda: self.find(selector).is_enabled() and self.find(selector).is_displayed())
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def press(self, key):
        """Press a key, whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def choose(self, selector, value):
        self.wait(lambda: self.find(f'{selector} option[value="{value}"]'))
        change = (
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
        )
        self.run(change, self.find(selector), value)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def evaluate(self, script, *arguments):
        """Return what a script of asyncio gives, or its error as a text."""
        done = "const done = arguments[arguments.length - 1];"
        body = f"(async (...given) => {{ {script} }})(...arguments)"
        return self.driver.execute_async_script(
            f"{done} {body}.then(done, (error) => done('error: ' + error.message));", *arguments
        )

    def wait(self, condition):
        """Return once a condition holds; elements may be missing before."""
        from selenium.common.exceptions import WebDriverException

        def holds():
            try:
                return condition()
            except WebDriverException:
                return False

        wait_until(holds)

    def complaints(self):
        """Return what the browser has refused or failed to do, since the page was opened."""
        return [each["message"] for each in self.driver.get_log("browser")]


@contextmanager
def chromium(downloads):
    """Start a browser, or skip the test with a reason.

    Args:
        downloads: Folder of what it saves.
    """
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no Chromium with its driver")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    opened = selenium.Chrome(options=options, service=Service(driver))
    opened.set_script_timeout(60)
    try:
        yield Browser(opened)
    finally:
        opened.quit()
