"""What a person does on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

IDLE = "#send:not([hidden])"


def ask(page: Page, text: str, *, wait: bool = True) -> None:
    """Send a message, and wait for the end of the answer."""
    page.fill("#input", text)
    page.press("#input", "Enter")
    if wait:
        ended(page)


def ended(page: Page) -> None:
    """Wait until no answer is being written."""
    page.wait_for_selector(IDLE)


def until(page: Page, expression: str) -> None:
    """Wait until an expression of JavaScript is true. Pages of this server allow no other way: they have no eval."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"is not true: {expression}")


def answer(page: Page, number: int = -1) -> Locator:
    """One of the answers; the last one."""
    return page.locator(".message.assistant").nth(number)


def text_of(page: Page, number: int = -1) -> str:
    """The text of an answer as it is shown."""
    return str(answer(page, number).locator(".body").inner_text())


def press(page: Page, name: str, number: int = -1) -> None:
    """Press a button below an answer."""
    answer(page, number).get_by_role("button", name=name, exact=True).click()


def set_field(page: Page, name: str, value: str | bool) -> None:
    """Change a setting."""
    if page.locator("#settings").is_hidden():
        page.click("#show-settings")
    control = page.locator(f"#settings-form [name={name}]")
    if isinstance(value, bool):
        control.set_checked(value)
    else:
        control.fill(value)


def kept(page: Page) -> list[Any]:
    """The conversations in the browser's storage."""
    found: list[Any] = page.evaluate(
        "Object.keys(localStorage).filter(k => k.startsWith('pyml.chat.')).map(k => JSON.parse(localStorage[k]))"
    )
    return found
