"""Tic-tac-toe, solved: every position with the player's best moves and what they lead to."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Board = tuple[int, ...]
"""Nine cells, row by row: 1 of whoever is to move, -1 of the other, 0 free."""
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
Floats = NDArray[np.float32]


class Game(NamedTuple):
    """Positions [N, 9], the best moves as a distribution [N, 9], values [N] (1 won, 0 drawn, -1 lost), and classes of symmetry [N]."""

    x: Floats
    policy: Floats
    value: Floats
    symmetry: NDArray[np.int64]


def free(board: Board) -> list[int]:
    """The cells that can be taken."""
    return [cell for cell in range(9) if board[cell] == 0]


def after(board: Board, cell: int) -> Board:
    """The board as the other sees it when the cell is taken."""
    return tuple(-1 if place == cell else -owner for place, owner in enumerate(board))


@cache
def value(board: Board) -> int:
    """What best play leads to for whoever is to move (minimax)."""
    if any(all(board[cell] == -1 for cell in line) for line in LINES):
        return -1
    return max((-value(after(board, cell)) for cell in free(board)), default=0)


def best_moves(board: Board) -> list[int]:
    """The moves that reach the board's value."""
    return [cell for cell in free(board) if -value(after(board, cell)) == value(board)]


def over(board: Board) -> bool:
    """Whether the game has ended."""
    return not free(board) or any(all(board[cell] == -1 for cell in line) for line in LINES)


def positions() -> list[Board]:
    """All positions that can be reached in which somebody is to move."""
    found, todo = {}, [(0,) * 9]
    while todo:
        board = todo.pop()
        if board not in found and not over(board):
            found[board] = None
            todo += [after(board, cell) for cell in free(board)]
    return sorted(found)


def symmetries() -> list[tuple[int, ...]]:
    """The eight rotations and reflections, as orders of the cells."""
    grid = np.arange(9).reshape(3, 3)
    return [tuple(np.rot90(side, turns).ravel().tolist()) for side in (grid, grid.T) for turns in range(4)]


def solved() -> Game:
    """The whole game."""
    boards, turns = positions(), symmetries()
    policy = np.zeros((len(boards), 9), dtype=np.float32)
    for row, board in enumerate(boards):
        moves = best_moves(board)
        policy[row, moves] = 1 / len(moves)
    kinds = [min(tuple(board[cell] for cell in order) for order in turns) for board in boards]
    numbers = {kind: number for number, kind in enumerate(sorted(set(kinds)))}
    values = np.array([value(board) for board in boards], dtype=np.float32)
    return Game(np.array(boards, dtype=np.float32), policy, values, np.array([numbers[kind] for kind in kinds]))
