"""Where a deployment does not fit, into memory or into the model's context: the smallest changes after which it does,
each a Spec ready to be applied. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backends.memory import chosen_gpus, context_of, estimate, resolved_precision
from backends.spec import Frozen, Hardware, Limits, Model, Precision, Spec
from backends.text import Text

_LEAST_CONTEXT = 512
_QUANTISES: dict[str, tuple[Precision, ...]] = {  # what an engine can pack the weights to on its own
    "transformers": (),
    "fastertransformer": ("int8",),
    "tensorrt_llm": ("int8", "int4"),
    "vllm": (),
}


class Suggestion(Frozen):
    """One change that makes it fit, in words and as the changed Spec."""

    text: Text
    spec: Spec


def changes_that_fit(spec: Spec, hardware: Hardware, model: Model) -> tuple[Suggestion, ...]:
    """Changes after which nothing is over: each alone where one is enough, else batch and length together.

    Empty where it fits as it is, where memory is not known, and where nothing here helps.
    """
    if estimate(spec, hardware, model).verdict != "over":
        return ()

    def fits(changed: Spec) -> bool:
        return estimate(changed, hardware, model).verdict in ("fits", "tight")

    alone = [
        _fewer(spec, fits),
        _shorter(spec, model, fits),
        *_narrower(spec, hardware, model, fits),
        _wider(spec, hardware, model, fits),
    ]
    found = [suggestion for suggestion in alone if suggestion is not None]
    return tuple(found) if found else tuple(_together(spec, hardware, model, fits))


def shorter_answers(spec: Spec, model: Model) -> Suggestion | None:
    """Answers of half the context at most, where the limit leaves no room for a prompt; None where it does."""
    room, now = spec.limits.context or model.context, spec.limits.new_tokens
    if room is None or now < room:
        return None
    most = max(1, room // 2)
    return Suggestion(
        text=Text(
            en=f"Allow answers of {most:,} tokens instead of {now:,}",
            zh=f"最大输出由 {now:,} 减为 {most:,} 个 token",
        ),
        spec=_with_limits(spec, new_tokens=most),
    )


def _with_limits(spec: Spec, **changes: int) -> Spec:
    limits = spec.limits.model_dump() | changes
    if limits["context"] is not None:  # the answer must leave room for a prompt
        limits["new_tokens"] = min(limits["new_tokens"], max(1, limits["context"] // 2))
    return spec.model_copy(update={"limits": Limits.model_validate(limits)})


def _largest(low: int, high: int, works: Callable[[int], bool]) -> int | None:
    """The largest number from low to high that works, by halving; None where `low` does not."""
    if low > high or not works(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if works(middle) else (low, middle - 1)
    return low


def _fewer(spec: Spec, fits: Callable[[Spec], bool]) -> Suggestion | None:
    """Fewer chats at once."""
    now = spec.limits.concurrent
    best = _largest(1, now - 1, lambda number: fits(_with_limits(spec, concurrent=number)))
    if best is None:
        return None
    return Suggestion(
        text=Text(en=f"Serve {best} chats at once instead of {now}", zh=f"并发对话由 {now} 减为 {best}"),
        spec=_with_limits(spec, concurrent=best),
    )


def _shorter(spec: Spec, model: Model, fits: Callable[[Spec], bool]) -> Suggestion | None:
    """A shorter context, in steps of 256 tokens."""
    now = context_of(spec, model)
    best = _largest(2, (now - 1) // 256, lambda steps: fits(_with_limits(spec, context=256 * steps)))
    if best is None:
        return None
    return Suggestion(
        text=Text(
            en=f"Allow {256 * best:,} tokens a chat instead of {now:,}",
            zh=f"上下文由 {now:,} 减为 {256 * best:,} 个 token",
        ),
        spec=_with_limits(spec, context=256 * best),
    )


def _narrower(spec: Spec, hardware: Hardware, model: Model, fits: Callable[[Spec], bool]) -> Sequence[Suggestion]:
    """Half the bytes a weight: 16 bits for 32, or the engine's own quantisation."""
    if model.quantisation is not None:
        return ()
    gpus = chosen_gpus(spec, hardware)
    now = resolved_precision(spec, hardware, model)
    bf16 = not gpus or all((gpu.sm or 0) >= 80 for gpu in gpus)
    options: tuple[Precision, ...] = ("bf16" if bf16 else "fp16",) if now == "fp32" else ()
    for precision in (*options, *_QUANTISES[spec.engine]):
        changed = spec.model_copy(update={"precision": precision})
        if precision != now and fits(changed):
            return (
                Suggestion(
                    text=Text(en=f"Use {precision} weights instead of {now}", zh=f"权重由 {now} 改为 {precision}"),
                    spec=changed,
                ),
            )
    return ()


def _wider(spec: Spec, hardware: Hardware, model: Model, fits: Callable[[Spec], bool]) -> Suggestion | None:
    """More GPUs with tensor parallelism, or for an engine of one GPU another one with more room."""
    free = {g.index: g.memory_free_mib or 0 for g in hardware.gpus if g.index is not None}
    if spec.engine == "transformers":
        now = spec.gpus[0] if spec.gpus else min(free, default=None) if spec.gpus is None else None
        for index in sorted(free, key=lambda index: -free[index]):
            changed = spec.model_copy(update={"gpus": (index,)})
            if index != now and fits(changed):
                return Suggestion(text=Text(en=f"Use GPU {index}", zh=f"改用 GPU {index}"), spec=changed)
        return None
    used = len(chosen_gpus(spec, hardware))
    for ranks in (2, 4, 8, 16):
        if ranks <= used or ranks > len(free) or (model.heads or 1) % ranks:
            continue
        indices = tuple(sorted(sorted(free, key=lambda index: -free[index])[:ranks]))
        changed = spec.model_copy(update={"gpus": indices})
        if fits(changed):
            listed = ", ".join(str(index) for index in indices)
            return Suggestion(
                text=Text(en=f"Split it over {ranks} GPUs: {listed}", zh=f"分到 {ranks} 块 GPU：{listed}"), spec=changed
            )
    return None


def _together(spec: Spec, hardware: Hardware, model: Model, fits: Callable[[Spec], bool]) -> Sequence[Suggestion]:
    """Fewer chats and a shorter context, halved in turn; with narrower weights where that is not enough."""
    now = resolved_precision(spec, hardware, model)
    narrow: list[Precision | None] = [None]
    if model.quantisation is None:
        narrow += [precision for precision in ("bf16",) if now == "fp32"]
        narrow += list(_QUANTISES[spec.engine])
    for precision in narrow:
        base = spec if precision is None else spec.model_copy(update={"precision": precision})
        rows, context = spec.limits.concurrent, context_of(spec, model)
        while rows > 1 or context > _LEAST_CONTEXT:
            if context > 4096 or rows == 1:
                context = max(_LEAST_CONTEXT, context // 2)
            else:
                rows //= 2
            changed = _with_limits(base, concurrent=rows, context=context)
            if fits(changed):
                also, also_zh = ("", "") if precision is None else (f", {precision}", f"，{precision}")
                return (
                    Suggestion(
                        text=Text(
                            en=f"Serve {rows} chats at once, {context:,} tokens each{also}",
                            zh=f"并发 {rows} 个对话，每个 {context:,} 个 token{also_zh}",
                        ),
                        spec=changed,
                    ),
                )
    return ()
