"""Windows score every token except the first exactly once, and drop none; prompts stay within a document."""

import cProfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seedfast.data.text.windows import DocumentWindows, Windows


@given(context=st.integers(1, 40), more=st.integers(0, 200), batch=st.integers(1, 7))
def test_each_target_is_scored_exactly_once(context: int, more: int, batch: int) -> None:
    targets = context + more
    windows = Windows(np.arange(targets + 1, dtype=np.uint16), context)
    scored: list[int] = []
    for start in range(0, len(windows), batch):
        example = windows.batch(list(range(start, min(start + batch, len(windows)))))
        tokens, counts = example["tokens"], example["scored"]
        assert tokens.dtype == torch.int64
        assert counts.dtype == torch.bool
        assert tokens.shape == (counts.shape[0], context + 1)
        assert counts.shape[1] == context
        assert torch.equal(tokens[:, 1:], tokens[:, :-1] + 1)  # the predecessor of every target stands before it
        scored += tokens[:, 1:][counts].tolist()
    assert scored == list(range(1, targets + 1))


def test_the_last_window_overlaps_and_scores_only_what_is_new() -> None:
    windows = Windows(np.arange(12, dtype=np.uint16), 4)
    batch = windows.batch([2, 0])
    assert batch["tokens"].tolist() == [[7, 8, 9, 10, 11], [0, 1, 2, 3, 4]]
    assert batch["scored"].tolist() == [[False, True, True, True], [True] * 4]


@pytest.mark.parametrize(("kind", "largest"), [(np.uint16, 2**16 - 1), (np.uint32, 2**32 - 1)])
def test_the_largest_ids_are_not_wrapped(kind: type[np.unsignedinteger], largest: int) -> None:
    batch = Windows(np.array([0, largest, 1], kind), 2).batch([0])
    assert batch["tokens"].tolist() == [[0, largest, 1]]


@pytest.mark.parametrize("ids", [[3], [0, -1], [10**6]])
def test_ids_outside_are_refused(ids: list[int]) -> None:
    with pytest.raises(IndexError, match="window ids lie in 0 … 2"):
        Windows(np.arange(12, dtype=np.uint16), 4).batch(ids)


@pytest.mark.parametrize("context", [0, 12])
def test_data_shorter_than_a_window_is_refused(context: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Windows(np.arange(12, dtype=np.uint16), context)


def test_batches_do_not_share_memory_with_the_data() -> None:
    windows = Windows(np.arange(12, dtype=np.uint16), 4)
    for value in windows.batch([0, 1]).values():
        value.zero_()
    assert windows.batch([0])["tokens"].tolist() == [[0, 1, 2, 3, 4]]
    assert windows.batch([0])["scored"].all()


def test_threads_get_the_same_batches() -> None:
    windows = Windows(np.arange(10_001, dtype=np.uint16), 32)
    wanted = [[n, (n * 7) % len(windows)] for n in range(len(windows))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(windows.batch, wanted))
    for ids, batch in zip(wanted, found, strict=True):
        assert torch.equal(batch["tokens"], windows.batch(ids)["tokens"])


def test_a_batch_of_any_size_takes_the_same_calls() -> None:
    windows = Windows(np.arange(1_000_001, dtype=np.uint32), 64)

    def calls(size: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(windows.batch, list(range(size)))
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(1) == calls(12) == calls(1000)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), context=st.integers(1, 6), ends=st.booleans())
def test_document_windows_hold_one_document_and_score_each_target_exactly_once(
    sizes: list[int], context: int, ends: bool
) -> None:
    end = 999
    stream = [end]
    for document, size in enumerate(sizes):
        stream += [*range(20 * document, 20 * document + size), end]
    stream = stream if ends else stream[:-1]
    if len(stream) - 1 < context:
        return
    windows = DocumentWindows(np.array(stream, np.uint16), context, end_of_text=end)
    batch = windows.batch(list(range(len(windows))))
    targets_WL, real_WL = batch["tokens"][:, 1:], batch["real"]
    assert torch.equal(batch["scored"], real_WL)
    assert targets_WL[real_WL].tolist() == stream[1:]
    assert (targets_WL[~real_WL] == end).all()
    for targets_L, real_L in zip(targets_WL, real_WL, strict=True):
        kept = targets_L[real_L].tolist()
        assert real_L.tolist() == [True] * len(kept) + [False] * (context - len(kept))
        assert end not in kept[:-1], "nothing follows the end of a document"
        assert len({token // 20 for token in kept if token != end}) <= 1
        assert len(kept) == context or kept[-1] == end or not ends, "only a document's end is padded"


def test_twin_windows_that_join_documents_are_detected() -> None:
    stream = np.array([9, 1, 2, 9, 3, 4, 9], np.uint16)
    assert Windows(stream, 4).batch([0])["tokens"].tolist() == [[9, 1, 2, 9, 3]]
    apart = DocumentWindows(stream, 4, end_of_text=9).batch([0, 1])
    assert apart["tokens"].tolist() == [[9, 1, 2, 9, 9], [9, 3, 4, 9, 9]]
    with pytest.raises(IndexError, match="window ids lie in 0 … 1"):
        DocumentWindows(stream, 4, end_of_text=9).batch([2])


END = 99


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    context=st.integers(1, 6),
    prompt=st.integers(1, 8),
)
def test_a_prompt_is_the_text_before_the_targets_in_their_document(sizes: list[int], context: int, prompt: int) -> None:
    stream = [END]
    for document, size in enumerate(sizes):
        stream += [*range(10 * (document % 9), 10 * (document % 9) + size), END]
    if len(stream) - 1 < context:
        return
    windows = Windows(np.array(stream, np.uint16), context, prompt=prompt, end_of_text=END)
    batch = windows.batch(list(range(len(windows))))
    for row in range(len(windows)):
        start = min(row * context, len(stream) - 1 - context) + 1  # where the targets begin
        assert batch["tokens"][row, 1:].tolist() == stream[start : start + context]
        begin = max(index for index in range(start) if stream[index] == END) + 1
        expected = stream[max(begin, start - prompt) : start]
        assert batch["prompt"][row][batch["prompt_real"][row]].tolist() == expected
        assert batch["prompt_real"][row].tolist() == [False] * (prompt - len(expected)) + [True] * len(expected)


def test_twin_a_prompt_that_crosses_documents_is_detected() -> None:
    stream = np.array([END, 1, 2, END, 3, 4, 5], np.uint16)
    right, twin = (Windows(stream, 2, prompt=3, end_of_text=end).batch([2]) for end in (END, -1))
    assert right["prompt"][right["prompt_real"]].tolist() == [3]
    assert twin["prompt"][twin["prompt_real"]].tolist() == [2, END, 3]


def test_without_prompts_a_batch_has_no_prompt() -> None:
    windows = Windows(np.arange(9, dtype=np.uint16), 4)
    assert set(windows.batch([0])) == {"tokens", "scored"}
