//! Tokenizers: a tokenizer.json, or the vocabulary of a GGUF file (byte-level BPE or SentencePiece BPE).

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::tokenizer::{AddedVocabulary, Model, OffsetReferential, OffsetType, PreTokenizer};
use tokenizers::{AddedToken, Tokenizer};

use crate::abi::Failure;
use crate::least::{changes_of, Changes, LeastTokens};
use crate::marks::{Marks, SpecialSpellings};
use crate::pieces::{alphabet_bytes, PieceDecoder};
use crate::pre_tokenizer::pre_kind;
use crate::spm::Spm;

/// Token types of a GGUF file (gguf-py, TokenType).
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// One entry of the vocabulary, as C++ keeps it.
#[derive(Clone, Default)]
pub struct Entry {
    pub piece: String,
    pub bytes: Vec<u8>,
    pub special: bool,
}

impl Entry {
    /// What it stands for in a text.
    fn spelling(&self) -> &[u8] {
        if self.bytes.is_empty() {
            self.piece.as_bytes()
        } else {
            &self.bytes
        }
    }
}

pub struct TextTokenizer {
    engine: Engine,
    pub entries: Vec<Entry>,
    pub special: SpecialSpellings,
    least: Option<LeastTokens>, // none: not known of such a tokenizer
    bos: Option<u32>,           // put by us, not by a post-processor
    eos: Option<u32>,
}

enum Engine {
    Crate(Box<CrateEngine>),
    Spm(Box<SpmEngine>),
}

/// The crate's tokenizer. Its added vocabulary exists twice, since whether special tokens are looked for is a
/// setting there and a parameter here.
struct CrateEngine {
    tokenizer: Tokenizer,
    without_special: AddedVocabulary,
}

struct SpmEngine {
    model: Spm,
    always: Finder, // user-defined tokens
    all: Finder,    // and control tokens
    add_space_prefix: bool,
}

struct Finder {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Finder {
    fn new(tokens: Vec<(String, u32)>) -> Result<Self, Failure> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(text, _)| text))
            .map_err(|e| Failure::invalid(format!("special tokens: {e}")))?;
        Ok(Finder { automaton, ids: tokens.into_iter().map(|(_, id)| id).collect() })
    }
}

pub struct EncodeOptions {
    pub add_special: bool,
    pub parse_special: bool,
    pub most_tokens: usize, // a text with more is refused; 0: any number
}

/// A GGUF file's tokenizer keys, lengths checked by the caller.
pub struct GgufVocabulary<'a> {
    pub model: &'a str,
    pub pre: &'a str,
    pub tokens: Vec<&'a str>,
    pub merges: Vec<&'a str>,
    pub scores: &'a [f32],
    pub types: &'a [i32], // empty: all normal
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
}

impl GgufVocabulary<'_> {
    fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or(1)
    }
    fn is_special(&self, id: usize) -> bool {
        matches!(self.kind(id), CONTROL | UNKNOWN)
    }
}

impl TextTokenizer {
    pub fn from_json(json: &str) -> Result<Self, Failure> {
        let config: Value =
            serde_json::from_str(json).map_err(|e| Failure::invalid(format!("tokenizer.json: {e}")))?;
        let decoder = PieceDecoder::from_config(&config["decoder"])?;
        let mut tokenizer =
            Tokenizer::from_str(json).map_err(|e| Failure::invalid(format!("tokenizer.json: {e}")))?;
        // A file may carry the truncation of its training; a server never shortens silently.
        tokenizer.with_truncation(None).map_err(|e| Failure::invalid(format!("tokenizer.json: {e}")))?;
        tokenizer.with_padding(None);
        let added = tokenizer.get_added_tokens_decoder();
        let vocabulary = tokenizer.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        if size > MAX_VOCABULARY {
            return Err(Failure::invalid(format!(
                "tokenizer.json: token id {} (at most {MAX_VOCABULARY})",
                size - 1
            )));
        }
        let mut entries = vec![Entry::default(); size];
        for (piece, id) in vocabulary {
            let token = added.get(&id);
            let special = token.is_some_and(|t| t.special);
            let bytes = match token {
                _ if special => Vec::new(),
                Some(t) => t.content.clone().into_bytes(),
                None => decoder.bytes(&piece),
            };
            entries[id as usize] = Entry { piece, bytes, special };
        }
        let engine = Engine::Crate(Box::new(CrateEngine::new(tokenizer)));
        Self::finish(engine, entries, changes_of(&config), None, None)
    }

    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, Failure> {
        match vocabulary.model {
            "gpt2" => Self::byte_level(vocabulary),
            "llama" => Self::sentence_piece(vocabulary),
            other => Err(Failure::invalid(format!(
                "tokenizer.ggml.model: \"{other}\" is not supported (known: gpt2, llama)"
            ))),
        }
    }

    fn byte_level(v: &GgufVocabulary) -> Result<Self, Failure> {
        let kind = pre_kind(v.pre)?;
        let mut ids: HashMap<String, u32> = HashMap::with_capacity(v.tokens.len());
        for (id, token) in v.tokens.iter().enumerate() {
            ids.entry(token.to_string()).or_insert(id as u32);
        }
        let merges =
            v.merges.iter().enumerate().map(|(i, m)| split_merge(i, m)).collect::<Result<Vec<_>, _>>()?;
        let model = BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<ahash::AHashMap<_, _>>(), merges)
            .ignore_merges(kind.whole_words_first)
            .build()
            .map_err(|e| Failure::invalid(format!("tokenizer.ggml.merges: {e}")))?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer
            .with_normalizer(kind.normalizer())
            .map_err(|e| Failure::invalid(format!("normalizer: {e}")))?;
        tokenizer.with_pre_tokenizer(Some(kind.pre_tokenizer()?));
        let added = (0..v.tokens.len())
            .filter(|&id| v.is_special(id) || v.kind(id) == USER_DEFINED)
            .map(|id| AddedToken::from(v.tokens[id], v.is_special(id)).normalized(false));
        tokenizer.add_tokens(added).map_err(|e| Failure::invalid(format!("tokenizer.ggml.tokens: {e}")))?;
        let entries = (0..v.tokens.len())
            .map(|id| {
                let piece = v.tokens[id].to_string();
                let bytes = match v.kind(id) {
                    CONTROL | UNKNOWN => Vec::new(),
                    USER_DEFINED => piece.clone().into_bytes(),
                    _ => alphabet_bytes(&piece),
                };
                Entry { piece, bytes, special: v.is_special(id) }
            })
            .collect();
        let engine = Engine::Crate(Box::new(CrateEngine::new(tokenizer)));
        let add_bos = v.add_bos.unwrap_or(kind.adds_bos);
        Self::finish(
            engine,
            entries,
            Some(Changes { nfc: kind.normalizer().is_some(), spaces: false }),
            required(v.bos, add_bos, "bos")?,
            required(v.eos, v.add_eos == Some(true), "eos")?,
        )
    }

    fn sentence_piece(v: &GgufVocabulary) -> Result<Self, Failure> {
        if v.scores.len() != v.tokens.len() {
            return Err(Failure::invalid(format!(
                "tokenizer.ggml.scores: {} scores for {} tokens",
                v.scores.len(),
                v.tokens.len()
            )));
        }
        let mut pieces = HashMap::with_capacity(v.tokens.len());
        let mut bytes = [None; 256];
        let mut user_defined = Vec::new();
        let mut all = Vec::new();
        let mut entries = Vec::with_capacity(v.tokens.len());
        let decoder = PieceDecoder::sentence_piece();
        for (id, &token) in v.tokens.iter().enumerate() {
            let mut entry =
                Entry { piece: token.to_string(), bytes: decoder.bytes(token), special: v.is_special(id) };
            match v.kind(id) {
                CONTROL | UNKNOWN => {
                    entry.bytes.clear();
                    all.push((token.to_string(), id as u32));
                }
                BYTE => {
                    let [byte] = entry.bytes[..] else {
                        return Err(Failure::invalid(format!(
                            "tokenizer.ggml.tokens: byte token {id} is {token:?}"
                        )));
                    };
                    bytes[byte as usize] = Some(id as u32);
                }
                kind => {
                    if kind == USER_DEFINED {
                        entry.bytes = token.as_bytes().to_vec();
                        user_defined.push((token.to_string(), id as u32));
                        all.push((token.to_string(), id as u32));
                    }
                    pieces.entry(token.to_string()).or_insert((id as u32, v.scores[id]));
                }
            }
            entries.push(entry);
        }
        let not_empty =
            |tokens: Vec<(String, u32)>| tokens.into_iter().filter(|(t, _)| !t.is_empty()).collect();
        let engine = Engine::Spm(Box::new(SpmEngine {
            model: Spm::new(pieces, bytes, v.unknown)?,
            always: Finder::new(not_empty(user_defined))?,
            all: Finder::new(not_empty(all))?,
            add_space_prefix: v.add_space_prefix.unwrap_or(true),
        }));
        let add_bos = v.add_bos.unwrap_or(true);
        Self::finish(
            engine,
            entries,
            bytes.iter().all(Option::is_some).then_some(Changes { nfc: false, spaces: true }),
            required(v.bos, add_bos, "bos")?,
            required(v.eos, v.add_eos == Some(true), "eos")?,
        )
    }

    fn finish(
        engine: Engine,
        entries: Vec<Entry>,
        changes: Option<Changes>,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Self, Failure> {
        let mut seen = HashSet::new();
        let spellings = entries
            .iter()
            .filter(|e| e.special && !e.piece.is_empty() && seen.insert(&e.piece))
            .map(|e| e.piece.clone())
            .collect();
        // Control tokens have no bytes of their own and are found by their spelling.
        let least = changes.map(|changes| LeastTokens::new(entries.iter().map(Entry::spelling), changes));
        Ok(TextTokenizer { engine, special: SpecialSpellings::new(spellings)?, entries, least, bos, eos })
    }

    /// `marks`: taken out of the ordinary text after special tokens have been looked for (see marks.rs).
    pub fn encode(&self, text: &str, options: &EncodeOptions, marks: &Marks) -> Result<Vec<u32>, Failure> {
        self.refuse_too_long(text, options.most_tokens, marks)?;
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend(self.bos);
        }
        match &self.engine {
            Engine::Crate(engine) => engine.encode(text, options, marks, &mut ids)?,
            Engine::Spm(engine) => engine.encode(text, options, marks, &mut ids),
        }
        if options.add_special {
            ids.extend(self.eos);
        }
        Ok(ids)
    }

    /// A text has as many tokens as bytes at most, or nearly: a short one is not looked at.
    fn refuse_too_long(&self, text: &str, most: usize, marks: &Marks) -> Result<(), Failure> {
        let Some(least) = self.least.as_ref().filter(|_| most > 0 && text.len() > most) else {
            return Ok(());
        };
        let tokens = if marks.any() {
            least.count(&text.chars().filter_map(|c| marks.original(c)).collect::<String>())
        } else {
            least.count(text)
        };
        if tokens > most {
            return Err(Failure::too_long(format!("at least {tokens} tokens")));
        }
        Ok(())
    }
}

/// More than any published vocabulary; bounds what an id in a file may make us allocate.
const MAX_VOCABULARY: usize = 1 << 22;

fn required(id: Option<u32>, wanted: bool, what: &str) -> Result<Option<u32>, Failure> {
    match (wanted, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(id)),
        (true, None) => Err(Failure::invalid(format!(
            "tokenizer.ggml.add_{what}_token is set, tokenizer.ggml.{what}_token_id is missing"
        ))),
    }
}

fn split_merge(index: usize, merge: &str) -> Result<(String, String), Failure> {
    // The first character may be a space itself.
    let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
    match space {
        Some(at) => Ok((merge[..at].to_string(), merge[at + 1..].to_string())),
        None => Err(Failure::invalid(format!(
            "tokenizer.ggml.merges: merge {index} is {merge:?}; want two pieces"
        ))),
    }
}

impl CrateEngine {
    fn new(mut tokenizer: Tokenizer) -> Self {
        tokenizer.set_encode_special_tokens(false);
        let mut without_special = tokenizer.get_added_vocabulary().clone();
        without_special.set_encode_special_tokens(true);
        CrateEngine { tokenizer, without_special }
    }

    fn encode(
        &self,
        text: &str,
        options: &EncodeOptions,
        marks: &Marks,
        ids: &mut Vec<u32>,
    ) -> Result<(), Failure> {
        let failed = |e: tokenizers::Error| Failure::invalid(format!("tokenise: {e}"));
        let added =
            if options.parse_special { self.tokenizer.get_added_vocabulary() } else { &self.without_special };
        let mut pre = added.extract_and_normalize(self.tokenizer.get_normalizer(), text);
        if marks.any() {
            pre.split(|_, mut part| {
                let restored: String = part.get().chars().filter_map(|c| marks.original(c)).collect();
                if restored != part.get() {
                    part.map(|c| marks.original(c).unwrap_or(c)).filter(|c| marks.original(c).is_some());
                }
                Ok(vec![part])
            })
            .map_err(failed)?;
        }
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pre).map_err(failed)?;
        }
        let model = self.tokenizer.get_model();
        pre.tokenize(|part| model.tokenize(part.get())).map_err(failed)?;
        if !options.add_special {
            for (_, _, tokens) in pre.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
                ids.extend(tokens.iter().flatten().map(|token| token.id));
            }
            return Ok(());
        }
        let encoding = pre.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
        let encoding = self.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

impl SpmEngine {
    fn encode(&self, text: &str, options: &EncodeOptions, marks: &Marks, ids: &mut Vec<u32>) {
        let finder = if options.parse_special { &self.all } else { &self.always };
        let mut at = 0;
        let mut after_special = true; // the start of the text counts: a space is put in front
        for found in finder.automaton.find_iter(text) {
            self.ordinary(&text[at..found.start()], after_special, marks, ids);
            ids.push(finder.ids[found.pattern().as_usize()]);
            at = found.end();
            after_special = true;
        }
        self.ordinary(&text[at..], after_special, marks, ids);
    }

    fn ordinary(&self, text: &str, after_special: bool, marks: &Marks, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut escaped = String::with_capacity(text.len() + 8);
        if self.add_space_prefix && after_special {
            escaped.push('\u{2581}');
        }
        for c in text.chars().filter_map(|c| marks.original(c)) {
            escaped.push(if c == ' ' { '\u{2581}' } else { c });
        }
        self.model.tokenize(&escaped, ids);
    }
}
