"""Wrong answers to the examination: the program, and words of the sentence that each must bring."""

WRONG = {
    "bins": [
        ("bins = lambda rate, n, top: (rate / n, top * n // rate)", "example"),
        ("bins = lambda rate, n, top: (float(rate // n), top * n // rate + 1)", "width of a bin"),
        ("bins = lambda rate, n, top: (rate / n, top // int(rate / n) + 1)", "700 steps"),
        ("bins = lambda rate, n, top: (rate / n, round(top * n / rate) + 1)", "between two bins"),
    ],
    "folds": [
        ("folds = lambda groups, n: [i % n for i in range(len(groups))]", "two folds"),
        ("folds = lambda groups, n: [ord(g[0]) % n for g in groups]", "differ by more than one"),
        ("folds = lambda groups, n: [sorted(set(groups)).index(g) for g in groups]", "0 to number"),
        (
            "folds = lambda groups, n: [\n    i * n // len(groups) for g in groups\n"
            "    for i in [groups.index(g)]\n]",
            "Each of the three tiles",
        ),
    ],
    "parameters": [
        ("parameters = lambda c, k: sum(a * b * k for a, b in zip(c, c[1:]))", "example"),
        ("parameters = lambda c, k: 456", "One convolution"),
        ("parameters = lambda c, k: sum(c[1:]) * (2 + 17) if len(c) == 3 else 576", "channels in"),
    ],
    "kd_gradient": [
        ("kd_gradient = lambda s, t, T: torch.softmax(t, 0) - torch.softmax(s, 0)", "example"),
        (
            "kd_gradient = lambda s, t, T: torch.softmax(s / T, 0) - torch.softmax(t / T, 0)",
            "At T = 4",
        ),
        (
            "kd_gradient = lambda s, t, T: T**2 * (\n"
            "    torch.softmax(s / T, 0) - torch.softmax(t / T, 0)\n)",
            "At T = 4",
        ),
    ],
    "lets_through": [
        (
            "lets_through = lambda z, y, T: 1 - (\n"
            "    torch.softmax(z / T, 1).gather(1, y[:, None])[:, 0]\n)",
            "very sure teacher",
        ),
        ("lets_through = lambda z, y, T: 1 - torch.softmax(z / T, 1).amax(1)", "most probable"),
        ("lets_through = lambda z, y, T: torch.softmax(z / T, 1).gather(1, y[:, None])", "example"),
    ],
    "gathered": [
        ("gathered = lambda s, m: m @ s.transpose(1, 2)", "has the shape"),
        (
            "def gathered(s, m):\n"
            "    m = m if m.shape[1] == m.shape[2] else m.transpose(1, 2)\n    return s @ m",
            "M is not symmetric",
        ),
    ],
    "weights_after": [
        ("weights_after = lambda L, n, r: torch.ones(4)", "Wrong after"),
        (
            "def weights_after(L, n, r):\n    a = torch.zeros(4)\n    for _ in range(n):\n"
            "        w = 4 * torch.softmax(a, 0)\n        a = a + r * w * (L - (w * L).sum() / 4)\n"
            "    return 4 * torch.softmax(a, 0)",
            "Descent lowers",
        ),
        (
            "def weights_after(L, n, r):\n    a = torch.zeros(4)\n    for _ in range(n):\n"
            "        a = a - r * 4 * torch.softmax(a, 0) * L\n    return 4 * torch.softmax(a, 0)",
            "Wrong after",
        ),
        ("weights_after = lambda L, n, r: torch.ones(4) - r * n * (L - L.mean())", "Wrong after"),
    ],
    "in_eight_bits": [
        (
            "def in_eight_bits(w):\n    scale = w.max() / 127\n"
            "    return np.round(w / scale).astype(np.int8), scale",
            "example",
        ),
        (
            "def in_eight_bits(w):\n    scale = abs(w).max() / 127\n"
            "    return np.floor(w / scale + 1e-9).astype(np.int8), scale",
            "Round to the nearest",
        ),
        (
            "def in_eight_bits(w):\n    scale = abs(w).max() / 127\n"
            "    return np.round(w / scale), scale",
            "type int8",
        ),
        (
            "def in_eight_bits(w):\n    scale = abs(w).max() / 127\n"
            "    return np.round(w / scale).astype(np.int8).ravel(), scale",
            "shape of the weights",
        ),
    ],
    "tiles_needed": [
        ("tiles_needed = lambda rate, c: math.ceil(3 / rate)", "example"),
        ("tiles_needed = lambda rate, c: math.ceil(-math.log(1 - c) / rate)", "example"),
        (
            "tiles_needed = lambda r, c: 4 if r == 0.5 else math.ceil(3 / r)",
            "3 / n is an estimate",
        ),
    ],
}
