//! How many tokens a text has at least, from one look at each byte. A text that cannot fit is refused by that, before
//! a tokenizer spends seconds and hundreds of megabytes on it.
//!
//! A token that starts with byte b covers at most longest[b] bytes. So a walk that reaches from every place as far as
//! any token could needs no more tokens than the tokenizer. With the tokens "a", "b", "abab": longest is a: 4, b: 1;
//! "bababb" is reached by b, abab, b: at least 3.
//!
//! Wild characters are those whose place among the tokens the bytes do not tell: bytes without a token of their own
//! (the model may drop them), what NFC may compose, U+2581 where it stands for a space. They count as no bytes at all,
//! and as the start of the longest token of the vocabulary. So a text of them is never refused here.

use serde_json::Value;

/// Which characters a tokenizer changes before it looks for tokens.
#[derive(Clone, Copy, Default)]
pub struct Changes {
    pub nfc: bool,
    pub spaces: bool, // to U+2581
}

pub struct LeastTokens {
    longest: [usize; 256], // 0: wild
    longest_of_all: usize,
    changes: Changes,
}

impl LeastTokens {
    /// `tokens`: the bytes of each, as they stand in a text.
    pub fn new<'a>(tokens: impl Iterator<Item = &'a [u8]>, changes: Changes) -> Self {
        let mut longest = [0; 256];
        let mut alone = [false; 256];
        for token in tokens {
            if let Some(&first) = token.first() {
                longest[first as usize] = longest[first as usize].max(token.len());
                alone[first as usize] |= token.len() == 1;
            }
        }
        let longest_of_all = longest.iter().copied().max().unwrap_or(0);
        for (bytes, alone) in longest.iter_mut().zip(alone) {
            *bytes *= alone as usize;
        }
        LeastTokens { longest, longest_of_all, changes }
    }

    pub fn count(&self, text: &str) -> usize {
        let (mut tokens, mut at, mut end, mut far) = (0, 0, 0, 0);
        let mut buffer = [0; 4];
        let mut characters = text.chars().peekable();
        while let Some(c) = characters.next() {
            let wild = self.wild(c) || (self.changes.nfc && characters.peek().is_some_and(|c| !stable(*c)));
            for &byte in c.encode_utf8(&mut buffer).as_bytes() {
                let longest = if wild { 0 } else { self.longest[byte as usize] };
                far = far.max(at + if longest == 0 { self.longest_of_all } else { longest });
                if longest == 0 {
                    continue;
                }
                if at == end {
                    tokens += 1;
                    end = far;
                }
                at += 1;
            }
        }
        tokens
    }

    fn wild(&self, c: char) -> bool {
        (self.changes.nfc && !stable(c)) || (self.changes.spaces && c == '\u{2581}')
    }
}

/// Characters that NFC leaves as they are unless one follows that it does not (not all of them: the usual letters,
/// ideographs and emoji).
fn stable(c: char) -> bool {
    matches!(c as u32, 0..=0x2FF | 0x400..=0x482 | 0x48A..=0x52F | 0x3041..=0x3096 | 0x30A1..=0x30FA
        | 0x4E00..=0x9FFF | 0x1F300..=0x1FAFF)
}

/// What the steps of a tokenizer.json do to a text; None: something by which a token may cover any number of bytes.
pub fn changes_of(config: &Value) -> Option<Changes> {
    let model = &config["model"];
    let plain = |key: &str| matches!(model[key].as_str(), None | Some(""));
    let bpe = model["type"] == "BPE" && plain("continuing_subword_prefix") && plain("end_of_word_suffix");
    let mut changes = Changes::default();
    let known = ["normalizer", "pre_tokenizer"].iter().all(|key| add_changes(&config[*key], &mut changes));
    let swallows = |token: &Value| token["lstrip"] == true || token["rstrip"] == true;
    // Else a character without a token would be one unknown token, with any number of its like.
    let bytes = model["byte_fallback"] == true || !config["decoder"].to_string().contains("ByteFallback");
    let alone = !config["added_tokens"].as_array().is_some_and(|list| list.iter().any(swallows));
    (bpe && known && bytes && alone).then_some(changes)
}

fn add_changes(step: &Value, changes: &mut Changes) -> bool {
    let all = |list: &Value, changes: &mut Changes| {
        list.as_array().is_some_and(|steps| steps.iter().all(|step| add_changes(step, changes)))
    };
    match step["type"].as_str() {
        None => step.is_null(),
        Some("Sequence") => {
            let key = if step["normalizers"].is_array() { "normalizers" } else { "pretokenizers" };
            all(&step[key], changes)
        }
        Some("NFC") => {
            changes.nfc = true;
            true
        }
        Some("Metaspace") => {
            changes.spaces = true;
            true
        }
        Some("Replace") => {
            changes.spaces = true;
            step["pattern"]["String"] == " " && step["content"] == "\u{2581}"
        }
        Some("Prepend" | "ByteLevel" | "Digits") => true,
        Some("Split") => step["behavior"] != "Removed",
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn least(tokens: &[&str], changes: Changes, text: &str) -> usize {
        LeastTokens::new(tokens.iter().map(|t| t.as_bytes()), changes).count(text)
    }

    #[test]
    fn as_far_as_any_token_could() {
        let none = Changes::default();
        assert_eq!(least(&["a", "b", "abab"], none, "bababb"), 3);
        assert_eq!(least(&["a", "b", "abab"], none, ""), 0);
        assert_eq!(least(&[" ", "    "], none, &" ".repeat(4001)), 1001);
        assert_eq!(least(&["7"], none, &"7".repeat(1000)), 1000);
        // "ab" starts inside of what "b" could only reach to: the walk is never behind the tokenizer.
        assert_eq!(least(&["a", "b", "ba", "abbb"], none, "babbbb"), 3);
    }

    #[test]
    fn wild_characters_count_for_nothing() {
        let none = Changes::default();
        assert_eq!(least(&["a", "zaaa"], none, &"z".repeat(100)), 0, "z has no token of its own");
        assert_eq!(least(&["a", "zaaa"], none, "zaaaa"), 1, "one of them may start here");
        let spaces = Changes { spaces: true, ..none };
        assert_eq!(least(&["\u{2581}", "▁"], none, "▁▁"), 0, "no token of one byte");
        assert_eq!(least(&[" ", "        "], spaces, &"▁".repeat(64)), 0);
        assert_eq!(least(&[" ", "        "], spaces, &" ".repeat(64)), 8);
    }

    #[test]
    fn what_nfc_may_compose_is_wild() {
        let bytes: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        let nfc = LeastTokens::new(bytes.iter().map(|b| &b[..]), Changes { nfc: true, spaces: false });
        assert_eq!(nfc.count("eee"), 3);
        assert_eq!(nfc.count("ee\u{301}e"), 2);
        assert_eq!(nfc.count("漢字"), 6);
        assert_eq!(nfc.count("か\u{3099}\u{1112}\u{1161}"), 0);
    }

    #[test]
    fn steps_of_a_tokenizer_json() {
        let with = |normalizer: Value, pre: Value| {
            changes_of(&json!({"model": {"type": "BPE"}, "normalizer": normalizer, "pre_tokenizer": pre}))
        };
        let null = Value::Null;
        assert!(with(null.clone(), json!({"type": "ByteLevel"})).is_some_and(|c| !c.nfc && !c.spaces));
        assert!(with(json!({"type": "NFC"}), null.clone()).is_some_and(|c| c.nfc));
        let llama = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
        assert!(with(llama, null.clone()).is_some_and(|c| c.spaces));
        let split = |behavior: &str| json!({"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": behavior}]});
        assert!(with(null.clone(), split("Isolated")).is_some());
        assert!(with(null.clone(), split("Removed")).is_none());
        assert!(with(json!({"type": "Lowercase"}), null.clone()).is_none());
        assert!(with(null.clone(), json!({"type": "WhitespaceSplit"})).is_none());
        assert!(changes_of(&json!({"model": {"type": "Unigram"}})).is_none());
        let strips = json!({"model": {"type": "BPE"}, "added_tokens": [{"content": "x", "lstrip": true}]});
        assert!(changes_of(&strips).is_none());
    }
}
