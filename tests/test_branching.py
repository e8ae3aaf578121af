"""All sign vectors above a threshold, against brute force."""

import dataclasses
import itertools
import time

import numpy as np
import pytest
import referee
from problems import FAMILIES, gram_of

from jaxqsdp._bound import branching, largest
from jaxqsdp._bound.branching import expected_seconds, forms_above
from jaxqsdp._bound.largest import Proven, largest_form
from jaxqsdp._bound.signs import enumerate_all, enumerate_forms, enumerate_signs
from jaxqsdp._network.bilinear import BILINEAR

KINDS = {"bilinear": (1, -1), "square": (1,), "negative square": (-1,)}


def brute_force(gram, signs):
    """Return the values of all forms, and how many neurons have them, up to turned parts."""
    gram = gram[np.ix_(*2 * [np.any(gram, axis=0)])]  # of what does not matter there is one
    d = len(gram)
    vectors = np.array(list(itertools.product((-1.0, 1.0), repeat=d)))
    if len(signs) == 1:
        vectors = vectors[vectors[:, 0] > 0] if d else vectors
        return signs[0] * np.sum((vectors @ gram) * vectors, axis=1)
    seen, values = set(), []
    for u, v in itertools.product(vectors, vectors):
        parts = [(u + v) / 2, (u - v) / 2]
        turned = [part * (np.sign(part[np.flatnonzero(part)[:1]]).sum() or 1) for part in parts]
        key = tuple(np.concatenate(turned))
        if key not in seen:
            seen.add(key)
            values.append(u @ gram @ v)
    return np.array(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_finds_what_brute_force_finds(family, d, kind):
    signs = KINDS[kind]
    for seed in range(3):
        gram = gram_of(family, seed, d)
        values = np.sort(brute_force(gram, signs))[::-1]
        size = np.abs(gram).sum()
        for place in (0, len(values) // 10, len(values) // 3):
            threshold = values[place] - 1e-12 * size
            found = forms_above(gram, threshold, signs, 10**6)
            expected = values[values >= threshold]
            assert found.is_complete
            np.testing.assert_allclose(found.values, expected, atol=1e-12 * size + 1e-300)
            parts = found.parts.astype(float)
            assert np.all(np.abs(parts).sum(axis=1) == 1)
            assert len(np.unique(parts.reshape(len(parts), -1), axis=0)) == len(parts)
            forms = sum(
                sign * np.einsum("ni,ij,nj->n", parts[:, s], gram, parts[:, s])
                for s, sign in enumerate(signs)
            )
            np.testing.assert_allclose(forms, found.values, atol=1e-12 * size)
        above = values[0] + 1e-6 * size
        nothing = forms_above(gram, above, signs, 10)
        assert nothing.is_complete
        assert len(nothing.values) == (0 if size > 0 else 1)
        assert nothing.largest == above


@pytest.mark.parametrize("d", [12, 16, 20])
def test_agrees_with_enumeration(d):
    gram = gram_of("plain", d, d)
    largest = enumerate_signs(gram, 1)[0][0]
    found = forms_above(gram, largest * (1 - 1e-9), (1, -1), 10)
    np.testing.assert_allclose(found.largest, largest, rtol=1e-12)
    largest = enumerate_forms(gram, 1)[0][0]
    found = [forms_above(gram, largest * (1 - 1e-9), (sign,), 10).largest for sign in (1, -1)]
    np.testing.assert_allclose(max(found), largest, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_proofs_hold_in_exact_arithmetic(family, kind):
    """At the largest value, above it, where many are found, and with several decided at once."""
    signs = KINDS[kind]
    for d, shares in ((1, (1, 1.05)), (4, (0.5, 1, 1.05)), (6, (0.8, 1)), (10, (1,))):
        gram = 10.0 ** (d % 3) * gram_of(family, d, d)
        gram = (gram + gram.T) / 2
        largest = enumerate_all(gram, 1, len(signs))[0][0]
        for threshold in [share * largest * (1 - 1e-12) for share in shares]:
            found = forms_above(gram, threshold, signs, 3, keep_proof=True)
            referee.check_search(gram, threshold, signs, found)


@pytest.mark.parametrize("family", ["plain", "ties", "scales"])
def test_proofs_of_many_decided_at_once(family, monkeypatch):
    monkeypatch.setattr(branching, "_ALONE", 0)
    monkeypatch.setattr(branching, "_BLOCK", 8)
    gram = gram_of(family, 3, 9)
    gram = (gram + gram.T) / 2
    largest = enumerate_signs(gram, 1)[0][0]
    found = forms_above(gram, 0.9 * largest, (1, -1), 10**6, keep_proof=True)
    referee.check_search(gram, 0.9 * largest, (1, -1), found)


def test_the_referee_refutes_what_is_no_proof():
    gram, signs = gram_of("plain", 0, 8), (1, -1)
    gram = (gram + gram.T) / 2
    largest = enumerate_signs(gram, 1)[0][0]
    threshold = largest * (1 - 1e-12)
    found = forms_above(gram, threshold, signs, 3, keep_proof=True)
    ends = found.proof.ends
    place = next(place for place, end in enumerate(ends) if end.diagonal is not None)
    one = ends[place]
    wrong = {
        "less than all": ends[:place] + ends[place + 1 :],
        "p too large": [*ends, dataclasses.replace(one, diagonal=2 * one.diagonal)],
        "p too small": [*ends, dataclasses.replace(one, diagonal=0 * one.diagonal)],
    }
    for other in wrong.values():
        proof = dataclasses.replace(found.proof, ends=other)
        with pytest.raises(AssertionError):
            referee.check_search(gram, threshold, signs, dataclasses.replace(found, proof=proof))
    proof = dataclasses.replace(found.proof, largest=0.9 * largest)
    wrong = dataclasses.replace(found, proof=proof, values=np.array([0.9 * largest]))
    with pytest.raises(AssertionError):
        referee.check_search(gram, threshold, signs, wrong)
    nothing = forms_above(gram, 1.1 * largest, signs, 3, keep_proof=True)
    proof = dataclasses.replace(nothing.proof, largest=0.9 * largest)
    wrong = dataclasses.replace(nothing, threshold=0.9 * largest, proof=proof)
    with pytest.raises(AssertionError):
        referee.check_search(gram, 1.1 * largest, signs, wrong)


def test_keeps_the_largest_of_many():
    gram = gram_of("ties", 0, 8)
    every = forms_above(gram, 0.0, (1, -1), 10**6)
    few = forms_above(gram, 0.0, (1, -1), 20)
    np.testing.assert_allclose(few.values, every.values[:20], rtol=1e-12)


def test_says_so_when_time_is_up():
    gram = gram_of("plain", 0, 40)
    start = time.monotonic()
    found = forms_above(gram, 0.0, (1, -1), 10, deadline=start + 0.5)
    assert time.monotonic() - start < 5
    assert not found.is_complete
    assert found.largest == np.inf


@pytest.mark.parametrize("size", [1e-200, 1e-8, 1e8, 1e200])
def test_any_scale(size):
    gram = gram_of("plain", 0, 8)
    expected = forms_above(gram, 20.0, (1, -1), 100)
    found = forms_above(size * gram, 20.0 * size, (1, -1), 100)
    np.testing.assert_allclose(found.values, size * expected.values, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_little_weight_take_no_time(kind):
    """Or all of their choices would be tried."""
    gram = gram_of("plain", 0, 30)
    gram[10:] *= 1e-9
    gram[:, 10:] *= 1e-9
    gram[20:] = gram[:, 20:] = 0
    few = forms_above(gram[:10, :10], 0.0, KINDS[kind], 10**6).largest
    start = time.monotonic()
    found = forms_above(gram, few * (1 + 1e-6), KINDS[kind], 10, start + 20)
    assert found.is_complete
    assert len(found.values) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nothing_is_proven_of_what_is_no_number(wrong):
    gram = gram_of("plain", 0, 4)
    gram[1, 2] = gram[2, 1] = wrong
    assert forms_above(gram, 1e9, (1, -1), 10).largest == np.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_many_features_decided_at_once(family, kind, monkeypatch):
    """With small blocks, of which more than one node is left on the way."""
    monkeypatch.setattr(branching, "_ALONE", 0)
    monkeypatch.setattr(branching, "_TIMES", 10**6)
    monkeypatch.setattr(branching, "_BLOCK", 16)
    for seed in range(20):
        d = 3 + seed % 3
        gram = gram_of(family, seed, d)
        values = np.sort(brute_force(gram, KINDS[kind]))[::-1]
        size = np.abs(gram).sum()
        threshold = values[len(values) // 4] - 1e-12 * size
        found = forms_above(gram, threshold, KINDS[kind], 10**6)
        assert found.is_complete
        expected = values[values >= threshold]
        np.testing.assert_allclose(found.values, expected, atol=1e-12 * size + 1e-300)


@pytest.mark.parametrize("d", [20, 30])
def test_how_long_it_takes(d):
    gram = gram_of("plain", d, d)
    threshold = largest_form(gram, BILINEAR.layout)
    expected = expected_seconds(gram, threshold, (1, -1), np.random.default_rng(0))
    start = time.perf_counter()
    forms_above(gram, threshold, (1, -1), 1)
    assert expected / 30 < time.perf_counter() - start < 30 * expected
    # What takes clearly longer, or less long, is known sooner.
    assert expected_seconds(gram, 0.0, (1, -1), np.random.default_rng(0), most=0.01) > 0.01


def test_what_is_known_of_nearly_the_same():
    rng = np.random.default_rng(0)
    gram = gram_of("plain", 0, 8)
    largest = enumerate_signs(gram, 1)[0][0]
    known = Proven(gram, largest)
    for factor in (1.0, -2.5, 1e-200, 1e200):
        found = known.norm_of(factor * gram)
        assert abs(factor) * largest <= found <= abs(factor) * largest * (1 + 1e-12)
    for size in (1e-12, 1e-3, 1.0):
        other = rng.standard_normal(gram.shape)
        other = gram + size * (other + other.T)
        assert enumerate_signs(other, 1)[0][0] <= known.norm_of(other)
    assert Proven(gram, largest).norm_of(np.zeros((8, 8))) <= 1e-9
    assert known.norm_of(np.eye(7)) == Proven(0 * gram, 0.0).norm_of(gram) == np.inf


def test_nothing_is_proven_twice(monkeypatch):
    gram = gram_of("plain", 0, 20)
    norm = largest_form(gram, BILINEAR.layout)
    monkeypatch.setattr(largest, "all_above", None)
    known = [Proven(gram, 2 * norm), Proven(gram, norm)]
    assert largest_form(3 * gram, BILINEAR.layout, known=known) == pytest.approx(3 * norm)


def test_thresholds_that_are_none():
    gram = gram_of("plain", 0, 4)
    assert not forms_above(gram, np.nan, (1, -1), 10).is_complete
    every = forms_above(gram, -np.inf, (1, -1), 10**6)
    assert len(every.values) == len(brute_force(gram, (1, -1)))
