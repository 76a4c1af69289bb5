"""What needs PyTorch, checked without a server. Run by the runtime's interpreter: `in_runtime.py ENGINE_FOLDER`.

Each function whose name begins with `check_` is one claim; prints one JSON line each.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])
sys.path.insert(0, str(Path(__file__).parent))

import families
import torch
import transformers as hf
from slipway_engine import loading, rope, sampling
from slipway_engine import scheduler as schedulers
from slipway_engine.errors import RequestError
from slipway_engine.job import Choice, Job
from slipway_engine.network import Network, available, free_memory
from slipway_engine.prompt import Defaults, Limits, Prompter
from slipway_engine.request import Ask
from slipway_engine.sampling import Sampler
from slipway_engine.scheduler import Scheduler, Serial
from slipway_engine.slots import Slots
from slipway_engine.window import Window

CPU = torch.device("cpu")
GREEDY = Choice()


class Nobody:
    """A reply that nobody reads."""

    def delta(self, text: str) -> None: ...
    def final(self, text: str, finish: str, job: Job) -> None: ...
    def error(self, error: object) -> None: ...
    def gone(self) -> bool:
        return False


class Fixed:
    """A random stream that walks evenly over 0 to 1."""

    def __init__(self, count: int) -> None:
        self._left = iter([(place + 0.5) / count for place in range(count)])

    def random(self) -> float:
        return next(self._left)


def job(choice: Choice = GREEDY, prompt: Sequence[int] = (5, 6, 7), limit: int = 24, **given: Any) -> Job:
    return Job(list(prompt), limit, choice, Nobody(), **given)


def serve(model: Any, jobs: list[Job], *, rows: int = 8, break_with: Any = None, slots: bool = False) -> Any:
    """Serves these chats in one batch, a window or slots; `break_with(window)` may tamper with it first."""
    network = Network(model)
    window: Any = Slots(network, rows, 200) if slots else Window(network, rows, 200, 10**6)
    if break_with is not None:
        break_with(network, window)
    news = threading.Event()
    scheduler = Scheduler(network, window, 64, frozenset({1}), lambda urgent: news.set(), lambda line: None)
    for one in jobs:
        scheduler.submit(one)
    scheduler.start()
    deadline = time.monotonic() + 60
    while any(one.end is None for one in jobs):
        assert time.monotonic() < deadline, "the batch does not come to its end"
        news.wait(0.05)
        news.clear()
    scheduler.close(5)
    return window


def wanted(logits: torch.Tensor, choice: Choice, seen: list[int]) -> torch.Tensor:
    """The distribution that transformers' own processors make."""
    scores = logits[None].clone()
    if choice.repetition_penalty != 1:
        scores = hf.RepetitionPenaltyLogitsProcessor(choice.repetition_penalty)(torch.tensor([seen]), scores)
    scores = hf.TemperatureLogitsWarper(choice.temperature)(None, scores)
    if choice.top_k:
        scores = hf.TopKLogitsWarper(choice.top_k)(None, scores)
    if choice.top_p < 1:
        scores = hf.TopPLogitsWarper(choice.top_p)(None, scores)
    return torch.softmax(scores, -1)[0]


def check_sampling_has_the_distribution_of_transformers() -> None:
    torch.manual_seed(1)
    count = 4000
    for choice in (
        Choice(0.7),
        Choice(1.3, top_k=5),
        Choice(1.0, top_p=0.6),
        Choice(0.9, top_k=20, top_p=0.8),
        Choice(0.8, top_k=12, repetition_penalty=1.7),
    ):
        logits = torch.randn(40) * 2
        one = job(choice, prompt=[1, 2, 30])
        one.random = Fixed(count)  # type: ignore[assignment]
        drawn = torch.zeros(40)
        for _ in range(count):
            sampler = Sampler(CPU)
            one.seen = None
            drawn[sampler(logits[None], [one])] += 1
        apart = (drawn / count - wanted(logits, choice, [1, 2, 30])).abs().max()
        assert apart < 1.5 / count * 2, f"{choice}: {apart:.5f} apart"


def check_greedy_and_sampled_rows_do_not_disturb_each_other() -> None:
    torch.manual_seed(2)
    logits = torch.randn(4, 50)
    choices = (Choice(), Choice(0.8, top_k=7), Choice(repetition_penalty=1.5), Choice(1.1, top_p=0.7))
    alone = [int(Sampler(CPU)(logits[row : row + 1], [job(choice, seed=row)])[0]) for row, choice in enumerate(choices)]
    together = Sampler(CPU)(logits, [job(choice, seed=row) for row, choice in enumerate(choices)])
    assert together.tolist() == alone


def check_a_seed_gives_the_same_answer_whoever_else_runs() -> None:
    model = families.make("llama")
    choice = Choice(0.9, top_k=40, top_p=0.95, repetition_penalty=1.1)

    def mine() -> Job:
        return job(choice, prompt=[9, 8, 7, 6], limit=60, seed=1234)

    first, second, other = mine(), mine(), job(choice, prompt=[9, 8, 7, 6], limit=60, seed=99)
    serve(model, [first])
    draw = random.Random(3)
    crowd = [
        job(Choice(draw.choice((0.0, 0.7, 1.5))), [draw.randrange(3, 300) for _ in range(draw.randrange(2, 30))], 40)
        for _ in range(9)
    ]
    serve(model, [*crowd[:4], second, *crowd[4:]], rows=5)
    serve(model, [other])
    assert first.produced == second.produced
    assert first.produced != other.produced


def spoilt(said: list[int]) -> tuple[tuple[int, ...], ...]:
    """Words that this answer would hold: one of a token, longer ones, two that end alike; and one that it has not."""
    pair, more = tuple(said[1:3]), tuple(said[4:7])
    return ((said[3],), pair, more, (pair[0] + 1, pair[-1]), tuple(range(40, 46)))


def by_generate(model: Any, one: Job) -> list[int]:
    """The same answer by the model's own `generate`."""
    words = [list(word) for word in one.choice.bad_words] or None
    ids = torch.tensor([one.prompt])
    penalty = one.choice.repetition_penalty
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=one.limit, do_sample=False,
                          bad_words_ids=words, eos_token_id=1, pad_token_id=0, repetition_penalty=penalty)  # fmt: skip
    return made[0, len(one.prompt) if one.decoder_start is None else 1 :].tolist()  # type: ignore[no-any-return]


def one_by_one(model: Any, jobs: list[Job]) -> None:
    """Serves these chats as models are served that no batch suits."""
    serial = Serial(model, frozenset({1}), lambda urgent: None, lambda line: None)
    for one in jobs:
        serial.submit(one)
    serial.start()
    serial.close(30)


def check_bad_words_are_kept_out_as_by_generate_and_only_out_of_their_own_answers() -> None:
    """Eight chats, every second one with bad words; they come and go in five rows of a window, of slots, and alone."""
    ways: dict[str, Any] = {
        "window": lambda model, jobs: serve(model, jobs, rows=5),
        "slots": lambda model, jobs: serve(model, jobs, rows=5, slots=True),
        "single": one_by_one,
    }
    for family, way in (("llama", "window"), ("llama", "slots"), ("llama", "single"), ("t5", "window")):
        model = families.make(family)
        start = 0 if model.config.is_encoder_decoder else None
        prompts = [[5 + (index * 31 + place * 7) % 300 for place in range(4 + 3 * index)] for index in range(8)]
        plain = [job(prompt=ids, limit=18 + 5 * index, decoder_start=start) for index, ids in enumerate(prompts)]
        serve(model, plain)
        jobs = []
        for index, one in enumerate(plain):
            penalty = 1.3 if index == 4 else 1.0
            choice = GREEDY if index % 2 else Choice(repetition_penalty=penalty, bad_words=spoilt(one.produced))
            jobs.append(job(choice, one.prompt, one.limit, decoder_start=start))
        ways[way](model, jobs)
        for index, (one, before) in enumerate(zip(jobs, plain, strict=True)):
            said, where = one.produced, f"{family}, {way}, chat {index}"
            assert said == by_generate(model, one), where
            assert (said == before.produced) == (index % 2 == 1), where
            for word in one.choice.bad_words:
                assert all(tuple(said[at : at + len(word)]) != word for at in range(len(said))), f"{where}: {word}"


def check_bad_words_hold_when_a_failed_step_is_resumed() -> None:
    model = families.make("llama")
    plain = job(prompt=[3, 3], limit=30)
    serve(model, [plain])
    choice = Choice(bad_words=(tuple(plain.produced[5:8]), tuple(plain.produced[14:16])))
    quiet, shaken = job(choice, [3, 3], 30), job(choice, [3, 3], 30)
    serve(model, [quiet])
    calls = []

    def tamper(network: Network, window: Window) -> None:
        plain_forward = network.forward

        def forward(**given: Any) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 8:
                raise RuntimeError("a kernel failed")
            return plain_forward(**given)

        network.forward = forward  # type: ignore[method-assign]

    serve(model, [shaken], break_with=tamper)
    assert shaken.resumed == 1 and shaken.produced == quiet.produced != plain.produced


def check_a_bad_word_is_sampled_by_nobody_who_forbids_it() -> None:
    torch.manual_seed(4)
    logits = torch.randn(2, 12) * 0.1
    drawn = [set(), set()]  # type: list[set[int]]
    for seed in range(200):
        jobs = [job(Choice(1.0, bad_words=((3,), (7, 5), (7,))), prompt=[1, 7], seed=seed), job(Choice(1.0), seed=seed)]
        for row, token in enumerate(Sampler(CPU)(logits, jobs).tolist()):
            drawn[row].add(token)
    assert drawn == [set(range(12)) - {3, 5, 7}, set(range(12))]


def check_a_word_is_forbidden_as_it_is_written_at_the_beginning_and_after_a_space() -> None:
    tokenizer = families.make_tokenizer()
    limits = Limits(context=20, new_tokens=10)
    prompter = Prompter(tokenizer, None, 384, limits, Defaults(), 60.0, None, frozenset(tokenizer("e")["input_ids"]))
    words = prompter.job(Ask(text="abc", bad_words=("ab", " ab")), Nobody(), 0.0).choice.bad_words
    assert words == tuple(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("ab", " ab"))
    try:
        prompter.job(Ask(text="abc", bad_words=("e",)), Nobody(), 0.0)
    except RequestError as error:
        assert error.field == "bad_words"
    else:
        raise AssertionError("the end of an answer was forbidden")


def check_a_step_that_fails_is_resumed_by_everyone() -> None:
    model = families.make("llama")
    quiet = [job(prompt=[index + 3] * (index + 2), limit=30) for index in range(4)]
    serve(model, quiet)
    shaken = [job(prompt=[index + 3] * (index + 2), limit=30) for index in range(4)]
    calls = []

    def tamper(network: Network, window: Window) -> None:
        plain = network.forward

        def forward(**given: Any) -> torch.Tensor:
            calls.append(given["input_ids"].shape[0])
            if len(calls) == 12:
                raise RuntimeError("a kernel failed")
            return plain(**given)

        network.forward = forward  # type: ignore[method-assign]

    serve(model, shaken, break_with=tamper)
    assert len(calls) > 12
    assert [one.produced for one in shaken] == [one.produced for one in quiet]
    assert all(one.resumed == 1 for one in shaken)


def check_a_prompt_that_fails_harms_nobody_else() -> None:
    model = families.make("llama")
    good = [job(prompt=[index + 3] * 4, limit=30) for index in range(4)]
    bad = job(prompt=[13] * 4, limit=30)

    def tamper(network: Network, window: Window) -> None:
        plain = network.forward

        def forward(**given: Any) -> torch.Tensor:
            ids = given["input_ids"]
            if ids.shape[1] > 1 and (ids == 13).all(dim=1).any():
                raise RuntimeError("this prompt breaks the model")
            return plain(**given)

        network.forward = forward  # type: ignore[method-assign]

    serve(model, [*good[:2], bad, *good[2:]], break_with=tamper)
    assert isinstance(bad.end, RequestError) and bad.end.code == "internal"
    calm = [job(prompt=[index + 3] * 4, limit=30) for index in range(4)]
    serve(model, calm)
    assert [one.produced for one in good] == [one.produced for one in calm]


def check_the_window_moves_to_the_left_instead_of_growing_for_ever() -> None:
    model = families.make("llama")
    jobs = [job(prompt=[index + 3] * 20, limit=20 + 17 * (index % 5)) for index in range(24)]
    window = serve(model, jobs, rows=3)
    assert all(len(one.produced) == one.limit or one.end == "stop" for one in jobs)
    assert window.keys[0].shape[2] <= 200 + 64


def check_prompts_that_are_prefilled_together_are_bounded() -> None:
    network = Network(families.make("llama"))
    batch = Window(network, 16, 512, 1 << 20)
    scheduler = Scheduler(network, batch, 64, frozenset(), lambda urgent: None, print)
    old, schedulers.GROUP_TOKENS = schedulers.GROUP_TOKENS, 100
    try:
        for _ in range(5):
            scheduler.submit(Job([5] * 40, 4, GREEDY, Nobody()))
        assert len(scheduler._take_queued()) == 2
        scheduler.submit(Job([5] * 300, 4, GREEDY, Nobody()))
        assert [len(scheduler._take_queued()) for _ in range(3)] == [2, 1, 1]
    finally:
        schedulers.GROUP_TOKENS = old


def check_scaled_rotary_embeddings_reach_as_far_as_they_say() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    for kind, reach in (({"rope_type": "linear", "factor": 2.0}, 1024), (yarn, 2048), (None, 512)):
        config = families.make("llama", rope_parameters=kind).config
        assert loading._context(config, 512, reach) == reach
        try:
            loading._context(config, 512, reach + 1)
        except loading.CannotLoad:
            continue
        raise AssertionError(f"{kind} was taken beyond {reach}")


def check_a_rotary_embedding_that_follows_the_longest_chat_bounds_a_batch() -> None:
    dynamic = families.make("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0}).config
    assert rope.bound(dynamic, 512) == 512
    half = [1.0] * 8
    long = {"rope_type": "longrope", "short_factor": half, "long_factor": half, "original_max_position_embeddings": 64}
    assert rope.bound(families.make("llama", rope_parameters=long).config, 512) == 64
    assert rope.bound(families.make("llama").config, 512) is None
    assert rope.bound(families.make("gemma3").config, 512) is None


def check_end_tokens_are_all_of_the_generation_config() -> None:
    model = families.make("llama")
    model.generation_config.eos_token_id = [7, 11, 13]
    assert loading._end_tokens(model, families.make_tokenizer()) == {7, 11, 13}
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = 9
    assert loading._end_tokens(model, families.make_tokenizer()) == {9}


def check_prompts_that_do_not_fit_are_refused_by_name() -> None:
    limits = Limits(context=20, new_tokens=10)
    prompter = Prompter(families.make_tokenizer(), None, 384, limits, Defaults(), 60.0, None)
    assert prompter.job(Ask(text="abc"), Nobody(), 0.0).limit == 10
    for field, ask in (
        ("text_input", Ask(text="z" * 20)),
        ("max_tokens", Ask(text="z" * 15, max_tokens=6)),
        ("max_tokens", Ask(text="z", max_tokens=11)),
        ("messages", Ask(messages=())),
    ):
        try:
            prompter.job(ask, Nobody(), 0.0)
        except RequestError as error:
            assert error.field == field, error.field
        else:
            raise AssertionError(f"{ask} was taken")


def check_ids_beyond_the_vocabulary_are_refused() -> None:
    prompter = Prompter(families.make_tokenizer(), None, 10, Limits(99, 99), Defaults(), 60.0, None)
    try:
        prompter.job(Ask(text="z"), Nobody(), 0.0)
    except RequestError as error:
        assert "vocabulary" in error.en
    else:
        raise AssertionError("an id that the model lacks was taken")


def check_weights_in_pickles_are_refused_unless_allowed() -> None:
    import tempfile

    from slipway_engine.settings import Settings

    with tempfile.TemporaryDirectory() as name:
        folder = families.save(Path(name))
        torch.save(families.make("llama").state_dict(), folder / "pytorch_model.bin")
        for file in folder.glob("*.safetensors"):
            file.unlink()
        try:
            loading.load(Settings(str(folder), device="cpu"), lambda line: None)
        except loading.CannotLoad as error:
            assert "allow_pickle" in str(error)
        else:
            raise AssertionError("a pickle was read")
        loaded = loading.load(Settings(str(folder), device="cpu", allow_pickle=True), lambda line: None)
        assert loaded.parameters > 0


def check_sampling_defaults_come_from_the_generation_config() -> None:
    config = hf.GenerationConfig(do_sample=True, temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05)
    assert loading._defaults(config) == Defaults(0.6, 20, 0.95, 1.05)
    assert loading._defaults(hf.GenerationConfig()) == Defaults()


def check_memory_in_which_files_are_kept_counts_as_free() -> None:
    assert available("MemTotal:  900 kB\nMemFree:    7 kB\nMemAvailable:    600 kB\nBuffers: 1 kB\n") == 600 << 10
    assert free_memory(CPU) > 0


def check_draw_never_leaves_what_top_k_and_top_p_left() -> None:
    torch.manual_seed(5)
    logits = torch.randn(200, 64) * 4
    column = torch.full((200, 1), 1.0)
    ids = sampling.draw(logits, column, column * 3, column, column * (1 - 2**-24), 64)
    third = logits.topk(3).values[:, -1]
    assert (logits.gather(1, ids[:, None])[:, 0] >= third).all()


def main() -> None:
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                told = {"check": name, "problem": ""}
            except Exception:
                told = {"check": name, "problem": traceback.format_exc()}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
