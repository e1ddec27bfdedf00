"""train.methods: Textual Inversion and Custom Diffusion, the words they learn and what else."""

import re
from dataclasses import replace

import pytest
import torch
from command_line import refused
from safetensors.torch import save_file
from test_dreambooth import build, learner_of, loss_of, pictures, run
from test_learning_methods import CASES, DOG, OF_WORD
from tiny import normal
from tiny_model import drawn_model, tiny_config

from models.attention import CrossAttention
from models.hooks import Hook
from photoswap.__main__ import main
from train.concepts import apply_concept, merge_custom_diffusion, open_concept, save_delta
from train.config import Beside, CustomDiffusionConfig, TextualInversionConfig, learn_config
from train.data import CentreCrops, Stream, Templated, Together
from train.methods import method_of
from train.methods.custom_diffusion import start_detached
from train.methods.words import learning_words, start_rows
from train.ready import ready_to_learn
from train.templates import TEMPLATES

WORD, CUSTOM = CASES["textual-inversion"], CASES["custom-diffusion"]
WHOLE = CASES["custom-diffusion of whole layers"]


def learner(model, config):
    """A learner of as many copies of two pictures as there are subjects."""
    examples = method_of(config).examples(model, config, 64, [pictures()] * len(config.tokens))
    classes = Stream(CentreCrops(model, pictures(), 64), 1000, 1) if config.prior_weight else None
    return learner_of(model, config, Stream(examples, 1000, 0), classes)


# words


def test_a_word_that_learns_reads_as_it_will_from_its_file(tmp_path):
    model = build()
    prompts = ["a photo of a <new1>", "a cat", "<NEW1> and a dog <new1>, alone"]
    before = model.encode_text(prompts)
    rows = {"<new1>": normal(2, 24, device=model.device)}
    with learning_words(model, rows), torch.no_grad():
        live = model.encode_text(prompts)
        assert torch.equal(live[1], before[1]) and not torch.equal(live[0], before[0])
    assert torch.equal(model.encode_text(prompts), before)
    concept, _ = run(model, replace(WORD, steps=1))
    concept.words["<new1>"] = rows["<new1>"]
    with torch.no_grad():
        assert torch.equal(apply_concept(model, concept).encode_text(prompts), live)


def test_of_the_cross_attention_keys_and_values_learn_or_all(tmp_path):
    """What the authors' code takes for crossattn-kv, and for crossattn: every parameter with "attn2" in its name."""
    config = tiny_config()  # with as many blocks as have names in the single file
    model = drawn_model(replace(config, unet=replace(config.unet, res_blocks=2)), torch.device("cpu"), 0)
    cross = {f"unet.{name}" for name, _ in model.unet.named_parameters() if ".attn2." in name}
    layers = len(model.unet.sites) // 2
    few, all_of_it = (method_of(config).shapes(model, config) for config in (CUSTOM, WHOLE))
    assert set(few) - {"word/<new1>"} == {name for name in cross if name.endswith(("to_k.weight", "to_v.weight"))}
    assert set(all_of_it) - {"word/<new1>"} == cross and len(cross) == 5 * layers  # the output has a bias too
    concept, _ = run(model, WHOLE, tmp_path)
    again = open_concept(tmp_path / "delta.bin")
    assert again.changes.keys() == cross
    stored = torch.load(tmp_path / "delta.bin", weights_only=True)["unet"]
    leaves = {name.partition(".attn2.")[2] for name in stored}
    assert leaves == {"to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias"}
    save_delta(concept, tmp_path / "authors.bin", model, "ldm")
    their_name = {name: re.sub(r"attn2\.(to_[a-z]+)", r"attn2.processor.\1_custom_diffusion", name) for name in stored}
    save_file({their_name[name]: tensor for name, tensor in stored.items()}, tmp_path / "diffusers.safetensors")
    for file in ("authors.bin", "diffusers.safetensors"):
        changes = open_concept(tmp_path / file).changes
        assert changes.keys() == cross
        assert all(torch.equal(change.values, again.changes[name].values) for name, change in changes.items())
    with pytest.raises(ValueError, match=r"only keys and values can be merged"):
        merge_custom_diffusion(model, [concept, again], ["a dog", "a cat"])


@pytest.mark.parametrize("config", [WORD, CUSTOM], ids=["textual-inversion", "custom-diffusion"])
def test_of_all_words_only_the_new_one_takes_a_gradient(config):
    model = build()
    held = learner(model, config)
    loss_of(held).backward()
    assert held.parameters["word/<new1>"].grad.abs().sum() > 0
    embedding = model.text_encoder.token_embedding.embedding
    assert embedding.weight.grad is None and not embedding.weight.requires_grad
    moved = {name for name, p in model.text_encoder.named_parameters() if p.grad is not None}
    assert moved == {"token_embedding.rows.0"}


def test_a_known_word_of_one_token_can_be_learnt_anew():
    model = build()
    concept, _ = run(model, TextualInversionConfig("cat", "sks", **OF_WORD))
    twin = apply_concept(model, concept)
    assert twin.tokenizer is model.tokenizer and concept.words["sks"].shape == (1, 24)
    assert not torch.equal(twin.encode_text("a sks"), model.encode_text("a sks"))


def test_a_word_begins_as_another():
    model = build()
    embedding = model.text_encoder.token_embedding.weight
    (cat, _), *_ = model.tokenizer.words("cat")
    assert torch.equal(start_rows(model, "cat", 3), embedding[[cat] * 3])
    toy = [token for token, _ in model.tokenizer.words("toy cat")]
    assert torch.equal(start_rows(model, "toy cat", 2), embedding[toy])
    assert torch.equal(start_rows(model, "ktn", 1), embedding[[42170]])  # in Custom Diffusion's code, a piece of a word
    with pytest.raises(ValueError, match=r"init_word 'toy cat' is 2 tokens; want a word of 1 or 3"):
        start_rows(model, "toy cat", 3)
    with pytest.raises(ValueError, match=r"init_word 'toy cat' is 2 tokens; want a word of 1,"):
        run(model, replace(WORD, tokens_per_word=1, init_word="toy cat"))


def test_a_word_learnt_for_long_stays_the_only_thing_that_changed():
    model = build()
    concept, _ = run(model, WORD)
    assert not concept.changes and concept.words.keys() == {"<new1>"} and concept.subject == "<new1>"
    twin = apply_concept(model, concept)
    vocabulary = len(model.text_encoder.token_embedding.weight)
    assert torch.equal(twin.text_encoder.token_embedding.weight[:vocabulary], model.text_encoder.token_embedding.weight)


# prompts


def test_the_templates_are_the_papers():
    """arXiv:2208.01618, supplementary material, in its order."""
    paper = """a photo of a|a rendering of a|a cropped photo of the|the photo of a|a photo of a clean|
    a photo of a dirty|a dark photo of the|a photo of my|a photo of the cool|a close-up photo of a|
    a bright photo of the|a cropped photo of a|a photo of the|a good photo of the|a photo of one|
    a close-up photo of the|a rendition of the|a photo of the clean|a rendition of a|a photo of a nice|
    a good photo of a|a photo of the nice|a photo of the small|a photo of the weird|a photo of the large|
    a photo of a cool|a photo of a small"""
    assert set(TEMPLATES) == {f"{line.strip()} {{}}" for line in paper.split("|")} and len(TEMPLATES) == 27


def test_every_template_is_shown_and_makes_its_rows_context():
    model = build()
    held = learner(model, replace(WORD, batch=200))
    rows = held.next_rows()
    assert set(rows.text.tolist()) == set(range(27))
    texts = [WORD.instance_texts[i] for i in rows.text[:40].tolist()]
    with torch.no_grad():
        torch.testing.assert_close(held.context(rows.text[:40].tolist()), model.encode_text(texts))


def test_one_prompt_of_ones_own_is_the_only_one():
    config = replace(WORD, instance_prompt="a drawing of <new1>")
    assert config.instance_texts == ("a drawing of <new1>",) and config.instance_text == "a drawing of <new1>"


# Custom Diffusion


def test_the_start_tokens_keys_and_values_take_no_gradient():
    """Against the layer written out, with the first token's keys and values as constants; the output is the same."""
    generator = torch.Generator().manual_seed(0)
    layer = CrossAttention(16, 24, 2).double()
    x, context = (torch.randn(2, n, c, generator=generator, dtype=torch.float64) for n, c in ((5, 16), (7, 24)))
    out = layer(x, context, Hook(qkv=start_detached))
    assert torch.equal(out, layer(x, context))
    out.square().sum().backward()
    hooked = [weight.grad.clone() for weight in (layer.to_k.weight, layer.to_v.weight)]

    wk, wv = (weight.detach().clone().requires_grad_() for weight in (layer.to_k.weight, layer.to_v.weight))
    k, v = (torch.cat([(context[:, :1] @ w.detach().T), context[:, 1:] @ w.T], dim=1) for w in (wk, wv))
    parts = []
    for head in (slice(0, 8), slice(8, 16)):
        q = (x @ layer.to_q.weight.T)[..., head]
        parts.append((q @ k[..., head].mT / 8**0.5).softmax(-1) @ v[..., head])
    (torch.cat(parts, -1) @ layer.to_out.weight.T + layer.to_out.bias).square().sum().backward()
    for found, wanted in zip(hooked, (wk.grad, wv.grad), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)  # float64
    layer.zero_grad()
    layer(x, context).square().sum().backward()
    assert not torch.allclose(layer.to_v.weight.grad, hooked[1], rtol=1e-3)


def test_all_cross_attention_layers_learn_so():
    model = build()
    with ready_to_learn(model, CUSTOM) as placed:
        assert placed.hooks.keys() == {site for site in model.unet.sites if site.kind == "cross"}
        assert {hook.qkv for hook in placed.hooks.values()} == {start_detached}
        assert len(placed.parameters) == 2 * len(placed.hooks) + 1


def test_its_rate_grows_with_the_pictures_of_a_step():
    """The authors' script: rate x batch x accumulation, and twice that with class pictures."""
    assert CustomDiffusionConfig("cat").rate() == pytest.approx(1e-5 * 2 * 2)
    assert CustomDiffusionConfig("cat", prior_weight=0.0, accumulate=3).rate() == pytest.approx(1e-5 * 2 * 3)
    assert CustomDiffusionConfig("cat", scale_learning_rate=False).rate() == 1e-5


def test_several_subjects_have_prompts_pictures_and_words_of_their_own(tmp_path):
    config = replace(CUSTOM, also=(DOG,), zoom=True)
    assert [config.instance_texts[i] for i in (0, 1, 5, 9)] == [
        "a photo of a <new1> cat",
        "a far away a photo of a <new1> cat",
        "a photo of a <new2> dog",
        "close up a photo of a <new2> dog",
    ]
    assert config.class_texts == ("a photo of a cat", "a photo of a dog")
    assert replace(config, also=(Beside("<new2>", "cat", "pll"),)).class_texts == ("a photo of a cat",)
    both = {"<new1>": pictures(), "<new2>": pictures()[::-1]}
    concept, _ = run(build(), config, tmp_path, both)
    assert concept.subject == "<new1> cat and <new2> dog" and concept.words.keys() == {"<new1>", "<new2>"}
    assert open_concept(tmp_path / "delta.bin").subject == concept.subject
    with pytest.raises(ValueError, match=r"the subjects are '<new1>', '<new2>', and the references are of one"):
        run(build(), config)
    with pytest.raises(ValueError, match=r"references are of '<new1>', '<cat>'; want those of '<new1>', '<new2>'"):
        run(build(), config, None, {"<new1>": pictures(), "<cat>": pictures()})


def test_pictures_of_several_subjects_come_under_their_own_prompts():
    model = build()
    parts = [CentreCrops(model, pictures(n), 64, sample=False) for n in (2, 1)]
    examples = Together([Templated(part, 3) for part in parts], 3)
    generator = torch.Generator().manual_seed(0)
    shown = [examples.draw(i, generator) for i in (0, 1, 2) for _ in range(20)]
    assert len(examples) == 3
    assert {one.text for one in shown[:40]} == {0, 1, 2} and {one.text for one in shown[40:]} == {3, 4, 5}
    assert torch.equal(shown[40].x0, parts[1].draw(0, generator).x0)
    assert examples.digest() != Together(parts[::-1]).digest()
    with pytest.raises(IndexError):
        examples.draw(3, generator)


@pytest.mark.parametrize(
    ("method", "changes", "complaint"),
    [
        ("textual-inversion", {"prior_weight": 1.0}, "Textual Inversion moves nothing that pictures of the class"),
        ("textual-inversion", {"token": "my cat"}, "token is 'my cat', and a new word is one word"),
        ("textual-inversion", {"templates": ("a photo",)}, r"templates are .* want prompts with \{\}"),
        ("textual-inversion", {"tokens_per_word": 71}, "tokens_per_word is 71"),
        ("custom-diffusion", {"also": (Beside("<new1>", "dog", "pll"),)}, "want another word for every subject"),
        ("custom-diffusion", {"also": (Beside("new 2", "dog", "pll"),)}, "token is 'new 2', and a new word"),
        ("custom-diffusion", {"also": (DOG,), "class_prompt": "a pet"}, "are of one subject, and here are several"),
        ("custom-diffusion", {"random_crop": True}, "random_crop cuts no picture that zoom"),
        ("custom-diffusion", {"mask_loss": True}, "masks are of one subject's pictures as they are"),
        ("custom-diffusion", {"zoom": False, "mask_loss": True, "also": (DOG,)}, "masks are of one subject's"),
    ],
)
def test_what_does_not_belong_together_is_one_sentence(method, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        learn_config(method, "sd21", "cat", **changes)


# the command


@pytest.mark.parametrize(
    ("method", "more", "prompt"),
    [
        ("lora", ["--rank", "2", "--prior-weight", "0"], "a photo of a sks cat"),
        ("textual-inversion", ["--tokens-per-word", "2"], "a photo of a <new1>"),
        (
            "custom-diffusion",
            ["--prior-weight", "0", "--also", "REFERENCES", "dog", "<b>"],
            "a photo of a <b> dog",
        ),
    ],
)
def test_what_a_command_learns_the_others_take(method, more, prompt, tiny, pictures, tmp_path, capsys):
    references = str(pictures / "references")
    more = [word.replace("REFERENCES", references) for word in more]
    learn = ["learn", references, "--class", "cat", "--method", method, *more, "--steps", "1", "--size", "64"]
    assert main([*learn, *tiny, "--out", str(tmp_path / "out")]) == 0
    file = capsys.readouterr().out.strip()
    found = open_concept(file)
    assert found.base and found.settings["method"] == method
    quick = ["--steps", "1", "--size", "64", *tiny]
    drawn = [["generate", prompt, *quick, "--out", str(tmp_path / name)] for name in ("with.png", "without.png")]
    assert main([*drawn[0], "--concept", file]) == 0 and main(drawn[1]) == 0
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()
    if method != "custom-diffusion":
        swap = ["swap", str(pictures / "source.png"), "--prompt", "a photo of a dog", "--subject", "dog"]
        assert (
            main([*swap, *tiny, "--steps", "2", "--size", "64", "--concept", file, "--out", str(tmp_path / "s")]) == 0
        )


def test_the_commands_mistakes_are_one_sentence(tiny, pictures, tmp_path, capsys):
    learn = ["learn", pictures / "references", "--class", "cat", *tiny, "--out", tmp_path / "out", "--size", "64"]
    for flags, complaint in {
        ("--rank", "4"): "--rank changes nothing with --method dreambooth",
        ("--method", "textual-inversion", "--prior-weight", "1"): "which moves no weight",
        ("--method", "lora", "--preset", "official"): "no preset for 'official' in lora",
        ("--method", "custom-diffusion", "--also", tmp_path / "nowhere", "dog", "<b>"): "nowhere",
        ("--method", "custom-diffusion", "--also", pictures / "references", "dog", "<new1>"): "another word for every",
        ("--method", "textual-inversion", "--init-word", "an odd one"): "want a word of 1",
    }.items():
        assert complaint in refused(capsys, *learn, *flags), flags
    assert not (tmp_path / "out").exists()
