"""Domains: the presets hold what they promise, files are read strictly, labels become prompts."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honeclip import places
from honeclip.domains import domain as domains
from honeclip.domains.domain import AugmentRules, Domain, ImageRules, SimilarityRules
from honeclip.errors import DomainError

PRESETS = ["general", "industrial", "medical", "scientific"]
LEAST = {"name": "plants", "title": "Plants", "templates": ["a leaf with {label}"]}


def plants(**more) -> Domain:
    return domains.from_mapping({**LEAST, **more}, "plants.toml")


def test_the_presets_are_there():
    assert set(PRESETS) <= set(domains.names())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_has_reasons_and_survives_a_round_trip(name):
    preset = domains.load(name)
    assert preset.name == name
    assert len(preset.templates) >= 3
    assert preset.notes.strip()
    assert preset.image == ImageRules(), "a model keeps its own preprocessing unless the field says otherwise"
    assert domains.from_mapping(domains.to_mapping(preset), "again") == preset
    assert domains.from_mapping(tomllib.loads(domains.to_toml(preset)), "again") == preset


def test_the_presets_differ_where_the_fields_do():
    medical, industrial, scientific = (domains.load(name) for name in ("medical", "industrial", "scientific"))
    assert not medical.augment.flip, "a mirrored chest has its heart on the wrong side"
    assert 0 < medical.augment.rotate_deg <= 10
    assert industrial.augment.flip
    assert not scientific.augment.flip
    assert scientific.augment.rotate_deg == scientific.augment.brightness == scientific.augment.saturation == 0
    assert (medical.selection, industrial.selection) == ("metrics", "balanced_accuracy")
    assert set(medical.metrics) == {"balanced_accuracy", "R@10"}
    assert domains.load("general").selection == scientific.selection == "auto"
    assert {"good", "ok", "normal", "no defect", "defect-free"} <= set(industrial.normal_labels)
    assert domains.label_text(industrial, "good") == domains.label_text(industrial, "defect-free") == "no defect"


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("spot", "brown spot"),
        ("leaf_blight", "leaf blight"),
        ("pests/aphids", "pests aphids"),
        ("rolled-in", "rolled-in"),
    ],
)
def test_label_text(label, words):
    assert domains.label_text(plants(label_names={"spot": "brown spot"}), label) == words


def test_prompts_are_one_a_template_and_braces_in_a_label_are_harmless():
    two = plants(templates=["a leaf with {label}", "{label}, seen from above"])
    assert domains.prompts(two, "rust") == ["a leaf with rust", "rust, seen from above"]
    assert domains.prompts(two, "{x}")[0] == "a leaf with {x}"


def test_defaults_change_nothing():
    assert plants().augment == AugmentRules(crop_scale=(1.0, 1.0))
    assert plants().selection == "auto"


def test_each_preset_says_what_makes_its_captions_alike_and_how_to_make_them_wrong():
    loaded = {name: domains.load(name) for name in PRESETS}
    chosen = {name: one.similarity.metric for name, one in loaded.items()}
    assert chosen == {"general": "text", "industrial": "labels", "medical": "terms", "scientific": "terms"}
    assert all(len(one.hard_captions) >= 10 for one in loaded.values())
    assert ("left", "right") in loaded["medical"].hard_captions
    assert ("left", "right") not in loaded["industrial"].hard_captions, "its images are mirrored"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"similarity": {"metrik": "terms"}}, "similarity.metrik: unknown key; nearest: similarity.metric"),
        ({"similarity": {"metric": "words"}}, "similarity.metric = 'words'"),
        ({"similarity": {"metric": "terms"}}, 'terms = \\["terms/medical.toml"\\]'),
        ({"similarity": {"tree": {"a": "b", "b": "c", "c": "b"}}}, "b -> c -> b is a circle"),
        ({"similarity": {"tree": {"a": "a/b"}}}, "a -> a/b -> a is a circle"),
        ({"hard_captions": [["left"]]}, "at least two words"),
        ({"hard_captions": [["left", "(right)"]]}, r"'\(right\)': a word begins and ends with"),
        ({"term": ["x.toml"]}, "term: unknown key; nearest: terms"),
    ],
)
def test_faults_of_similarity_and_hard_captions(given, said):
    with pytest.raises(DomainError, match=said):
        plants(**given)


def own_domain(folder, terms):
    file = folder / "plants.toml"
    file.write_text(f'title = "Plants"\ntemplates = ["{{label}}"]\nterms = {terms}\n')
    return str(file)


def test_a_copied_domain_finds_the_terms_that_come_with_honeclip_and_its_own_go_first(tmp_path):
    file = own_domain(tmp_path, '["terms/medical.toml"]')
    shipped = domains.read_terms(domains.load(file), (tmp_path,))
    assert shipped == domains.read_terms(domains.load("medical"), domains.term_folders("medical"))
    assert shipped.find("pneumonia") == {"pneumonia": 1}
    (tmp_path / "terms").mkdir()
    (tmp_path / "terms" / "medical.toml").write_text('[terms]\nleaf = ["leaf", ["rust", "leaf rust"]]\n')
    own = domains.read_terms(domains.load(file), (tmp_path,))
    assert own.find("pneumonia, a leaf with leaf rust") == {"leaf": 1, "rust": 1}


def test_the_files_of_a_domain_are_one_vocabulary(tmp_path):
    (tmp_path / "leaves.toml").write_text('swap = ["leaf"]\n[terms]\nleaf = ["leaf", "needle"]\n')
    both = domains.load(own_domain(tmp_path, '["leaves.toml", "industrial.toml"]'))
    assert domains.read_terms(both, (tmp_path,)).find("a needle with a crack") == {"needle": 1, "crack": 1}


def test_a_missing_term_file_is_named_with_a_way_out(tmp_path):
    with pytest.raises(DomainError, match=r"terms = 'trees\.toml': there is no such file in .*\"terms/medical\.toml\""):
        domains.load(own_domain(tmp_path, '["trees.toml"]'))


def test_a_domain_from_a_model_folder_needs_no_term_files():
    """RUN/model holds the domain as a mapping; whoever only evaluates has no use for files of another machine."""
    assert plants(terms=["gone.toml"], similarity={"metric": "terms"}).terms == ("gone.toml",)


def test_every_fault_is_reported_at_once_with_the_nearest_key():
    with pytest.raises(DomainError) as caught:
        domains.from_mapping(
            {
                "name": "x",
                "titel": "X",
                "templates": ["no label", "{label} {other}", "{"],
                "selection": "accuracy",
                "image": {"resize": "long", "fill": 300},
                "augment": {"flop": True, "rotate_deg": "5", "brightness": True, "crop_scale": [1.0, 0.5]},
            },
            "x.toml",
        )
    text = str(caught.value)
    assert text.startswith("domain x.toml:")
    for part in (
        "title: missing",
        "titel: unknown key; nearest: title",
        "'no label' must contain {label}",
        "templates[1]",
        "templates[2]",
        "selection = 'accuracy'",
        "image.resize = 'long'",
        "image.fill = 300",
        "augment.flop: unknown key; nearest: augment.flip",
        "augment.rotate_deg = '5'",
        "augment.brightness = True",
        "augment.crop_scale",
    ):
        assert part in text, part
    assert len(text.splitlines()) == 13, "each fault once"


@pytest.mark.parametrize("scale", [[0.5], [0.0, 1.0], [0.9, 1.1], [0.9, 0.5]])
def test_impossible_crops_are_refused(scale):
    with pytest.raises(DomainError, match="crop_scale"):
        plants(augment={"crop_scale": scale})


def test_no_templates_at_all_are_refused_with_an_example():
    with pytest.raises(DomainError, match="at least one template"):
        plants(templates=[])


def test_an_own_file_is_found_by_path_and_is_named_after_itself(tmp_path):
    file = tmp_path / "plants.toml"
    file.write_text(
        '\ufefftitle = "Pflanzen"\r\nlanguage = "de"\r\ntemplates = ["ein Blatt mit {label}"]\r\n', encoding="utf-8"
    )
    own = domains.load(str(file))
    assert (own.name, own.title, own.language) == ("plants", "Pflanzen", "de")


def test_an_own_file_in_the_home_is_found_by_name_and_goes_before_a_preset(tmp_path, monkeypatch):
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path))
    places.domains().mkdir(parents=True)
    for name in ("plants", "medical"):
        (places.domains() / f"{name}.toml").write_text('title = "Mine"\ntemplates = ["{label}"]\n')
    assert "plants" in domains.names()
    assert domains.load("plants").title == domains.load("medical").title == "Mine"
    assert domains.names().count("medical") == 1


def test_an_unknown_name_shows_the_nearest():
    with pytest.raises(DomainError, match=r"'medcal'; nearest: medical\."):
        domains.load("medcal")
    with pytest.raises(DomainError, match="general, industrial, medical, scientific"):
        domains.load("zzzzzz")


def test_files_that_are_no_domain(tmp_path):
    with pytest.raises(DomainError, match="no such file"):
        domains.load(str(tmp_path / "missing.toml"))
    with pytest.raises(DomainError, match="no such file"):
        domains.load(str(tmp_path) + "/.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("title = ")
    with pytest.raises(DomainError, match=r"broken\.toml: .*(line|at)"):
        domains.load(str(broken))
    broken.write_bytes('title = "Größe"'.encode("latin-1"))
    with pytest.raises(DomainError, match=r"broken\.toml.*utf-8"):
        domains.load(str(broken))
    broken.write_text('title = 7\ntemplates = "{label}"\nimage = 3\nlabel_names = ["a"]')
    with pytest.raises(DomainError, match="title = 7") as caught:
        domains.load(str(broken))
    assert all(word in str(caught.value) for word in ("templates", "image", "label_names"))


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(
    title=texts,
    labels=st.dictionaries(texts, texts, max_size=4),
    low=st.floats(0.01, 1.0),
    flip=st.booleans(),
    rotate=st.integers(0, 180),
    fill=st.none() | st.integers(0, 255),
    metric=st.sampled_from(["labels", "text"]),
    words=st.lists(st.text("abc", min_size=1, max_size=3), min_size=2, max_size=3),
)
def test_any_domain_survives_toml(title, labels, low, flip, rotate, fill, metric, words):
    one = Domain(
        name="n",
        title=title,
        templates=("{label}", "say: {label}"),
        label_names=labels,
        terms=tuple(words),
        hard_captions=(tuple(words), tuple(reversed(words))),
        similarity=SimilarityRules(metric, ":", {f"{number} low": "high" for number in range(len(words))}),
        image=ImageRules(resize=None if fill is None else "longest", fill=fill),
        augment=AugmentRules(crop_scale=(low, 1.0), flip=flip, rotate_deg=rotate),
    )
    assert domains.from_mapping(tomllib.loads(domains.to_toml(one)), "again") == one


def test_a_file_that_extends_a_domain_says_only_what_differs(tmp_path):
    file = tmp_path / "hospital.toml"
    file.write_text(
        'extends = "medical"\ntitle = "Our hospital"\n[augment]\nrotate_deg = 2.0\n[label_names]\ntb = "tuberculosis"\n'
    )
    found, medical = domains.load(str(file)), domains.load("medical")
    assert (found.name, found.title, found.templates) == ("hospital", "Our hospital", medical.templates)
    assert found.augment == dataclasses.replace(medical.augment, rotate_deg=2.0)
    assert found.label_names == {**medical.label_names, "tb": "tuberculosis"}
    assert domains.read_terms(found, domains.term_folders(str(file))).find("a chest X-ray")


def test_the_term_files_of_the_extended_domain_are_found_beside_it(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "plants.toml").write_text('title = "P"\ntemplates = ["{label}"]\nterms = ["herbs.toml"]\n')
    (tmp_path / "below" / "herbs.toml").write_text('[terms]\nherb = ["sage"]\n')
    file = tmp_path / "garden.toml"
    file.write_text('extends = "below/plants.toml"\n')
    assert domains.read_terms(domains.load(str(file)), domains.term_folders(str(file))).find("some sage") == {"sage": 1}


def test_extends_goes_one_level_and_never_in_a_circle(tmp_path):
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('extends = "b.toml"\ntitle = "A"\n')
    second.write_text('extends = "a.toml"\ntitle = "B"\n')
    with pytest.raises(DomainError, match="there is one level"):
        domains.load(str(first))
    first.write_text('extends = "a.toml"\n')
    with pytest.raises(DomainError, match="cannot extend itself"):
        domains.load(str(first))
    first.write_text("extends = 3\n")
    with pytest.raises(DomainError, match="it names one domain"):
        domains.load(str(first))
    first.write_text('extends = "medcal"\n')
    with pytest.raises(DomainError, match="nearest: medical"):
        domains.load(str(first))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"text": {"replace": [["(", "x"]]}}, "no regular expression"),
        ({"text": {"replace": [["a*", "x"]]}}, "matches nothing at all"),
        ({"text": {"replace": [["a", r"\2"]]}}, "no regular expression"),
        ({"text": {"rules": ["unitz"]}}, r"text\.rules"),
        ({"image": {"windows": ["lung", "bone"]}}, "one for a grey picture, or three"),
        ({"image": {"windows": [[40, 0]]}}, "must be above 0"),
        ({"augment": {"gama": 0.1}}, r"augment\.gamma"),
        ({"metrics": {"R@10": 0}}, "metrics"),
        ({"metrics": {"R@11": 1}}, "metrics"),
    ],
)
def test_what_cannot_be_in_the_new_tables_is_refused(more, said):
    with pytest.raises(DomainError, match=said):
        plants(**more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"selection": "metrics"}, r'selection = "metrics": the domain has no metrics; name some.*"R@10" = 1\.0'),
        ({"metrics": {"R@10": 1.0}}, r'selection = "auto": the domain has metrics.*say selection = "metrics"'),
        ({"selection": "balanced_accuracy", "metrics": {"R@1": 2.0}}, r'"balanced_accuracy": .*take the table'),
    ],
)
def test_weights_and_the_selection_by_them_go_together(more, said):
    with pytest.raises(DomainError, match=said):
        plants(**more)


def test_a_domain_may_select_otherwise_than_the_one_with_weights_that_it_extends(tmp_path):
    below = 'title = "A"\ntemplates = ["{label}"]\nselection = "metrics"\n[metrics]\n"R@10" = 2.0\naccuracy = 1\n'
    (tmp_path / "below.toml").write_text(below)
    own = tmp_path / "own.toml"
    own.write_text('extends = "below.toml"\nselection = "retrieval"\n')
    assert domains.load(str(own)).metrics == {}
    own.write_text('extends = "below.toml"\n[metrics]\n"R@10" = 3.0\n')
    assert domains.load(str(own)).metrics == {"R@10": 3.0, "accuracy": 1.0}


def test_prompts_are_made_of_synonyms_too():
    found = plants(templates=["a {label}", "{label}"], label_synonyms={"tb": ["consumption"]}, label_names={"tb": "TB"})
    assert domains.prompts(found, "tb") == ["a TB", "TB", "a consumption", "consumption"]
