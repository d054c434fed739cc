"""The grammar of attacks' names, and numbers in 1/255."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.attacks.threat import FAMILIES, AttackSpec, Bounded, Minimal, Threat

THREAT = Threat(8 / 255, 2 / 255, 4)
OWN = ("own.py:attack", "dir-5/my own.py:pgd_20x5", "/a/b.py:_fx5")


@st.composite
def specs(draw: st.DrawFn) -> AttackSpec:
    """Every attack that a label can name."""
    spec = AttackSpec.parse(draw(st.sampled_from([*FAMILIES, *OWN])))
    if spec.family.steps is not None:
        spec = replace(spec, steps=draw(st.integers(min_value=1 if spec.family.steps else 0)))
    if spec.family.restarts and spec.steps:
        spec = replace(spec, restarts=draw(st.integers(min_value=1)))
    return spec


@pytest.mark.parametrize(
    ("label", "spec", "written"),
    [
        ("fgsm", AttackSpec("fgsm"), "fgsm"),
        ("pgd", AttackSpec("pgd", 10), "pgd-10"),
        ("pgd-20", AttackSpec("pgd", 20), "pgd-20"),
        ("pgd-20x1", AttackSpec("pgd", 20), "pgd-20"),
        ("pgd-20x5", AttackSpec("pgd", 20, 5), "pgd-20x5"),
        ("bimx2", AttackSpec("bim", 10, 2), "bim-10x2"),
        ("cw", AttackSpec("cw", 30), "cw-30"),
        ("cw-30x5", AttackSpec("cw", 30, 5), "cw-30x5"),
        ("cw-l2", AttackSpec("cw-l2"), "cw-l2"),
        ("apgd-ce", AttackSpec("apgd-ce"), "apgd-ce"),
        ("apgd-ce-7", AttackSpec("apgd-ce", 7), "apgd-ce-7"),
        ("square-5000", AttackSpec("square", 5000), "square-5000"),
        ("autoattack", AttackSpec("autoattack"), "autoattack"),
        ("own.py:f", AttackSpec("own.py:f"), "own.py:f"),
        ("own.py:fx5", AttackSpec("own.py:fx5"), "own.py:fx5"),
        ("own.py:f-20", AttackSpec("own.py:f", 20), "own.py:f-20"),
        ("my-3/own.py:f-20x5", AttackSpec("my-3/own.py:f", 20, 5), "my-3/own.py:f-20x5"),
    ],
)
def test_a_label_names_the_attack_its_steps_and_its_restarts(label: str, spec: AttackSpec, written: str) -> None:
    assert AttackSpec.parse(label) == spec
    assert str(spec) == written


@given(specs())
def test_what_is_written_is_read_back_the_same(spec: AttackSpec) -> None:
    assert AttackSpec.parse(str(spec)) == spec


@given(st.text(alphabet="pgdbimcwfsaue-x0125l.py:_/ \n²٣", max_size=12) | st.sampled_from([*FAMILIES, *OWN]))
def test_a_label_is_refused_or_has_one_spelling_that_means_the_same(label: str) -> None:
    try:
        spec = AttackSpec.parse(label)
    except ValueError as error:
        assert f"unknown attack '{label}'; known: fgsm," in str(error)  # noqa: PT017
    else:
        assert AttackSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    "label",
    [
        *("", "pdg-10", "kl-10", "natural", "PGD", " pgd", "own.py", "own.py:", "own.py:f.g", "torchvision:resnet18"),
        *("pgd-0", "pgd-010", "pgd-20x0", "pgd-x5", "pgd--5", "pgd-1.5", "pgd-٢", "pgd-20x5x2", "own.py:f-20x0"),
        *("fgsm-3", "fgsmx3", "deepfool-50", "cw-l2x2", "autoattack-5", "apgd-ce-5x2", "squarex2", "own.py:f-0"),
    ],
)
def test_other_labels_are_refused_with_all_that_is_known(label: str) -> None:
    with pytest.raises(ValueError, match="unknown attack") as refused:
        AttackSpec.parse(label)
    told = str(refused.value)
    assert told.startswith(
        f"unknown attack '{label}'; known: fgsm, bim-STEPS, pgd-STEPS, cw-STEPS (or pgd-20x5: 5 restarts), autoattack, "
        "apgd-ce, apgd-t, fab-t, square, cw-l2, deepfool, FILE.py:NAME-STEPS"
    )
    assert all(f" {name}" in told for name in FAMILIES)


@pytest.mark.parametrize(
    ("label", "meant"),
    [("pdg-10", "pgd"), ("PGD", "pgd"), ("deepfol", "deepfool"), ("apgd-ce-5x2", "apgd-ce"), ("zzz", "")],
)
def test_a_refused_label_tells_what_was_meant(label: str, meant: str) -> None:
    with pytest.raises(ValueError, match="unknown attack") as refused:
        AttackSpec.parse(label)
    hint = str(refused.value).partition("NAME-STEPS")[2]
    assert hint.startswith(f"; did you mean {meant}" if meant else "")
    assert bool(hint) == bool(meant)


def test_a_spec_sets_the_steps_of_a_threat_and_nothing_else() -> None:
    assert AttackSpec.parse("pgd-20").within(THREAT) == Threat(8 / 255, 2 / 255, 20)
    assert AttackSpec.parse("cw-30x5").within(THREAT) == Threat(8 / 255, 2 / 255, 30)
    assert AttackSpec.parse("apgd-ce-7").within(THREAT) == Threat(8 / 255, 2 / 255, 7)
    assert AttackSpec.parse("apgd-ce").within(THREAT) == Threat(8 / 255, 2 / 255, 0)
    assert AttackSpec.parse("cw-l2").within(THREAT) == Threat(8 / 255, 2 / 255, 0)


def test_a_family_is_bounded_or_minimal() -> None:
    kinds = {label: type(AttackSpec.parse(label).family) for label in ("pgd-20", "autoattack", "own.py:f", "deepfool")}
    assert kinds == {"pgd-20": Bounded, "autoattack": Bounded, "own.py:f": Bounded, "deepfool": Minimal}


def test_a_threat_in_255ths() -> None:
    assert Threat.from_255(51, 25.5, 3) == Threat(0.2, 0.1, 3)
    assert Threat.from_255(8, 2) == Threat(8 / 255, 2 / 255, 0)
    assert Threat.reaching(0.2, 20) == Threat(0.2, 0.025, 20)  # 20 steps of 0.025 are 2.5 times 0.2


def test_neither_the_names_nor_the_configuration_import_torch() -> None:
    words = "import sys, common.attacks.threat, common.config.schema; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
