"""Networks that read texts: transformers by kind, folder and name, and the small one of this package."""

import json

import pytest
import torch

from ida_lightning import InputError, TextCNN, build_model, load_student
from ida_lightning.models import Vocabulary, check_vocabulary, describe, has_new_head, logits_of, note_vocabulary
from tests.helpers.texts import TINY_BERT

IDS = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
MASK = (IDS > 0).long()
"""The second text is one token shorter."""


def test_the_small_network_does_not_see_padding():
    network = TextCNN(num_classes=3, vocab_size=20, width=8, filters=4).eval()
    longer = torch.nn.functional.pad(IDS, (0, 3), value=5)
    assert torch.equal(network(IDS, MASK), network(longer, torch.nn.functional.pad(MASK, (0, 3))))
    alone = network(IDS[1:, :3], MASK[1:, :3])
    torch.testing.assert_close(network(IDS, MASK)[1:], alone)
    with pytest.raises(InputError, match="vocab_size: expected .* 1"):
        TextCNN(3, 0)


def test_the_small_network_is_built_from_its_file(tmp_path):
    from safetensors.torch import save_file

    network = build_model("ida_lightning.models.TextCNN", 3, vocab_size=20, width=8)
    description = describe(network, 3)._replace(vocabulary="abc")
    save_file(network.state_dict(), tmp_path / "cnn.safetensors", description.metadata())
    loaded = load_student(tmp_path / "cnn.safetensors")
    assert torch.equal(loaded(IDS, MASK), network.eval()(IDS, MASK))


def test_a_transformer_is_built_by_kind_and_by_folder(tmp_path):
    network = build_model("transformers:bert", 3, **TINY_BERT)
    assert network.config.hidden_size == 8
    output = network.eval()(input_ids=IDS, attention_mask=MASK)
    logits = logits_of(output, "network")
    assert logits.shape == (2, 3)
    embeds = network.get_input_embeddings()(IDS)
    torch.testing.assert_close(logits_of(network(inputs_embeds=embeds, attention_mask=MASK), "network"), logits)
    network.save_pretrained(tmp_path)
    loaded = build_model(f"transformers:{tmp_path}", 3, pretrained=True)
    assert loaded.training
    assert torch.equal(logits_of(loaded.eval()(input_ids=IDS, attention_mask=MASK), "network"), logits)
    assert not has_new_head(loaded, 3)
    (tmp_path / "model.safetensors").unlink()
    drawn = build_model(f"transformers:{tmp_path}", 5, hidden_size=16)
    assert drawn.config.num_labels == 5
    assert drawn.config.hidden_size == 16
    with pytest.raises(InputError, match=r"model: expected a folder with its weights, .* got"):
        build_model(f"transformers:{tmp_path}", 3, pretrained=True)


def test_a_head_for_other_classes_is_known_to_be_new(tmp_path):
    build_model("transformers:bert", 3, **TINY_BERT).base_model.save_pretrained(tmp_path)
    assert has_new_head(build_model(f"transformers:{tmp_path}", 3, pretrained=True), 3)


def test_unknown_names_and_arguments_are_one_line(tmp_path):
    for name, args, line in (
        ("bertt", {}, r"model: expected a folder with config.json, a name in .*hf download bertt.* such as bert"),
        (
            "bert",
            {"pretrained": True},
            "model: expected a folder or a name with weights for pretrained, got the kind 'bert'",
        ),
        ("bert", {"hidden_size": 7}, "model: 'transformers:bert' could not be built with .*: .*"),
    ):
        with pytest.raises(InputError, match=line) as caught:
            build_model(f"transformers:{name}", 3, **args)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_vocabulary_is_refused():
    network = TextCNN(num_classes=3, vocab_size=20)
    ours = Vocabulary.of({"[PAD]": 0, "who": 19})
    check_vocabulary(network, ours, "student")
    check_vocabulary(torch.nn.Linear(2, 3), ours, "student")
    with pytest.raises(
        InputError, match="student: expected a network for the 21 tokens of the data's tokenizer, it has 20"
    ):
        check_vocabulary(network, Vocabulary.of({"who": 20}), "student")
    note_vocabulary(network, Vocabulary.of({"[PAD]": 1, "who": 19}).fingerprint)
    with pytest.raises(InputError, match="teacher: expected weights that were trained with the data's tokenizer"):
        check_vocabulary(network, ours, "teacher")


def test_a_folder_with_a_tokenizer_notes_its_vocabulary(tmp_path):
    from ida_lightning.data.tokens import make_tokenizer
    from tests.helpers.texts import TINY, made_pairs

    tokenizer = make_tokenizer(TINY, [text for text, _ in made_pairs(60)])
    tokenizer.save(tmp_path)
    build_model("transformers:bert", 3, **{**TINY_BERT, "vocab_size": 300}).save_pretrained(tmp_path)
    network = build_model(f"transformers:{tmp_path}", 3, pretrained=True)
    check_vocabulary(network, tokenizer.vocabulary, "student")
    with pytest.raises(InputError, match="student: expected weights that were trained with the data's tokenizer"):
        check_vocabulary(network, Vocabulary(300, "another"), "student")
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["pad_token"] == "[PAD]"
