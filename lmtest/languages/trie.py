"""A finite language as a tree of its prefixes: exact laws by looking up, for thousands of strings at once."""

from __future__ import annotations

import torch

from lmtest.languages.base import Support


class PrefixTrie:
    """Node 0 is the dead prefix, node 1 the empty one; each other node is a live prefix."""

    def __init__(self, support: Support, n_outputs: int) -> None:
        children: list[list[int]] = [[0] * (n_outputs - 1), [0] * (n_outputs - 1)]
        ends: list[float] = [0.0, 0.0]
        masses: list[float] = [0.0, 0.0]
        for row, prob in zip(support.rows, support.log_probs.exp().tolist(), strict=True):
            node = 1
            masses[node] += prob
            for symbol in row:
                if children[node][symbol] == 0:
                    children[node][symbol] = len(children)
                    children.append([0] * (n_outputs - 1))
                    ends.append(0.0)
                    masses.append(0.0)
                node = children[node][symbol]
                masses[node] += prob
            ends[node] += prob
        self.children = torch.tensor(children)  # [nodes, V−1]
        mass = torch.tensor(masses, dtype=torch.float64)
        end = torch.tensor(ends, dtype=torch.float64)
        self.joint = torch.cat([mass[self.children], end[:, None]], 1).log()  # [nodes, V]

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
