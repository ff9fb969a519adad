//! Constrained decoding over llguidance: a vocabulary once per model, a matcher per sequence.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::{Logger, Matcher, ParserFactory};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use crate::abi::Failure;
use crate::tokenizer::TextTokenizer;

/// All tokens as bytes in a trie, as wide as the model's logits.
pub struct Vocabulary {
    // With masks of the tokens that whole classes of expressions allow: tens of milliseconds to make.
    factory: Arc<ParserFactory>,
}

/// Field order is the ABI (rust_abi.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Limits {
    source_bytes: u64,
    grammar_symbols: u64,
    lexer_states: u64,
    compile_fuel: u64,
    step_fuel: u64,
    step_items: u64,
    compile_ms: u64,
}

// The library compiles by recursion: chains of references cost stack (8 KiB each, measured), and no stack is
// endless. Chains are bounded by what they are made of, and compiling has a stack of its own.
const MAX_REFERENCES: usize = 500;
const MAX_RULES: usize = 1500;
const COMPILE_STACK: usize = 256 << 20;  // virtual: touched as far as it is used
// Compilers that nobody waits for any more run to their end: no more than so many.
const MAX_ABANDONED: usize = 4;
static ABANDONED: AtomicUsize = AtomicUsize::new(0);
const RUNNING: u8 = 0;
const LEFT: u8 = 1;
const DONE: u8 = 2;

pub struct GrammarMatcher {
    matcher: Matcher,
    words: usize,
    end: Vec<u32>,
    // End tokens accepted after the matcher had stopped by itself, which it does as soon as nothing else can follow.
    ends_after_stop: usize,
}

const MAX_WIDTH: usize = 1 << 22;

impl Vocabulary {
    pub fn new(tokenizer: &TextTokenizer, width: usize, end: &[u32]) -> Result<Self, Failure> {
        if width > MAX_WIDTH || width < tokenizer.entries.len() {
            return Err(Failure::invalid(format!(
                "grammar: a logit width of {width}; the vocabulary has {}, at most {MAX_WIDTH}",
                tokenizer.entries.len()
            )));
        }
        if end.is_empty() || end.iter().any(|&id| id as usize >= width) {
            return Err(Failure::invalid("grammar: want at least one end token, all inside the vocabulary"));
        }
        let mut words = vec![Vec::new(); width];
        for (word, entry) in words.iter_mut().zip(&tokenizer.entries) {
            if entry.special {
                // toktrie's convention: special tokens are 0xFF and their name, which no text matches.
                word.push(TokTrie::SPECIAL_TOKEN_MARKER);
                word.extend_from_slice(entry.piece.as_bytes());
            } else {
                *word = entry.bytes.clone();
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(width as u32, end[0]), &words).with_eos_tokens(end);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let factory = ParserFactory::new_simple(&environment)
            .map_err(|e| Failure::invalid(format!("grammar: vocabulary: {e}")))?;
        Ok(Vocabulary { factory: Arc::new(factory) })
    }

    /// `kind`: json_schema, regex or lark.
    pub fn compile(&self, kind: &str, source: &str, limits: &Limits) -> Result<GrammarMatcher, Failure> {
        let failed = |e: String| Failure::invalid(format!("grammar: {kind}: {e}"));
        if source.len() as u64 > limits.source_bytes {
            return Err(Failure::exhausted(format!(
                "grammar: {kind}: {} bytes; at most {}",
                source.len(),
                limits.source_bytes
            )));
        }
        if !matches!(kind, "json_schema" | "regex" | "lark") {
            return Err(Failure::invalid(format!("grammar: unknown kind \"{kind}\"")));
        }
        // Written plainly or with escapes.
        let references = source.matches("$ref").count() + source.matches("\\u00").count();
        if references > MAX_REFERENCES {
            return Err(failed(format!("{references} references or escapes; at most {MAX_REFERENCES}")));
        }
        if kind == "lark" && source.lines().count() > MAX_RULES {
            return Err(failed(format!("{} lines; at most {MAX_RULES}", source.lines().count())));
        }
        if ABANDONED.load(Ordering::SeqCst) >= MAX_ABANDONED {
            return Err(Failure::exhausted("grammar: too many that take long are being compiled"));
        }
        self.compile_apart(kind, source, limits)?.map_err(failed)
    }

    /// On a thread with a stack of its own, as long as the limits say.
    fn compile_apart(
        &self,
        kind: &str,
        source: &str,
        limits: &Limits,
    ) -> Result<Result<GrammarMatcher, String>, Failure> {
        let (factory, kind, source, bounds) = (self.factory.clone(), kind.to_string(), source.to_string(), *limits);
        let (done, result) = mpsc::channel();
        let state = Arc::new(AtomicU8::new(RUNNING));
        let own = state.clone();
        let compiler = std::thread::Builder::new()
            .name("compiler".to_string())
            .stack_size(COMPILE_STACK)
            .spawn(move || {
                let made = catch_unwind(AssertUnwindSafe(|| build(&factory, &kind, &source, &bounds)));
                let _ = done.send(made.unwrap_or_else(|_| Err("too large".to_string())));
                if own.swap(DONE, Ordering::SeqCst) == LEFT {
                    ABANDONED.fetch_sub(1, Ordering::SeqCst);
                }
            })
            .map_err(|e| Failure::exhausted(format!("grammar: no thread to compile in: {e}")))?;
        if let Ok(made) = result.recv_timeout(Duration::from_millis(limits.compile_ms)) {
            let _ = compiler.join(); // it has nothing left to do
            return Ok(made);
        }
        ABANDONED.fetch_add(1, Ordering::SeqCst);
        if state.swap(LEFT, Ordering::SeqCst) == DONE {
            ABANDONED.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(Err(format!("takes longer than {} ms to compile", limits.compile_ms)))
    }
}

fn build(factory: &ParserFactory, kind: &str, source: &str, limits: &Limits) -> Result<GrammarMatcher, String> {
    let grammar = TopLevelGrammar::from_tagged_str(kind, source).map_err(|e| plain(&e.to_string()))?;
    let limits = ParserLimits {
        max_grammar_size: limits.grammar_symbols as usize,
        max_lexer_states: limits.lexer_states as usize,
        initial_lexer_fuel: limits.compile_fuel,
        step_lexer_fuel: limits.step_fuel,
        step_max_items: limits.step_items as usize,
        verbose_errors: false,
        ..ParserLimits::default()
    };
    let matcher = Matcher::new(factory.create_parser_from_init_ext(
        GrammarInit::Serialized(grammar),
        Logger::new(0, 0),
        InferenceCapabilities::default(),
        limits,
    ));
    if let Some(error) = matcher.get_error() {
        return Err(plain(&error));
    }
    let trie = factory.tok_env().tok_trie();
    let (words, end) = (trie.vocab_size().div_ceil(32), trie.eos_tokens().to_vec());
    Ok(GrammarMatcher { matcher, words, end, ends_after_stop: 0 })
}

// The library's words without what it says to its own authors.
fn plain(error: &str) -> String {
    if error.contains("panic:") {
        return "too large".to_string();
    }
    if error.contains("NoExtensionBias") {
        return "no text satisfies it".to_string();
    }
    let end = error.find("<backtrace>").unwrap_or(error.len());
    error[..end].trim_end_matches("<non-verbose/>").trim_end().to_string()
}

impl GrammarMatcher {
    /// Bit i of the mask: token i may come next. After the end only the end tokens are left.
    pub fn mask(&mut self, out: &mut [u32]) -> Result<(), Failure> {
        if out.len() != self.words {
            return Err(Failure::invalid(format!(
                "grammar: a mask of {} words; want {}",
                out.len(),
                self.words
            )));
        }
        let mask = self.matcher.compute_mask_or_eos().map_err(step_failed)?;
        out.copy_from_slice(&mask.as_slice()[..self.words]);
        Ok(())
    }

    pub fn accept(&mut self, id: u32) -> Result<bool, Failure> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            let ends = self.end.contains(&id);
            self.ends_after_stop += ends as usize;
            return Ok(ends);
        }
        let taken = self.matcher.try_consume_tokens(&[id]).map_err(step_failed)?;
        Ok(taken == 1)
    }

    pub fn rollback(&mut self, tokens: usize) -> Result<(), Failure> {
        let ends = tokens.min(self.ends_after_stop);
        self.ends_after_stop -= ends;
        self.matcher.rollback(tokens - ends).map_err(step_failed)
    }

    pub fn is_stopped(&self) -> bool {
        self.matcher.is_stopped()
    }

    pub fn is_accepting(&mut self) -> Result<bool, Failure> {
        self.matcher.is_accepting().map_err(step_failed)
    }

    pub fn copy(&self) -> Self {
        GrammarMatcher { matcher: self.matcher.deep_clone(), end: self.end.clone(), ..*self }
    }
}

fn step_failed(error: impl std::fmt::Display) -> Failure {
    Failure::exhausted(format!("grammar: {}", plain(&error.to_string())))
}
