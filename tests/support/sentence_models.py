"""A sentence model small enough to be made in a test: a BERT of random weights, of real classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def write_tiny_bert(folder: Path, sentences: Iterable[str], *, seed: int = 0) -> None:
    """Write a BERT whose tokens are the words of some sentences, as transformers alone does."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = sorted({word.strip(".").lower() for text in sentences for word in text.split()})
    ids = {word: row for row, word in enumerate([*special, *words, "."])}
    ids.setdefault("a", len(ids))
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(seed)
    model = BertModel(
        BertConfig(
            vocab_size=len(ids),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=128,
            initializer_range=0.5,
        )
    )
    with torch.no_grad():  # words count, and not what all sentences share: places, first and last
        model.embeddings.position_embeddings.weight.mul_(0.1)
        model.embeddings.token_type_embeddings.weight.zero_()
        model.embeddings.word_embeddings.weight[[2, 3, ids["."], ids["a"]]] *= 0.1
        for layer in model.encoder.layer:
            layer.attention.output.dense.weight.mul_(0.1)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=128,
    ).save_pretrained(folder)
