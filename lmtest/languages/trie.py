"""A finite language as a tree of its prefixes: exact laws by looking up, for thousands of strings at once."""

from __future__ import annotations

import torch

from lmtest.languages.base import Support


class PrefixTrie:
    """Node 0 is the dead prefix, node 1 the empty one; each other node is a live prefix."""

    def __init__(self, support: Support, n_outputs: int) -> None:
        children: list[list[int]] = [[0] * (n_outputs - 1), [0] * (n_outputs - 1)]
        nodes: list[int] = []  # one entry for every string and every prefix of it,
        log_masses: list[float] = []  # with the string's log mass
        last: list[int] = []
        for row, log_mass in zip(support.rows, support.log_probs.tolist(), strict=True):
            node = 1
            nodes.append(node)
            for symbol in row:
                if children[node][symbol] == 0:
                    children[node][symbol] = len(children)
                    children.append([0] * (n_outputs - 1))
                node = children[node][symbol]
                nodes.append(node)
            log_masses += [log_mass] * (len(row) + 1)
            last.append(node)
        self.children = torch.tensor(children)  # [nodes, V−1]
        mass = _log_sums(torch.tensor(nodes), torch.tensor(log_masses, dtype=torch.float64), len(children))
        end = _log_sums(torch.tensor(last), support.log_probs, len(children))
        self.joint = torch.cat([mass[self.children], end[:, None]], 1)  # [nodes, V]

    def joint_next(self, tokens: torch.Tensor, bos: int) -> torch.Tensor:
        """Tokens [N, T], BOS first → log joint masses [N, T, V]."""
        n_symbols = self.children.shape[1]
        node = (tokens[:, 0] == bos).long()
        nodes = [node]
        for column in tokens[:, 1:].unbind(1):
            symbol = column.clamp(max=n_symbols - 1)
            node = torch.where(column < n_symbols, self.children[node, symbol], 0)
            nodes.append(node)
        return self.joint[torch.stack(nodes, 1)]


def _log_sums(index: torch.Tensor, logs: torch.Tensor, size: int) -> torch.Tensor:
    """log Σ exp(logs) over the entries of each index, −inf where there are none."""
    top = torch.full((size,), -torch.inf, dtype=torch.float64).scatter_reduce(0, index, logs, "amax")
    sums = torch.zeros(size, dtype=torch.float64).scatter_add(
        0, index, (logs - top[index]).nan_to_num(-torch.inf).exp()
    )
    return top + sums.log()
