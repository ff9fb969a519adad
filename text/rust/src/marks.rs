//! Keeps what a user wrote from becoming special tokens.
//!
//! A chat template puts its own special tokens around text that users wrote, and the rendered prompt no longer shows
//! who wrote what. So before rendering, every spelling of a special token inside the user's strings is broken by a
//! *mark* after its first character: a private-use character that occurs nowhere else. A special token of a single
//! character is replaced by a stand-in of its own. After rendering, special tokens are looked for while the marks are
//! still there; then the marks are taken out of the ordinary text, and only then is it tokenised. Wherever the user
//! wrote no special spelling, no mark exists and the result is that of tokenising the whole text.
//!
//! The beginning of a spelling at the end of a string is marked too ("<|im_" in one content part, "end|>" in the
//! next). What is not covered: a template that itself deletes or rewrites characters inside the user's text, and
//! spellings that a template composes from its own text and a user's string ('<|' + role + '|>'): these are the
//! template's; roles are a closed set, which the gateway holds (chat_context.cc).

use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::abi::Failure;

pub struct SpecialSpellings {
    spellings: Vec<String>,
    finder: AhoCorasick, // every occurrence, overlapping ones too
}

impl SpecialSpellings {
    pub fn new(spellings: Vec<String>) -> Result<Self, Failure> {
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&spellings)
            .map_err(|e| Failure::invalid(format!("special tokens: {e}")))?;
        Ok(SpecialSpellings { spellings, finder })
    }

    /// Byte offsets in `text` where a spelling starts, or starts and is cut off by the end of the text (spaces at the
    /// end not counted, as templates trim them). Sorted, each once.
    fn starts(&self, text: &str) -> Vec<usize> {
        let mut starts: Vec<usize> = self.finder.find_overlapping_iter(text).map(|m| m.start()).collect();
        let longest = self.spellings.iter().map(|s| s.len()).max().unwrap_or(0);
        for end in [text, text.trim_end()] {
            for (at, _) in end.char_indices().rev().take_while(|(at, _)| end.len() - at < longest) {
                if self.spellings.iter().any(|s| s.starts_with(&end[at..])) {
                    starts.push(at);
                }
            }
        }
        starts.sort_unstable();
        starts.dedup();
        starts
    }
}

/// The marks of one request.
#[derive(Default)]
pub struct Marks {
    mark: Option<char>,           // none: nothing was marked
    stand_ins: Vec<(char, char)>, // (stand-in, the special token of one character that it stands for)
}

impl Marks {
    /// Marks the strings and keys of `context`. `template`: its text, where a mark may not occur either.
    pub fn put(context: &mut Value, template: &str, special: &SpecialSpellings) -> Result<Self, Failure> {
        let mut used: HashSet<char> = template.chars().filter(|c| is_private(*c)).collect();
        let mut needed = false;
        visit(context, &mut |text| {
            used.extend(text.chars().filter(|c| is_private(*c)));
            needed = needed || !special.starts(text).is_empty();
            None
        });
        if !needed {
            return Ok(Marks::default());
        }
        let mut free = PRIVATE.filter_map(char::from_u32).filter(|c| !used.contains(c));
        let mut take =
            || free.next().ok_or_else(|| Failure::invalid("the request uses every private-use character"));
        let mark = take()?;
        let mut stand_ins = Vec::new();
        for spelling in &special.spellings {
            let mut chars = spelling.chars();
            if let (Some(only), None) = (chars.next(), chars.next()) {
                stand_ins.push((take()?, only));
            }
        }
        let marks = Marks { mark: Some(mark), stand_ins };
        visit(context, &mut |text| Some(marks.marked(text, &special.starts(text))));
        Ok(marks)
    }

    fn marked(&self, text: &str, starts: &[usize]) -> String {
        let mut out = String::with_capacity(text.len() + 4 * starts.len());
        let mut next = starts.iter().peekable();
        for (at, c) in text.char_indices() {
            out.push(self.stand_ins.iter().find(|(_, only)| *only == c).map_or(c, |(stand_in, _)| *stand_in));
            if next.next_if_eq(&&at).is_some() {
                out.extend(self.mark);
            }
        }
        out
    }

    pub fn any(&self) -> bool {
        self.mark.is_some()
    }

    /// The character that the user wrote; none for a mark.
    pub fn original(&self, c: char) -> Option<char> {
        if Some(c) == self.mark {
            return None;
        }
        Some(self.stand_ins.iter().find(|(stand_in, _)| *stand_in == c).map_or(c, |(_, only)| *only))
    }
}

/// Supplementary Private Use Area-B: assigned to nothing, and no tokenizer or template treats it specially.
const PRIVATE: std::ops::RangeInclusive<u32> = 0x10_0000..=0x10_FFFD;

pub fn is_private(c: char) -> bool {
    PRIVATE.contains(&(c as u32))
}

/// Calls `edit` for every string and key; what it returns takes the string's place.
fn visit(value: &mut Value, edit: &mut impl FnMut(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(new) = edit(text) {
                *text = new;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, edit)),
        Value::Object(map) => {
            let old = std::mem::take(map);
            for (key, mut item) in old {
                visit(&mut item, edit);
                map.insert(edit(&key).unwrap_or(key), item);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn special() -> SpecialSpellings {
        SpecialSpellings::new(vec!["<|im_end|>".into(), "<|im_start|>".into(), "§".into()]).unwrap()
    }

    #[test]
    fn plain_text_stays() {
        let mut context = json!({"messages": [{"role": "user", "content": "a < b | c"}]});
        let before = context.clone();
        let marks = Marks::put(&mut context, "", &special()).unwrap();
        assert!(!marks.any());
        assert_eq!(context, before);
    }

    #[test]
    fn spellings_are_broken_and_restored() {
        for text in [
            "<|im_end|>",
            "x<|im_end|><|im_start|>",
            "<|im_",
            "<|im_  \n",
            "<",
            "§",
            "a§<|im_end|>",
            "<<|im_end|>",
        ] {
            let mut context = json!({"k": text, text: 1});
            let marks = Marks::put(&mut context, "", &special()).unwrap();
            assert!(marks.any(), "{text}");
            let out = context["k"].as_str().unwrap().to_string();
            assert!(!out.contains("<|im_") && !out.contains('§'), "{text} -> {out}");
            assert_eq!(out.chars().filter_map(|c| marks.original(c)).collect::<String>(), text);
            assert!(context.as_object().unwrap().contains_key(&out));
        }
    }

    #[test]
    fn the_mark_is_a_character_that_nobody_uses() {
        let mut context = json!(["<|im_end|>\u{100000}", "\u{100002}"]);
        let marks = Marks::put(&mut context, "\u{100001}", &special()).unwrap();
        assert_eq!(marks.mark, Some('\u{100003}'));
        assert_eq!(marks.original('\u{100000}'), Some('\u{100000}'));
    }
}
