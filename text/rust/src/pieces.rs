//! Vocabulary entries to the bytes they stand for: what the `decoder` of a tokenizer.json does, token by token.
//! The steps that look at a token's place in the text (Fuse; Strip of the first space) do nothing here: token ids of a
//! stream continue a prompt, and the space in front of a word belongs to the text.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::abi::Failure;

pub struct PieceDecoder {
    steps: Vec<Step>,
}

enum Step {
    Replace { from: String, to: String },
    ByteFallback,
    ByteLevel,
}

impl PieceDecoder {
    pub fn sentence_piece() -> Self {
        PieceDecoder { steps: vec![space("\u{2581}"), Step::ByteFallback] }
    }

    /// The value of `decoder` in a tokenizer.json.
    pub fn from_config(config: &Value) -> Result<Self, Failure> {
        let mut steps = Vec::new();
        add_steps(config, &mut steps)?;
        Ok(PieceDecoder { steps })
    }

    pub fn bytes(&self, piece: &str) -> Vec<u8> {
        let mut text = piece.to_string();
        for step in &self.steps {
            match step {
                Step::Replace { from, to } => text = text.replace(from, to),
                Step::ByteFallback => {
                    if let Some(byte) = byte_token(&text) {
                        return vec![byte];
                    }
                }
                Step::ByteLevel => return alphabet_bytes(&text),
            }
        }
        text.into_bytes()
    }
}

fn space(from: &str) -> Step {
    Step::Replace { from: from.to_string(), to: " ".to_string() }
}

fn add_steps(config: &Value, steps: &mut Vec<Step>) -> Result<(), Failure> {
    let unsupported =
        |what: &str| Failure::invalid(format!("tokenizer.json: decoder: {what} is not supported"));
    match config["type"].as_str() {
        Some("Sequence") => {
            let list =
                config["decoders"].as_array().ok_or_else(|| unsupported("a Sequence without decoders"))?;
            list.iter().try_for_each(|item| add_steps(item, steps))?;
        }
        Some("ByteLevel") => steps.push(Step::ByteLevel),
        Some("ByteFallback") => steps.push(Step::ByteFallback),
        Some("Fuse") => {}
        Some("Metaspace") => steps.push(space(config["replacement"].as_str().unwrap_or("\u{2581}"))),
        Some("Replace") => {
            let from =
                config["pattern"]["String"].as_str().ok_or_else(|| unsupported("Replace of a pattern"))?;
            let to = config["content"].as_str().ok_or_else(|| unsupported("Replace without content"))?;
            steps.push(Step::Replace { from: from.to_string(), to: to.to_string() });
        }
        // At the start of the whole text; see above.
        Some("Strip") if config["stop"].as_u64() == Some(0) => {}
        Some(other) => return Err(unsupported(other)),
        None => return Err(unsupported("null")),
    }
    Ok(())
}

/// `<0x0A>` is the byte 10.
fn byte_token(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// The bytes of a piece written in GPT-2's alphabet, in which every byte is a printable character. A piece with a
/// character outside of it is itself.
pub fn alphabet_bytes(piece: &str) -> Vec<u8> {
    static ALPHABET: OnceLock<HashMap<char, u8>> = OnceLock::new();
    let alphabet = ALPHABET.get_or_init(|| {
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut others = 0x100..;
        (0..=255u8)
            .map(|b| match printable(b) {
                true => (b as char, b),
                false => (others.next().and_then(char::from_u32).unwrap_or('\0'), b),
            })
            .collect()
    });
    piece
        .chars()
        .map(|c| alphabet.get(&c).copied())
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| piece.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn alphabet() {
        assert_eq!(alphabet_bytes("Ġhello"), b" hello");
        assert_eq!(alphabet_bytes("Ċ"), b"\n");
        assert_eq!(alphabet_bytes("Ã¼"), "ü".as_bytes());
        assert_eq!(alphabet_bytes("ÿĀ"), [0xff, 0]);
        assert_eq!(alphabet_bytes("<｜x｜>"), "<｜x｜>".as_bytes());
    }

    #[test]
    fn sentence_piece() {
        let d = PieceDecoder::sentence_piece();
        assert_eq!(d.bytes("▁Hello"), b" Hello");
        assert_eq!(d.bytes("<0xE2>"), [0xE2]);
        assert_eq!(d.bytes("<0xE2"), b"<0xE2");
        assert_eq!(d.bytes("<0xZZ>"), b"<0xZZ>");
    }

    #[test]
    fn configs() {
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(PieceDecoder::from_config(&llama).unwrap().bytes("▁a"), b" a");
        for bad in [
            json!(null),
            json!({"type": "WordPiece"}),
            json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}),
        ] {
            assert!(PieceDecoder::from_config(&bad).is_err());
        }
    }
}
