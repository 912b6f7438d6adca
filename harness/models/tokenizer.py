"""The reference family's tokenizer: known words are one token each, everything else goes by character.

It is built from a word list, saved as the hub's own `tokenizer.json`, and read back by transformers.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, ANSWER, UNKNOWN = "<pad>", "<bos>", "<eos>", "<answer>", "<unk>"


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-piece tokenizer: `words` whole (lower case), other text as characters, unknown signs as `<unk>`."""
    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [PAD, BOS, EOS, ANSWER, UNKNOWN, *signs, *(f"##{sign}" for sign in signs)]
    vocabulary = list(dict.fromkeys([*pieces, *sorted({word.lower() for word in words})]))
    model = WordPiece({piece: index for index, piece in enumerate(vocabulary)}, unk_token=UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, sep_token=ANSWER, unk_token=UNKNOWN
    )
