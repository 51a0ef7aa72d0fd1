"""The page as it is served: its files, their headers, and that nothing in it comes from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from pyml_nlp import LanguageModel
from pyml_nlp.server import app
from pyml_nlp.server.routes.page import contents

MOST_BYTES = 100_000
NAMES = {
    "index.html", "page.css", "icon.svg", "main.js", "api.js", "chat.js", "dom.js", "generation.js", "markdown.js",
    "markdown_view.js", "message.js", "plain.js", "probabilities.js", "settings.js", "storage.js", "strip.js",
}  # fmt: skip
UNSAFE = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function")
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Elements(HTMLParser):
    """All elements of a document, and faults of its structure."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"an attribute of {tag} is repeated")
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note the end of an element."""
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} is closed and was not the last one opened")


@pytest.fixture(scope="module")
def text() -> str:
    """The page's HTML."""
    return contents()["index.html"][0].decode()


@pytest.fixture(scope="module")
def elements(text: str) -> list[tuple[str, dict[str, str | None]]]:
    """The elements of the page."""
    parser = Elements()
    parser.feed(text)
    assert parser.faults == []
    assert parser.open == []
    return parser.found


def path_of(name: str) -> str:
    """Where a file is served."""
    return "/" if name == "index.html" else f"/page/{name}"


def test_the_files_of_the_page() -> None:
    assert set(contents()) == NAMES
    assert sum(len(data) for data, _ in contents().values()) < MOST_BYTES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_file_is_served_and_asked_for_again(client: TestClient, name: str) -> None:
    response = client.get(path_of(name))
    assert response.status_code == 200
    assert response.content == contents()[name][0]
    suffix = name.rpartition(".")[2]
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert response.headers["content-type"].split(";")[0] == kinds[suffix]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers.get_list("content-security-policy") == [policy]
    again = client.get(path_of(name), headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path_of(name), headers={"if-none-match": '"other"'}).status_code == 200
    assert client.head(path_of(name)).status_code == 200


def test_only_the_files_of_the_page_are_served(client: TestClient) -> None:
    for path in ("/page/", "/page/index.html", "/page/none.js", "/page/..%2foptions.py", "/page/%2e%2e/options.py"):
        assert client.get(path).status_code == 404, path
    assert client.post("/", json={}).status_code == 405


def test_a_server_without_the_page(lm: LanguageModel) -> None:
    with TestClient(app(lm, ui=False), base_url="http://127.0.0.1:8000") as client:
        assert client.get("/").status_code == 404
        assert client.get("/page/main.js").status_code == 404
        assert client.get("/v1/models").status_code == 200


def test_nothing_comes_from_elsewhere() -> None:
    """No URL of another host, but for the names of namespaces and what the Markdown of an answer may link to."""
    for name, (data, _) in contents().items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text) == [], name
        assert "@import" not in text, name
        for imported in re.findall(r'\bfrom "([^"]+)"', text):
            assert imported.removeprefix("./") in NAMES, (name, imported)


def test_no_text_becomes_markup() -> None:
    """Texts of models and users get into the page as text nodes alone; CSP refuses what is inline, besides."""
    for name, (data, _) in contents().items():
        assert UNSAFE.findall(data.decode()) == [], name


def test_the_page_has_no_inline_code(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    for tag, attributes in elements:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not {name for name in attributes if name == "style" or name.startswith("on")}, (tag, attributes)
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value.removeprefix("page/") in NAMES, value


def test_the_structure_of_the_page(text: str, elements: list[tuple[str, dict[str, str | None]]]) -> None:
    assert text.lower().startswith("<!doctype html>")
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert dict(elements)["html"]["lang"] == "en"
    for tag, attributes in elements:
        for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby"):
            assert attributes.get(name) is None or attributes[name] in ids, (tag, attributes)
        if tag == "button":
            assert attributes.get("type") in {"button", "submit", "reset"}
    for name, (data, _) in contents().items():
        assert set(re.findall(r'byId\("([\w-]+)"\)', data.decode())) <= set(ids), name
