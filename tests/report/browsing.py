"""A report that is open in headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


@contextmanager
def headless_chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Start Chromium, which reaches no host but this one and reports its console; skip the test where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        reason = (
            "the report was not looked at: no chromium and chromedriver here (apt install chromium chromium-driver)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Page:
    """A report that is open in the browser."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(address)

    def all(self, selector: str) -> list[Any]:
        """Return the elements of a CSS selector."""
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        """Return the first element of a CSS selector."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def count(self) -> int:
        """Return the number of trees that match."""
        return int(self.one("#tree-status").text.split()[0].replace(",", ""))

    def search(self, text: str) -> int:
        """Type into the search box and return the number of matches."""
        before = self.one("#tree-status").text
        box = self.one("#tree-search")
        box.clear()
        box.send_keys(text)
        WebDriverWait(self.browser, 5).until(lambda _: self.one("#tree-status").text != before)
        return self.count()

    def console(self) -> list[str]:
        """Return the messages of the console: faults of the script, refusals of the policy."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def loaded(self) -> set[str]:
        """Return the addresses that were asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}

    def look(self, width: int, height: int, scheme: str) -> None:
        """Set the size of the window and the colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def script(self, code: str, *arguments: Any) -> Any:
        """Return the value of a script."""
        return self.browser.execute_script(code, *arguments)
