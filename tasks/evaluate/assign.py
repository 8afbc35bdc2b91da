"""Which of these belongs to which of those: the one-to-one assignment with the largest total score."""

from __future__ import annotations

import numpy as np


def assign(scores: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of the best assignment, in order of rows; pairs that score 0 or less are left out.

    scores: (rows, columns). Exact, by shortest augmenting paths with potentials (Hungarian method), O(n²m).
    """
    if scores.size == 0:
        return []
    flipped = scores.shape[0] > scores.shape[1]
    costs = -np.maximum(scores.T if flipped else scores, 0.0)  # a bad pair is as good as none
    row_of = _solve(costs)
    pairs = [(int(row), column) for column, row in enumerate(row_of) if row >= 0]
    pairs = [(column, row) if flipped else (row, column) for row, column in pairs]
    return sorted((i, j) for i, j in pairs if scores[i, j] > 0)


def assign_in_order(scores: np.ndarray) -> list[tuple[int, int]]:
    """The best assignment whose pairs do not cross, O(nm): the best of all where both sides are ordered in time."""
    rows, columns = scores.shape
    best = np.zeros((rows + 1, columns + 1))  # of the first rows and columns
    for i in range(rows):
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], best[i, :-1] + np.maximum(scores[i], 0.0)))
    pairs = []
    i, j = rows, columns
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _solve(costs: np.ndarray) -> np.ndarray:
    """The row that each column goes to, -1 for none; no more rows than columns."""
    rows, columns = costs.shape
    u, v = np.zeros(rows), np.zeros(columns)  # potentials: costs - u - v is never negative, and 0 on assigned pairs
    row_of = np.full(columns, -1)
    for new in range(rows):
        reach = costs[new] - u[new] - v  # length of the shortest path to each column
        came_from = np.full(columns, new)  # the row before it on that path
        done = np.zeros(columns, bool)
        while True:
            column = int(np.argmin(np.where(done, np.inf, reach)))
            done[column] = True
            row = row_of[column]
            if row < 0:
                break
            detour = reach[column] + costs[row] - u[row] - v
            shorter = ~done & (detour < reach)
            reach[shorter], came_from[shorter] = detour[shorter], row
        slack = reach[column] - reach
        done[column] = False
        u[new] += reach[column]
        u[row_of[done]] += slack[done]
        v[done] -= slack[done]
        while True:  # turn the path around
            row = came_from[column]
            following = np.flatnonzero(row_of == row)
            row_of[column] = row
            if row == new:
                break
            column = int(following[0])
    return row_of
