"""What runs only with the person's word: code that comes with a model, and weights that can hold code. Pure."""

from __future__ import annotations

from backends.spec import Model, Spec
from backends.text import Text


def missing(spec: Spec, model: Model) -> tuple[Text, ...]:
    """Every consent that the model would need and the spec does not give; the same for all engines."""
    reasons: list[Text] = []
    if (model.remote_code or model.tokenizer.remote_code) and not spec.trust_remote_code:
        reasons.append(
            Text(
                en="The model brings code of its own. It runs only with your word: trust_remote_code.",
                zh="该模型自带代码，只有在您明确同意（trust_remote_code）后才会运行。",
            )
        )
    if model.weight_format == "pickle" and not spec.allow_pickle:
        reasons.append(
            Text(
                en="The weights are pickles, which can hold code. Take safetensors, or allow them: allow_pickle.",
                zh="权重是 pickle 文件，可能含有代码。请改用 safetensors，或明确允许（allow_pickle）。",
            )
        )
    return tuple(reasons)
