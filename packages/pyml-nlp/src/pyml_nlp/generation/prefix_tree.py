"""Pages of keys and values by the tokens that they are of: a radix tree whose nodes are pages.

The path from a root to a node is the beginning of a sequence. Children are sorted by their tokens, so the one that has
the most tokens in common with others is next to the place where these would be. Only the last page of a sequence may be
partly filled; such a node has no children, and is replaced by a page that continues it.

Source: a tree of shared pages is that of Zheng et al. 2024, arXiv 2312.07104.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from pyml_core.kv_layout import PAGE_TOKENS

Page = npt.NDArray[np.uint8]


class Node:
    """A page, or a root, which has none.

    Args:
        parent: the node of the page before it; None: it is a root.
        key: of the tree's root.
        ids: tokens of the page.
        page: their keys and values; None for a root.
    """

    __slots__ = ("children", "ids", "key", "keys", "page", "parent")

    def __init__(self, parent: Node | None, key: Hashable, ids: tuple[int, ...] = (), page: Page | None = None) -> None:
        self.parent = parent
        self.key = key
        self.ids = ids
        self.page = page
        self.keys: list[tuple[int, ...]] = []  # tokens of the children, in order
        self.children: list[Node] = []


class PrefixTree:
    """Pages of any number of sequences, each page once. Sequences under different keys share nothing.

    Attributes:
        n_sequences: number of pages that none follows.
    """

    def __init__(self) -> None:
        self.n_sequences = 0
        self._roots: dict[Hashable, Node] = {}
        # By their last use, the latest last. A page is used after those that follow it, so the first has none after it.
        self._order: OrderedDict[Node, None] = OrderedDict()

    @property
    def n_pages(self) -> int:
        """Number of pages."""
        return len(self._order)

    def find(self, key: Hashable, ids: Sequence[int]) -> tuple[list[Page], int]:
        """The pages of the longest known beginning of ``ids``, and its length; only part of the last may be of it."""
        node, path, length = self._roots.get(key), list[Node](), 0
        while node is not None and length < len(ids):
            part = tuple(ids[length : length + PAGE_TOKENS])
            place = bisect_left(node.keys, part)
            best, count = None, 0
            for child in node.children[max(0, place - 1) : place + 1]:
                common = len(part) if child.ids == part else common_length(child.ids, part)
                if common > count:
                    best, count = child, common
            node = best if count == PAGE_TOKENS else None
            if best is not None:
                path.append(best)
            length += count
        self._use(path)
        return [node.page for node in path if node.page is not None], length

    def add(self, key: Hashable, ids: Sequence[int], pages: Sequence[Page]) -> None:
        """Keep the pages of ``ids``, but for those that are known."""
        node = self._roots.setdefault(key, Node(None, key))
        path = []
        for index, page in enumerate(pages):
            part = tuple(ids[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS])
            node = self._child(node, part, page)
            path.append(node)
        self._use(path)

    def drop_oldest(self) -> None:
        """Drop the page that was used the longest time ago, of those that none follows."""
        node, _ = self._order.popitem(last=False)
        parent = node.parent
        assert parent is not None  # a root is not in the order
        place = bisect_left(parent.keys, node.ids)
        del parent.keys[place], parent.children[place]
        if parent.children or parent.parent is None:
            self.n_sequences -= 1
        if not parent.children and parent.parent is None:
            del self._roots[parent.key]

    def _child(self, node: Node, part: tuple[int, ...], page: Page) -> Node:
        """The child that has these tokens at its beginning, possibly a new one."""
        keys, children = node.keys, node.children
        place = bisect_left(keys, part)
        if place < len(keys) and keys[place][: len(part)] == part:
            return children[place]
        if place and part[: len(keys[place - 1])] == keys[place - 1]:  # a partly filled page that this one continues
            child = children[place - 1]
            keys[place - 1] = child.ids = part
            child.page = page
            return child
        if children or node.parent is None:
            self.n_sequences += 1  # otherwise it continues the one that ended here
        child = Node(node, node.key, part, page)
        keys.insert(place, part)
        children.insert(place, child)
        return child

    def _use(self, path: Sequence[Node]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of ids that two sequences have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # the first `low` are equal; slices are compared in C
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
