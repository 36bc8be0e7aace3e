"""Made questions in three classes told apart by their first word, and files of them."""

import csv
import json

from ida_lightning import Tokens

TINY = Tokens(vocabulary=300, max_length=24)
TINY_BERT = {
    **{"vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 8, "max_position_embeddings": 32},
}
_KINDS = (("who", "HUM:ind"), ("where", "LOC:city"), ("when", "NUM:date"))
_REST = ("was the first to come here", "did it begin", "is that", "would one look for it in winter")


def made_pairs(count):
    """So many different (text, label)."""
    kinds = [_KINDS[number % 3] for number in range(count)]
    return [(f"{word} {_REST[number % 4]} {number} ?", label) for number, (word, label) in enumerate(kinds)]


def write_texts(path, pairs):
    """Write a file of the form that its name says."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix in (".csv", ".tsv"):
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([("label", "other", "text"), *((label, 1, text) for text, label in pairs)])
        for text, label in pairs if path.suffix in (".jsonl", ".txt") else ():
            line = json.dumps({"text": text, "label": label}) if path.suffix == ".jsonl" else f"{label} {text}"
            file.write(f"{line}\n")
    return path
