"""The data module of labelled texts: forms of files, classes, splits, tokenizers, and what bad files get."""

import json
import re
from pathlib import Path

import datasets
import pytest
import torch

from ida_lightning import InputError, Mixing, TextDataModule, TextFields, Tokens
from ida_lightning.data.tokens import make_tokenizer
from tests.helpers.texts import TINY, made_pairs, write_texts

PLAIN = {"tokens": TINY, "mixing": Mixing("none"), "batch_size": 4}


def read(train, **options):
    data = TextDataModule(str(train) if isinstance(train, Path) else train, **{**PLAIN, **options})
    data.setup("fit")
    return data


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "txt"])
def test_every_form_of_file_reads_the_same(form, tmp_path):
    pairs = made_pairs(12)
    data = read(write_texts(tmp_path / f"train.{form}", pairs), val_share=0)
    assert data.class_names == ["HUM:ind", "LOC:city", "NUM:date"]
    assert data.splits["train"].texts == [text for text, _ in pairs]
    assert [data.class_names[label] for label in data.splits["train"].labels] == [label for _, label in pairs]
    assert data.vocabulary == read(pairs, val_share=0).vocabulary


def test_columns_classes_and_encoding_are_arguments(tmp_path):
    file = tmp_path / "train.csv"
    file.write_bytes("0,née where,x\n1,who,y\n0,where now,z\n1,who else,u\n".encode("latin-1"))
    fields = TextFields(text=1, label=0, encoding="latin-1", class_names=["place", "person"])
    data = read(file, fields=fields, val_share=0.5)
    assert data.class_names == ["place", "person"]
    assert {*data.splits["train"].texts, *data.splits["val"].texts} == {"née where", "who", "where now", "who else"}
    coarse = read(made_pairs(12), fields=TextFields(coarse=True))
    assert coarse.class_names == ["HUM", "LOC", "NUM"]
    items = [{"question": text, "kind": label} for text, label in made_pairs(12)]
    assert read(items, fields=TextFields("question", "kind")).num_classes == 3
    assert read([(text, str(9 + number % 2)) for number, (text, _) in enumerate(made_pairs(8))]).class_names == [
        "9",
        "10",
    ]


def test_labels_of_hugging_face_get_their_names():
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["who", "where"]))
    columns = {"text": [f"text {number}" for number in range(6)], "label": [number % 2 for number in range(6)]}
    source = datasets.Dataset.from_dict(columns, features)
    assert read(source).class_names == ["where", "who"]
    data = read(source, fields=TextFields(class_names=["who", "where"]), val_share=0)
    assert data.splits["train"].labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_splits_are_fixed_and_batches_padded():
    first, again = (read(made_pairs(60), seed=seed) for seed in (0, 1))
    assert first.splits["val"].texts == again.splits["val"].texts
    assert len(first.splits["val"]) == 15
    assert first.splits["val"].labels.bincount().tolist() == [5, 5, 5]
    assert not set(first.splits["val"].texts) & set(first.splits["train"].texts)
    assert first.vocabulary == again.vocabulary
    split = first.splits["train"]
    batch = split.__getitems__([3, 0, 7])
    encoded = [first.tokenizer.encode([split.texts[row]])[0] for row in (3, 0, 7)]
    assert batch.inputs["input_ids"].shape[1] == max(map(len, encoded))
    for row, ids in enumerate(encoded):
        assert batch.inputs["input_ids"][row, : len(ids)].tolist() == ids
        assert batch.inputs["input_ids"][row, len(ids) :].eq(first.tokenizer.pad_id).all()
        assert batch.inputs["attention_mask"][row].sum() == len(ids)
    assert batch.index.tolist() == [3, 0, 7]
    short = read(made_pairs(12), tokens=Tokens(vocabulary=300, max_length=5))
    assert short.splits["train"].__getitems__([0, 1]).inputs["input_ids"].shape == (2, 5)


def test_loaders_go_on_with_seed_and_epoch():
    data = read(made_pairs(40), seed=3)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        epochs.append(torch.cat([batch.index for batch in loader]))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])


def test_equal_texts_make_equal_tokenizers():
    texts = [text for text, _ in made_pairs(60)]
    first, again = (make_tokenizer(TINY, texts) for _ in range(2))
    assert first.vocabulary == again.vocabulary
    assert first.encode(["Who sent 9 of ünknown"]) == again.encode(["who sent 9 of ÜNKNOWN"])
    assert 1 not in first.encode(["☃ as"])[0]  # no letter is unknown


def test_a_tokenizer_of_a_folder_is_taken(tmp_path):
    trained = make_tokenizer(TINY, [text for text, _ in made_pairs(60)])
    trained.save(tmp_path)
    loaded = make_tokenizer(Tokens(str(tmp_path)), [])
    assert loaded.vocabulary == trained.vocabulary
    assert loaded.encode(["who was it"]) == trained.encode(["who was it"])
    with pytest.raises(InputError, match=r"tokens.tokenizer: expected a folder with tokenizer.json, .* got 'no/such'"):
        make_tokenizer(Tokens("no/such"), [])


def test_bad_files_get_one_line_with_file_and_line(tmp_path):
    def refused(name, content, line, **options):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=line.replace("FILE", re.escape(str(file)))) as caught:
            read(file, **options)
        assert "\n" not in str(caught.value)

    refused(
        "a.txt", b"A x\nB caf\xe9\n", "fields.encoding: expected text in utf-8, got byte 0xe9 in FILE, line 2, byte 6;"
    )
    refused("b.csv", "text,kind\nx,A\n", "fields.label: expected a column 'label' in FILE, it has text, kind")
    refused("c.jsonl", '{"text": "x"}\n', "fields.label: expected a field 'label' in FILE, line 1, it has text")
    refused("d.jsonl", '{"text": "x", "label": 1}\n{', "FILE, line 2: expected an object in JSON, got an error")
    refused("e.txt", "A x\nB \nA y\n", "train: expected a text in every row, got str '' in FILE, line 2")
    refused("f.csv", "text,label\nx,A\ny\n", "train: expected a label in every row, got NoneType None in FILE, line 3")
    refused("g.txt", "A x\nA y\n", "train: expected texts of two classes or more, got A alone")
    refused("h.txt", "", "train: expected texts, got none in FILE")
    refused("i.doc", "A x", r"train: expected a file named \*.csv, .* got FILE")
    refused("j.txt", "A x\nB y\nA z\n", "val_share: expected two texts a class or more to divide, got one of 'B'")
    refused("k.txt", "A x\nB y\n", r"train: expected labels of fields.class_names \(A, C\), got 'B' in FILE, line 2",
            fields=TextFields(class_names=["A", "C"]))  # fmt: skip
    with pytest.raises(InputError, match=r"train: expected a file at .*none.txt, found none"):
        read(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"mixing.kind: expected mixup or none for texts, .* got 'cutmix'"):
        read(made_pairs(12), mixing=Mixing("cutmix"))


def test_a_class_only_in_test_is_named(tmp_path):
    test = write_texts(tmp_path / "test.txt", [("where is it", "LOC:city"), ("what is it", "ENTY:food")])
    with pytest.raises(InputError, match=r"test: expected labels of the training .* got 'ENTY:food' in .*, line 2"):
        read(made_pairs(12), test=str(test))


def test_fields_and_tokens_are_checked():
    for line, make in (
        ("fields.encoding: expected one that Python knows, got 'utf-9'", lambda: TextFields(encoding="utf-9")),
        ("fields.label: expected a name or a number as in fields.text", lambda: TextFields(text=1)),
        ("tokens.vocabulary: expected .* 261", lambda: Tokens(vocabulary=100)),
        ("train: expected a path or a data set with items by number, got", lambda: read(json)),
    ):
        with pytest.raises(InputError, match=line):
            make()
