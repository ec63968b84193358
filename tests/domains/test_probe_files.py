"""Probe files: read strictly, found beside a domain, and those that come with honeclip consistent in themselves."""

from __future__ import annotations

import json
import re

import pytest

from honeclip.domains import domain as domains
from honeclip.domains.probe_files import Item, read
from honeclip.errors import DomainError
from honeclip.model.starter import CONTEXT_LENGTH
from honeclip.preprocess.rules import applied, text_how

HEAD = '{"about": "a test", "source": "a book", "licence": "CC0-1.0"}'
NEAR = '{"id": "a-1", "kind": "leaves", "anchor": "lobed leaf", "near": "a leaf with lobes", "far": "a leaf without lobes"}'
LEAST = {"terms": 150}
KINDS = {
    "medical": ["negation", "laterality", "severity", "terms", "abbreviations"],
    "industrial": ["steps", "causes", "units", "fault_codes"],
    "scientific": ["formulas", "definitions", "units"],
}


def written(tmp_path, *lines, name="leaves.jsonl"):
    file = tmp_path / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def shipped(name):
    return domains.read_probes(domains.load(name), domains.term_folders(name))


def every_item():
    return {item.id: item for name in KINDS for file in shipped(name) for item in file.items}.values()


def test_a_file_is_read(tmp_path):
    order = {"id": "b", "kind": "size", "anchor": "huge", "ordered": ["large", "small", "tiny"], "note": "of trees"}
    (found,) = read([written(tmp_path, HEAD, "", NEAR, json.dumps(order), "")])
    assert (found.name, found.about, found.source, found.licence) == ("leaves.jsonl", "a test", "a book", "CC0-1.0")
    assert found.items == (
        Item("a-1", "leaves", "lobed leaf", ("a leaf with lobes", "a leaf without lobes")),
        Item("b", "size", "huge", ("large", "small", "tiny"), note="of trees"),
    )


def test_separators_of_unicode_do_not_end_a_line(tmp_path):
    item = NEAR.replace("lobed leaf", "lobed\u2028leaf")
    assert read([written(tmp_path, HEAD, item)])[0].items[0].anchor == "lobed\u2028leaf"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: Invalid JSON"),
        ("[]", "line 2: "),
        (NEAR.replace('"far"', '"fare"'), "line 2: fare: unknown key; nearest: far"),
        (NEAR.replace('"id": "a-1", ', ""), "line 2: id: missing"),
        (NEAR.replace('"lobed leaf"', '" "'), "line 2: anchor: it is empty"),
        (NEAR.replace('"lobed leaf"', "7"), "line 2: anchor = 7: Input should be a valid string"),
        (NEAR.replace("a leaf without lobes", "a  leaf with lobes"), "line 2: 'a leaf with lobes' stands twice"),
        (NEAR.replace("a leaf with lobes", "lobed leaf"), "line 2: 'lobed leaf' stands twice in one item"),
        (NEAR.replace(', "far": "a leaf without lobes"', ""), "line 2: an item has near and far, or ordered"),
        (NEAR[:-1] + ', "ordered": ["a", "b"]}', "line 2: near and far beside ordered"),
        ('{"id": "1", "kind": "k", "anchor": "a", "ordered": ["b"]}', "line 2: ordered"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    file = written(tmp_path, HEAD, line)
    with pytest.raises(DomainError, match=re.escape(f"{file}: {said}")) as caught:
        read([file])
    assert caught.value.exit_code == 2


def test_every_fault_of_every_file_is_reported_at_once(tmp_path):
    files = [
        written(tmp_path, HEAD, NEAR, NEAR, NEAR.replace("a-1", "a-2"), name="1.jsonl"),
        written(tmp_path, HEAD, NEAR.replace("lobed", "round"), name="2.jsonl"),
        written(tmp_path, HEAD.replace('"source": "a book", ', ""), NEAR.replace("a-1", "a-3"), name="3.jsonl"),
        written(tmp_path, NEAR.replace("a-1", "a-4"), NEAR.replace("a-1", "a-5"), name="4.jsonl"),
        written(tmp_path, HEAD, name="5.jsonl"),
        tmp_path / "6.jsonl",
    ]
    with pytest.raises(DomainError) as caught:
        read(files)
    said = str(caught.value)
    for part in (
        f"1.jsonl: line 3: id = 'a-1': {files[0]}: line 2 has it already",
        f"1.jsonl: line 4: a-2: the same item stands at {files[0]}: line 2",
        f"2.jsonl: line 2: id = 'a-1': {files[0]}: line 2 has it already",
        "3.jsonl: line 1: source: missing",
        "4.jsonl: line 1: about: missing",
        "5.jsonl: no items",
        "6.jsonl",
    ):
        assert part in said, part


def test_a_domain_finds_its_own_files_and_those_of_honeclip(tmp_path):
    (tmp_path / "probes").mkdir()
    written(tmp_path / "probes", HEAD, NEAR)
    file = tmp_path / "trees.toml"
    file.write_text(
        'extends = "general"\ntitle = "Trees"\nprobes = ["probes/leaves.jsonl", "probes/units.jsonl"]\n',
        encoding="utf-8",
    )
    found = domains.read_probes(domains.load(str(file)), domains.term_folders(str(file)))
    assert [(one.name, len(one.items) > 100) for one in found] == [("leaves.jsonl", False), ("units.jsonl", True)]
    file.write_text('extends = "general"\ntitle = "Trees"\nprobes = ["probes/leafs.jsonl"]\n', encoding="utf-8")
    with pytest.raises(DomainError, match=r'no such file in .*"probes/negation\.jsonl"'):
        domains.load(str(file))
    written(tmp_path / "probes", HEAD, NEAR[:-1], name="leafs.jsonl")
    with pytest.raises(DomainError, match=r"leafs\.jsonl: line 2: "):
        domains.load(str(file))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_has_its_items_and_no_item_comes_twice(name):
    files = shipped(name)
    items = [item for file in files for item in file.items]
    assert list(dict.fromkeys(item.kind for item in items)) == KINDS[name]
    for kind in KINDS[name]:
        assert sum(item.kind == kind for item in items) >= LEAST.get(kind, 100), kind
    asked = [(item.anchor.casefold(), *(text.casefold() for text in item.ordered)) for item in items]
    assert len(set(asked)) == len(asked)
    assert len({item.id for item in items}) == len(items)


@pytest.mark.parametrize("name", KINDS)
def test_no_rule_of_the_domain_makes_an_item_unanswerable(name):
    """After the text rules the farther texts are neither the anchor nor each other, even where case is ignored."""
    domain = domains.load(name)
    how = text_how(domain, domains.read_terms(domain, domains.term_folders(name)))
    for item in (item for file in shipped(name) for item in file.items):
        anchor, *others = (text.casefold() for text in applied([item.anchor, *item.ordered], how)[0])
        assert all(others), item.id
        assert anchor not in others[1:], item.id
        assert len(set(others)) == len(others), item.id


def test_every_text_fits_into_starter(starter_tokenizer):
    texts = [text for item in every_item() for text in (item.anchor, *item.ordered)]
    assert max(starter_tokenizer.count(texts)) <= min(77, CONTEXT_LENGTH)


def test_near_and_far_hold_equally_many_words_where_rules_made_them():
    """A model must not find the right text by its length."""
    for item in every_item():
        if item.kind == "laterality" and "left" in item.ordered[0] and "right" in item.ordered[1]:
            assert len(item.ordered[0].split()) == len(item.ordered[1].split()), item.id


def test_right_and_wrong_answers_have_no_word_of_their_own():
    """Where the same words are near in one item and far in another, a liking for "left" or "present" earns nothing."""
    words = {"negation": ("present", "absent"), "laterality": ("left", "right")}
    for kind, pair in words.items():
        for word in pair:
            near, far = (
                sum(word in re.findall(r"\w+", item.ordered[side]) for item in every_item() if item.kind == kind)
                for side in (0, 1)
            )
            assert abs(near - far) <= 0.1 * (near + far), (kind, word, near, far)


@pytest.fixture(scope="module")
def starter_tokenizer():
    from honeclip.model import build, starter

    return build.tokenizer(starter.model_config(), starter.text_folder())
