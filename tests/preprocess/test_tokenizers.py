"""The very tokens that open_clip gives, counted, cut, saved and shared."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

from honeclip.errors import ModelError
from honeclip.preprocess.preprocess import Preprocess
from honeclip.preprocess.tokens import Tokenizer

ODD = [
    "",
    "   ",
    "🐝🍯 👩\u200d🔬",
    "É\u0301t\u0301 é",
    "5 µm ± 0.1 °C, H₂O",
    "&amp; &lt;b&gt;",
    "‘curly’ “quotes” IT’S",
    "ﬁ ＦＵＬＬ ½",
    "â€œmojibakeâ€ schÃ¶n",
    "日本語のテキスト",
    "a\u00a0b\tc\nd",
    "\ufeffmarked a\u200bb",
    "!!!! wow !!!",
    "<start_of_text> [SEP] </s>",
    "x" * 10_000,
    "word " * 2_000,
]


@pytest.fixture(scope="module")
def unigram():
    """A SigLIP tokenizer as open_clip wraps it, over a tiny vocabulary: its padding is its end mark."""
    from transformers import T5TokenizerFast

    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *letters, ("▁the", -2.0)]
    made = SigLipTokenizer.__new__(SigLipTokenizer)
    made.tokenizer = T5TokenizerFast(vocab=vocabulary, extra_ids=0)
    made.tokenizer.pad_token_id = made.tokenizer.eos_token_id = 1
    made.context_length = 8
    return made


@pytest.fixture(scope="module")
def clips(minilm):
    """open_clip's CLIPS mode: start, end and, at the very end of the row, class."""
    made = HFTokenizer(str(minilm), context_length=8, tokenizer_mode="clips", local_files_only=True)
    made.tokenizer.bos_token, made.tokenizer.eos_token = "[CLS]", "[SEP]"
    return made


def captions(folder):
    for path in sorted(folder.glob("*/pairs.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            yield from (row["caption"] for row in csv.DictReader(file))


@pytest.mark.parametrize("length", [5, 77, 200])
def test_the_tokens_are_open_clips(minilm, simple, bert, length):
    """A model that open_clip loads alone sees the same text: our cleaning before changes nothing for its tokenizers."""
    references = (
        (simple, SimpleTokenizer(context_length=length)),
        (bert, HFTokenizer(str(minilm), context_length=length, local_files_only=True)),
    )
    for ours, reference in references:
        tokens = Preprocess(8, tokenizer=ours, context_length=length).texts(ODD)
        assert (tokens.dtype, tokens.shape) == (torch.int64, (len(ODD), length))
        assert torch.equal(tokens, reference(ODD))
        assert torch.equal(ours.at_length(length)(ODD), reference(ODD))


def test_on_real_captions(shared_data, minilm, simple, bert):
    real = list(captions(shared_data))[::3]
    assert len(real) > 2000
    assert torch.equal(Preprocess(8, tokenizer=simple).texts(real), SimpleTokenizer()(real))
    reference = HFTokenizer(str(minilm), context_length=64, local_files_only=True)
    assert torch.equal(Preprocess(8, tokenizer=bert, context_length=64).texts(real), reference(real))


def test_options_of_open_clip_are_kept(minilm):
    for made in (
        SimpleTokenizer(clean="whitespace", context_length=9),
        SimpleTokenizer(additional_special_tokens=["<honey>"], context_length=9),
        HFTokenizer(str(minilm), context_length=9, clean="canonicalize", local_files_only=True),
        HFTokenizer(str(minilm), context_length=9, strip_sep_token=True, local_files_only=True),
    ):
        assert torch.equal(Tokenizer(made)(ODD), made(ODD))


def test_a_count_is_that_of_the_uncut_tokens(simple, bert, unigram, clips):
    """Independent: the tokens that are no padding, in a row long enough for all."""
    texts = [*ODD[2:12], "a", "a b c d e f g h"]
    for ours, pad in ((simple, 0), (bert, 0)):
        long = ours.at_length(400)(texts)
        assert ours.count(texts) == (long != pad).sum(dim=1).tolist()
    assert simple.count(["", "a b", "word " * 2_000]) == [2, 4, 2_002]
    assert bert.count(["", "a b", "word " * 2_000]) == [2, 4, 2_002]
    assert Tokenizer(unigram).count(["the", "the cat"]) == [2, 6]
    assert Tokenizer(clips).count(["a b c", "a b c d e"]) == [6, 8]
    assert simple.count([]) == bert.count([]) == []


def test_cuts_are_those_that_lose_a_token(simple, bert, unigram, clips, caplog):
    words = [" ".join("abcdefghijkl"[:many]) for many in range(1, 13)]
    for made, pad in ((simple, 0), (bert, 0), (Tokenizer(unigram), 1), (Tokenizer(clips), 0)):
        ours = made.at_length(8)
        short, long = ours(words), made.at_length(40)(words)
        pairs = zip(long.tolist(), short.tolist(), strict=True)
        lost = sum(bool(set(full) - set(cut) - {pad}) for full, cut in pairs)
        assert 0 < lost < 12
        assert ours.count_cut(words, short) == lost == sum(count > 8 for count in ours.count(words))
    exclaiming = ["a " + "! " * 30]  # in OpenAI's vocabulary "!" is token 0, as padding is
    assert simple.count_cut(exclaiming, simple.at_length(8)(exclaiming)) == 0
    assert simple.at_length(8).count_cut(exclaiming, simple.at_length(8)(exclaiming)) == 1
    assert not caplog.records, "transformers does not warn either"


def test_no_texts(simple, bert):
    for ours in (simple, bert):
        assert ours([]).shape == (0, ours.context_length)


def test_saved_files_are_read_by_open_clip(bert, minilm, tmp_path):
    folder = tmp_path / "deep" / "model"
    bert(["used before it is saved"])
    bert.save(folder)
    assert (folder / "tokenizer.json").is_file()
    config = {"text_cfg": {"hf_tokenizer_name": "./", "context_length": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    read = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert torch.equal(read(ODD), bert(ODD))
    again = Tokenizer.from_folder(folder, 32)
    assert again.fingerprint == bert.fingerprint == Tokenizer(read).fingerprint
    # neither where it came from, nor what it was used for, is in the files
    other = tmp_path / "other"
    again.at_length(9)(ODD)
    again.save(other)
    for path in other.iterdir():
        content = path.read_text(encoding="utf-8")
        assert content == (folder / path.name).read_text(encoding="utf-8")
        assert str(minilm.parent) not in content
        assert str(tmp_path) not in content


def test_a_unigram_tokenizer_is_saved_as_text(unigram, tmp_path):
    ours = Tokenizer(unigram)
    ours.save(tmp_path)
    assert all(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    texts = ["the cat", "Hello, the longest of all!"]
    assert torch.equal(HFTokenizer(str(tmp_path), context_length=8, clean="canonicalize")(texts), ours(texts))


def test_simple_has_no_files(simple, tmp_path):
    simple.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert simple.context_length == 77


def test_fingerprints_tell_tokenizers_apart(simple, bert, minilm, tmp_path):
    changed = tmp_path / "changed"
    bert.save(changed)
    stored = json.loads((changed / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    (changed / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    hf = {"context_length": 32, "local_files_only": True}
    kinds = [
        simple,
        simple.at_length(76),
        Tokenizer(SimpleTokenizer(clean="whitespace")),
        Tokenizer(SimpleTokenizer(additional_special_tokens=["<honey>"])),
        Tokenizer(SimpleTokenizer(reduction_mask="simple")),
        bert,
        Tokenizer(HFTokenizer(str(minilm), clean="canonicalize", **hf)),
        Tokenizer(HFTokenizer(str(minilm), strip_sep_token=True, **hf)),
        Tokenizer(HFTokenizer(str(minilm), tokenizer_mode="clips", **hf)),
        Tokenizer.from_folder(changed, 32),
    ]
    assert len({one.fingerprint for one in kinds}) == len(set(kinds)) == len(kinds)
    same = [Tokenizer("simple"), Tokenizer(SimpleTokenizer()), simple.at_length(5).at_length(77)]
    assert all(one == simple and hash(one) == hash(simple) for one in same)
    assert bert == Tokenizer.from_folder(minilm, 32) != simple


def test_other_processes_and_threads(simple, bert):
    for ours in (simple, bert):
        copy = pickle.loads(pickle.dumps(ours))
        assert copy == ours
        assert torch.equal(copy(ODD), ours(ODD))
        expected = [(ours.at_length(length)(ODD), ours.count(ODD)) for length in range(5, 45)]
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda length, ours=ours: (ours.at_length(length)(ODD), ours.count(ODD)), range(5, 45))
            )
        assert all(torch.equal(one[0], two[0]) and one[1] == two[1] for one, two in zip(expected, found, strict=True))


def test_what_is_no_tokenizer(minilm, tmp_path):
    for wrong in ("ViT-B-32", 3):
        with pytest.raises(ModelError, match="from_folder"):
            Tokenizer(wrong)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(minilm / name, tmp_path / "torn")
    (tmp_path / "torn" / "tokenizer.json").write_text((minilm / "tokenizer.json").read_text()[:5000])
    for folder, words in ((tmp_path / "gone", "no folder"), (tmp_path / "empty", "empty"), (tmp_path / "torn", "torn")):
        with pytest.raises(ModelError, match=words):
            Tokenizer.from_folder(Path(folder), 32)
