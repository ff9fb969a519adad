//! The pre-tokenizers behind a GGUF file's `tokenizer.ggml.pre`: a name stands for a sequence of regular
//! expressions, each isolating its matches, before the byte-level alphabet. The expressions are those of the models'
//! tokenizer.json files, and where these differ from what the goldens of llama.cpp want, llama.cpp's.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use crate::abi::Failure;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_LLM: &[&str] = &[
    "[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-퟿]+",
    r"\p{N}+",
];
const DEEPSEEK_CODER: &[&str] = &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"];
const DEEPSEEK_V3: &[&str] = &[
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];
const FALCON: &[&str] = &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"];
const DEFAULT: &[&str] = &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// What a `pre` name implies.
pub struct PreKind {
    splits: &'static [&'static str],
    digits_alone: bool,
    gpt2: bool, // the byte-level step splits by GPT-2's own expression
    nfc: bool,
    pub whole_words_first: bool, // a word in the vocabulary is one token whatever the merges say
    pub adds_bos: bool,          // unless the file says otherwise
}

const PLAIN: PreKind = PreKind {
    splits: &[],
    digits_alone: false,
    gpt2: false,
    nfc: false,
    whole_words_first: false,
    adds_bos: false,
};

pub fn pre_kind(name: &str) -> Result<PreKind, Failure> {
    Ok(match name {
        "default" => PreKind { splits: DEFAULT, ..PLAIN },
        "gpt-2" | "phi-2" | "roberta-bpe" | "mpt" | "olmo" | "jais" | "exaone4" => {
            PreKind { gpt2: true, ..PLAIN }
        }
        "starcoder" | "refact" | "smollm" | "codeshell" | "exaone" | "minerva-7b" => {
            PreKind { digits_alone: true, gpt2: true, ..PLAIN }
        }
        "command-r" => PreKind { digits_alone: true, gpt2: true, nfc: true, ..PLAIN },
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "lfm2" => {
            PreKind { splits: &[LLAMA3], whole_words_first: true, adds_bos: true, ..PLAIN }
        }
        "dbrx" | "smaug-bpe" => PreKind { splits: &[LLAMA3], ..PLAIN },
        "qwen2" | "deepseek-r1-qwen" => PreKind { splits: &[QWEN2], nfc: true, ..PLAIN },
        "stablelm2" | "megrez" => PreKind { splits: &[QWEN2], ..PLAIN },
        "qwen35" => PreKind { splits: &[QWEN35], ..PLAIN },
        "tekken" => PreKind { splits: &[TEKKEN], whole_words_first: true, adds_bos: true, ..PLAIN },
        "gpt-4o" | "llama4" => PreKind { splits: &[GPT4O], ..PLAIN },
        "deepseek-llm" => PreKind { splits: DEEPSEEK_LLM, ..PLAIN },
        "deepseek-coder" => PreKind { splits: DEEPSEEK_CODER, ..PLAIN },
        "deepseek-v3" => PreKind { splits: DEEPSEEK_V3, ..PLAIN },
        "falcon" => PreKind { splits: FALCON, ..PLAIN },
        "bloom" | "poro-chat" | "gpt3-finnish" => PreKind { splits: &[BLOOM], ..PLAIN },
        "viking" => PreKind { splits: &[BLOOM, r"\p{N}"], ..PLAIN },
        _ => return Err(Failure::invalid(format!("tokenizer.ggml.pre: \"{name}\" is not supported"))),
    })
}

impl PreKind {
    pub fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper, Failure> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for regex in self.splits {
            let pattern = SplitPattern::Regex(regex.to_string());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|e| Failure::invalid(format!("pre-tokenizer: {e}")))?;
            steps.push(split.into());
        }
        if self.digits_alone {
            steps.push(Digits::new(true).into());
        }
        steps.push(ByteLevel::new(false, true, self.gpt2).into());
        Ok(Sequence::new(steps).into())
    }

    pub fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.nfc.then(|| NFC.into())
    }
}
