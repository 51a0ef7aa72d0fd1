"""An embedding model as the routes of a server see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .embedding_queue import EmbeddingQueue, F32Array
from .errors import RequestError
from .options import ServeOptions
from .request_record import current
from .service import DEAD, DRAINING, READY, Service, name_of

if TYPE_CHECKING:
    from pyml_nn.network import Network

    from ..embedding.embedder import Embedder
    from ..language_model import LanguageModel
    from ..tokenizer import Tokenizer

_EMBEDS_NOTHING = (
    "embeddings need an embedding model, and the model that is served writes texts: its hidden states are not trained "
    "to be compared"
)
_WRITES_NOTHING = (
    "this server has an embedding model, which writes no texts: use /v1/embeddings, /api/embed or /api/embeddings"
)


class EmbeddingService(Service):
    """An embedding model that is served.

    Args:
        options: how it is served; options of texts have no effect.
        embedder: the model; the caller closes it.

    Attributes:
        queue: of the texts that are to be embedded.

    Raises:
        ArgumentError: an option that needs a model that writes texts.
    """

    def __init__(self, options: ServeOptions, embedder: Embedder) -> None:
        super().__init__(options)
        for name in ("draft_model", "chat_template"):
            if getattr(options, name) is not None:
                raise ArgumentError(f"is for models that write texts, {embedder.name} is an embedding model", name)
        self._embedder = embedder
        self._name = name_of(embedder.name)
        self.queue = EmbeddingQueue(
            embedder.embed_ids, embedder.dimensions, options.max_queue, options.max_queue_tokens
        )
        self.state = READY

    @property
    def lm(self) -> LanguageModel:
        """Refused: an embedding model writes no texts.

        Raises:
            RequestError: always.
        """
        raise self.refusal or RequestError(501, _WRITES_NOTHING, code="not_supported")

    @property
    def embedder(self) -> Embedder:
        """The model.

        Raises:
            RequestError: it has failed.
        """
        if self.state == DEAD and self.refusal is not None:
            raise self.refusal
        return self._embedder

    @property
    def network(self) -> Network[Any]:
        """The encoder."""
        return self.embedder.encoder

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.embedder.tokenizer

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a text."""
        return self.embedder.max_tokens

    @property
    def alive(self) -> bool:
        """Whether the model is open."""
        return not self._embedder.closed

    async def embed(self, texts: Sequence[Sequence[int]], client: str | None, timeout: float | None = None) -> F32Array:
        """Return the vectors of a request's texts.

        Raises:
            RequestError: too many requests wait, or the server is about to end.
            PymlError: as of :meth:`.EmbeddingQueue.embed`.
        """
        if self.refusal is not None:
            raise self.refusal
        limits = [one for one in (timeout, self.options.timeout) if one is not None]
        found = await self.queue.embed(texts, client, min(limits, default=None), self.options.queue_timeout)
        record, tally = current(), self.observation.requests
        tally.prompt_tokens += sum(map(len, texts))
        if record is not None:
            tally.total.observe(record.total_seconds())
        return found

    def drain(self) -> None:
        """Answer no further requests, and end those that wait."""
        self.state = DRAINING
        self.queue.end(running=False)

    def abort(self, failed: bool = False) -> None:
        """Answer no further requests, and end all; ``failed``: because the model has."""
        self.state = DEAD if failed else DRAINING
        self.queue.end(running=True)

    def close(self) -> None:
        """End the workers. The model is the caller's."""
        super().close()
        self.queue.close()


def embedding_service(service: Service) -> EmbeddingService:
    """The service, as one of an embedding model.

    Raises:
        RequestError: its model writes texts, or it has none yet.
    """
    if isinstance(service, EmbeddingService):
        return service
    raise service.refusal or RequestError(501, _EMBEDS_NOTHING, code="not_supported")


def service_of(options: ServeOptions, model: LanguageModel | Embedder) -> Service:
    """The service of a model of either kind.

    Raises:
        ArgumentError: as of :class:`EmbeddingService`.
    """
    from ..embedding.embedder import Embedder  # with NumPy

    return EmbeddingService(options, model) if isinstance(model, Embedder) else Service(options, model)
