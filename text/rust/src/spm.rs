//! SentencePiece BPE from a vocabulary with scores: neighbours are merged, best score first, leftmost among equals;
//! what the vocabulary cannot spell becomes byte tokens.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::abi::Failure;

pub struct Spm {
    pieces: HashMap<String, (u32, f32)>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
}

struct Symbol {
    start: usize,
    end: usize, // == start once it was merged into its left neighbour
    previous: Option<usize>,
    next: Option<usize>,
}

/// A pair that may be merged; out of date when the symbols have changed since (`end` of both together differs).
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    size: usize,
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Pair {}
impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl Spm {
    /// `pieces`: what text may become (no control, unknown or byte tokens). `bytes`: the token of each byte.
    pub fn new(
        pieces: HashMap<String, (u32, f32)>,
        bytes: [Option<u32>; 256],
        unknown: Option<u32>,
    ) -> Result<Self, Failure> {
        if let Some((piece, _)) = pieces.iter().find(|(_, (_, score))| score.is_nan()) {
            return Err(Failure::invalid(format!("tokenizer.ggml.scores: the score of {piece:?} is NaN")));
        }
        Ok(Spm { pieces, bytes, unknown })
    }

    /// `text` has its spaces escaped already.
    pub fn tokenize(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (i, (start, c)) in text.char_indices().enumerate() {
            symbols.push(Symbol {
                start,
                end: start + c.len_utf8(),
                previous: i.checked_sub(1),
                next: Some(i + 1),
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.offer(text, &symbols, right - 1, right, &mut queue);
        }
        while let Some(pair) = queue.pop() {
            self.merge(text, &mut symbols, pair, &mut queue);
        }
        let mut at = (!symbols.is_empty()).then_some(0);
        while let Some(i) = at {
            self.emit(&text[symbols[i].start..symbols[i].end], ids);
            at = symbols[i].next;
        }
    }

    fn offer(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, queue: &mut BinaryHeap<Pair>) {
        let (start, end) = (symbols[left].start, symbols[right].end);
        if let Some(&(_, score)) = self.pieces.get(&text[start..end]) {
            queue.push(Pair { score, left, right, size: end - start });
        }
    }

    fn merge(&self, text: &str, symbols: &mut [Symbol], pair: Pair, queue: &mut BinaryHeap<Pair>) {
        let (left, right) = (pair.left, pair.right);
        let gone = |s: &Symbol| s.start == s.end;
        if gone(&symbols[left])
            || gone(&symbols[right])
            || symbols[right].end - symbols[left].start != pair.size
        {
            return;
        }
        symbols[left].end = symbols[right].end;
        symbols[right].end = symbols[right].start;
        symbols[left].next = symbols[right].next;
        if let Some(next) = symbols[right].next {
            symbols[next].previous = Some(left);
            self.offer(text, symbols, left, next, queue);
        }
        if let Some(previous) = symbols[left].previous {
            self.offer(text, symbols, previous, left, queue);
        }
    }

    fn emit(&self, piece: &str, ids: &mut Vec<u32>) {
        if let Some(&(id, _)) = self.pieces.get(piece) {
            ids.push(id);
        } else if piece.bytes().all(|b| self.bytes[b as usize].is_some()) {
            ids.extend(piece.bytes().filter_map(|b| self.bytes[b as usize]));
        } else {
            ids.extend(self.unknown);
        }
    }
}
