//! The text stack behind a C ABI (text/rust_abi.h): tokenizers, chat templates, grammars.
//!
//! Rules of the border: every function that can fail returns 0 or a code and fills `error`; handles are freed by
//! their own `_free`; buffers by `baton_buffer_free`; no panic leaves the library.

mod abi;
mod chat;
mod grammar;
mod least;
mod marks;
mod pieces;
mod pre_tokenizer;
mod python_json;
mod spm;
mod tokenizer;

use abi::{guarded, values, Buffer, Bytes, Failure};
use chat::ChatTemplate;
use grammar::{GrammarMatcher, Limits, Vocabulary};
use marks::Marks;
use tokenizer::{EncodeOptions, GgufVocabulary, TextTokenizer};

/// Field order is the ABI.
#[repr(C)]
pub struct GgufSpec {
    model: Bytes,
    pre: Bytes,
    tokens: *const Bytes,
    token_count: usize,
    merges: *const Bytes,
    merge_count: usize,
    scores: *const f32,
    score_count: usize,
    types: *const i32,
    type_count: usize,
    bos: i64, // -1: none
    eos: i64,
    unknown: i64,
    add_bos: i32, // -1: the file does not say
    add_eos: i32,
    add_space_prefix: i32,
}

unsafe fn texts<'a>(list: &'a [Bytes], what: &str) -> Result<Vec<&'a str>, Failure> {
    list.iter().enumerate().map(|(i, bytes)| bytes.text(&format!("{what}: entry {i}"))).collect()
}

impl GgufSpec {
    unsafe fn vocabulary(&self) -> Result<GgufVocabulary<'_>, Failure> {
        let count = self.token_count;
        let id = |value: i64| u32::try_from(value).ok().filter(|id| (*id as usize) < count);
        let flag = |value: i32| (value >= 0).then_some(value != 0);
        Ok(GgufVocabulary {
            model: self.model.text("tokenizer.ggml.model")?,
            pre: self.pre.text("tokenizer.ggml.pre")?,
            tokens: texts(values(self.tokens, count), "tokenizer.ggml.tokens")?,
            merges: texts(values(self.merges, self.merge_count), "tokenizer.ggml.merges")?,
            scores: values(self.scores, self.score_count),
            types: values(self.types, self.type_count),
            bos: id(self.bos),
            eos: id(self.eos),
            unknown: id(self.unknown),
            add_bos: flag(self.add_bos),
            add_eos: flag(self.add_eos),
            add_space_prefix: flag(self.add_space_prefix),
        })
    }
}

unsafe fn give<T>(out: *mut *mut T, value: T) -> Result<(), Failure> {
    *out = Box::into_raw(Box::new(value));
    Ok(())
}

unsafe fn release<T>(handle: *mut T) {
    if !handle.is_null() {
        drop(Box::from_raw(handle));
    }
}

/// # Safety
/// Here and below: pointers as text/rust_abi.h says; handles from this library and not yet freed.
#[no_mangle]
pub unsafe extern "C" fn baton_buffer_free(buffer: Buffer) {
    buffer.free();
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_tokenizer_from_json(
    json: Bytes,
    out: *mut *mut TextTokenizer,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || give(out, TextTokenizer::from_json(json.text("tokenizer.json")?)?))
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_tokenizer_from_gguf(
    spec: *const GgufSpec,
    out: *mut *mut TextTokenizer,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || give(out, TextTokenizer::from_gguf(&(*spec).vocabulary()?)?))
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_tokenizer_free(tokenizer: *mut TextTokenizer) {
    release(tokenizer);
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_tokenizer_entries(
    tokenizer: *const TextTokenizer,
    out: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        let mut bytes = Vec::new();
        for entry in &(*tokenizer).entries {
            bytes.push(entry.special as u8);
            for part in [entry.piece.as_bytes(), &entry.bytes] {
                bytes.extend_from_slice(&(part.len() as u32).to_ne_bytes());
                bytes.extend_from_slice(part);
            }
        }
        *out = Buffer::from_vec(bytes);
        Ok(())
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_encode_text(
    tokenizer: *const TextTokenizer,
    text: Bytes,
    flags: u32,
    most_tokens: usize,
    ids: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        let options =
            EncodeOptions { add_special: flags & 1 != 0, parse_special: flags & 2 != 0, most_tokens };
        *ids = Buffer::from_ids(&(*tokenizer).encode(text.text("text")?, &options, &Marks::default())?);
        Ok(())
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_template_new(
    source: Bytes,
    special: Bytes,
    out: *mut *mut ChatTemplate,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        give(out, ChatTemplate::new(source.text("chat template")?, special.text("special tokens")?)?)
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_template_free(template: *mut ChatTemplate) {
    release(template);
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_template_render(
    template: *const ChatTemplate,
    context: Bytes,
    now: i64,
    out: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        *out = Buffer::from_vec((*template).render(context.text("chat request")?, now)?.into_bytes());
        Ok(())
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_encode_chat(
    template: *const ChatTemplate,
    tokenizer: *const TextTokenizer,
    context: Bytes,
    now: i64,
    most_tokens: usize,
    ids: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        let context = context.text("chat request")?;
        *ids = Buffer::from_ids(&(*template).encode(&*tokenizer, context, now, most_tokens)?);
        Ok(())
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_vocabulary_new(
    tokenizer: *const TextTokenizer,
    width: usize,
    end: *const u32,
    end_count: usize,
    out: *mut *mut Vocabulary,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || give(out, Vocabulary::new(&*tokenizer, width, values(end, end_count))?))
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_vocabulary_free(vocabulary: *mut Vocabulary) {
    release(vocabulary);
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_matcher_new(
    vocabulary: *const Vocabulary,
    kind: Bytes,
    source: Bytes,
    limits: *const Limits,
    out: *mut *mut GrammarMatcher,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        give(out, (*vocabulary).compile(kind.text("grammar kind")?, source.text("grammar")?, &*limits)?)
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_matcher_copy(
    matcher: *const GrammarMatcher,
    out: *mut *mut GrammarMatcher,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || give(out, (*matcher).copy()))
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_matcher_free(matcher: *mut GrammarMatcher) {
    release(matcher);
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_matcher_mask(
    matcher: *mut GrammarMatcher,
    words: *mut u32,
    count: usize,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        let out = if count == 0 { &mut [][..] } else { std::slice::from_raw_parts_mut(words, count) };
        (*matcher).mask(out)
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_matcher_accept(
    matcher: *mut GrammarMatcher,
    id: u32,
    taken: *mut i32,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        *taken = (*matcher).accept(id)? as i32;
        Ok(())
    })
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_matcher_rollback(
    matcher: *mut GrammarMatcher,
    tokens: usize,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || (*matcher).rollback(tokens))
}

/// # Safety
/// See `baton_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn baton_matcher_state(
    matcher: *mut GrammarMatcher,
    stopped: *mut i32,
    accepting: *mut i32,
    error: *mut Buffer,
) -> i32 {
    guarded(error, || {
        *stopped = (*matcher).is_stopped() as i32;
        *accepting = (*matcher).is_accepting()? as i32;
        Ok(())
    })
}
