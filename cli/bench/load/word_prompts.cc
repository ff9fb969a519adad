#include "cli/bench/load/word_prompts.h"

#include <algorithm>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"

namespace baton::load {
namespace {

constexpr std::string_view kWords[] = {
    "the",      "and",    "was",   "for",      "that",    "with",    "his",    "they",   "one",     "have",
    "this",     "from",   "had",   "hot",      "but",     "what",    "some",   "can",    "out",     "other",
    "were",     "all",    "there", "when",     "use",     "your",    "how",    "said",   "each",    "she",
    "which",    "their",  "time",  "will",     "way",     "about",   "many",   "then",   "them",    "write",
    "would",    "like",   "these", "her",      "long",    "make",    "thing",  "see",    "him",     "two",
    "has",      "look",   "more",  "day",      "could",   "come",    "did",    "number", "sound",   "most",
    "people",   "over",   "know",  "water",    "than",    "call",    "first",  "who",    "may",     "down",
    "side",     "been",   "now",   "find",     "any",     "new",     "work",   "part",   "take",    "get",
    "place",    "made",   "live",  "where",    "after",   "back",    "little", "only",   "round",   "man",
    "year",     "came",   "show",  "every",    "good",    "give",    "our",    "under",  "name",    "very",
    "through",  "just",   "form",  "great",    "think",   "say",     "help",   "low",    "line",    "turn",
    "cause",    "much",   "mean",  "before",   "move",    "right",   "boy",    "old",    "too",     "same",
    "tell",     "does",   "set",   "three",    "want",    "air",     "well",   "also",   "play",    "small",
    "end",      "put",    "home",  "read",     "hand",    "port",    "large",  "spell",  "add",     "even",
    "land",     "here",   "must",  "big",      "high",    "such",    "follow", "act",    "why",     "ask",
    "men",      "change", "went",  "light",    "kind",    "off",     "need",   "house",  "picture", "try",
    "again",    "animal", "point", "mother",   "world",   "near",    "build",  "self",   "earth",   "father",
    "head",     "stand",  "own",   "page",     "should",  "country", "found",  "answer", "school",  "grow",
    "study",    "still",  "learn", "plant",    "cover",   "food",    "sun",    "four",   "state",   "keep",
    "eye",      "never",  "last",  "let",      "thought", "city",    "tree",   "cross",  "farm",    "hard",
    "start",    "might",  "story", "saw",      "far",     "sea",     "draw",   "left",   "late",    "run",
    "while",    "press",  "close", "night",    "real",    "life",    "few",    "north",  "open",    "seem",
    "together", "next",   "white", "children", "begin",   "got"};

}  // namespace

std::span<const std::string_view> candidate_words() { return kWords; }

void WordPrompts::append(std::string& text, uint64_t seed, int words) const {
  Rng rng(seed);
  for (int i = 0; i < words; ++i) text += cat(" ", words_[rng.below(words_.size())]);
}

std::string WordPrompts::text(uint64_t seed, int tokens) const {
  BATON_CHECK(tokens > extra_ && !words_.empty());
  std::string out = cat(" ", words_.front());
  append(out, seed, tokens - extra_ - 1);
  return out;
}

std::string WordPrompts::text(uint64_t prefix_seed, int prefix_tokens, uint64_t seed, int own_tokens) const {
  std::string out = text(prefix_seed, prefix_tokens);
  append(out, seed, own_tokens);
  return out;
}

}  // namespace baton::load
