"""The commands as a user types them."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import is_dataclass, replace
from pathlib import Path

import pytest
from tests.helpers import processes
from tests.helpers.cli import seedfast
from tests.helpers.processes import Command
from tests.helpers.runs import TEXTS, UNLIKE_TEXTS, flags, small_run, train_in

from seedfast import recipes
from seedfast.cli import COMMANDS
from seedfast.options import walk
from seedfast.verify import resume
from seedfast.verify.resume import compare, in_a_new_interpreter


@pytest.fixture(scope="module", params=UNLIKE_TEXTS)
def run(request: pytest.FixtureRequest, story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of each family, finished without a report."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train_in(folder, small_run(request.param, story))
    return folder


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from seedfast.cli import overview; overview(); print({'torch', 'tyro'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300).stdout.strip()
        == "set()"
    )


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [["recipes"], ["preview"], ["evaluate"], ["sample"], ["fidelity"], ["report"], ["digest"], ["completion"],
     ["replay"], ["diff"], ["verify", "best"], ["verify", "run"],
     ["train", "text-masked"], ["verify", "resume"], ["verify", "identities"], ["verify", "checkpoint"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_documents_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast(*words, "--help") == 0
    shown = capsys.readouterr().out
    assert f"usage: seedfast {' '.join(words)}" in " ".join(shown.split())
    assert len(shown) > 200


def test_every_field_of_a_run_is_a_documented_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("train", "text-masked", "--help-all") == 0
    shown = capsys.readouterr().out
    for key, options, field, _ in walk(recipes.make("text-masked")):
        if key != "recipe" and not is_dataclass(getattr(options, field.name)):
            assert re.search(rf"--{re.escape(key.replace('_', '-'))}\s", shown), key


def test_training_says_what_it_did_and_where_everything_is(
    run: Path, story: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = json.loads((run / "latest.json").read_text()) and (run / "run.yaml").read_text().split()[1]
    report = [] if recipe == "text-autoregressive" else ["--no-report"]
    assert seedfast("train", recipe, "--out", str(run), *report) == 0  # nothing is left to train: it shows the rest
    out, err = capfd.readouterr()
    assert "continues at step 20 of 20" in err
    assert out.strip(), "a sample is shown"
    assert (run / "report").exists() == (run / "report.html").exists() == ("report.html" in err) == (not report)
    for path in (*(run.glob("report.html")), *run.glob("report/loss.png"), run / "samples/step-00000020/samples.txt"):
        assert path.stat().st_size > 0
        assert path.name in "".join(err.split())


def test_evaluate_reports_the_contract(run: Path, story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("evaluate", str(run), "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["is_bound"] == ("autoregressive" not in (run / "run.yaml").read_text().split()[1])
    assert record["bytes"] == len(story.read_bytes()) - len(
        story.read_text()[: int(len(story.read_text()) * 0.9)].encode()
    )
    assert record["tokens"] == record["bytes"], "one character, one byte, one token"
    assert record["bits_per_byte"] == pytest.approx(record["nats_per_token"] / 0.6931471805599453)
    assert record["weights"] == "ema"
    assert record["step"] == 20
    assert 0 < record["standard_error"] < record["nats_per_token"]
    assert seedfast("evaluate", str(run)) == 0
    exact = "autoregressive" in (run / "run.yaml").read_text().split()[1]
    assert ("perplexity" in capsys.readouterr().out) == exact, "only a likelihood itself has one"


def test_raw_and_averaged_weights_are_both_to_be_had(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = []
    for weights in ("raw", "ema"):
        assert seedfast("evaluate", str(run), "--json", "--weights", weights) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert [r["weights"] for r in records] == ["raw", "ema"]
    assert records[0]["nats_per_token"] != records[1]["nats_per_token"]


def test_sampling_completes_infills_and_writes_from_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("sample", str(run), "--prompt", "the ", "--tokens", "8") == 0
    assert capsys.readouterr().out.startswith("the ")
    if "text-block" not in (run / "run.yaml").read_text():  # which refuses it (test_block_identities)
        assert seedfast("sample", str(run), "--infill", "the ⟨gap:3⟩ see<gap:2>fox") == 0
        assert re.fullmatch(r"the [\s\S]{3} see[\s\S]{2}fox\n", capsys.readouterr().out)
    assert seedfast("sample", str(run)) == 0
    assert len(capsys.readouterr().out) <= 17


def test_a_sample_does_not_depend_on_those_beside_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", str(run), "--prompt", "the ", "--tokens", "9", "--seed", "7"]
    assert seedfast(*words) == 0
    alone = capsys.readouterr().out
    assert seedfast(*words, "--num", "3") == 0
    assert capsys.readouterr().out.startswith(alone)
    assert seedfast(*words[:-1], "8") == 0
    assert capsys.readouterr().out != alone


def test_the_trace_shows_the_text_at_every_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--steps", "5"] if "embedding" in (run / "run.yaml").read_text().split()[1] else []
    assert seedfast("sample", str(run), "--prompt", "the ", "--tokens", "5", "--trace", *steps) == 0
    shown = capsys.readouterr().out
    recipe = (run / "run.yaml").read_text().split()[1]
    count = {"text-block": 8, "text-proofreading": 64}.get(recipe, 5)  # a block of four is written whole
    assert re.findall(r"^step (\d+)$", shown, re.MULTILINE) == [str(n + 1) for n in range(count)]
    # The one writes from left to right, the other everywhere at once: neither leaves a position open.
    assert ("░" in shown) == (recipe not in ("text-autoregressive", "text-embedding"))


def test_the_digest_is_of_every_tensor(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("digest", str(run)) == 0
    first = capsys.readouterr().out
    assert re.fullmatch(r"[0-9a-f]{64}\n", first)
    from seedfast.run_folder.train_state import digest, read_tensors

    newest = run / "checkpoints/step-00000020"
    groups = read_tensors(newest)
    assert set(groups) == {"model", "optimizer", "ema"}
    assert digest(groups) == first.strip()
    for group in groups:
        other = {**groups, group: {**groups[group], **{k: v.neg() for k, v in list(groups[group].items())[:1]}}}
        assert digest(other) != first.strip(), group


def test_verify_checkpoint_finds_a_flipped_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("verify", "checkpoint", str(run)) == 0
    assert "DAMAGED" not in capsys.readouterr().out
    victim = run / "checkpoints/step-00000020/optimizer.safetensors"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert seedfast("verify", "checkpoint", str(run)) == 1
        assert "optimizer.safetensors does not have the contents" in capsys.readouterr().out
    finally:
        victim.write_bytes(content)


def test_recipes_are_listed_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("recipes") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*TEXTS, "image-diffusion", "image-transformer", "image-diffusers"))
    assert seedfast("recipes", "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == [line.split()[0] for line in listed.splitlines()]
    assert all(record["subject"] and record["description"] for record in records)


BAD = [
    (["trian"], "did you mean train"),
    (["train", "text-maskd"], "did you mean text-masked"),
    (["train", "nowhere.py:recipe"], "does not exist"),
    (["train", "text-masked", "--data", "/no/such/file"], "/no/such/file"),
    (["train", "text-masked", "--config", "/no/such.yaml"], "cannot be read"),
    (["train", "text-masked", "--device", "cuda"], "no CUDA device"),
    (["evaluate", "/no/such/run"], "no folder /no/such/run"),
    (["sample", "/no/such/run"], "no folder /no/such/run"),
    (["digest", "/no/such/run"], "no folder /no/such/run"),
    (["report", "/no/such/run"], "/no/such/run"),
    (["verify", "checkpoint", "/no/such/run"], "no checkpoints"),
    (["verify", "everything"], "no proof called everything"),
    (["verify", "resume", "text-masked", "--kills", "0"], "at least 1 kill"),
    (["train", "--steps", "3"], "Name the recipe first"),
    (["train", "text-masked", "--recipe", "other"], "--recipe cannot make it other"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert seedfast(*words) == 2
    shown = capsys.readouterr().err.strip()
    assert message in shown
    assert len(shown.splitlines()) == 1
    assert shown.startswith("seedfast: ")
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing"


def test_a_refused_training_leaves_the_folder_of_the_user(story: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out in ("mine", "new/run"):
        assert seedfast("train", "text-masked", "--data", "/no/such/file", "--out", str(tmp_path / out)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    words = ["train", "text-masked", *flags(small_run("text-masked", story, steps=1)), "--out"]
    assert seedfast(*words, str(tmp_path / "mine")) == 0
    assert seedfast(*words, str(tmp_path / "mine"), "--data", "/no/such/file") == 2
    assert (tmp_path / "mine/checkpoints").is_dir()


@pytest.mark.parametrize(
    "words",
    [["train", "text-masked", "--stepz", "3"], ["train", "text-masked", "--steps", "x"],
     ["sample", "x", "--top-k", "many"], ["train", "text-masked", "--precision", "fp8"], ["evaluate"]],
    ids=" ".join,
)  # fmt: skip
def test_unknown_flags_and_wrong_types_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast(*words) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out


REQUESTS = [
    (["--tokens", "0"], "tokens must be at least 1"),
    (["--prompt", "Ω"], "Ω"),
    (["--infill", "the cat"], "no gap"),
    (["--infill", "the <gap:30>"], "longer than this model's context of 16"),
    (["--infill", "the <gap:99999999999>"], "longer than this model's context of 16"),
    (["--temperature", "nan"], "temperature"),
    (["--infill", "the <gap:3>", "--prompt", "x"], "cannot be combined with a prompt"),
    (["--temperature", "-1"], "temperature"),
    (["--top-p", "0"], "top-p"),
    (["--top-k", "0"], "top-k"),
    (["--num", "0"], "num must be at least 1"),
    (["--at", "3"], "no checkpoint at step 3; intact are"),
]


@pytest.mark.parametrize(("words", "message"), REQUESTS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_requests_that_do_not_fit_are_one_sentence(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seedfast("sample", str(run), *words) == 2
    shown = capsys.readouterr().err.strip()
    assert message in shown
    assert len(shown.splitlines()) == 1


def test_yaml_stands_in_for_flags_and_flags_override_it(
    story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    values = {"steps": 3, "seed": 5, "batch_size": 4, "model": {"layers": 1, "heads": 2, "width": 16},
              "data": {"path": str(story), "tokenizer": "characters", "context": 16}}  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    words = [
        "train",
        "text-autoregressive",
        "--config",
        str(tmp_path / "run.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--no-report",
    ]
    assert seedfast(*words, "--seed", "6") == 0
    resolved = yaml.safe_load((tmp_path / "run/run.yaml").read_text())
    assert (resolved["steps"], resolved["seed"], resolved["model"]["width"]) == (3, 6, 16)
    (tmp_path / "bad.yaml").write_text("stepz: 3\n")
    capsys.readouterr()
    assert seedfast("train", "text-masked", "--config", str(tmp_path / "bad.yaml")) == 2
    assert "unknown key stepz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_same_command_ends_with_the_same_bits(
    number: int, status: int, story: Path, tmp_path: Path
) -> None:
    small = small_run("text-masked", story, steps=60, eval_every=20, save_every=10)
    words = ["train", "text-masked", *flags(small), "--out"]
    process = Command("seedfast", [*words, tmp_path / "a"])
    process.wait_for(lambda: (tmp_path / "a/checkpoints/step-00000010").exists())
    os.kill(process.pid, number)
    done = process.finish()
    assert done.returncode == status, done.stderr
    assert "Interrupted and saved at step" in done.stderr
    for name in ("a", "b"):
        processes.seedfast(*words, tmp_path / name, check=True)
    assert compare(tmp_path / "a", tmp_path / "b")[0] is None


def test_the_processes_of_a_proof_are_new_interpreters() -> None:
    status, stderr = in_a_new_interpreter([sys.executable, "-c", "import sys; sys.exit('no torch')"], os.environ)
    assert (status, stderr) == (1, "no torch\n")


def test_an_own_recipe_and_a_family_with_adaptive_state_resume(
    story: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resume, "in_a_new_interpreter", processes.run_killed_or_whole)
    recipe = f"{Path(__file__).parents[1] / 'helpers/own_recipe.py'}:adaptive"
    small = small_run("text-masked", story)
    assert seedfast("verify", "resume", recipe, "--kills", "1", *flags(small)) == 0
    assert "identical after 1 kills" in capsys.readouterr().out


@pytest.fixture
def nanogpt(tmp_path: Path, story: Path) -> Path:
    """A nanoGPT ckpt.pt of a compiled model over the story's characters, with random weights."""
    import torch

    vocabulary, width, context = len(set(story.read_text())), 8, 16
    torch.manual_seed(0)
    shapes = {"transformer.wte.weight": (vocabulary, width), "transformer.wpe.weight": (context, width),
              "transformer.ln_f.weight": (width,), "transformer.h.0.ln_1.weight": (width,),
              "transformer.h.0.attn.c_attn.weight": (3 * width, width),
              "transformer.h.0.attn.c_proj.weight": (width, width), "transformer.h.0.ln_2.weight": (width,),
              "transformer.h.0.mlp.c_fc.weight": (4 * width, width),
              "transformer.h.0.mlp.c_proj.weight": (width, 4 * width)}  # fmt: skip
    model = {f"_orig_mod.{name}": torch.randn(shape) * 0.1 for name, shape in shapes.items()}
    model["_orig_mod.lm_head.weight"] = model["_orig_mod.transformer.wte.weight"]
    args = {"n_layer": 1, "n_head": 2, "n_embd": width, "block_size": context, "vocab_size": vocabulary, "bias": False}
    torch.save({"model": model, "model_args": args, "iter_num": 7}, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_a_nanogpt_checkpoint_becomes_a_run(
    nanogpt: Path, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert seedfast("import", str(nanogpt), "--data", str(story), "--out", out) == 0
    capsys.readouterr()
    assert seedfast("evaluate", out, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["step"] == 0
    assert record["nats_per_token"] == pytest.approx(_by_hand(nanogpt, story), abs=1e-5)
    assert seedfast("sample", out, "--prompt", "the ", "--tokens", "3") == 0
    assert seedfast("train", "text-autoregressive", "--out", out, "--steps", "3", "--no-report") == 0
    assert seedfast("import", str(nanogpt), "--data", str(story), "--out", out) == 2
    assert seedfast("import", str(story), "--data", str(story), "--out", str(tmp_path / "other")) == 2


def _by_hand(nanogpt: Path, story: Path) -> float:
    """The validation loss of the imported weights, from the file itself, with one more token whose logit is 0."""
    import torch
    from torch.nn import functional as F

    from seedfast.models.import_gpt2 import from_nanogpt

    network = from_nanogpt(nanogpt).eval()
    text = story.read_text()
    ids = {c: i for i, c in enumerate(sorted(set(text)))}
    held_out = torch.tensor([ids[c] for c in text[int(len(text) * 0.9) :]])
    total = 0.0
    for start in range(0, len(held_out), 16):
        first = min(start, len(held_out) - 16)
        targets = held_out[first : first + 16]
        before = network.tokens(held_out[first - 1 : first]) if first else torch.zeros(1, 8)
        inputs = torch.cat([before, network.tokens(targets[:-1])])
        with torch.no_grad():
            logits = F.pad(network(embeddings_BLD=inputs[None])[0], (0, 1))
        total += float(F.cross_entropy(logits, targets, reduction="none")[start - first :].sum())
    return total / len(held_out)


CODE: list[tuple[dict[str, str | bytes], list[str], str]] = [
    ({}, ["--data.mode", "code"], "No file in"),
    ({"notes.md": "prose " * 99}, ["--data.mode", "code"], 'the endings of data.mode="code"'),
    ({"a.c": b"\x7fELF\x00\xff" * 99, "b.py": b"\xff\xfe" * 99}, ["--data.mode", "code"], "holds no usable documents"),
    ({"a.py": "x = 1", "b.py": "y"}, ["--data.tokenizer", "bytes"], "tokens to predict, fewer than one window"),
    (
        {"a.py": "x = 1\n" * 99, "b.py": "y = 2\n" * 99},
        ["--data.prompt", "-3"],
        "data.prompt must be at least 0, not -3",
    ),
]


@pytest.mark.parametrize(("content", "words", "message"), CODE, ids=[case[2] for case in CODE])
def test_code_that_cannot_be_trained_on_is_one_sentence(
    content: dict[str, str | bytes],
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tree").mkdir()
    for name, text in content.items():
        (tmp_path / "tree" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    words = ["--data", str(tmp_path / "tree"), *words, "--out", str(tmp_path / "run")]
    assert seedfast("train", "text-embedding", *words) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert message in shown[-1]
    assert all(not line.startswith("Traceback") for line in shown)
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_prompted_model_is_trained_and_guided(
    story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = small_run("text-embedding", story, steps=2)
    prompted = ["--data.prompt", "8", "--objective.prompt-conditioning", "cross"]
    words = [*flags(small), *prompted, "--out", str(tmp_path / "run")]
    assert seedfast("train", "text-embedding", *words) == 0
    capsys.readouterr()
    ask = ["sample", str(tmp_path / "run"), "--steps", "3", "--guidance", "2"]
    assert seedfast(*ask, "--prompt", "the cat ", "--tokens", "16") == 0
    assert capsys.readouterr().out.startswith("the cat ")
    assert seedfast(*ask, "--prompt", "the cat sees") == 0
    assert "reads the last 8 of them" in capsys.readouterr().err
    assert seedfast("train", "text-masked", *flags(small), "--data.prompt", "8", "--out", str(tmp_path / "other")) == 2
    assert "data.prompt=8" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", UNLIKE_TEXTS)
@pytest.mark.parametrize(
    ("content", "tokenizer", "context"),
    [({"a.txt": "ab", "b.txt": "abab", "c.txt": "ba" * 20}, "characters", 3),
     ({"a.txt": "字节😀" * 40, "b.txt": "漢字" * 60}, "bytes", 16),
     ({"a.txt": "ab" * 40, "b.txt": "ba" * 40}, "bytes", 1)],
    ids=["short documents", "many bytes a character", "a context of one"],
)  # fmt: skip
def test_training_ends_well_on_any_text(
    recipe: str, content: dict[str, str], tokenizer: str, context: int, tmp_path: Path
) -> None:
    (tmp_path / "texts").mkdir()
    for name, text in content.items():
        (tmp_path / "texts" / name).write_text(text)
    run = small_run(recipe, tmp_path / "texts", steps=2, batch_size=2, micro_batch=None, sample_every=2)
    data = replace(run.data, tokenizer=tokenizer, context=context)
    objective = recipes.make(recipe).objective  # whose blocks fit into any context
    assert train_in(tmp_path / "run", replace(run, data=data, objective=objective)).step == 2
    assert list((tmp_path / "run/samples").iterdir())


def test_given_text_is_printed_to_the_byte(tmp_path: Path) -> None:
    text = tmp_path / "tabs.txt"
    text.write_text("a\tb\r\n" * 200, newline="")
    train_in(tmp_path / "run", small_run("text-masked", text, steps=2))
    done = Command("seedfast", ["sample", tmp_path / "run", "--infill", "a\tb\r\n<gap:2>"])
    assert done.finish().returncode == 0
    assert done.stdout.read_bytes().startswith(b"a\tb\r\n")


def test_a_reader_that_goes_away_does_not_end_the_training(story: Path, tmp_path: Path) -> None:
    words = " ".join(flags(small_run("text-masked", story)))
    command = f"{sys.executable} -m seedfast train text-masked {words} --out {tmp_path / 'run'} 2>&1 | head -1"
    subprocess.run(["bash", "-c", command], capture_output=True, timeout=300)
    assert (tmp_path / "run/checkpoints/step-00000020").is_dir()
    assert '"finished"' in (tmp_path / "run/events.jsonl").read_text()


def test_evaluation_finds_moved_data_and_any_folder_will_do(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/text.txt").write_text(story.read_text())
    monkeypatch.chdir(tmp_path / "a")
    words = flags(small_run("text-masked", Path("text.txt")))
    assert seedfast("train", "text-masked", *words, "--out", str(tmp_path / "run")) == 0
    monkeypatch.chdir(tmp_path)
    assert seedfast("evaluate", str(tmp_path / "run")) == 0
    (tmp_path / "a").rename(tmp_path / "b")
    assert seedfast("evaluate", str(tmp_path / "run")) == 2
    assert seedfast("evaluate", str(tmp_path / "run"), "--data", "b/text.txt") == 0
    assert seedfast("evaluate", str(tmp_path / "run"), "--data", "b/text.txt", "--draws", "0") == 2
    assert "draws must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", UNLIKE_TEXTS)
def test_no_special_token_of_a_pretrained_tokenizer_is_ever_written(
    recipe: str, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tokenizers
    import transformers

    core = tokenizers.ByteLevelBPETokenizer()
    core.train_from_iterator([story.read_text()], vocab_size=262, special_tokens=["<pad>", "<mask>", "</s>"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core._tokenizer, eos_token="</s>", pad_token="<pad>", mask_token="<mask>"
    )
    fast.save_pretrained(tmp_path / "tokenizer")
    run = small_run(recipe, story, steps=1)
    train_in(tmp_path / "run", replace(run, data=replace(run.data, tokenizer=str(tmp_path / "tokenizer"))))
    capsys.readouterr()
    assert seedfast("sample", str(tmp_path / "run"), "--num", "60") == 0  # an untrained model: every id is as likely
    shown = capsys.readouterr().out
    assert "<pad>" not in shown
    assert "<mask>" not in shown


@pytest.mark.parametrize(
    ("words", "present"),
    [
        (["train", "image-diffusion", "--objective.label-drop", "0.2"], "--objective.class-dropout-prob"),
        (["train", "image-diffusion", "--objective.process.times", "50"], "--objective.process.timesteps"),
        (["train", "text-embedding", "--data.apart", "True"], "--data.one-document-per-window"),
        (["train", "text-masked", "--schedule.final=0.1"], "--schedule.min-lr-factor"),
        (
            ["train", "text-masked", "--optimizer.matrix-lr", "0.02"],
            "--optimizer.matrix-lr-factor, a multiple of --optimizer.lr",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_an_earlier_flag_is_answered_with_its_present_name(
    words: list[str], present: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seedfast(*words) == 2
    shown = capsys.readouterr().err
    assert f"is now called {present}." in shown
    assert shown.count("\n") == 1


def test_what_the_output_cannot_encode_is_replaced(story: Path, tmp_path: Path) -> None:
    """Of a training too, whose report is written whatever the terminal shows."""
    text = tmp_path / "japanese.txt"
    text.write_text("吾輩は猫である。名前はまだ無い。\n" * 40, "utf-8")
    words = [
        "train",
        "text-autoregressive",
        *flags(small_run("text-autoregressive", text, steps=4)),
        "--report",
        "--out",
        "run",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "seedfast", *words],
        capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"}, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert b"?" in result.stdout
    assert (tmp_path / "run/report.html").is_file()
