"""Which layers look through a sliding window, as the Qwen families write it.

Source: transformers 5, models/qwen2/configuration_qwen2.py: a window counts only with `use_sliding_window`;
`layer_types` names each layer, else layers from `max_window_layers` on have it.
"""

from __future__ import annotations

from thaloom.work.runtime.architectures.keys import Keys

_DEFAULT_WINDOW = 4096
_DEFAULT_FIRST_LAYER = 28


def read_windows(keys: Keys) -> tuple[int, ...]:
    """Window of each layer, 0 for none. Raises NotServable for a kind of layer this family does not have."""
    num_layers = keys.integer("num_hidden_layers")
    used = keys.flag("use_sliding_window", False)
    window = keys.integer("sliding_window", _DEFAULT_WINDOW)
    first = keys.integer("max_window_layers", _DEFAULT_FIRST_LAYER, least=0)
    kinds = keys.raw("layer_types")
    if kinds is None:
        return tuple(window if used and layer >= first else 0 for layer in range(num_layers))
    if not isinstance(kinds, list | tuple) or len(kinds) != num_layers:
        keys.refuse("layer_types", kinds, f"a list of {num_layers} kinds")
    known = ("full_attention", "sliding_attention") if used else ("full_attention",)
    for kind in kinds:
        if kind not in known:
            keys.refuse("layer_types", kind, f"{' or '.join(known)} with use_sliding_window {used}")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
