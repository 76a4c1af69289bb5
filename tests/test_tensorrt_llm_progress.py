"""Build logs of TensorRT-LLM: stages and fractions from true lines, silence that is work, errors that stand out."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import doctor
from backends.progress import SILENT_S, Watch
from backends.tensorrt_llm.progress import Reader

STAMP = "[11/21/2023-07:17:50] [TRT-LLM] [I]"
OLD = f"""{STAMP} Using GPT attention plugin for inflight batching mode. Setting to default 'float16'
{STAMP} Using remove input padding for inflight batching mode.
{STAMP} Using paged KV cache for inflight batching mode.
{STAMP} Serially build TensorRT engines.
[11/21/2023-07:17:51] [TRT] [I] [MemUsageChange] Init CUDA: CPU +13, GPU +0, now: CPU 120, GPU 510 (MiB)
{STAMP} Loading HF LLaMA ... from /models/llama
Loading checkpoint shards:  50%|#####     | 1/2 [00:03<00:03,  3.1s/it]
Loading checkpoint shards: 100%|##########| 2/2 [00:05<00:00,  2.5s/it]
{STAMP} HF LLaMA loaded. Total time: 00:00:08
{STAMP} Loading weights from HF LLaMA...
{STAMP} Weights loaded. Total time: 00:00:21
{STAMP} Build TensorRT engine llama_float16_tp1_rank0.engine
[11/21/2023-07:18:30] [TRT] [W] Unused Input: position_ids
{STAMP} Total time of building llama_float16_tp1_rank0.engine: 00:00:41
{STAMP} Config saved to /engines/config.json.
{STAMP} Serializing engine to /engines/llama_float16_tp1_rank0.engine...
{STAMP} Engine serialized. Total time: 00:00:12
{STAMP} Timing cache serialized to /engines/model.cache
{STAMP} Total time of building all 1 engines: 00:02:03""".splitlines()


def told(lines: list[str], ranks: int = 1) -> list[tuple[str, float]]:
    reader = Reader(ranks)
    found = [reader.read(line) for line in lines]
    return [(one.text.en, one.fraction) for one in found if one and one.text and one.fraction is not None]


def test_a_build_of_0_5_goes_through_its_stages_to_the_end() -> None:
    stages = told(OLD)
    names = list(dict.fromkeys(name for name, _ in stages))
    assert names == ["Starting", "Loading the model", "Model loaded", "Reading weights", "Weights read",
                     "TensorRT builds", "Engine built", "Writing the engine", "Engine written",
                     "Done"]  # fmt: skip
    assert stages[-1] == ("Done", 1.0)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_fraction_never_goes_back(ranks: int) -> None:
    lines = [line.replace("tp1_rank0", f"tp{ranks}_rank{rank}") for rank in range(ranks) for line in OLD[5:-1]]
    fractions = [fraction for _, fraction in told([*lines, OLD[-1]], ranks)]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_ranks_are_counted_from_the_engines_names() -> None:
    lines = [line.replace("tp1_rank0", "tp2_rank1") for line in OLD]
    assert ("TensorRT builds, rank 2/2", 0.725) in told(lines)


def test_a_bar_moves_the_fraction_within_its_stage() -> None:
    fractions = [fraction for name, fraction in told(OLD) if name == "Loading the model"]
    assert fractions == [0.02, 0.085, 0.15]


def test_the_ending_of_a_conversion_is_its_end() -> None:
    assert told(["Total time of converting checkpoints: 00:01:13"]) == [("Done", 1.0)]


@pytest.mark.parametrize(("lines", "stages"), [
    (["Initializing model from /m", "Starting quantization...", "Calibrating batch 0", "Quantization done. Total time"
      " used: 61.23 s.", "Quantized model exported to /out. Total time used 9.02 s."],
     ["Calibrating", "Weights read", "Done"]),
    (["Total time of reading and converting: 12.345 s", "Total time of saving checkpoint: 3.210 s",
      "Total time of converting checkpoints: 00:00:16"], ["Weights read", "Done"]),
    (["[01/20/2025-09:13:50] [TRT-LLM] [I] Set gemm_plugin to bfloat16.",
      "[01/20/2025-09:15:02] [TRT-LLM] [I] Total time of building all engines: 00:01:13"], ["TensorRT builds", "Done"]),
])  # fmt: skip
def test_later_tools_go_through_their_stages(lines: list[str], stages: list[str]) -> None:
    heard = told(lines)
    assert list(dict.fromkeys(name for name, _ in heard)) == stages
    assert [fraction for _, fraction in heard] == sorted(fraction for _, fraction in heard)


def test_a_silent_builder_is_said_to_work_and_for_how_long(tmp_path: Path) -> None:
    log, now = tmp_path / "log", [0.0]
    log.touch()
    watch = Watch("tensorrt_llm", log, lambda: now[0])
    log.write_text("\n".join(OLD[:12]) + "\n", encoding="utf-8")
    assert [one.text.en for one in watch.news() if one.text][-1] == "TensorRT builds"
    now[0] = SILENT_S - 1
    assert list(watch.news()) == []
    now[0] = SILENT_S + 1
    (said,) = watch.news()
    assert said.text is not None and said.text.en == "TensorRT builds; still working, no line for 31 s"
    assert list(watch.news()) == []


def test_a_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    watch = Watch("tensorrt_llm", log, lambda: 0.0)
    log.write_bytes(b"[TRT-LLM] [I] Weights loaded. To")
    assert list(watch.news()) == []
    with log.open("ab") as file:
        file.write(b"tal time: 00:00:21\n")
    assert [one.text.en for one in watch.news() if one.text] == ["Weights read"]


def test_what_an_earlier_attempt_logged_is_not_read_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(OLD[-1] + "\n", encoding="utf-8")
    assert list(Watch("tensorrt_llm", log, lambda: 0.0).news()) == []


def test_a_task_without_a_reader_tells_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("", encoding="utf-8")
    watch = Watch(None, log, lambda: 1e9)
    log.write_text(OLD[-1] + "\n", encoding="utf-8")
    assert list(watch.news()) == []


def test_the_first_error_is_lifted_out_of_the_noise() -> None:
    lines = [*OLD[:12], "[11/21/2023-07:18:31] [TRT] [E] 1: [virtualMemoryBuffer.cpp] OutOfMemory (no further info)",
             "[11/21/2023-07:18:32] [TRT-LLM] [E] Engine building failed, please check the error log."]  # fmt: skip
    assert doctor.first_error(lines) == lines[-2]


@pytest.mark.parametrize(("line", "known"), [
    ("slipway: exit status 137", "exit-137"),
    ("Assertion failed: mpiSize == tp * pp (/app/tensorrt_llm/cpp/x.cpp:55)", "trtllm-world-size"),
    ("[TRT] [E] 1: [stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization assertion "
     "stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match.)", "trtllm-other-version"),
    ("The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 8.0",
     "trtllm-other-gpu"),
    ("/usr/bin/ld:libtensorrt_llm_batch_manager_static.a: file format not recognized; treating as linker script",
     "trtllm-lfs-pointer"),
    ("ValueError: Input None is not valid. Should be a string, a list/tuple of strings", "trtllm-no-eos"),
    ("git: 'lfs' is not a git command. See 'git --help'.", "no-git-lfs"),
    ("ensemble ensemble allows maximum batch size 128, but it contains model tensorrt_llm which only allows maximum "
     "batch size to be 4", "trtllm-ensemble-batch"),
    ("[TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n, mCudaStream->get()): out of memory",
     "cuda-out-of-memory"),
    ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
     "initializing the engine.", "vllm-cache-too-small"),
    ("ValueError: The model's max seq len (4096) is larger than the maximum number of tokens that can be stored in KV "
     "cache (3664). Try increasing `gpu_memory_utilization`", "vllm-cache-too-small"),
    ("ValueError: Free memory on device (59.32/79.15 GiB) on startup is less than desired GPU memory utilization (0.9, "
     "71.24 GiB). Decrease GPU memory utilization", "vllm-gpu-in-use"),
    ("ValueError: Model architectures ['NewForCausalLM'] are not supported for now.", "vllm-unknown-model"),
])  # fmt: skip
def test_known_failures_are_named(line: str, known: str) -> None:
    found = doctor.diagnose([line])
    assert found is not None and found.id in (known, "trtllm-gpu-memory")
