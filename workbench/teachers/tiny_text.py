"""Small tokenizers, trained on the prompts, and small text encoders with random weights.

A frozen random transformer separates short prompts well enough: what each means, the
velocity network learns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workbench.teachers.recipe import ClipT5Recipe, GemmaRecipe

_HEAD_WIDTH = 16
_GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # Gemma's order: pad 0, bos 2
_CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_T5_SPECIAL = ("<pad>", "</s>", "<unk>")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def gemma(recipe: GemmaRecipe, prompts: Sequence[str]) -> tuple[Any, Any]:
    """A Gemma tokenizer and a Gemma-2 model."""
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = _gemma_tokenizer(prompts, recipe.tokens)
    heads = recipe.width // _HEAD_WIDTH
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=2 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=_HEAD_WIDTH,
        query_pre_attn_scalar=_HEAD_WIDTH,
        max_position_embeddings=512,
        sliding_window=512,
        pad_token_id=_GEMMA_SPECIAL.index("<pad>"),
        eos_token_id=_GEMMA_SPECIAL.index("<eos>"),
        bos_token_id=_GEMMA_SPECIAL.index("<bos>"),
    )
    model = _frozen(Gemma2Model(config))
    model.embed_tokens.weight.mul_(recipe.embedding_std / config.initializer_range)
    return tokenizer, model


def clip(recipe: ClipT5Recipe, prompts: Sequence[str], projected: bool) -> tuple[Any, Any]:
    """A CLIP tokenizer and text model, with SD3's projection of the pooled embedding or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _clip_tokenizer(prompts, recipe.clip_tokens)
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in _CLIP_SPECIAL)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.clip_width,
        intermediate_size=2 * recipe.clip_width,
        projection_dim=recipe.clip_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.clip_width // _HEAD_WIDTH,
        max_position_embeddings=recipe.clip_tokens,
        bos_token_id=start,
        # Where this token stands the pooled embedding is read; a wrong one pools all alike.
        eos_token_id=end,
        pad_token_id=end,
    )
    kind: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
    return tokenizer, _frozen(kind(config))


def t5(recipe: ClipT5Recipe, prompts: Sequence[str]) -> tuple[Any, Any]:
    """A T5 tokenizer and encoder."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = _t5_tokenizer(prompts, recipe.t5_tokens)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=recipe.t5_width,
        d_kv=_HEAD_WIDTH,
        d_ff=2 * recipe.t5_width,
        num_layers=recipe.layers,
        num_heads=recipe.t5_width // _HEAD_WIDTH,
        pad_token_id=_T5_SPECIAL.index("<pad>"),
        eos_token_id=_T5_SPECIAL.index("</s>"),
    )
    return tokenizer, _frozen(T5EncoderModel(config))


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)


def _gemma_tokenizer(prompts: Sequence[str], tokens: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    # Gemma's own pre-tokenizer would let merges cross words and swallow whole prompts.
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bpe.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[*_GEMMA_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=list(_LETTERS),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(prompts), trainer)
    vocabulary, merges = _learnt(bpe)
    return GemmaTokenizer(
        vocab=vocabulary,
        merges=merges,
        # Without it the empty prompt would have an all-zero mask.
        add_bos_token=True,
        padding_side="right",
        model_max_length=tokens,
    )


def _clip_tokenizer(prompts: Sequence[str], tokens: int) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(_CLIP_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(prompts), trainer)
    vocabulary, merges = _learnt(bpe)
    for token in list(vocabulary):  # every letter also as a word's last, whatever was seen
        if len(token) == 1:
            vocabulary.setdefault(f"{token}</w>", len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)


def _t5_tokenizer(prompts: Sequence[str], tokens: int) -> Any:
    """Unigram: the prompts' words whole, anything else letter by letter."""
    from transformers import T5Tokenizer

    words = sorted({word for prompt in prompts for word in prompt.split()})
    pieces = [(token, 0.0) for token in _T5_SPECIAL]
    pieces += [(f"▁{word}", -2.0) for word in words]
    known = {piece for piece, _ in pieces}
    pieces += [(letter, -8.0) for letter in ("▁", *_LETTERS) if letter not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=tokens)


def _corpus(prompts: Sequence[str]) -> list[str]:
    """The prompts, and each word also at a beginning and after a space."""
    words = sorted({word for prompt in prompts for word in prompt.split()})
    return [*prompts, *words, *(f" {word}" for word in words)]


def _learnt(bpe: Any) -> tuple[dict[str, int], Any]:
    model: dict[str, Any] = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]
